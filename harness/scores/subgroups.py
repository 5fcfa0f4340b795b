# SPDX-License-Identifier: Apache-2.0
"""Where a classifier is good and where it is not: by length, by share of unknown tokens, by true label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.scores.intervals import wilson
from harness.scores.metrics import log_loss_per_row, predicted_labels

GROUPS = 4
"""Lengths and unknown rates are cut at quartiles; equal values stay together, so there may be fewer groups."""


def subgroups(
    logits: np.ndarray,
    labels: np.ndarray,
    lengths: np.ndarray,
    unknown: np.ndarray,
    names: Sequence[str],
    threshold: float = 0.5,
) -> list[dict[str, Any]]:
    """Rows, accuracy with Wilson's interval, and log loss of every group of rows; empty groups are left out.

    ``lengths`` and ``unknown`` are int64 ``[rows]``: tokens, and how many of them are not in the vocabulary.
    """
    right = predicted_labels(logits, threshold) == labels
    losses = log_loss_per_row(logits, labels)
    groups = [("length", f"{low:,} to {high:,} tokens", mask) for low, high, mask in quantile_groups(lengths)]
    groups += [
        ("unknown", f"{low:.1%} to {high:.1%} unknown" if high > 0 else "none unknown", mask)
        for low, high, mask in quantile_groups(unknown / lengths)
    ]
    groups += [("label", name, labels == number) for number, name in enumerate(names)]
    result = []
    for by, name, mask in groups:
        rows = int(mask.sum())
        if rows:
            hits = int(right[mask].sum())
            entry = {"by": by, "name": name, "rows": rows, "accuracy": hits / rows}
            result.append({**entry, "accuracy_interval": wilson(hits, rows), "log_loss": float(losses[mask].mean())})
    return result


def quantile_groups(values: np.ndarray) -> list[tuple[Any, Any, np.ndarray]]:
    """Lowest and highest value and mask of each group; together the groups hold every row once."""
    cuts = np.unique(np.quantile(values, np.arange(1, GROUPS) / GROUPS, method="inverted_cdf"))
    places = np.searchsorted(cuts, values, side="left")
    masks = [places == place for place in range(len(cuts) + 1)]
    return [(values[mask].min(), values[mask].max(), mask) for mask in masks if mask.any()]
