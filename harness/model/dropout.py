# SPDX-License-Identifier: Apache-2.0
"""Dropout as a pure function of (seed, step, source row, site, place): a hash of counters, without generator or state.

A text has the same masks in every process, micro-batch, layout and device (law 4), and a resumed run has the masks of
an uninterrupted one. The host hashes (splitmix64, Steele et al. 2014), in the loader's thread: on a GPU a hash would be
a dozen kernels, and the training loop would start each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch

from harness.batch import Batch, Masks, send
from preprocessing.base.randomness import GAMMA, finalized, splitmix64

WORDS, EMBEDDING, HEAD, LAYERS = 0, 1, 2, 3
"""Sites: tokens, their vectors, the pooled vector; the input of layer n is site ``LAYERS + n``."""
SITE_BITS = 40
"""A site has 2**40 places: more than tokens of a text or features of a layer."""


def masks_of(
    seed: int,
    step: int,
    batch: Batch,
    sizes: Mapping[int, int],
    dropout: float,
    word_dropout: float,
    dtype: torch.dtype = torch.float32,
) -> Masks:
    """The masks of a batch in optimizer ``step`` of a run; no wait for the device.

    A feature of a site (site -> number of features) is 0 with the chance ``dropout``, else ``1 / (1 - dropout)``, in
    ``dtype``. A token is read as ``<unk>`` with the chance ``word_dropout``.
    """
    run, keep, unknown = splitmix64(splitmix64(np.array([seed])) ^ np.uint64(step)), {}, None
    keys = splitmix64(batch.rows.astype(np.uint64) ^ run)[:, None]
    if dropout:
        drawn = torch.from_numpy(kept(keys, places(tuple(sizes.items())), dropout).view(np.uint8))
        factors = send(drawn.to(dtype).div_(1.0 - dropout), batch.ids.device)
        keep = dict(zip(sizes, factors.split(list(sizes.values()), dim=1), strict=True))
    if word_dropout:
        packed, lengths = batch.batch_sizes is not None, batch.lengths.numpy()
        longest = int(lengths[0]) if packed else batch.ids.shape[1]
        lost = ~kept(keys, places(((WORDS, longest),)), word_dropout)
        if packed:  # time-major, real tokens only
            lost = lost.T[np.arange(longest)[:, None] < lengths]
        unknown = send(torch.from_numpy(lost), batch.ids.device)
    return Masks(keep, unknown)


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
def places(sizes: tuple[tuple[int, int], ...]) -> np.ndarray:
    """uint64 ``[features of all sites]``: how far splitmix64 has advanced at each feature; cached."""
    counted = [np.arange(size, dtype=np.uint64) + np.uint64((site << SITE_BITS) + 1) for site, size in sizes]
    return np.concatenate(counted) * np.uint64(GAMMA)


def kept(keys: np.ndarray, advanced: np.ndarray, chance: float) -> np.ndarray:
    """Bool: whether the number of splitmix64 in the streams ``keys``, ``advanced`` so far, is above the lowest fraction
    ``chance`` of the int64 range.
    """
    return finalized(keys + advanced).view(np.int64) >= round(chance * (1 << 64)) - (1 << 63)
