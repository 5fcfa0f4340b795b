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


def keys_of(ids: torch.Tensor, lengths: torch.Tensor, longest: int) -> torch.Tensor:
    """The key of each n-gram of ``ids`` int64 ``[rows, time]``, for n from 1 to ``longest``: int64 ``[rows, places]``.

    First come the words, then the pairs, and so on, ``time - n + 1`` of each. ``NONE`` stands behind a row's
    ``lengths`` ``[rows]``.
    """
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
