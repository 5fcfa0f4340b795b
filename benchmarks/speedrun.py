# SPDX-License-Identifier: Apache-2.0
"""``speedrun FILE``: seconds of training to an accuracy out of fold, and a TF-IDF baseline on the same folds.

After some seconds the training of each fold has kept some weights: theirs is the accuracy of padless. The
baseline learns from texts in memory. Imports are not counted. Finished folds, in ``OUTPUT/runs/``, are not trained
again.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.corpora import linear_model, run_module
from benchmarks.measuring import JsonConfig, cores, print_result, read_frame
from harness.rundir.layout import THROUGHPUT, Member
from harness.rundir.metrics_log import read_log
from padless.core.schema import AtLeast1, Processes, Share
from padless.core.split_names import TRAIN, VALIDATION
from preprocessing.dataset.inspect import Dataset


@dataclass(frozen=True, kw_only=True)
class SpeedrunConfig(JsonConfig):
    """Seconds of training to an accuracy out of fold and a TF-IDF baseline."""

    SUBJECT = ("file",)
    file: str
    """Labelled file with a column text."""
    output: str = "speedrun"
    """Directory for the dataset and the runs; finished folds there are not trained again."""
    targets: list[Share] = field(default_factory=lambda: [0.90, 0.92, 0.93])
    """Accuracies whose seconds are shown."""
    label_column: str = "label"
    """Column that holds the label."""
    group_column: str | None = None
    """Column whose equal values stay in one fold, such as the film of a review; null: none."""
    folds: AtLeast1 = 5
    """Number of folds; each is predicted by a model that has learned from the others."""
    recipe: str = "default"
    """Configuration file of the training, or the name of a recipe."""
    text: str | None = None
    """Configuration file of the preprocessing, or the name of a recipe; null: its defaults."""
    threads: Processes = 1
    """Cores for each contender, and threads where it has several."""


def main(config: SpeedrunConfig) -> None:
    """Train what is missing, then show the table. Raises ``SystemExit`` with the exit code of a failed command."""
    with cores(config.threads):
        prepare(config)
        runs = [train_fold(config, Member("fold", fold, Path(config.output, "runs"))) for fold in range(config.folds)]
        rows = rows_of(config)
        contenders = {"ours": curve(runs, rows), "TF-IDF, logistic regression": [measure_linear(config, rows)]}
    table = [line_of(name, points, config.targets) for name, points in contenders.items()]
    seconds = {line["contender"]: line["seconds"] for line in table}
    print_result(config, "s", seconds, rows=len(rows), table=pd.DataFrame(table))


def prepare(config: SpeedrunConfig) -> None:
    """Build the dataset with its folds, unless it is there."""
    words = [config.file, "--source.label_column", config.label_column, "--executor.workers", config.threads]
    words += ["--splits.folds", config.folds, "--splits.test", 0, *(["--config", config.text] if config.text else [])]
    words += ["--splits.group_column", config.group_column] if config.group_column else []
    run_module("padless", "prepare", *words, "--output", Path(config.output, "data"))


def train_fold(config: SpeedrunConfig, member: Member) -> Member:
    """Train the run of a fold, unless it has finished with these settings."""
    # each training learns its word vectors, so that all count their time
    shutil.rmtree(Path(config.output, "data", "vectors"), ignore_errors=True)
    words = ["--num_processes", 1, "--threads", config.threads, "--baseline", "none", "--fold", member.number]
    words += ["--config", config.recipe, "--data", Path(config.output, "data"), "--run", member.path]
    run_module("padless", "train", *words)
    return member


def rows_of(config: SpeedrunConfig) -> pd.DataFrame:
    """Text, label and fold of each row."""
    dataset, frame = Dataset(Path(config.output, "data")), read_frame(Path(config.file)).astype(str)
    rows = pd.concat([dataset[name] for name in (TRAIN, VALIDATION) if name in dataset]).astype({"label": str})
    return rows.assign(text=frame["text"].reindex(rows["row"] - 1).tolist()).reset_index(drop=True)


def curve(runs: list[Member], rows: pd.DataFrame) -> list[tuple[float, float]]:
    """A point for each validation from which on every run has kept weights."""
    share, events, points, part = rows["fold"].value_counts(normalize=True), [], [], 0.0
    for member in runs:
        first = Path(f"{member.path}-pretrained")  # the language model of a recipe that has one
        start_s = max((line.get("seconds", 0.0) for line in read_log(first, THROUGHPUT)), default=0.0)
        lines = read_log(member.path, THROUGHPUT)
        times = {line["step"]: start_s + line["seconds"] for line in lines if "seconds" in line}
        for line in (line for line in read_log(member.path) if line["kind"] == VALIDATION):
            part = float(line["accuracy"] * share[member.number]) if line["best"] else part
            events.append((times[line["step"]], member.number, part))
    accuracy_by_fold: dict[int, float] = {}
    for seconds, fold, part in sorted(events):
        accuracy_by_fold[fold] = part
        points += [(seconds, sum(accuracy_by_fold.values()))] if len(accuracy_by_fold) == len(runs) else []
    return points


def measure_linear(config: SpeedrunConfig, rows: pd.DataFrame) -> tuple[float, float]:
    """Train the TF-IDF baseline for each fold; the mean of the seconds, and the accuracy over all rows."""
    num_right, began = 0, time.monotonic()
    for fold in range(config.folds):
        learned, measured = rows[rows["fold"] != fold], rows[rows["fold"] == fold]
        model = linear_model().fit(learned["text"], learned["label"])
        num_right += int((model.predict(measured["text"]) == measured["label"]).sum())
    return (time.monotonic() - began) / config.folds, num_right / len(rows)


def line_of(name: str, points: list[tuple[float, float]], targets: list[float]) -> dict[str, Any]:
    """A line of the table: accuracy and seconds of the whole training, and the seconds to each target, if reached."""
    seconds_by_target = {
        str(target): next((seconds for seconds, accuracy in points if accuracy >= target), None) for target in targets
    }
    seconds, accuracy = points[-1]
    return {"contender": name, "accuracy": accuracy, "seconds": seconds, **seconds_by_target}
