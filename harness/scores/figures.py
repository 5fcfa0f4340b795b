# SPDX-License-Identifier: Apache-2.0
"""All that logits and labels of a split say, as ``SPLIT.json`` holds it, and the sentences that are made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.scores.calibration import Decision
from harness.scores.confusion import Confusion
from harness.scores.intervals import intervals
from harness.scores.metrics import Reliability, classification_metrics, log_loss_per_row, per_class
from harness.scores.subgroups import subgroups
from preprocessing.base.printable import percent


def figures(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    lengths: np.ndarray,
    unknown: np.ndarray,
    names: Sequence[str],
    decision: Decision,
) -> dict[str, Any]:
    """Metrics after calibration with intervals, each class, calibration and subgroups, as plain values.

    ``scores`` are logits before calibration, float64 ``[rows]`` for two classes or ``[rows, classes]``; ``labels``,
    ``lengths`` and ``unknown`` (tokens, and how many of them are not in the vocabulary) are int64 ``[rows]``.
    """
    logits = decision.calibrated(scores)
    before, after = Reliability.of(scores, labels), Reliability.of(logits, labels)
    metrics = classification_metrics(logits, labels, decision.threshold)
    return {
        "temperature": decision.temperature,
        "threshold": decision.threshold,
        **metrics,
        "labels": list(names),
        "intervals": intervals(logits, labels, metrics, decision.threshold),
        "per_class": per_class(Confusion.read({**metrics, "labels": names}), names),
        "calibration": {
            "bins": len(before.rows),
            "ece_before": before.error,
            "log_loss_before": float(log_loss_per_row(scores, labels).mean()),
            "before": before.to_json(),
            "after": after.to_json(),
        },
        "slices": subgroups(logits, labels, lengths, unknown, names, decision.threshold),
    }


def texts_of(lengths: np.ndarray, unknown: np.ndarray, training: int | None) -> dict[str, Any]:
    """What is known of the texts of an evaluation; ``training`` of them were training texts, None where nobody knows.

    ``lengths`` and ``unknown`` are those of ``figures``.
    """
    return {
        "unknown_share": float(unknown.sum() / max(lengths.sum(), 1)),
        "without_known_word": int((unknown == lengths).sum()),
        "training_texts": training,
    }


def describe_texts(texts: Mapping[str, Any], rows: int) -> list[str]:
    """Sentences on texts that say little of a model: those that it has learned, and those that it cannot read."""
    trained, unread = texts["training_texts"], texts["without_known_word"]
    found = ["whether rows are training texts is not known: the dataset of the training is not where it was"]
    if trained is not None:
        found = [f"{trained:,} of {rows:,} rows ({percent(trained / rows)}) are training texts"] if trained else []
        found = [f"{one}, so new texts may do worse than these figures" for one in found]
    if unread:
        found.append(f"{unread:,} of {rows:,} rows ({percent(unread / rows)}) hold no word that the model knows")
    return found


def describe_calibration(values: Mapping[str, Any]) -> str:
    """What temperature and threshold did, in a sentence."""
    where = f" on {values['split']}" if "split" in values else ""
    before = values["calibration"]
    line = (
        f"calibration{where}: temperature {values['temperature']:.3f} took the calibration error from "
        f"{before['ece_before']:.4f} to {values['ece']:.4f}, log loss from {before['log_loss_before']:.4f} to "
        f"{values['log_loss']:.4f}"
    )
    return line if len(values["labels"]) > 2 else f"{line}; threshold {values['threshold']:.4f}"


def numbers_of(values: dict[str, Any]) -> dict[str, Any]:
    """The single figures among all values, for a line of the metrics and for trackers."""
    kinds = (int, float, type(None))
    return {name: value for name, value in values.items() if isinstance(value, kinds) and name != "step"}
