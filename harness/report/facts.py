# SPDX-License-Identifier: Apache-2.0
"""What a report knows of a run: the files of its directory, read once, checked, and nothing drawn yet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.baseline.compare import Comparison, compare
from harness.baseline.results import read_results
from harness.config import flat
from harness.data.checks import TEST, TRAIN, VALIDATION
from harness.rundir.bundle_files import read_fingerprint
from harness.rundir.configuration import read_config
from harness.rundir.environment import read_environment
from harness.rundir.json_files import Line
from harness.rundir.layout import BUNDLE, CONFIG, METRICS
from harness.rundir.metrics_log import read_metrics, read_throughput
from harness.rundir.results import read_figures, read_predictions
from harness.rundir.status import read_attempts, read_status
from preprocessing.base.errors import DataError
from preprocessing.dataset.shards import MANIFEST, Manifest, read_manifest

NEEDED = {TRAIN: ("step", "loss"), VALIDATION: ("step", "accuracy", "log_loss")}
"""What a line of metrics.jsonl must say, by its kind."""
WEIGHED = ("tokens_per_s", "data_wait", "mfu")
"""Figures of a log line that are averaged over the time it stands for."""
UNSET = "unset"
"""Stands for a setting that a run does not have."""
CURVE_POINTS = 300
MOST_CURVES = 8
"""Classes whose ROC and precision-recall curves are drawn: those with the most rows."""


@dataclass(frozen=True)
class RunFacts:
    """A run directory in memory. Whatever is not there yet is empty or None."""

    directory: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    status: dict[str, Any]
    train: list[Line]
    validation: list[Line]
    speed: list[Line]
    """What ``throughput.jsonl`` says, or the same figures where they stand in ``metrics.jsonl``."""
    attempts: list[Line]
    test: dict[str, Any] | None
    fingerprint: str | None
    """Of the dataset it was trained on, as the bundle says it."""
    manifest: Manifest | None
    """Of that dataset; None if the directory is gone or holds another one now."""
    manifest_note: str | None
    """Why there is no manifest."""
    linear: dict[str, dict[str, Any]]
    """Figures of the linear model on the same dataset, by split, as far as ``DATA/baseline`` has them."""
    linear_note: str | None
    """Why they cannot be read, if they are there."""

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.directory.resolve().name

    @cached_property
    def speed_summary(self) -> dict[str, float]:
        """Training time in seconds, and means over that time of what the log lines say; empty without lines."""
        rows = {line["step"]: line.get("rows", 0) for line in self.train}
        lines = [line for line in self.speed if line["rows_per_s"]]
        seconds = [rows.get(line["step"], 0) / line["rows_per_s"] for line in lines]
        if not sum(seconds):
            return {}
        result = {"seconds": float(sum(seconds))}
        for name in WEIGHED:
            pairs = zip(lines, seconds, strict=True)
            known = [(line[name], weight) for line, weight in pairs if line.get(name) is not None]
            if known:
                result[name] = float(np.average([value for value, _ in known], weights=[weight for _, weight in known]))
        padding = [line["padding"] for line in self.train if "padding" in line]
        if padding:
            result["padding"] = float(np.mean(padding))
        memory = [line["memory_bytes"] for line in lines if line.get("memory_bytes")]
        if memory:
            result["memory_bytes"] = float(max(memory))
        return result

    @property
    def beside(self) -> Comparison | None:
        """The run beside the linear model; None where there is nothing to compare."""
        return compare(self.test, self.validation, self.linear)

    @cached_property
    def curves(self) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] | None:
        """``{label: {"roc": (x, y), "pr": (x, y)}}`` from the predictions; None where they are not there."""
        if self.test is None:
            return None
        try:
            return read_curves(self.directory, self.test)
        except (OSError, KeyError, ValueError):
            return None


def read_run(directory: str | Path) -> RunFacts:
    """Read a run directory. Raises ``DataError`` for what is no run, has no metrics, or comes from another version."""
    directory = Path(directory)
    config = read_config(directory)
    if not isinstance(config.get("data"), str):
        raise DataError(f"{directory / CONFIG}: names no dataset under data: padless has not written it so")
    kinds = lines_by_kind(directory)
    train = kinds[TRAIN]
    speed = read_throughput(directory) or train
    test = read_figures(directory, TEST)
    fingerprint = read_fingerprint(directory / BUNDLE) or (test or {}).get("dataset")
    manifest, note = dataset_of(config, fingerprint)
    known = fingerprint or (manifest.fingerprint if manifest else None)
    linear, linear_note = linear_of(config["data"], known)
    return RunFacts(
        directory=directory,
        config=config,
        environment=read_environment(directory),
        status=read_status(directory) or {},
        train=train,
        validation=kinds[VALIDATION],
        speed=[line for line in speed if "rows_per_s" in line],
        attempts=read_attempts(directory),
        test=test,
        fingerprint=known,
        manifest=manifest,
        manifest_note=note,
        linear=linear,
        linear_note=linear_note,
    )


def lines_by_kind(directory: Path) -> dict[str, list[Line]]:
    """The lines of ``metrics.jsonl``, by kind; train and validation are always there, if only as empty lists.

    Raises ``DataError`` if the file is missing or empty, or if a line lacks what the report needs.
    """
    path = directory / METRICS
    lines = read_metrics(directory)
    if not path.exists():
        raise DataError(
            f"{path}: missing: {directory} has no metrics; name the directory of a run that has logged something"
        )
    if not lines:
        raise DataError(
            f"{path}: holds no metrics: this run has logged nothing yet; "
            "wait for its first log line, or name another run"
        )
    kinds: dict[str, list[Line]] = {TRAIN: [], VALIDATION: []}
    for number, line in enumerate(lines, 1):
        kind = str(line.get("kind"))
        if any(name not in line for name in NEEDED.get(kind, ())):
            raise DataError(
                f"{path}: line {number} is not one of this padless: another version wrote it; use that version's report"
            )
        kinds.setdefault(kind, []).append(line)
    return kinds


def dataset_of(config: dict[str, Any], fingerprint: str | None) -> tuple[Manifest | None, str | None]:
    """The manifest of the run's dataset, or a sentence on why it cannot be shown."""
    place = config.get("data", "")
    try:
        manifest = read_manifest(place)
    except DataError:
        return None, f"There is no readable {Path(place, MANIFEST)} where the report was made."
    if fingerprint is not None and manifest.fingerprint != fingerprint:
        return None, f"{place} now holds another dataset (fingerprint {manifest.fingerprint[:12]})."
    return manifest, None


def linear_of(data: str, fingerprint: str | None) -> tuple[dict[str, dict[str, Any]], str | None]:
    """The figures of the linear model on a dataset, or a sentence on why they cannot be read."""
    try:
        return read_results(data, fingerprint), None
    except DataError as error:
        return {}, str(error)


def read_curves(directory: Path, test: dict[str, Any]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """ROC and precision-recall curves: of class 1 for two classes, of each class against the rest for more.

    ``test`` holds the figures that lie beside the predictions in ``directory``.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    names = test["labels"]
    shown = names[1:] if len(names) == 2 else [entry["label"] for entry in by_rows(test["per_class"])[:MOST_CURVES]]
    true, chances = read_predictions(directory, TEST, shown)
    result = {}
    for name in shown:
        positive = true == name
        if positive.all() or not positive.any():
            continue
        wrong, found, _ = roc_curve(positive, chances[name])
        precision, recall, _ = precision_recall_curve(positive, chances[name])
        result[name] = {"roc": thinned(wrong, found), "pr": thinned(recall[::-1], precision[::-1])}
    return result


def by_rows(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Classes, those with the most rows first."""
    return sorted(entries, key=lambda entry: -entry["rows"])


def thinned(x: np.ndarray, y: np.ndarray, points: int = CURVE_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """A curve with at most ``points`` points, its ends among them."""
    if len(x) <= points:
        return x, y
    keep = np.unique(np.linspace(0, len(x) - 1, points).round().astype(int))
    return x[keep], y[keep]


def averaged(lines: Sequence[Line], name: str, points: int = CURVE_POINTS) -> tuple[list[float], list[float]]:
    """Steps and values of a figure over a run; where there are many lines, means of neighbours."""
    known = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), (int, float))]
    known = [(step, value) for step, value in known if math.isfinite(value)]
    size = -(-len(known) // points) or 1
    groups = [known[start : start + size] for start in range(0, len(known), size)]
    return [group[-1][0] for group in groups], [float(np.mean([value for _, value in group])) for group in groups]


def differing(runs: Sequence[RunFacts]) -> dict[str, list[Any]]:
    """Settings that are not the same in all runs, with the value of each run; the run's own place is left out."""
    every = [flat(run.config) for run in runs]
    keys = dict.fromkeys(key for config in every for key in config if key != "run")
    table = {key: [config.get(key, UNSET) for config in every] for key in keys}
    return {key: values for key, values in table.items() if any(value != values[0] for value in values)}
