# SPDX-License-Identifier: Apache-2.0
"""``speedrun FILE``: seconds of training to an accuracy out of fold, and common alternatives on the same folds.

After some seconds the training of each fold has kept some weights: theirs is the accuracy of padless. Peers learn from
texts in memory. Imports are not counted. Finished folds, in ``OUTPUT/runs/`` and ``figures.jsonl``, are not run again.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.svm import LinearSVC

from benchmarks.corpora import hash_facts, linear_model, measure_once, run_module
from benchmarks.measuring import cores, machine, peer_module, read_frame
from harness.rundir.checkpoint import steps
from harness.rundir.layout import THROUGHPUT, Member
from harness.rundir.metrics_log import read_log
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.installed import is_importable
from preprocessing.base.schema import AtLeast1, Processes, Share
from preprocessing.base.split_names import TRAIN, VALIDATION
from preprocessing.base.terminal import print_stderr
from preprocessing.dataset.inspect import Dataset

FASTTEXT, WORDS = "fastText", r"\w+|[^\w\s]"


@dataclass(frozen=True, kw_only=True)
class SpeedrunConfig:
    """Seconds of training to an accuracy out of fold, beside a TF-IDF baseline, NB-SVM and fastText."""

    SUBJECT = ("file",)
    file: str
    """Labelled file with a column text."""
    output: str = "speedrun"
    """Directory for the dataset, the runs and figures.jsonl; finished folds there are not measured again."""
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
    """Measure what is missing, then show the table. Raises ``SystemExit`` with the exit code of a failed command."""
    peers = [name for name in PEERS if name != FASTTEXT or is_importable("fasttext")]
    with cores(config.threads):
        prepare_s = time_prepare(config)
        runs = [train_fold(config, Member("fold", fold, Path(config.output, "runs"))) for fold in range(config.folds)]
        rows = rows_of(config)
        contenders = {"ours": curve(runs, rows), **{name: [measure_peer(config, rows, name)] for name in peers}}
    table = [
        line_of(name, figures, config.targets, prepare_s * (name == "ours")) for name, figures in contenders.items()
    ]
    print(pd.DataFrame(table).astype(object).fillna("–").to_string(index=False))
    facts = f"{len(rows):,} rows out of {config.folds} folds; seconds; threads of each contender: {config.threads}"
    print(f"{facts}; {machine()['processor']}")
    if FASTTEXT not in peers:
        print_stderr("fastText is left out: fasttext cannot be imported here; pip install fasttext-wheel brings it")


def measure(
    config: SpeedrunConfig, name: str, fold: int | None, contender: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """A line of ``figures.jsonl``, measured and appended if it is missing."""
    options = (config.text, config.label_column, config.group_column, config.folds, config.threads)
    key = hash_facts(config.file, *options, name, fold)
    return measure_once(Path(config.output, "figures.jsonl"), key, contender)


def time_prepare(config: SpeedrunConfig) -> float:
    """Build the dataset; returns the seconds."""
    data = Path(config.output, "data")
    words = [config.file, "--source.label_column", config.label_column, "--executor.workers", config.threads]
    words += ["--splits.folds", config.folds, "--splits.test", 0, *(["--config", config.text] if config.text else [])]
    words += ["--splits.group_column", config.group_column] if config.group_column else []

    def prepare_timed() -> dict[str, Any]:
        began = time.monotonic()
        run_module("preprocessing", "prepare", *words, "--output", data)
        return {"seconds": time.monotonic() - began}

    return float(measure(config, "prepare", None, prepare_timed)["seconds"])


def train_fold(config: SpeedrunConfig, member: Member) -> Member:
    """Train the run of a fold, unless it has finished with these settings."""
    if not steps(member.path):  # each training learns its word vectors, so that all count their time
        shutil.rmtree(Path(config.output, "data", "vectors"), ignore_errors=True)
    words = ["--num_processes", 1, "--threads", config.threads, "--baseline", "none", "--fold", member.number]
    words += ["--config", config.recipe, "--data", Path(config.output, "data"), "--run", member.path]
    run_module("harness", "train", *words)
    return member


def rows_of(config: SpeedrunConfig) -> pd.DataFrame:
    """Text, label and fold of each row. Raises ``DataError`` if the dataset is that of another file."""
    dataset, frame = Dataset(Path(config.output, "data")), read_frame(Path(config.file)).astype(str)
    rows = pd.concat([dataset[name] for name in (TRAIN, VALIDATION) if name in dataset]).astype({"label": str})
    rows = rows.sample(frac=1, random_state=0)  # fastText learns rows in the order of the file
    frame = frame.reindex(rows["row"] - 1)
    if frame[config.label_column].tolist() != rows["label"].tolist():
        raise DataError(f"{dataset.path}: not a dataset of {config.file}; name another --output")
    return rows.assign(text=frame["text"].tolist()).reset_index(drop=True)


def curve(runs: list[Member], rows: pd.DataFrame) -> list[tuple[float, float]]:
    """A point for each validation from which on every run has kept weights. Raises ``DataError``."""
    share, events, points, part = rows["fold"].value_counts(normalize=True), [], [], 0.0
    for member in runs:
        first = Path(f"{member.path}-pretrained")  # the language model of a recipe that has one
        start_s = max((line.get("seconds", 0.0) for line in read_log(first, THROUGHPUT)), default=0.0)
        lines = read_log(member.path, THROUGHPUT)
        times = {line["step"]: start_s + line["seconds"] for line in lines if "seconds" in line}
        for line in (line for line in read_log(member.path) if line["kind"] == VALIDATION):
            if line["step"] not in times:
                raise DataError(f"{member.path}: has no seconds of its validations; remove it, and it is trained again")
            part = float(line["accuracy"] * share[member.number]) if line["best"] else part
            events.append((times[line["step"]], member.number, part))
    accuracy_by_fold: dict[int, float] = {}
    for seconds, fold, part in sorted(events):
        accuracy_by_fold[fold] = part
        points += [(seconds, sum(accuracy_by_fold.values()))] if len(accuracy_by_fold) == len(runs) else []
    return points


def measure_peer(config: SpeedrunConfig, rows: pd.DataFrame, name: str) -> tuple[float, float]:
    """Train a peer for each fold; the mean of the seconds, and the accuracy over all rows."""

    def measure_fold(fold: int) -> dict[str, Any]:
        is_held_out, began = rows["fold"] == fold, time.monotonic()
        predicted = PEERS[name](rows[~is_held_out], rows[is_held_out], config.threads)
        return {"seconds": time.monotonic() - began, "right": int((predicted == rows["label"][is_held_out]).sum())}

    lines = pd.DataFrame([measure(config, name, fold, partial(measure_fold, fold)) for fold in range(config.folds)])
    return float(lines["seconds"].mean()), float(lines["right"].sum() / len(rows))


def nb_svm(learned: pd.DataFrame, measured: pd.DataFrame, _: int) -> Any:
    """A linear SVM on words and pairs times their log-count ratios, with C 1 and beta 0.25 (Wang and Manning 2012)."""
    vectorizer = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=WORDS)
    train_counts, new = vectorizer.fit_transform(learned["text"]), vectorizer.transform(measured["text"])
    labels, classes, scores = learned["label"].to_numpy(), np.unique(learned["label"]), []
    for label in classes[1:] if len(classes) == 2 else classes:
        counts, other_counts = (
            1 + np.asarray(train_counts[rows].sum(axis=0))[0] for rows in (labels == label, labels != label)
        )
        ratio = np.log(counts / counts.sum()) - np.log(other_counts / other_counts.sum())
        model = LinearSVC(C=1.0).fit(train_counts.multiply(ratio).tocsr(), labels == label)
        weights = 0.25 * model.coef_[0] + 0.75 * np.abs(model.coef_[0]).mean()
        scores.append(new @ (ratio * weights) + model.intercept_)
    return classes[np.argmax(scores, axis=0) if len(scores) > 1 else (scores[0] > 0).astype(int)]


def fasttext(learned: pd.DataFrame, measured: pd.DataFrame, threads: int) -> Any:
    """fastText's classifier with words and pairs, 10 numbers each (Joulin and others 2016), 10 epochs."""
    classes, numbers = np.unique(learned["label"], return_inverse=True)
    train_texts = [" ".join(re.findall(WORDS, text.lower())) for text in learned["text"]]
    test_texts = [" ".join(re.findall(WORDS, text.lower())) for text in measured["text"]]
    with atomic.temporary_folder() as folder:
        lines = (f"__label__{number} {text}\n" for number, text in zip(numbers, train_texts, strict=True))
        (folder / "rows").write_text("".join(lines), encoding="utf-8")
        options = {"dim": 10, "wordNgrams": 2, "epoch": 10, "lr": 0.5, "thread": threads, "verbose": 0}
        model = peer_module("fasttext").train_supervised(str(folder / "rows"), **options)
    return classes[[int(name.removeprefix("__label__")) for (name,) in model.predict(test_texts)[0]]]


PEERS: dict[str, Callable[[pd.DataFrame, pd.DataFrame, int], Any]] = {
    "TF-IDF, logistic regression": lambda a, b, _: linear_model().fit(a["text"], a["label"]).predict(b["text"]),
    "NB-SVM": nb_svm,
    FASTTEXT: fasttext,
}


def line_of(name: str, points: list[tuple[float, float]], targets: list[float], prepare_s: float) -> dict[str, Any]:
    """A line of the table: accuracy and seconds of the whole training, and the seconds to each target, if reached."""
    line: dict[str, Any] = {"contender": name, "accuracy": round(points[-1][1], 4), "seconds": round(points[-1][0], 1)}
    for target in targets:
        reached_s = next((round(seconds, 1) for seconds, accuracy in points if accuracy >= target), None)
        line |= {f"{target:g}": reached_s, f"{target:g} + prepare": reached_s and round(reached_s + prepare_s, 1)}
    return line
