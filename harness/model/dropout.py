# SPDX-License-Identifier: Apache-2.0
"""Dropout as a pure function of (seed, step, source row, site, place): a hash of counters, without generator or state.

A text has the same masks in every process, micro-batch, layout and device (law 4), and a resumed run has the masks of
an uninterrupted one. The hash is splitmix64 (Steele et al. 2014). The loader's thread computes it by numpy, and sends
what is kept to the device (torch, which cannot shift unsigned numbers, takes up to ten times as long).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch

from harness.batch import Batch, Masks, send
from padless.core.randomness import GAMMA, finalize, splitmix64

WORDS, EMBEDDING, HEAD, LAYERS = 0, 1, 2, 3
"""Sites: tokens, their vectors, the pooled vector; the input of layer n is site ``LAYERS + n``."""
SITE_BITS = 40
"""A site has 2**40 places: more than tokens of a text or features of a layer."""


def draw_masks(
    seed: int,
    step: int,
    batch: Batch,
    sizes: Mapping[int, int],
    dropout: float,
    word_dropout: float,
    dtype: torch.dtype = torch.float32,
) -> Masks | None:
    """The masks of a batch in optimizer ``step`` of a run, factors in ``dtype``; None if nothing is dropped. No wait
    for the device.

    ``sizes``: number of features of each site. ``dropout``: chance of a feature to be 0; the others are multiplied by
    ``1 / (1 - dropout)``. ``word_dropout``: chance of a token to be read as ``<unk>``.
    """
    if not (dropout or word_dropout):
        return None
    run, keep, is_unknown = splitmix64(splitmix64(np.array([seed])) ^ np.uint64(step)), {}, None
    keys = splitmix64(batch.rows.astype(np.uint64) ^ run)
    if dropout:
        is_kept = draw_kept(keys, splitmix_advances(tuple(sizes.items())), dropout, batch.ids.device)
        factors = is_kept.view(torch.uint8).to(dtype).div_(1.0 - dropout)
        keep = dict(zip(sizes, factors.split(list(sizes.values()), dim=1), strict=True))
    if word_dropout:
        packed = batch.batch_sizes is not None
        longest = int(batch.lengths[0]) if packed else batch.ids.shape[1]
        advances = splitmix_advances(((WORDS, longest),))
        is_unknown = draw_kept(keys, advances, word_dropout, batch.ids.device).logical_not_()
        if packed:  # time-major, real tokens only
            is_unknown = is_unknown.t().reshape(-1)[batch.build_index().position]
    return Masks(keep, is_unknown)


def drop(vectors: torch.Tensor, masks: Masks | None, site: int, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Dropout of features, per row: ``vectors`` are ``[…, rows, features]``, or ``[tokens, features]`` with ``rows``
    int64 ``[tokens]``. Unchanged without a mask for the site.
    """
    mask = None if masks is None else masks.keep.get(site)
    if mask is None:
        return vectors
    mask = mask.to(vectors.dtype)
    return vectors * (mask if rows is None else mask[rows])


@lru_cache(maxsize=16)
def splitmix_advances(sizes: tuple[tuple[int, int], ...]) -> np.ndarray:
    """uint64 ``[features of all sites]``: how far splitmix64 has advanced at each feature; cached."""
    counters = [np.arange(size, dtype=np.uint64) + np.uint64((site << SITE_BITS) + 1) for site, size in sizes]
    return np.concatenate(counters) * np.uint64(GAMMA)


def draw_kept(keys: np.ndarray, advanced: np.ndarray, chance: float, device: torch.device) -> torch.Tensor:
    """Bool ``[keys, advanced]`` on ``device``: whether the number of splitmix64 in each of the streams ``keys``,
    ``advanced`` so far, is above the lowest fraction ``chance`` of the int64 range.
    """
    least = round(chance * (1 << 64)) - (1 << 63)
    return send(torch.from_numpy(finalize(keys[:, None] + advanced).view(np.int64) >= least), device)
