# SPDX-License-Identifier: Apache-2.0
"""Arrays of segments of unequal length (segment i is ``values[offsets[i]:offsets[i + 1]]``), and NumPy's files."""

from __future__ import annotations

from typing import IO

import numpy as np


def take(values: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The segments ``rows``, one after the other, and their offsets (int64 ``[rows + 1]``)."""
    sizes = np.diff(offsets)[rows]
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    index = np.arange(bounds[-1]) + np.repeat(offsets[:-1][rows] - bounds[:-1], sizes)
    return values[index], bounds


def padded(values: np.ndarray, offsets: np.ndarray, width: int, dtype: np.dtype | type) -> np.ndarray:
    """``[segments, width]``: each segment with zeros after it. No segment may be longer than ``width``."""
    lengths = np.diff(offsets)
    result = np.zeros((len(lengths), width), dtype)
    result[np.arange(width) < lengths[:, None]] = values
    return result


def segment_sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """uint64 ``[segments]``: the sum of each segment of uint64 values, modulo 2**64; segments may be empty."""
    running = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values, out=running[1:])
    return running[offsets[1:]] - running[offsets[:-1]]


class Plain:
    """A file as NumPy must see it to write through Python: into a real one it writes by itself, and says of a full disk
    only that fewer bytes were written than asked for.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """``file`` is open for writing."""
        self.write = file.write


def save(file: IO[bytes], values: np.ndarray) -> None:
    """Write an array in the ``.npy`` format, the same bytes as ``np.save``. Raises ``OSError`` with its number."""
    np.save(Plain(file), values)
