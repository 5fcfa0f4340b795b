# SPDX-License-Identifier: Apache-2.0
"""Which labels are probably wrong, by predictions for rows that the model has not learned from.

Confident learning (Northcutt, Jiang and Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset Labels),
pruned by class: with 5 % of the labels replaced at random, it found more of them than the other rules of that paper.
"""

from __future__ import annotations

import numpy as np

from harness.scores.metrics import rank_within


def find_label_errors(labels: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Bool ``[rows]``: whether the label of a row, int64 ``[rows]``, is probably wrong.

    A row counts for a class if its probability, float64 ``[rows, classes]``, reaches the mean of the rows that have the
    label; if it reaches that of several, for the most probable of these. The share of a label's rows that count for
    other classes is the share of wrong ones, and the label is wrong where its own probability is lowest, unless it is
    the most probable class.
    """
    num_classes = chances.shape[1]
    label_chances = chances[np.arange(len(labels)), labels]
    label_rows = np.bincount(labels, minlength=num_classes)
    thresholds = np.full(num_classes, np.inf)
    np.divide(np.bincount(labels, label_chances, num_classes), label_rows, out=thresholds, where=label_rows > 0)
    reached = np.where(chances >= thresholds, chances, -1.0)
    is_counted = reached.max(axis=1) >= 0
    counted, agreeing = (
        np.bincount(labels[mask], minlength=num_classes)
        for mask in (is_counted, is_counted & (reached.argmax(axis=1) == labels))
    )
    num_errors = np.rint(label_rows * (counted - agreeing) / np.maximum(counted, 1))
    least_probable = np.argsort(label_chances, kind="stable")
    sorted_labels = labels[least_probable]
    is_error = np.empty(len(labels), bool)
    is_error[least_probable] = rank_within(sorted_labels) < num_errors[sorted_labels]
    return is_error & (chances.argmax(axis=1) != labels)
