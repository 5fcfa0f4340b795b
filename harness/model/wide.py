# SPDX-License-Identifier: Apache-2.0
"""The wide part: a linear model over hashed n-grams (words and short sequences of words) beside the recurrent layers.

Cheng et al. (2016, Wide & Deep) combine a linear model and a network: the linear model memorises single words and
phrases that decide, the network generalises. Features are those of TF-IDF with n-grams (1 + ln tf, times the idf of the
training rows, each row with norm 1), hashed into buckets as in Weinberger et al. (2009). Feature weights grow with the
association with the label, as in Wang and Manning (2012, NB-SVM), but with a damped log-count ratio: see
``set_weights``. Features of too few training rows have weight 0.

Words and pairs near the end of a text, where authors often state their opinion, can be additional features (``tail``).

Words and pairs in the same bucket share its weight. Most longer n-grams occur only once, and would add noise to the
others in their bucket. So with triples or longer n-grams each bucket has one owner, the n-gram with the most rows
(found in ``harness.training.wide``), and other n-grams of the bucket are ignored.

The table is a buffer, not a parameter: torch's optimizer, clipping, weight averaging and DDP do not touch it. Its
gradient is sparse: the features of the batch's rows and the error of each row (``TableGradient``). Ranks exchange
these, and each updates only the affected table rows. A dense gradient would be as large as the table, up to 64 MiB,
while the features of a batch take some hundred KiB.
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
"""Default of ``Weighing.min_rows``."""
FLOOR = 0.05
"""Added to a log-count ratio, so that a word without association with the label keeps a small weight."""
BIAS_SHARE = 0.1
"""Learning rate of the bias, relative to the table's."""
UNOWNED = -1
"""Owner of a bucket without n-gram."""
PIECE = 1 << 24
"""Maximum numbers of an update in memory at once."""
BITS = 32
NONE = 1 << BITS
"""Key for a place without n-gram; larger than every other key."""
MASK = NONE - 1
FIRST, SECOND, WORD, ROUNDS = 0x05EBCA6B, 0x42B2AE35, 0x1E3779B1, ((15, 0x2C1B3C6D), (12, 0x297A2D39))
"""Odd 31-bit numbers, so that a product with 32 bits fits int64."""
END, END_LONGEST = 0x165667B1, 2
"""Changes the key of an n-gram near the end of a text; and the longest such n-gram, in words."""


@dataclass(frozen=True)
class Weighing:
    """Parameters of the feature weights, which are set before training; see ``WidePart.set_weights``."""

    min_rows: int = MIN_ROWS
    """Minimum number of training rows with a feature."""
    power: float = 0.5
    """Exponent of a feature's association with the label."""


USUAL = Weighing()


@dataclass(frozen=True)
class TableGradient:
    """Sparse gradient of the table for a batch: features of its rows, and the gradient at each row's logits."""

    bucket: torch.Tensor
    """int64 ``[rows, places]``; with int32, torch's index_add is ten times slower on a CPU."""
    value: torch.Tensor
    """``[rows, places]``: value of the feature in its row; 0 for none."""
    error: torch.Tensor
    """``[rows, outputs]``: the gradient of each row's loss."""

    def times(self, factor: float) -> TableGradient:
        """The gradient for losses multiplied by ``factor``."""
        return TableGradient(self.bucket, self.value, self.error * factor)


def join(parts: Sequence[TableGradient]) -> TableGradient:
    """Concatenate the gradients of several batches; rows with fewer places are padded."""
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
    """``[buckets]``: weight of each feature; all zero until ``set_weights``."""
    bias: torch.Tensor
    """``[outputs]``."""
    share: torch.Tensor
    """A scalar factor of these logits in the sum with the network's; each validation sets it."""
    owners: torch.Tensor | None
    """int32 ``[buckets]``: lower key bits of the n-gram that owns the bucket, or ``UNOWNED`` (initially all); None if
    n-grams share buckets."""

    def __init__(
        self, buckets: int, outputs: int, longest: int = SHARED_UP_TO, tail: int = 0, *, binary: bool = False
    ) -> None:
        """``buckets``: a power of two, at most 2 ** 30. ``longest``: maximum words of an n-gram. Words and pairs of the
        last ``tail`` tokens are additional features. ``binary``: ignore how often a row has a feature.
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
        """Logits ``[rows, outputs]``, in the order of the batch."""
        return self.logits(*self.features(batch))

    def logits(self, bucket: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Logits ``[rows, outputs]`` for a result of ``features``."""
        return functional.embedding_bag(bucket, self.table, per_sample_weights=value, mode="sum") + self.bias

    def features(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Buckets int64 and values, both ``[rows, places]``; the values of a row have norm 1, or are all 0.

        Unused places have the value 0.
        """
        bucket, first, times = runs(self.places(*padded_ids(batch)), self.buckets)
        bucket = bucket.clamp(max=self.buckets - 1)
        value = torch.where(first, self.damped(times.to(self.weights.dtype)) * self.weights[bucket], 0)
        return bucket, value / value.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)

    def damped(self, times: torch.Tensor) -> torch.Tensor:
        """The tf factor of features that occur ``times`` in a row."""
        return torch.ones_like(times) if self.binary else 1 + times.log()

    def places(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The bucket of each n-gram of ``ids`` int64 ``[rows, time]``: int64 ``[rows, places]``, as in ``keys_of``.

        ``buckets``, an invalid index, for places without n-gram and for n-grams that do not own their bucket.
        """
        key = keys_of(ids, lengths, self.longest, self.tail)
        bucket = self.bucket_of(key)
        if self.owners is None:
            return bucket
        owner = self.owners[bucket.clamp(max=self.buckets - 1)]
        return torch.where(owner == self.name_of(key), bucket, self.buckets)

    def num_places(self, time: int) -> int:
        """Number of places per row for rows of ``time`` tokens."""
        sequences = [time - number for number in range(self.longest)]
        ends = [min(self.tail, time) - number for number in range(END_LONGEST)]
        return sum(max(0, count) for count in sequences + ends)

    def bucket_of(self, key: torch.Tensor) -> torch.Tensor:
        """The upper bits of an n-gram's key; ``buckets`` for ``NONE``."""
        return key >> self.shift

    def name_of(self, key: torch.Tensor) -> torch.Tensor:
        """The lower bits of an n-gram's key, which distinguish the n-grams of a bucket."""
        return key & ((1 << self.shift) - 1)

    def count(self, ids: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
        """Number of these rows with each bucket, by class: int64 ``[buckets, classes]``."""
        bucket, first, _ = runs(self.places(ids, lengths), self.buckets)
        seen = (bucket * num_classes + labels[:, None])[first]
        return torch.bincount(seen, minlength=self.buckets * num_classes).view(self.buckets, num_classes)

    def set_weights(
        self, rows_with: torch.Tensor, rows: int, total: torch.Tensor | None = None, weighing: Weighing = USUAL
    ) -> None:
        """Set feature weights from the frequency of features and their association with the label.

        ``rows_with`` int64 ``[buckets, classes]``: number of rows with each bucket, by label. The first factor is
        scikit-learn's idf, ``1 + ln((1 + rows) / (1 + rows with it))``; the second is ``(0.05 + r) ** power``, where r
        is the largest absolute log-count ratio of a class against all others.

        ``rows``: number of counted rows. ``total`` ``[buckets]``: number of rows with each bucket, including rows
        without label; by default the sum of ``rows_with``. For a bucket that only unlabelled rows have, r is 0.
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
        """One step of gradient descent; ``rate``: scalar, the learning rate divided by the rows of the step."""
        step = gradient.error * rate
        size = max(1, PIECE // (step.shape[1] * gradient.value.shape[1]))
        parts = (one.split(size) for one in (gradient.bucket, gradient.value, step))
        for bucket, value, change in zip(*parts, strict=True):
            if value.is_cpu:
                row, place = value.nonzero(as_tuple=True)
                self.table.index_add_(0, bucket[row, place], change[row] * -value[row, place, None])
            else:
                # On a GPU, additions to the same bucket are serial, and filtering out empty places would make the host
                # wait. So empty places are spread over all buckets. index_put_ sorts, so it is deterministic, unlike
                # index_add_.
                anywhere = torch.arange(value.numel(), device=value.device).view_as(value) % self.buckets
                changes = (change[:, None] * -value[..., None]).flatten(0, 1)
                self.table.index_put_((torch.where(value != 0, bucket, anywhere).flatten(),), changes, accumulate=True)
        self.bias -= BIAS_SHARE * step.sum(0)


def runs(places: torch.Tensor, none: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each row of ``places`` sorted; whether a value is the first of its kind in the row; and its count, int64.

    ``none`` is larger than all values, and never first. Counts are valid only for first values.
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
    """The ids of a batch of any layout as int64 ``[rows, time]``, and the rows' lengths on the device."""
    ids, lengths = batch.widened().to(torch.int64), batch.device_lengths
    if batch.batch_sizes is None:
        return ids, lengths
    index = PackedIndex.of(batch.lengths, lengths)
    padded = ids.new_zeros(index.num_rows, len(index.starts))
    padded[index.row, index.time] = ids
    return padded, lengths


def keys_of(ids: torch.Tensor, lengths: torch.Tensor, longest: int, tail: int = 0) -> torch.Tensor:
    """The key of each n-gram of ``ids`` int64 ``[rows, time]``, for n from 1 to ``longest``: int64 ``[rows, places]``.

    First all words, then all pairs, and so on, ``time - n + 1`` of each; ``NONE`` beyond ``lengths`` ``[rows]``. Then
    words and pairs of the last ``tail`` tokens of each row again, with other keys.
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
    """``keys_of`` without the additional ones of the last tokens."""
    real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    keys = [torch.where(real, mixed(ids * WORD & MASK), NONE)]
    before = ids
    for number in range(1, longest):
        before = mixed((before[:, :-1] * FIRST + ids[:, number:] * SECOND + WORD) & MASK)
        keys.append(torch.where(real[:, number:], before, NONE))
    return torch.cat(keys, dim=1)


def mixed(key: torch.Tensor) -> torch.Tensor:
    """A 32-bit hash of ``key`` (the rounds of lowbias32)."""
    for shift, factor in ROUNDS:
        key = (key ^ key >> shift) * factor & MASK
    return key
