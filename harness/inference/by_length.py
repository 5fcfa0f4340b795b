# SPDX-License-Identifier: Apache-2.0
"""Texts of similar length together, so that little is padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def in_batches(
    texts: Sequence[np.ndarray],
    batch_rows: int,
    read: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    most_tokens: int | None = None,
) -> np.ndarray:
    """float64 logits of ``texts``, ids one array for each, in their order.

    At most ``batch_rows`` texts are read at once, and fewer where they would have more than ``most_tokens`` together,
    padding included. ``read`` gives the logits of a batch: padded ids int32 ``[rows, time]``, lengths int64 ``[rows]``,
    longest first, and the rows' places among the texts.
    """
    lengths = np.array([len(ids) for ids in texts], np.int64)
    by_length = np.argsort(-lengths, kind="stable")
    parts = []
    start = 0
    while start < len(texts):
        rows = batch_rows if most_tokens is None else min(batch_rows, most_tokens // int(lengths[by_length[start]]))
        places = by_length[start : start + max(1, rows)]
        start += len(places)
        padded = np.zeros((len(places), int(lengths[places].max())), np.int32)
        for row, place in enumerate(places):
            padded[row, : lengths[place]] = texts[place]
        parts.append(read(padded, lengths[places], places).astype(np.float64))
    logits = np.concatenate(parts)
    result = np.empty_like(logits)
    result[by_length] = logits
    return result
