# SPDX-License-Identifier: Apache-2.0
"""The wide part: a linear model over hashed n-grams, words and sequences of a few words, beside the recurrence.

Cheng et al. (2016, Wide & Deep) put a linear model next to a network because it remembers what a network has to
generalise: single words and phrases that decide. Its features are those of TF-IDF with n-grams (1 + ln tf, times the
idf of the training rows, each row of length 1), hashed into buckets as in Weinberger et al. (2009). They weigh more the
more they tell of the label, as in Wang and Manning (2012, NB-SVM), whose log-count ratio is damped here: see
``set_weights``. A feature that few training rows have counts for nothing.

What stands near the end of a text, where people come to their verdict, may be a feature of its own beside the same word
or pair anywhere (``tail``).

Words and pairs that share a bucket share its weight. Most of what is longer occurs once and never again, and would blur
whatever it shared a bucket with; so with triples and more each bucket has one owner, the n-gram that most rows have
(``harness.training.wide`` finds it), and all others count for nothing.

The table is no parameter but a buffer: torch's optimizer, the clipping, the average of weights and DDP do not see it.
Its part of a step is the features of the batch's rows and the error of each row (``TableGradient``); ranks exchange
those, and each changes the rows of the table that are in it, and no others. A dense gradient would be as large as the
table, up to 64 MiB, where the features of a batch are some hundred KiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from harness.batch import Batch
from harness.model.recurrent import PackedIndex
from harness.model.registry import SHARED_UP_TO

MIN_ROWS = 2
"""Training rows that must have a feature, unless ``Weighing`` says otherwise."""
FLOOR = 0.05
"""What is added to a log-count ratio, so that a word that tells nothing by itself still counts for something."""
BIAS_SHARE = 0.1
"""Rate of the bias as a share of the table's."""
UNOWNED = -1
"""Owner of a bucket that belongs to no n-gram."""
PIECE = 1 << 24
"""Numbers of an update that are held at once."""
BITS = 32
NONE = 1 << BITS
"""Stands where there is no n-gram; larger than every key."""
MASK = NONE - 1
FIRST, SECOND, WORD, ROUNDS = 0x05EBCA6B, 0x42B2AE35, 0x1E3779B1, ((15, 0x2C1B3C6D), (12, 0x297A2D39))
"""Odd 31-bit numbers, so that a product with 32 bits fits int64."""
END, END_LONGEST = 0x165667B1, 2
"""What tells an n-gram near the end of a text from the same one anywhere, and the words of the longest such."""


@dataclass(frozen=True)
class Weighing:
    """How features are weighed before anything is learned; see ``WidePart.set_weights``."""

    min_rows: int = MIN_ROWS
    """Training rows that must have a feature."""
    power: float = 0.5
    """The power of what a feature tells of the label."""


USUAL = Weighing()


@dataclass(frozen=True)
class TableGradient:
    """What a batch does to the table: the features of its rows and the loss's gradient at each row's logits."""

    bucket: torch.Tensor
    """int64 ``[rows, places]``; with int32 torch adds ten times slower on a CPU."""
    value: torch.Tensor
    """``[rows, places]``: the weight of the feature in its row; 0 where there is none."""
    error: torch.Tensor
    """``[rows, outputs]``: the gradient of each row's loss."""

    def times(self, factor: float) -> TableGradient:
        """The same with every row's loss multiplied by ``factor``."""
        return TableGradient(self.bucket, self.value, self.error * factor)


def join(parts: Sequence[TableGradient]) -> TableGradient:
    """Those of several batches, one after the other; rows with fewer places get empty ones."""
    widest = max(part.value.shape[1] for part in parts)
    bucket, value = (
        torch.cat([functional.pad(getattr(part, name), (0, widest - part.value.shape[1])) for part in parts])
        for name in ("bucket", "value")
    )
    return TableGradient(bucket, value, torch.cat([part.error for part in parts]))


class WidePart(nn.Module):
    """Logits that are linear in hashed n-grams."""

    table: torch.Tensor
    """``[buckets, outputs]``: zero at the start."""
    weights: torch.Tensor
    """``[buckets]``: what each feature weighs; zero, and so without any feature, until ``set_weights``."""
    bias: torch.Tensor
    """``[outputs]``."""
    share: torch.Tensor
    """A scalar that multiplies the logits where they are added to the network's; each validation chooses it anew."""
    owners: torch.Tensor | None
    """int32 ``[buckets]``: the lower bits of the key of the n-gram that a bucket belongs to, or ``UNOWNED``, as all are
    at the start; None where n-grams share buckets."""

    def __init__(
        self, buckets: int, outputs: int, longest: int = SHARED_UP_TO, tail: int = 0, *, binary: bool = False
    ) -> None:
        """``buckets`` is a power of two, at most 2 ** 30; n-grams have up to ``longest`` words. Those of the last
        ``tail`` tokens are features of their own too. ``binary``: how often a row has a feature makes no difference.
        """
        super().__init__()
        self.buckets, self.longest, self.tail, self.binary = buckets, longest, tail, binary
        self.shift = BITS - (buckets.bit_length() - 1)
        self.register_buffer("table", torch.zeros(buckets, outputs))
        self.register_buffer("weights", torch.zeros(buckets))
        self.register_buffer("bias", torch.zeros(outputs))
        self.register_buffer("share", torch.ones(()))
        owned = longest > SHARED_UP_TO
        self.register_buffer("owners", torch.full((buckets,), UNOWNED, dtype=torch.int32) if owned else None)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits ``[rows, outputs]``, rows as in the batch."""
        return self.logits(*self.features(batch))

    def logits(self, bucket: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Logits ``[rows, outputs]`` of ``features``."""
        return functional.embedding_bag(bucket, self.table, per_sample_weights=value, mode="sum") + self.bias

    def features(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Buckets int64 and weights, both ``[rows, places]``; the weights of each row have length 1, or 0 with none.

        A place that holds nothing has the weight 0.
        """
        bucket, first, times = runs(self.places(*padded_ids(batch)), self.buckets)
        bucket = bucket.clamp(max=self.buckets - 1)
        value = torch.where(first, self.damped(times.to(self.weights.dtype)) * self.weights[bucket], 0)
        return bucket, value / value.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)

    def damped(self, times: torch.Tensor) -> torch.Tensor:
        """What features count that a row has so many ``times``."""
        return torch.ones_like(times) if self.binary else 1 + times.log()

    def places(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Each n-gram's bucket of ``ids`` int64 ``[rows, time]``: int64 ``[rows, places]``, as ``keys_of`` has them.

        Where there is none, and for an n-gram that no bucket belongs to, stands ``buckets``, which is none.
        """
        key = keys_of(ids, lengths, self.longest, self.tail)
        bucket = self.bucket_of(key)
        if self.owners is None:
            return bucket
        owner = self.owners[bucket.clamp(max=self.buckets - 1)]
        return torch.where(owner == self.name_of(key), bucket, self.buckets)

    def num_places(self, time: int) -> int:
        """How many places the features of rows of ``time`` tokens have."""
        sequences = [time - number for number in range(self.longest)]
        ends = [min(self.tail, time) - number for number in range(END_LONGEST)]
        return sum(max(0, count) for count in sequences + ends)

    def bucket_of(self, key: torch.Tensor) -> torch.Tensor:
        """The upper bits of an n-gram's key; ``buckets`` for none."""
        return key >> self.shift

    def name_of(self, key: torch.Tensor) -> torch.Tensor:
        """The lower bits of an n-gram's key, which tell apart those of a bucket."""
        return key & ((1 << self.shift) - 1)

    def count(self, ids: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
        """In how many of these rows of each class each bucket is, int64 ``[buckets, classes]``."""
        bucket, first, _ = runs(self.places(ids, lengths), self.buckets)
        seen = (bucket * num_classes + labels[:, None])[first]
        return torch.bincount(seen, minlength=self.buckets * num_classes).view(self.buckets, num_classes)

    def set_weights(
        self, rows_with: torch.Tensor, rows: int, total: torch.Tensor | None = None, weighing: Weighing = USUAL
    ) -> None:
        """Weigh features by how rare they are and how much they tell of the label.

        ``rows_with`` int64 ``[buckets, classes]`` has counts of rows by label. The first factor is the idf as
        scikit-learn has it, ``1 + ln((1 + rows) / (1 + rows with it))``; the second ``(0.05 + r) ** power``, where r is
        the largest log-count ratio, as an absolute value, of a class against all others.

        ``rows`` is how many rows were counted, and ``total`` ``[buckets]`` in how many of them each bucket is: the sums
        of ``rows_with`` unless given, as where some rows have no label. What only such rows have tells of none.
        """
        labelled = rows_with.sum(1)
        total = labelled if total is None else total
        kept = total >= weighing.min_rows
        counts, known, everyone = (numbers[kept].to(torch.float64) for numbers in (rows_with, labelled, total))
        tells = torch.zeros_like(everyone)
        for own in counts.unbind(1):
            shares = [(1 + side) / (1 + side).sum() for side in (own, known - own)]
            tells = torch.maximum(tells, torch.log(shares[0] / shares[1]).abs())
        tells = torch.where(known > 0, tells, 0.0)
        idf = 1 + torch.log((1 + rows) / (1 + everyone))
        self.weights.zero_()
        self.weights[kept] = (idf * (FLOOR + tells) ** weighing.power).to(self.weights.dtype)

    def update(self, gradient: TableGradient, rate: torch.Tensor) -> None:
        """One step of gradient descent; ``rate`` is a scalar that divides by the rows of the step already."""
        step = gradient.error * rate
        size = max(1, PIECE // (step.shape[1] * gradient.value.shape[1]))
        parts = (one.split(size) for one in (gradient.bucket, gradient.value, step))
        for bucket, value, change in zip(*parts, strict=True):
            if value.is_cpu:
                row, place = value.nonzero(as_tuple=True)
                self.table.index_add_(0, bucket[row, place], change[row] * -value[row, place, None])
            else:
                # A card adds what goes to one bucket one by one, and to leave empty places out, the host would have to
                # wait for a number: they are dealt out over all buckets. Sorts, where index_add_ would add in an order
                # of chance.
                anywhere = torch.arange(value.numel(), device=value.device).view_as(value) % self.buckets
                changes = (change[:, None] * -value[..., None]).flatten(0, 1)
                self.table.index_put_((torch.where(value != 0, bucket, anywhere).flatten(),), changes, accumulate=True)
        self.bias -= BIAS_SHARE * step.sum(0)


def runs(places: torch.Tensor, none: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each row of ``places`` sorted, where a value of it stands for the first time, and how often it does there.

    ``none`` is larger than all values, and never first. The counts are int64 and of use only where a value is first.
    """
    places = places.sort(1).values
    position = torch.arange(places.shape[1], device=places.device)
    begins = torch.ones_like(places, dtype=torch.bool)
    begins[:, 1:] = places[:, 1:] != places[:, :-1]
    start = torch.where(begins, position, places.shape[1])
    following = start.flip(1).cummin(1).values.flip(1)[:, 1:]
    end = functional.pad(following, (0, 1), value=places.shape[1])
    return places, begins & (places < none), end - position


def padded_ids(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids of a batch int64 ``[rows, time]`` and the rows' lengths on their device, whatever its layout."""
    ids, lengths = batch.widened().to(torch.int64), batch.device_lengths
    if batch.batch_sizes is None:
        return ids, lengths
    index = PackedIndex.of(batch.lengths, lengths)
    padded = ids.new_zeros(index.num_rows, len(index.starts))
    padded[index.row, index.time] = ids
    return padded, lengths


def keys_of(ids: torch.Tensor, lengths: torch.Tensor, longest: int, tail: int = 0) -> torch.Tensor:
    """The key of each n-gram of ``ids`` int64 ``[rows, time]``, for n from 1 to ``longest``: int64 ``[rows, places]``.

    First come the words, then the pairs, and so on, ``time - n + 1`` of each. ``NONE`` stands behind a row's
    ``lengths`` ``[rows]``. Then come those of the last ``tail`` tokens of each row once more, words and pairs, under
    keys of their own.
    """
    keys = ngrams_of(ids, lengths, longest)
    if not tail:
        return keys
    tail = min(tail, ids.shape[1])
    start = (lengths - tail).clamp(min=0)
    last = ids.gather(1, start[:, None] + torch.arange(tail, device=ids.device))
    again = ngrams_of(last, lengths.clamp(max=tail), END_LONGEST)
    return torch.cat((keys, torch.where(again < NONE, mixed(again ^ END), NONE)), dim=1)


def ngrams_of(ids: torch.Tensor, lengths: torch.Tensor, longest: int) -> torch.Tensor:
    """``keys_of`` without those of the end."""
    real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    keys = [torch.where(real, mixed(ids * WORD & MASK), NONE)]
    before = ids
    for number in range(1, longest):
        before = mixed((before[:, :-1] * FIRST + ids[:, number:] * SECOND + WORD) & MASK)
        keys.append(torch.where(real[:, number:], before, NONE))
    return torch.cat(keys, dim=1)


def mixed(key: torch.Tensor) -> torch.Tensor:
    """32 bits of which each depends on each of ``key`` (the rounds are a lowbias32 hash)."""
    for shift, factor in ROUNDS:
        key = (key ^ key >> shift) * factor & MASK
    return key
