# SPDX-License-Identifier: Apache-2.0
"""The YAML in front of a model card, as the hub reads it: licence, language, tags, metrics, and results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.export.records import Card
from harness.rundir.bundle_files import ONNX

TASK = {"type": "text-classification", "name": "Text Classification"}
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "f1": "f1",
    "roc_auc": "roc_auc",
    "log_loss": "log_loss",
}
"""Our figures, and what the hub calls them."""


def front_matter(card: Card) -> dict[str, Any]:
    """Plain values, in the order in which they are written."""
    tags = ["text-classification", "padless", card.info.model["cell"]]
    tags += ["onnx"] if ONNX in card.files else []
    values = card.records.figures
    known = [name for name in METRICS if isinstance(values.get(name), float)]
    head: dict[str, Any] = {
        "license": card.license,
        "language": card.language,
        "library_name": "padless",
        "pipeline_tag": "text-classification",
        "tags": tags,
        "metrics": [METRICS[name] for name in known],
    }
    if known:
        head["model-index"] = [{"name": card.name, "results": [result(card, known)]}]
    return head


def result(card: Card, known: list[str]) -> dict[str, Any]:
    """The figures of one split with their 95 % intervals."""
    values = card.records.figures
    bounds = values.get("intervals", {})
    name = Path(card.records.config.get("data") or "dataset").name
    metrics = []
    for key in known:
        metric: dict[str, Any] = {"type": METRICS[key], "name": key.replace("_", " "), "value": values[key]}
        if bounds.get(key) is not None:
            metric["args"] = {"interval_95": list(bounds[key])}
        metrics.append(metric)
    return {"task": TASK, "dataset": {"name": name, "type": name, "split": values["split"]}, "metrics": metrics}
