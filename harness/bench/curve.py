# SPDX-License-Identifier: Apache-2.0
"""``python -m harness bench curve FILE``: how good a model is by how many of the rows had labels.

From the training rows of a labelled file some are drawn and keep their label; the others lose it, and join the texts
that never had one. On those rows a linear model learns, a recipe from the labelled texts alone, and a recipe from all
texts. Every finished figure is a line appended to ``OUTPUT/figures.jsonl``. What is there already is not done again, so
the command goes on after an interruption, and a training inside goes on too.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from harness.baseline.linear import RECIPE
from harness.bench.corpora import FIGURES, accuracy_of, read_table, run, sha256
from harness.bench.curve_picture import draw
from harness.bench.curve_table import render, summary
from harness.config import Recipe, require
from harness.rundir.bundle_files import bundle_directory, read_info
from preprocessing.base import atomic, recipes
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.meant import check_processes
from preprocessing.base.randomness import permutation
from preprocessing.base.split_names import SPELLINGS, TEST, TRAIN, VALIDATION
from preprocessing.dataset.shards import read_manifest

Method = Literal["linear", "labelled", "all texts"]
METHODS: tuple[Method, ...] = ("linear", "labelled", "all texts")
DRAWN = 0x64726177
"""Sets the rows that keep their label apart from other draws of the same seed."""


@dataclass(frozen=True, kw_only=True)
class CurveConfig:
    """Train on more and more labels: a linear model, a recipe on labelled texts alone, a recipe on all texts.

    The figures are of the validation split, on which recipes are chosen; see split.
    """

    unlabelled: str | None = None
    """File of texts without labels, beside those that lose theirs."""
    output: str = "curve"
    """Directory for corpora, datasets, runs and figures.jsonl, to which every finished figure is appended."""
    labels: list[int] = field(default_factory=lambda: [100, 300, 1000, 3000, 0])
    """How many training rows keep their label; 0: all."""
    draws: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Which rows those are, and the seed of the training: a number for each repetition."""
    labelled_recipe: str | None = None
    """Configuration file of the training on labelled texts alone, or the name of a recipe; null: the default one."""
    recipe: str = "imdb-pretrained"
    """Configuration file of the training on all texts, or the name of a recipe."""
    text: str | None = None
    """Configuration file of the preprocessing, or the name of a recipe; null: its defaults."""
    vectors: str | None = None
    """Word vectors for the trainings on all texts, learned once: those have one vocabulary, whichever rows keep their
    label. null: each learns them anew."""
    weights: str | None = None
    """Pretrained run or bundle that the trainings on all texts start from, made once for the same reason; its word
    vectors are in it. null: the recipe's."""
    text_column: str = "text"
    """Column that holds the text, in both files."""
    label_column: str = "label"
    """Column that holds the label."""
    split_column: str = "split"
    """Column that says which split a row belongs to."""
    split: Literal["validation", "test"] = "validation"
    """Which rows the figures are of."""
    methods: list[str] = field(default_factory=lambda: list(METHODS))
    """Which of linear, labelled and all texts are measured."""
    processes: int = 1
    """Processes of each training."""
    picture: str | None = None
    """File for a drawing of the curve, such as curve.svg or curve.png; null: none."""
    json: bool = False
    """Print the lines of the table as JSON."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, kind in (("labelled_recipe", "train"), ("recipe", "train"), ("text", "preprocess")):
            if value := getattr(self, name):
                object.__setattr__(self, name, recipes.find(value, kind, f"--{name}"))
        check_processes("processes", self.processes)
        require(bool(self.labels) and min(self.labels) >= 0, "labels", self.labels, "numbers of rows, 0 for all")
        require(bool(self.draws) and min(self.draws) >= 0, "draws", self.draws, "at least one number from 0")
        known = bool(self.methods) and set(self.methods) <= set(METHODS)
        require(known, "methods", self.methods, f"some of {', '.join(METHODS)}")


@dataclass(frozen=True)
class Case:
    """One figure: so many labels, which ones, and who learns from them."""

    labels: int
    draw: int
    method: str


def main(config: CurveConfig, files: list[str]) -> int:
    """Do what is not done, then show the table. Returns the exit code of the first command that failed, or 0."""
    (file,) = files
    for name in (file, *filter(None, (config.unlabelled, config.vectors))):
        if not Path(name).is_file():
            raise ConfigError(f"{name}: no such file")
    if config.weights:
        read_info(bundle_directory(config.weights))
    source, folder = sha256(Path(file)), Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    table = read_corpus(config, Path(file))
    for case in cases(config):
        key = key_of(config, source, case)
        if key in read_figures(folder):
            continue
        code, figures = measure(config, table, case, key)
        if code:
            return code
        line = {"key": key, "labels": case.labels, "draw": case.draw, "method": case.method, **figures}
        atomic.append_line(folder / FIGURES, json.dumps(line))
    there = read_figures(folder)
    keys = [key for case in cases(config) if (key := key_of(config, source, case)) in there]
    lines = summary([there[key] for key in keys])
    if config.picture:
        draw(lines, Path(config.picture))
    print(json.dumps(lines, indent=2) if config.json else render(lines))
    return 0


def cases(config: CurveConfig) -> Iterator[Case]:
    """All figures that are wanted, cheap ones first within a draw."""
    for number in config.draws:
        for labels in config.labels:
            for method in METHODS:
                if method in config.methods:
                    yield Case(labels, number, method)


def key_of(config: CurveConfig, source: str, case: Case) -> str:
    """A hash of all that decides a figure."""
    files = {
        "linear": (),
        "labelled": (config.text, config.labelled_recipe or str(Recipe.DEFAULT)),
        "all texts": (config.text, config.recipe, config.unlabelled, config.vectors),
    }[case.method]
    contents = [sha256(Path(name)) if name else "" for name in files]
    if config.weights and case.method == "all texts":
        contents.append(read_info(bundle_directory(config.weights)).weights_sha256)
    columns = [config.text_column, config.label_column, config.split_column, config.split]
    facts = json.dumps([source, case.labels, case.draw, case.method, *contents, *columns])
    return hashlib.sha256(facts.encode()).hexdigest()[:12]


def read_figures(folder: Path) -> dict[str, dict[str, Any]]:
    """The lines that are there, by key; a line that was cut short counts as none."""
    path = folder / FIGURES
    found = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        found[line["key"]] = line
    return found


@dataclass(frozen=True)
class Table:
    """The labelled corpus: a value of each column for each row, splits by the names that padless has for them."""

    texts: list[str]
    labels: list[str]
    splits: list[str]

    def rows(self, split: str) -> list[int]:
        """Places of the rows of a split."""
        return [place for place, name in enumerate(self.splits) if name == split]


def read_corpus(config: CurveConfig, file: Path) -> Table:
    """The labelled file. Raises ``DataError`` for a column or a split that it lacks, and for names of no split."""
    columns = read_table(file)
    for name in (config.text_column, config.label_column, config.split_column):
        if name not in columns:
            raise DataError(f"{file}: no column {name!r}; there are {', '.join(columns)}")
    splits = [SPELLINGS.get(value.strip().lower(), "") for value in columns[config.split_column]]
    if "" in splits:
        row = splits.index("")
        value = columns[config.split_column][row]
        raise DataError(f"{file}: row {row + 1}: {config.split_column} {value!r} is no split; train, validation, test")
    for split in (TRAIN, config.split):
        if split not in splits:
            raise DataError(f"{file}: no row whose {config.split_column} is {split}")
    return Table(columns[config.text_column], columns[config.label_column], splits)


def drawn(config: CurveConfig, table: Table, case: Case) -> set[int]:
    """Places of the training rows that keep their label; fewer are always some of more. Raises ``ConfigError``."""
    train = table.rows(TRAIN)
    if case.labels > len(train):
        raise ConfigError(f"labels: {case.labels} of {len(train)} training rows; name fewer, or 0 for all")
    if not case.labels:
        return set(train)
    chosen = permutation(len(train), case.draw, DRAWN)[: case.labels]
    return {train[place] for place in chosen.tolist()}


def measure(config: CurveConfig, table: Table, case: Case, key: str) -> tuple[int, dict[str, Any]]:
    """The exit code of the first command that failed, or 0; and the figures of one case."""
    kept = drawn(config, table, case)
    if len({table.labels[place] for place in kept}) < 2:
        raise DataError(f"labels: the {case.labels} rows of draw {case.draw} are all of one class; ask for more rows")
    began = time.monotonic()
    if case.method == "linear":
        accuracy = learn_linear(config, table, kept)
        return 0, {"accuracy": accuracy, "rows": len(kept), "seconds": time.monotonic() - began}
    folder = Path(config.output, "runs", f"{case.labels or 'all'}-{case.draw}-{case.method.replace(' ', '-')}-{key}")
    data, directory = folder / "data", folder / "run"
    recipe = config.labelled_recipe if case.method == "labelled" else config.recipe
    steps: tuple[Callable[[], int], ...] = (
        lambda: prepare(config, table, kept, case.method == "all texts", folder, data),
        lambda: train(config, recipe, data, directory, case),
    )
    for step in steps:
        if code := step():
            return code, {}
    rows = read_manifest(data).rows(TRAIN)
    figures = {"accuracy": accuracy_of(directory, config.split), "rows": rows}
    return 0, {**figures, "seconds": time.monotonic() - began}


def learn_linear(config: CurveConfig, table: Table, kept: set[int]) -> float:
    """Accuracy of TF-IDF of words and pairs and logistic regression on the rows that keep their label."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train, measured = sorted(kept), table.rows(config.split)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    features = vectorizer.fit_transform([table.texts[place] for place in train])
    model = LogisticRegression(C=RECIPE["C"], max_iter=1000).fit(features, [table.labels[place] for place in train])
    seen = vectorizer.transform([table.texts[place] for place in measured])
    return float(np.mean(model.predict(seen) == np.array([table.labels[place] for place in measured])))


def prepare(config: CurveConfig, table: Table, kept: set[int], all_texts: bool, folder: Path, data: Path) -> int:
    """Build the dataset of a case, unless it is there; the exit code."""
    if (data / "dataset.json").exists():
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    labelled, rest = folder / "labelled.parquet", folder / "unlabelled.parquet"
    train = table.rows(TRAIN)
    write_rows(labelled, config, table, [*sorted(kept), *table.rows(VALIDATION), *table.rows(TEST)])
    text = [] if config.text is None else ["--config", config.text]
    without: list[object] = []
    lost = sorted(set(train) - kept)
    if all_texts and lost:
        write_rows(rest, config, table, lost, known=False)
        without.append(rest)
    if all_texts and config.unlabelled:
        without.append(config.unlabelled)
    named = ["--source.unlabelled_path", json.dumps([str(name) for name in without])] if without else []
    columns = ["--source.text_column", config.text_column, "--source.label_column", config.label_column]
    columns += ["--splits.column", config.split_column]
    if not table.rows(TEST):
        columns += ["--splits.test", "0"]  # or a part of the rows that keep their label would become one
    return run("preprocessing", "run", *text, "--source.path", labelled, *named, *columns, "--output", data)


def write_rows(path: Path, config: CurveConfig, table: Table, places: Sequence[int], *, known: bool = True) -> None:
    """Write some rows as a Parquet file; without their label and split if they are not ``known``."""
    columns = {config.text_column: [table.texts[place] for place in places]}
    if known:
        columns[config.label_column] = [table.labels[place] for place in places]
        columns[config.split_column] = [table.splits[place] for place in places]
    with atomic.replacing(path) as temporary:
        parquet.write_table(pa.table(columns), temporary)


def train(config: CurveConfig, recipe: str | None, data: Path, directory: Path, case: Case) -> int:
    """Train a recipe; the exit code."""
    named = [] if recipe is None else ["--config", recipe]
    place = ["--data", data, "--run", directory, "--seed", case.draw]
    start: list[object] = []
    if case.method == "all texts":
        start += ["--init.vectors", config.vectors] if config.vectors else []
        start += ["--init.weights", Path(config.weights).resolve()] if config.weights else []
    return run("harness", "launch", "--num_processes", config.processes, *named, *place, *start)
