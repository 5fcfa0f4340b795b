# SPDX-License-Identifier: Apache-2.0
"""Which unlabelled rows to label next: those with the smallest margin between the two most probable classes (breaking
ties; Luo et al. 2005), each text once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

from harness.inference.prediction_files import Part
from preprocessing.pipeline.tokenize import hash_types


def choose_rows(number: int, list_parts: Callable[[], Iterable[Part]]) -> Iterator[Part]:
    """The ``number`` rows of predicted parts to label next, with an empty column for the label before the others."""
    margins, hashes = list[np.ndarray](), list[np.ndarray]()
    for (_, rows), columns in list_parts():
        margins.append(margins_of(columns))
        hashes.append(hash_types(rows["text"].fill_null("").combine_chunks()))
    order = np.argsort(np.concatenate(margins), kind="stable")
    _, first_places = np.unique(np.concatenate(hashes)[order], return_index=True)
    chosen, first_row = order[np.sort(first_places)[:number]], 0
    for (source, rows), columns in list_parts():
        mask = pa.array(np.isin(np.arange(first_row, first_row + len(rows)), chosen))
        first_row += len(rows)
        labelled = columns.add_column(0, "label", pa.array([""] * len(columns)))
        yield (source, rows.filter(mask)), labelled.filter(mask)


def margins_of(table: pa.Table) -> np.ndarray:
    """float64 ``[rows]``: the highest probability minus the second highest, of predictions."""
    chances = np.sort(np.stack([column.to_numpy() for column in table.columns[1:]], axis=1))
    return chances[:, -1] - chances[:, -2]
