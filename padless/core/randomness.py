# SPDX-License-Identifier: Apache-2.0
"""Random numbers as pure functions of a key, the same on every machine and in every version of numpy.

Sequences are raw words of Philox (Salmon et al. 2011). Single values are mixed by splitmix64 (Steele et al. 2014).
"""

from __future__ import annotations

import numpy as np

GAMMA, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""The constants of splitmix64."""


def splitmix64(values: np.ndarray) -> np.ndarray:
    """uint64, elementwise: the output of splitmix64 for a state of ``values``; every bit spreads over all others."""
    return finalize(values.astype(np.uint64) + np.uint64(GAMMA))


def finalize(mixed: np.ndarray) -> np.ndarray:
    """splitmix64's finalizer of uint64 ``mixed``, in place: its steps after the state has advanced by GAMMA."""
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(FIRST)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(SECOND)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def words(*key: int, count: int) -> np.ndarray:
    """uint64 ``[count]``: random words that are a function of ``key`` alone (Philox)."""
    return np.random.Philox(np.random.SeedSequence(key)).random_raw(count)


def permutation(size: int, *key: int) -> np.ndarray:
    """A random permutation of ``arange(size)``: a function of ``key`` alone."""
    return np.argsort(words(*key, count=size), kind="stable")
