# SPDX-License-Identifier: Apache-2.0
"""What a report knows of a run: the files of its directory, read once, checked, and nothing drawn yet."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import flat
from harness.rundir import layout
from preprocessing.base.errors import DataError
from preprocessing.dataset.shards import MANIFEST, Manifest, read_manifest

TEST = "test.json"
PREDICTIONS = "test-predictions.parquet"
EVALUATION = ("padless-evaluation", 1)
"""Format and version of a test.json that this report can read."""
NEEDED = {"train": ("step", "loss"), "validation": ("step", "accuracy", "log_loss")}
"""What a line of metrics.jsonl must say, by its kind."""
WEIGHED = ("tokens_per_s", "data_wait", "mfu")
"""Figures of a log line that are averaged over the time it stands for."""
UNSET = "unset"
"""Stands for a setting that a run does not have."""
CURVE_POINTS = 300
MOST_CURVES = 8
"""Classes whose ROC and precision-recall curves are drawn: those with the most rows."""
Line = dict[str, Any]


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
    """Of that very dataset; None where it is no longer at its place."""
    manifest_note: str | None
    """Why there is no manifest."""

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

    @cached_property
    def curves(self) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] | None:
        """``{label: {"roc": (x, y), "pr": (x, y)}}`` from the predictions; None where they are not there."""
        if self.test is None:
            return None
        try:
            return read_curves(self.directory / PREDICTIONS, self.test)
        except (OSError, KeyError, ValueError):
            return None


def read_run(directory: str | Path) -> RunFacts:
    """Read a run directory. Raises ``DataError`` for what is no run, has no metrics, or comes from another version."""
    directory = Path(directory)
    config = layout.read_config(directory)
    if not isinstance(config.get("data"), str):
        raise DataError(f"{directory / layout.CONFIG}: names no dataset under data: padless has not written it so")
    lines = read_lines(directory / layout.METRICS)
    if not lines:
        raise DataError(
            f"{directory / layout.METRICS}: holds no metrics: this run has logged nothing yet; "
            "wait for its first log line, or name another run"
        )
    kinds: dict[str, list[Line]] = {"train": [], "validation": [], "test": []}
    for number, line in enumerate(lines, 1):
        needed = NEEDED.get(line.get("kind", ""), ())
        if any(name not in line for name in needed):
            raise DataError(
                f"{directory / layout.METRICS}: line {number} is not one of this padless: another version wrote it; "
                "use that version's report"
            )
        kinds.setdefault(str(line.get("kind")), []).append(line)
    train = kinds["train"]
    speed = read_lines(directory / layout.THROUGHPUT) if (directory / layout.THROUGHPUT).exists() else train
    test = read_test(directory / TEST)
    fingerprint = bundle_of(directory).get("dataset") or (test or {}).get("dataset")
    manifest, note = dataset_of(config, fingerprint)
    return RunFacts(
        directory=directory,
        config=config,
        environment=read_object(directory / layout.ENVIRONMENT),
        status=read_object(directory / layout.STATUS),
        train=train,
        validation=kinds["validation"],
        speed=[line for line in speed if "rows_per_s" in line and line.get("kind", "train") == "train"],
        attempts=read_lines(directory / layout.ATTEMPTS) if (directory / layout.ATTEMPTS).exists() else [],
        test=test,
        fingerprint=fingerprint or (manifest.fingerprint if manifest else None),
        manifest=manifest,
        manifest_note=note,
    )


def read_lines(path: Path) -> list[Line]:
    """The objects of a JSON lines file; a last line that was cut short is left out. Raises ``DataError``."""
    try:
        texts = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError(
            f"{path}: missing: {path.parent} has no metrics; name the directory of a run that has logged something"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable ({error}); restore it, or name another run") from None
    lines = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError:
            if number == len(texts):
                continue
            raise DataError(f"{path}: line {number} is not JSON; remove it, or restore the file") from None
        if not isinstance(line, dict):
            raise DataError(f"{path}: line {number} is no JSON object; remove it, or restore the file")
        lines.append({key: number_of(value) for key, value in line.items()})
    return lines


def number_of(value: Any) -> Any:
    """nan and infinities as numbers again; they are spelt as strings in the file."""
    return float(value) if value in ("nan", "inf", "-inf") else value


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file. Raises ``DataError`` for a damaged one."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); restore it, or name another run") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no JSON object; restore it, or name another run")
    return content


def read_test(path: Path) -> dict[str, Any] | None:
    """The test results, or None where there are none yet. Raises ``DataError`` for those of another version."""
    content = read_object(path)
    if not content:
        return None
    if (content.get("format"), content.get("format_version")) != EVALUATION:
        raise DataError(
            f"{path}: another version of padless wrote it; use that version's report, "
            "or evaluate the run again with this one"
        )
    return content


def bundle_of(directory: Path) -> dict[str, Any]:
    """What the bundle says of itself; empty where there is none yet."""
    return read_object(directory / layout.BUNDLE / "bundle.json")


def dataset_of(config: dict[str, Any], fingerprint: str | None) -> tuple[Manifest | None, str | None]:
    """The manifest of the dataset that was trained on, or a sentence that says why it cannot be shown."""
    place = config.get("data", "")
    try:
        manifest = read_manifest(place)
    except DataError:
        return None, f"There is no readable {Path(place, MANIFEST)} where the report was made."
    if fingerprint is not None and manifest.fingerprint != fingerprint:
        return None, f"{place} now holds another dataset (fingerprint {manifest.fingerprint[:12]})."
    return manifest, None


def read_curves(path: Path, test: dict[str, Any]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """ROC and precision-recall curves: of class 1 for two classes, of each class against the rest for more."""
    import pyarrow.parquet as pq
    from sklearn.metrics import precision_recall_curve, roc_curve

    names = test["labels"]
    shown = names[1:] if len(names) == 2 else [entry["label"] for entry in by_rows(test["per_class"])[:MOST_CURVES]]
    table = pq.read_table(path, columns=["label", *(f"probability_{name}" for name in shown)])
    true = np.array(table["label"].to_pylist(), dtype=object)
    result = {}
    for name in shown:
        positive = true == name
        if positive.all() or not positive.any():
            continue
        chances = table[f"probability_{name}"].to_numpy()
        wrong, found, _ = roc_curve(positive, chances)
        precision, recall, _ = precision_recall_curve(positive, chances)
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
