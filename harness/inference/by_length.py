# SPDX-License-Identifier: Apache-2.0
"""Texts of similar length together, so that little is padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from preprocessing.base.errors import DataError

PADDED_TOKENS = 8192
"""Tokens of a batch on a CPU, padding included: so many that the gates of a layer stay in the cache."""


def in_batches(
    texts: Sequence[np.ndarray],
    batch_rows: int,
    read: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    padded_tokens: int = PADDED_TOKENS,
) -> np.ndarray:
    """float64 logits of ``texts``, ids one array for each, in their order.

    ``read`` gives those of a batch: padded ids int32 ``[rows, time]``, lengths int64 ``[rows]``, longest first, and the
    rows' places among the texts. A batch has at most ``batch_rows`` texts and ``padded_tokens`` tokens, or one text.
    Raises ``DataError`` for logits that are not finite: no probability, and no label, could be made of them.
    """
    lengths = np.array([len(ids) for ids in texts], np.int64)
    by_length = np.argsort(-lengths, kind="stable")
    parts = []
    start = 0
    while start < len(texts):
        longest = int(lengths[by_length[start]])
        places = by_length[start : start + max(1, min(batch_rows, padded_tokens // longest))]
        start += len(places)
        padded = np.zeros((len(places), longest), np.int32)
        for row, place in enumerate(places):
            padded[row, : lengths[place]] = texts[place]
        parts.append(read(padded, lengths[places], places).astype(np.float64))
    logits = np.concatenate(parts)
    if not np.isfinite(logits).all():
        raise DataError(
            "the network gives numbers that are not finite: its weights are damaged, or too large for the arithmetic; "
            "restore them, or train again"
        )
    result = np.empty_like(logits)
    result[by_length] = logits
    return result
