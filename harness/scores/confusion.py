# SPDX-License-Identifier: Apache-2.0
"""Which classes are taken for which: the cells that hold rows, as many as there are rows at most, never all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

WHOLE_CLASSES = 1000
"""Up to so many classes figures hold the whole matrix, a list for each true class; of more, the cells that hold rows:
the matrix of 10,000 classes would take 300 MB of JSON."""
MATRIX, CELLS = "confusion", "confusion_cells"


@dataclass(frozen=True)
class Confusion:
    """The cells of the matrix that hold rows, by true class, then by predicted class."""

    classes: int
    true: np.ndarray
    """int64 ``[cells]``: the true class of each cell."""
    said: np.ndarray
    """int64 ``[cells]``: the predicted class."""
    rows: np.ndarray
    """int64 ``[cells]``: how many rows it holds."""

    @classmethod
    def of(cls, labels: np.ndarray, predicted: np.ndarray, classes: int) -> Confusion:
        """Count true and predicted class of every row, int64 ``[rows]`` each."""
        places, rows = np.unique(labels.astype(np.int64) * classes + predicted, return_counts=True)
        return cls(classes, places // classes, places % classes, rows.astype(np.int64))

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Confusion:
        """From figures, whichever of the two forms they hold."""
        if CELLS in values:
            true, said, rows = np.array(values[CELLS], np.int64).reshape(-1, 3).T
            return cls(len(values["labels"]), true, said, rows)
        matrix = np.array(values[MATRIX], np.int64)
        true, said = np.nonzero(matrix)
        return cls(len(matrix), true, said, matrix[true, said])

    def to_json(self) -> dict[str, Any]:
        """For figures: ``confusion``, or ``confusion_cells`` of triples (true class, predicted class, rows)."""
        if self.classes > WHOLE_CLASSES:
            return {CELLS: np.stack((self.true, self.said, self.rows), axis=1).tolist()}
        return {MATRIX: self.matrix().tolist()}

    def matrix(self) -> np.ndarray:
        """int64 ``[classes, classes]``: rows of each true class by predicted class."""
        matrix = np.zeros((self.classes, self.classes), np.int64)
        matrix[self.true, self.said] = self.rows
        return matrix

    @property
    def support(self) -> np.ndarray:
        """int64 ``[classes]``: rows of each class."""
        return self._sums(self.true, slice(None))

    @property
    def predicted(self) -> np.ndarray:
        """int64 ``[classes]``: rows that are taken for each class."""
        return self._sums(self.said, slice(None))

    @property
    def hits(self) -> np.ndarray:
        """int64 ``[classes]``: rows of each class that are taken for it."""
        return self._sums(self.true, self.true == self.said)

    def _sums(self, by: np.ndarray, cells: Any) -> np.ndarray:
        sums = np.zeros(self.classes, np.int64)
        np.add.at(sums, by[cells], self.rows[cells])
        return sums

    def largest(self, most: int | None = None) -> list[tuple[int, int, int]]:
        """True class, another predicted class and rows, those with the most rows first."""
        wrong = np.flatnonzero(self.true != self.said)
        order = wrong[np.argsort(-self.rows[wrong], kind="stable")][:most]
        return [(int(self.true[cell]), int(self.said[cell]), int(self.rows[cell])) for cell in order]
