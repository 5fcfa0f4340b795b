# SPDX-License-Identifier: Apache-2.0
"""Texts of similar length together, so that little is padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def in_batches(
    texts: Sequence[np.ndarray],
    batch_rows: int,
    read: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """float64 logits of ``texts``, ids one array for each, in their order.

    ``read`` gives those of a batch: padded ids int32 ``[rows, time]``, lengths int64 ``[rows]``, longest first, and the
    rows' places among the texts.
    """
    lengths = np.array([len(ids) for ids in texts], np.int64)
    by_length = np.argsort(-lengths, kind="stable")
    parts = []
    for start in range(0, len(texts), batch_rows):
        places = by_length[start : start + batch_rows]
        padded = np.zeros((len(places), int(lengths[places].max())), np.int32)
        for row, place in enumerate(places):
            padded[row, : lengths[place]] = texts[place]
        parts.append(read(padded, lengths[places], places).astype(np.float64))
    logits = np.concatenate(parts)
    result = np.empty_like(logits)
    result[by_length] = logits
    return result
