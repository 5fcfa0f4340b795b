# SPDX-License-Identifier: Apache-2.0
"""The linear part: a logistic regression over hashed n-grams (words and short sequences of words) beside the recurrent
layers.

Cheng et al. (2016, Wide & Deep) combine a linear model and a network: the linear model memorises single words and
phrases that decide, the network generalises. Features are the n-grams that a row has, however often (Wang and Manning,
2012), times the idf of the training rows, each row with norm 1, hashed into buckets as in Weinberger et al. (2009).
Feature weights grow with the association with the label, as in their NB-SVM, but with a damped log-count ratio.

Words and pairs in the same bucket share its weight. Most longer n-grams occur only once, and would add noise to the
others in their bucket. So with triples or longer n-grams each bucket has one owner, the n-gram with the most rows, and
other n-grams of the bucket are ignored. Such a part is for long texts, whose end often has the verdict: words and pairs
of the last ``END`` tokens are features of their own as well.

``harness.training.linear_fit`` learns it before the first step. All its tensors are buffers: no optimizer and no
collective of a step touches them.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from harness.batch import Batch
from harness.model.registry import SHARED_UP_TO

END, OF_END = 20, 0x2545F491
"""Last tokens of a text; added to their ids, so that their n-grams are others."""
UNOWNED = -1
"""Owner of a bucket without n-gram."""
BITS = 32
NONE = 1 << BITS
"""Key for a place without n-gram; larger than every other key."""
MASK = NONE - 1
FIRST, SECOND, WORD, ROUNDS = 0x05EBCA6B, 0x42B2AE35, 0x1E3779B1, ((15, 0x2C1B3C6D), (12, 0x297A2D39))
"""Odd 31-bit numbers, so that a product with 32 bits fits int64."""


class WidePart(nn.Module):
    """Logits that are linear in hashed n-grams."""

    table: torch.Tensor
    """``[buckets, outputs]``: zero at the start."""
    weights: torch.Tensor
    """``[buckets]``: the weight of each feature in a row; zero at the start."""
    bias: torch.Tensor
    """``[outputs]``."""
    share: torch.Tensor
    """A scalar factor of these logits in the sum with the network's; each validation sets it."""
    owners: torch.Tensor | None
    """int32 ``[buckets]``: lower key bits of the n-gram that owns the bucket, or ``UNOWNED`` (initially all); None if
    n-grams share buckets."""

    def __init__(self, buckets: int, outputs: int, longest: int = SHARED_UP_TO) -> None:
        """``buckets``: a power of two, at most 2 ** 30. ``longest``: maximum words of an n-gram."""
        super().__init__()
        self.buckets, self.longest = buckets, longest
        self.shift = BITS - (buckets.bit_length() - 1)
        self.register_buffer("table", torch.zeros(buckets, outputs))
        self.register_buffer("weights", torch.zeros(buckets))
        self.register_buffer("bias", torch.zeros(outputs))
        self.register_buffer("share", torch.ones(()))
        owned = longest > SHARED_UP_TO
        self.register_buffer("owners", torch.full((buckets,), UNOWNED, dtype=torch.int32) if owned else None)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits ``[rows, outputs]``, in the order of the batch."""
        bucket, value = self.features(*pad_ids(batch))
        return functional.embedding_bag(bucket, self.table, per_sample_weights=value, mode="sum") + self.bias

    def features(self, ids: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Buckets int64 and values, both ``[rows, places]``, of ``ids`` int64 ``[rows, time]``; the values of a row
        have norm 1, or are all 0.

        Unused places have the value 0.
        """
        bucket, first = sort_distinct(self.places(ids, lengths), self.buckets)
        bucket = bucket.clamp(max=self.buckets - 1)
        weights = self.weights.index_select(0, bucket.flatten()).view_as(bucket)  # in ONNX a Gather: 8-bit weights
        value = torch.where(first, weights, 0)
        return bucket, value / value.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)

    def places(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The bucket of each n-gram of ``ids`` int64 ``[rows, time]``: int64 ``[rows, places]``, as in ``keys``.

        ``buckets``, an invalid index, for places without n-gram and for n-grams that do not own their bucket.
        """
        key = self.keys(ids, lengths)
        bucket = self.bucket_of(key)
        if self.owners is None:
            return bucket
        owner = self.owners[bucket.clamp(max=self.buckets - 1)]
        return torch.where(owner == self.name_of(key), bucket, self.buckets)

    def keys(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """``keys_of`` all n-grams, then, where buckets have owners, of the words and pairs of each row's end."""
        keys = keys_of(ids, lengths, self.longest)
        if self.owners is None:
            return keys
        index = (lengths - END).clamp(min=0)[:, None] + torch.arange(min(END, ids.shape[1]), device=ids.device)
        end = ids.gather(1, index.clamp(max=ids.shape[1] - 1)) + OF_END
        return torch.cat([keys, keys_of(end, lengths.clamp(max=END), SHARED_UP_TO)], dim=1)

    def bucket_of(self, key: torch.Tensor) -> torch.Tensor:
        """The upper bits of an n-gram's key; ``buckets`` for ``NONE``."""
        return key >> self.shift

    def name_of(self, key: torch.Tensor) -> torch.Tensor:
        """The lower bits of an n-gram's key, which distinguish the n-grams of a bucket."""
        return key & ((1 << self.shift) - 1)


def sort_distinct(places: torch.Tensor, none: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row of ``places`` sorted, and whether a value is the first of its kind in the row.

    ``none`` is larger than all values, and never first.
    """
    places = places.sort(1).values
    begins = torch.ones_like(places, dtype=torch.bool)
    begins[:, 1:] = places[:, 1:] != places[:, :-1]
    return places, begins & (places < none)


def pad_ids(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids of a batch of any layout as int64 ``[rows, time]``, and the rows' lengths on the device; the padding is
    arbitrary.
    """
    ids, lengths = batch.widen_ids().to(torch.int64), batch.device_lengths
    if batch.batch_sizes is None:
        return ids, lengths
    index = batch.build_index()
    return ids[index.grid].view(-1, index.num_rows).t(), lengths


def keys_of(ids: torch.Tensor, lengths: torch.Tensor, longest: int) -> torch.Tensor:
    """The key of each n-gram of ``ids`` int64 ``[rows, time]``, for n from 1 to ``longest``: int64 ``[rows, places]``.

    First all words, then all pairs, and so on, ``time - n + 1`` of each; ``NONE`` beyond ``lengths`` ``[rows]``.
    """
    real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    keys = [torch.where(real, mix_bits(ids * WORD & MASK), NONE)]
    previous = ids
    for number in range(1, longest):
        previous = mix_bits((previous[:, :-1] * FIRST + ids[:, number:] * SECOND + WORD) & MASK)
        keys.append(torch.where(real[:, number:], previous, NONE))
    return torch.cat(keys, dim=1)


def mix_bits(key: torch.Tensor) -> torch.Tensor:
    """A 32-bit hash of ``key`` (the rounds of lowbias32)."""
    for shift, factor in ROUNDS:
        key = (key ^ key >> shift) * factor & MASK
    return key
