# SPDX-License-Identifier: Apache-2.0
"""Which labels are probably wrong, by predictions for rows that the model has not learned from.

Confident learning (Northcutt, Jiang and Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset Labels): as
many as are off the diagonal of its confident joint, ranked by self-confidence. With 5 % of the labels replaced at
random, that found more of them, at the same number of rows, than counts by class.
"""

from __future__ import annotations

import numpy as np


def find_label_errors(labels: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Bool ``[rows]``: whether the label of a row, int64 ``[rows]``, is probably wrong.

    A row counts for a class if its probability, float64 ``[rows, classes]``, reaches the mean of the rows that have the
    label; if it reaches that of several, for the most probable of these. As many labels are wrong as rows count for
    another class: the least probable ones, unless they are the most probable class of their row.
    """
    num_classes = chances.shape[1]
    label_chances = chances[np.arange(len(labels)), labels]
    label_rows = np.bincount(labels, minlength=num_classes)
    thresholds = np.bincount(labels, label_chances, num_classes) / np.maximum(label_rows, 1)
    reached = np.where((chances >= thresholds) & (label_rows > 0), chances, 0.0)
    confident_classes = np.where(reached.any(axis=1), reached.argmax(axis=1), labels)
    num_errors = (confident_classes != labels).sum()
    is_error = np.zeros(len(labels), bool)
    is_error[np.argsort(label_chances, kind="stable")[:num_errors]] = True
    return is_error & (chances.argmax(axis=1) != labels)
