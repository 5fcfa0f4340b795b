# SPDX-License-Identifier: Apache-2.0
"""What a report knows of a run: the files of its directory, read once, checked, and nothing drawn yet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.baseline.compare import Comparison, compare
from harness.baseline.results import read_results
from harness.data.checks import TEST, TRAIN, VALIDATION
from harness.data.views import held_out
from harness.report.curves import Curve, read_curves
from harness.report.originals import NOT_LOOKED, Originals, find_originals
from harness.rundir.bundle_files import stored_info
from harness.rundir.json_files import Line
from harness.rundir.layout import BUNDLE, CONFIG, METRICS, THROUGHPUT
from harness.rundir.metrics_log import read_log
from harness.rundir.records import known_status, read_attempts, read_config, read_environment
from harness.rundir.results import Measured, read_measured
from preprocessing.base.errors import DataError
from preprocessing.base.printable import public_values
from preprocessing.dataset.shards import MANIFEST, Manifest, read_manifest

NEEDED = {TRAIN: ("step", "loss"), VALIDATION: ("step", "accuracy", "log_loss")}
"""What a line of metrics.jsonl must say, by its kind."""
WEIGHED = ("tokens_per_s", "data_wait", "mfu")
"""Figures of a log line that are averaged over the time it stands for."""


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
    measured: Measured | None
    """On the test split if there are figures of it, else on validation if there are of that."""
    fingerprint: str | None
    """Of the dataset it was trained on, as the bundle says it."""
    manifest: Manifest | None
    """Of that dataset; None if the directory is gone or holds another one now."""
    manifest_note: str | None
    """Why there is no manifest."""
    linear: dict[str, dict[str, Any]]
    """Figures of the linear model on the same dataset, by split, as far as ``DATA/baseline`` has them."""
    beside: Comparison | None
    """The run beside the linear model; None where there is nothing to compare."""
    linear_note: str | None
    """Why there is not, if the figures of the linear model are there."""

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.directory.resolve().name

    @property
    def test(self) -> dict[str, Any] | None:
        """The figures on the test split, where there are any."""
        return self.measured.figures if self.measured is not None and self.measured.split == TEST else None

    @property
    def labels(self) -> list[str]:
        """The names of the classes; empty as long as they are not known."""
        if self.measured is not None:
            return list(self.measured.figures["labels"])
        return list(self.manifest.labels) if self.manifest is not None else []

    @property
    def best_validation(self) -> Line | None:
        """The line of the validation whose weights were kept."""
        best = [line for line in self.validation if line.get("best")]
        return best[-1] if best else None

    @cached_property
    def speed_summary(self) -> dict[str, float]:
        """Training time in seconds, and means over that time of what the log lines say; empty without lines."""
        rows = {line["step"]: line.get("rows") or 0 for line in self.train}
        lines = [line for line in self.speed if line["rows_per_s"]]
        seconds = [rows.get(line["step"], 0) / line["rows_per_s"] for line in lines]
        if not sum(seconds):
            return {}
        result = {"seconds": float(sum(seconds))}
        for name in WEIGHED:
            pairs = zip(lines, seconds, strict=True)
            known = [(line[name], weight) for line, weight in pairs if line.get(name) is not None]
            if known and sum(weight for _, weight in known):
                result[name] = float(np.average([value for value, _ in known], weights=[weight for _, weight in known]))
        padding = [line["padding"] for line in self.train if line.get("padding") is not None]
        if padding:
            result["padding"] = float(np.mean(padding))
        memory = [line["memory_bytes"] for line in lines if line.get("memory_bytes")]
        if memory:
            result["memory_bytes"] = float(max(memory))
        return result

    @property
    def linear_before_calibration(self) -> dict[str, Any] | None:
        """The linear model on validation, to stand beside ``best_validation``, whose probabilities are not calibrated.

        At the threshold 0.5 of both, the temperature changes no prediction.
        """
        values = self.linear.get(VALIDATION)
        if values is None:
            return None
        before = values["calibration"]
        return {**values, "log_loss": before["log_loss_before"], "ece": before["ece_before"]}

    @cached_property
    def curves(self) -> dict[str, dict[str, Curve]]:
        """``{label: {"roc": (x, y), "pr": (x, y)}}`` from the predictions; empty where they are not there."""
        if self.measured is None:
            return {}
        try:
            return read_curves(self.measured.directory, self.measured.split, self.measured.figures)
        except (OSError, KeyError, ValueError):
            return {}

    @cached_property
    def originals(self) -> Originals:
        """The texts of the mistakes as they stand in the corpus, as far as they are to be had."""
        if self.measured is None or self.manifest is None:
            return Originals({}, NOT_LOOKED)
        return find_originals(self.manifest.provenance, [each["row"] for each in self.measured.figures["mistakes"]])


def read_run(directory: str | Path) -> RunFacts:
    """Read a run directory. Raises ``DataError`` for what is no run, has no metrics, or comes from another version."""
    directory = Path(directory)
    config = read_config(directory)
    if not isinstance(config.get("data"), str):
        raise DataError(f"{directory / CONFIG}: names no dataset under data: padless has not written it so")
    kinds = lines_by_kind(directory)
    train = kinds[TRAIN]
    speed = read_log(directory, THROUGHPUT) or train
    measured = read_measured(directory)
    info = stored_info(directory / BUNDLE)
    fingerprint = info.dataset if info is not None else measured.figures.get("dataset") if measured else None
    manifest, note = dataset_of(config, fingerprint)
    known = fingerprint or (manifest.fingerprint if manifest else None)
    linear, beside, linear_note = linear_of(config, known, measured)
    return RunFacts(
        directory=directory,
        config=config,
        environment=public_values(read_environment(directory)),
        status=public_values(known_status(directory)),
        train=train,
        validation=kinds[VALIDATION],
        speed=[line for line in speed if "rows_per_s" in line],
        attempts=read_attempts(directory),
        measured=measured,
        fingerprint=known,
        manifest=manifest,
        manifest_note=note,
        linear=linear,
        beside=beside,
        linear_note=linear_note,
    )


def lines_by_kind(directory: Path) -> dict[str, list[Line]]:
    """The lines of ``metrics.jsonl``, by kind; train and validation are always there, if only as empty lists.

    Raises ``DataError`` if the file is missing or empty, or if a line lacks what the report needs.
    """
    path = directory / METRICS
    lines = read_log(directory)
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
        if any(name not in line for name in needed(line)):
            raise DataError(
                f"{path}: line {number} is not one of this padless: another version wrote it; use that version's report"
            )
        kinds.setdefault(kind, []).append(line)
    return kinds


def needed(line: Line) -> tuple[str, ...]:
    """What a line must say; the validation of a language model has no accuracy."""
    names = NEEDED.get(str(line.get("kind")), ())
    return tuple(name for name in names if name != "accuracy") if "perplexity" in line else names


def dataset_of(config: dict[str, Any], fingerprint: str | None) -> tuple[Manifest | None, str | None]:
    """The manifest of the run's dataset, or a sentence on why it cannot be shown."""
    place = config.get("data", "")
    try:
        manifest = read_manifest(place)
    except DataError:
        return None, f"There is no readable {Path(place, MANIFEST)} where the report was made."
    if fingerprint is not None and manifest.fingerprint != fingerprint:
        return None, f"{place} now holds another dataset (fingerprint {manifest.fingerprint[:12]})."
    fold = config.get("fold")
    return held_out(manifest, fold if fold is not None and fold < manifest.folds else None, place), None


def linear_of(
    config: dict[str, Any], fingerprint: str | None, measured: Measured | None
) -> tuple[dict[str, dict[str, Any]], Comparison | None, str | None]:
    """The figures of the linear model on a run's dataset and the run beside them, or a sentence on why not."""
    linear: dict[str, dict[str, Any]] = {}
    try:
        linear = read_results(config["data"], fingerprint)
        if config.get("fold") is not None:  # its validation is another than the linear model's
            linear.pop(VALIDATION, None)
        return linear, compare(measured, config["data"], linear), None
    except DataError as error:
        return linear, None, str(error)
