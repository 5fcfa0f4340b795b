# SPDX-License-Identifier: Apache-2.0
"""Which unlabelled rows to label next: uncertain ones that differ from each other.

Uncertain is a small margin between the two most probable classes (breaking ties; Luo et al. 2005). Of the most
uncertain rows, those are taken that k-means++ seeds with (Arthur and Vassilvitskii 2007), by the network's pooled
vectors: each is likely to be far from all before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

from harness.inference.output import Part
from harness.inference.scorer import Scorer
from preprocessing.base.randomness import words

CANDIDATES = 10
"""So many of the most uncertain rows for each that is chosen."""


def choose_rows(number: int, list_parts: Callable[[], Iterable[Part]], scorer: Scorer) -> Iterator[Part]:
    """The ``number`` rows of predicted parts to label next, with an empty column for the label before the others."""
    margins = np.concatenate([margins_of(columns) for _, columns in list_parts()])
    candidates = np.sort(np.argsort(margins, kind="stable")[: number * CANDIDATES])
    selected = select_rows(list_parts(), candidates)
    texts = [text or "" for (_, rows), _ in selected for text in rows["text"].to_pylist()]
    chosen = candidates[choose_diverse(scorer.pool(scorer.encode(texts)), number)]
    for part, columns in select_rows(list_parts(), chosen):
        yield part, columns.add_column(0, "label", pa.array([""] * len(columns)))


def select_rows(parts: Iterable[Part], positions: np.ndarray) -> Iterator[Part]:
    """The rows of parts at these positions, counted over all."""
    first_row = 0
    for (source, rows), columns in parts:
        mask = pa.array(np.isin(np.arange(first_row, first_row + len(rows)), positions))
        first_row += len(rows)
        yield (source, rows.filter(mask)), columns.filter(mask)


def margins_of(table: pa.Table) -> np.ndarray:
    """float64 ``[rows]``: the highest probability minus the second highest, of predictions."""
    chances = np.sort(np.stack([column.to_numpy() for column in table.columns[1:]], axis=1))
    return chances[:, -1] - chances[:, -2]


def choose_diverse(vectors: np.ndarray, number: int) -> np.ndarray:
    """int64: positions of at most ``number`` different vectors, float ``[rows, features]``; their length has no effect.

    Each is drawn with a probability proportional to its squared distance from the nearest one before it.
    """
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    distances, chosen = np.ones(len(vectors)), list[int]()
    for draw in (words(0, count=number) >> np.uint64(11)) / 2.0**53:
        totals = np.cumsum(distances)
        if not totals[-1]:
            break
        chosen.append(int(np.searchsorted(totals, draw * totals[-1], side="right")))
        distances = np.minimum(distances, np.maximum(2 - 2 * vectors @ vectors[chosen[-1]], 0))
        distances[chosen] = 0
    return np.array(chosen, np.int64)
