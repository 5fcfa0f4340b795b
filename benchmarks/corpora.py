# SPDX-License-Identifier: Apache-2.0
"""``corpora FILE …``: a recipe and a TF-IDF baseline on labelled files, for several seeds, with all labels or few.

A random part of the training rows keeps its labels. The baseline trains on these rows; so does the network, with
``--teacher`` on the other texts too. Every finished figure is appended to ``OUTPUT/figures.jsonl``
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
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.measuring import JsonConfig, print_result, read_frame
from harness.baselines.tfidf import RECIPE
from harness.rundir.results import read_figures
from padless.core import atomic
from padless.core.errors import DataError
from padless.core.randomness import permutation
from padless.core.split_names import SPELLINGS, TEST, TRAIN, VALIDATION

LINEAR, NETWORK = "TF-IDF", "ours"
LABEL_STREAM = 0x64726177
"""The random stream for the choice of rows that keep their label."""


@dataclass(frozen=True, kw_only=True)
class CorporaConfig(JsonConfig):
    """Train on labelled files with several seeds, and a TF-IDF baseline; the columns are text, label and split."""

    SUBJECT = ("files",)
    files: list[str]
    """Labelled files."""
    output: str = "corpora"
    """Directory for corpora, datasets, runs and figures.jsonl, to which every finished figure is appended."""
    labels: list[int] = field(default_factory=lambda: [0])
    """Number of training rows that keep their label; 0: all."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds for the choice of these rows and for the training."""
    recipe: str = "default"
    """Configuration file of the training, or the name of a recipe."""
    teacher: str | None = None
    """Sentence encoder, as for padless baseline --encoder, which also sees the texts without a label; null: none."""
    text: str | None = None
    """Configuration file of the preprocessing, or the name of a recipe; null: its defaults."""


def main(config: CorporaConfig) -> None:
    """Compute missing figures, then show the table. Raises ``SystemExit`` with the exit code of a failed command."""
    options = (config.text, config.recipe, config.teacher)
    lines = []
    for file in config.files:
        corpus = read_corpus(Path(file))
        for seed, labels, method in product(config.seeds, config.labels, (LINEAR, NETWORK)):
            facts = [file, labels, seed, method]
            facts += options if method == NETWORK else ()
            key = hash_facts(*facts)
            measure = partial(measure_figure, config, corpus, labels, seed, method, Path(config.output, key))
            line = measure_once(Path(config.output, "figures.jsonl"), key, measure)
            lines.append({"corpus": Path(file).stem, "labels": labels, "method": method, **line})
    groups = pd.DataFrame(lines).groupby(["corpus", "labels", "method"], sort=False)
    table = groups.agg(
        rows=("rows", "first"), accuracy=("accuracy", "mean"), sd=("accuracy", "std"), seconds=("seconds", "mean")
    )
    mean_by_method = table["accuracy"].groupby("method").mean()
    print_result(config, "accuracy", dict(mean_by_method), corpora=table.reset_index())


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


def read_corpus(file: Path) -> pd.DataFrame:
    """Texts, labels and splits. Raises ``ConfigError`` or ``DataError``."""
    frame = read_frame(file)
    columns = ["text", "label", "split"]
    for name in set(columns) - set(frame):
        raise DataError(f"{file}: no column {name!r}; there are {list(frame)}")
    corpus: pd.DataFrame = frame[columns].astype(str)
    corpus["split"] = corpus["split"].str.lower().map(SPELLINGS)
    return corpus


def draw_labelled(corpus: pd.DataFrame, labels: int, seed: int) -> np.ndarray:
    """Indices of the training rows that keep their label, of each class at least one, all if there are fewer; for a
    smaller number, a subset.
    """
    rows = np.flatnonzero(corpus["split"] == TRAIN)
    order = rows[permutation(len(rows), seed, LABEL_STREAM)]
    is_first = ~corpus["label"].iloc[order].duplicated().to_numpy()
    return np.sort(np.concatenate((order[is_first], order[~is_first]))[:labels]) if labels else rows


def measure_figure(
    config: CorporaConfig, corpus: pd.DataFrame, labels: int, seed: int, method: str, folder: Path
) -> dict[str, Any]:
    """Accuracy, rows and seconds of one figure."""
    labelled, start_s = draw_labelled(corpus, labels, seed), time.monotonic()
    if labels:  # who has few labels has no others for validation
        corpus = corpus.assign(split=corpus["split"].where(corpus["split"] != VALIDATION))
    if method == LINEAR:
        learned = pd.concat([corpus.iloc[labelled], corpus[corpus["split"] == VALIDATION]])
        measured = corpus[corpus["split"] == TEST]
        model = linear_model().fit(learned["text"], learned["label"])
        accuracy = float(model.score(measured["text"], measured["label"]))
    else:
        run_module("padless", "prepare", *sources(config, corpus, labelled, folder), "--output", folder / "data")
        words: list[object] = ["--config", config.recipe, "--num_processes", 1, "--seed", seed]
        if config.teacher:
            run_module("padless", "baseline", folder / "data", "--encoder", config.teacher)
            for predictions in (folder / "data" / "teachers").glob("*.parquet"):  # none where it would not help
                words += ["--teacher", predictions]
        run_module("padless", "train", *words, "--data", folder / "data", "--run", folder / "run")
        accuracy = float((read_figures(folder / "run", TEST) or {})["accuracy"])
    return {"rows": len(labelled), "accuracy": accuracy, "seconds": time.monotonic() - start_s}


def sources(config: CorporaConfig, corpus: pd.DataFrame, labelled: np.ndarray, folder: Path) -> list[object]:
    """Write the files of a dataset; returns the command-line arguments that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    has_label = (corpus["split"] != TRAIN) | corpus.index.isin(labelled)
    corpus[has_label & corpus["split"].notna()].to_parquet(folder / "labelled.parquet", index=False)
    words: list[object] = [folder / "labelled.parquet", "--splits.column", "split"]
    if config.teacher and not has_label.all():
        corpus[~has_label].to_parquet(folder / "unlabelled.parquet", index=False)
        words += ["--source.unlabelled_path", folder / "unlabelled.parquet"]
    return [*words, *(["--config", config.text] if config.text else [])]


def run_module(*arguments: object) -> None:
    """Run ``python -m arguments``, its output on stderr. Raises ``SystemExit`` with its exit code if it fails."""
    # cannot hang: all waits of padless's commands have limits
    if code := subprocess.run([sys.executable, "-m", *map(str, arguments)], check=False, stdout=2).returncode:
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
