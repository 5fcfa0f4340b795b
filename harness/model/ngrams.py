# SPDX-License-Identifier: Apache-2.0
"""A number for every word and every sequence of words: what the wide part hashes (Weinberger et al., 2009).

All of it is 32-bit arithmetic in int64, so that the same nodes exist wherever a model may be exported to.
"""

from __future__ import annotations

import torch

BITS = 32
NONE = 1 << BITS
"""Stands where there is no n-gram; larger than every key."""
MASK = NONE - 1
FIRST, SECOND, WORD, ROUNDS = 0x05EBCA6B, 0x42B2AE35, 0x1E3779B1, ((15, 0x2C1B3C6D), (12, 0x297A2D39))
"""Odd 31-bit numbers, so that a product with 32 bits fits int64."""
END, END_LONGEST = 0x165667B1, 2
"""What tells an n-gram near the end of a text from the same one anywhere, and the words of the longest such."""


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


def num_places(time: int, longest: int, tail: int = 0) -> int:
    """How many keys ``keys_of`` gives each row of ``time`` tokens."""
    sequences = [time - number for number in range(longest)]
    ends = [min(tail, time) - number for number in range(END_LONGEST)]
    return sum(max(0, count) for count in sequences + ends)


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
