# SPDX-License-Identifier: Apache-2.0
"""Dropout as a pure function of (seed, step, source row, site, place): a hash of counters, without generator or state.

A text has the same masks in every process, micro-batch, layout and device (law 4), and a resumed run has the masks of
an uninterrupted one. The host hashes a key for each row; the device continues the hash (splitmix64, Steele et al. 2014)
in integers, with the same result on every device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch

from harness.batch import send
from preprocessing.base import randomness
from preprocessing.base.randomness import splitmix64, splitmix64_of

WORDS, EMBEDDING, HEAD, LAYERS = 0, 1, 2, 3
"""Sites: tokens, their vectors, the pooled vector; the input of layer n is site ``LAYERS + n``."""
SITE_BITS = 40
"""A site has 2**40 places: more than tokens of a text or features of a layer."""


GAMMA, FIRST, SECOND = (
    np.array([randomness.GAMMA, randomness.FIRST, randomness.SECOND], np.uint64).view(np.int64).tolist()
)
"""As the int64 with the same bits."""


@dataclass(frozen=True)
class Masks:
    """Dropout masks for the rows of one micro-batch in one step."""

    keys: torch.Tensor
    """int64 ``[rows]``: a stream of random numbers for each row."""
    drawn: Mapping[int, torch.Tensor] = field(default_factory=dict)
    """Site -> which features stay, bool ``[rows, size]``, computed by ``together``."""

    @classmethod
    def of(cls, seed: int, step: int, rows: np.ndarray, device: torch.device) -> Masks:
        """The masks of source ``rows`` int64 ``[rows]`` in optimizer ``step`` of a run; no wait for the device."""
        run = np.uint64(splitmix64_of(splitmix64_of(seed) ^ step))
        return cls(send(torch.from_numpy(splitmix64(rows.astype(np.uint64) ^ run).view(np.int64)), device))

    def together(self, sizes: Mapping[int, int], chance: float) -> Masks:
        """The same masks, with the features of several sites (site -> size) computed in one hash.

        A hash is a dozen small kernels, so on a GPU its time depends on the number of hashes, not their size.
        """
        place = places(tuple(sizes.items()), self.keys.device)
        keep = kept(self.keys[:, None], 0, place, chance).split(list(sizes.values()), dim=1)
        return Masks(self.keys, dict(zip(sizes, keep, strict=True)))

    def features(self, site: int, size: int, chance: float, dtype: torch.dtype) -> torch.Tensor:
        """``[rows, size]``: 0 with ``chance``, else ``1 / (1 - chance)``."""
        keep = self.drawn.get(site)
        if keep is None:
            keep = kept(self.keys[:, None], site, torch.arange(size, device=self.keys.device), chance)
        return keep.view(torch.uint8).to(dtype).div_(1.0 - chance)  # vectorised on a CPU, unlike for Booleans

    def tokens(self, rows: torch.Tensor | None, time: torch.Tensor, chance: float) -> torch.Tensor:
        """Bool: which tokens stay; ``time`` are their positions in their texts.

        ``[rows, time]``, or ``[tokens]`` for ``rows`` int64 ``[tokens]`` and ``time`` ``[tokens]``.
        """
        keys = self.keys[:, None] if rows is None else self.keys[rows]
        return kept(keys, WORDS, time, chance)


def drop(
    vectors: torch.Tensor, masks: Masks | None, site: int, chance: float, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """Dropout of features, per row: ``vectors`` are ``[…, rows, features]``, or ``[tokens, features]`` with ``rows``
    int64 ``[tokens]``. Unchanged without ``masks`` or if ``chance`` is 0.
    """
    if masks is None or not chance:
        return vectors
    mask = masks.features(site, vectors.shape[-1], chance, vectors.dtype)
    return vectors * (mask if rows is None else mask[rows])


@lru_cache(maxsize=16)
def places(sizes: tuple[tuple[int, int], ...], device: torch.device) -> torch.Tensor:
    """int64 ``[features of all sites]``: place of each feature, counted from the start of site 0; cached."""
    return send(torch.cat([torch.arange(size) + (site << SITE_BITS) for site, size in sizes]), device)


def kept(keys: torch.Tensor, site: int, place: torch.Tensor, chance: float) -> torch.Tensor:
    """Bool: whether the number of splitmix64 at ``place`` of a site, in the streams ``keys``, is above the lowest
    fraction ``chance`` of the int64 range.
    """
    bits = keys + (place + ((site << SITE_BITS) + 1)) * GAMMA  # int64 arithmetic wraps around like uint64
    if bits.is_cpu:
        hashed = torch.from_numpy(randomness.finalized(bits.numpy().view(np.uint64)).view(np.int64))
    else:
        hashed = finalized(bits)
    return hashed >= round(chance * (1 << 64)) - (1 << 63)


def finalized(bits: torch.Tensor) -> torch.Tensor:
    """``randomness.finalized`` in torch, on any device; int64 with the bits of a uint64. On a CPU three times slower.

    Clearing the copied sign bits turns an arithmetic shift into a logical one.
    """
    for shift, factor in ((30, FIRST), (27, SECOND), (31, 1)):
        bits = bits ^ ((bits >> shift) & ((1 << (64 - shift)) - 1))
        bits = bits * factor if factor != 1 else bits
    return bits
