# SPDX-License-Identifier: Apache-2.0
"""``curve FILE``: how good a model is by how many of the rows had labels.

From the training rows of a labelled file some are drawn and keep their label; the others lose it, and join the texts
that never had one. On those rows a linear model learns, a recipe from the labelled texts alone, and a recipe from all
texts. Every finished figure is a line appended to ``OUTPUT/figures.jsonl``. What is there already is not done again, so
the command goes on after an interruption, and a training inside goes on too.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from benchmarks.corpora import (
    FIGURES,
    accuracy_of,
    check_files,
    find_recipes,
    hash_of,
    linear,
    prepare,
    read_table,
    train,
)
from benchmarks.measuring import Lines, table
from harness.config import RunConfig
from harness.rundir.bundle_files import bundle_directory, read_info
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError, require
from preprocessing.base.randomness import permutation
from preprocessing.base.schema import Processes
from preprocessing.base.split_names import SPELLINGS, TEST, TRAIN, VALIDATION
from preprocessing.dataset.shards import read_manifest

COLOURS = {"linear": "#8a8a8a", "labelled": "#2a6fbb", "all texts": "#c2571a"}
"""The methods: a linear model, labelled texts alone, with texts without labels."""
DRAWN = 0x64726177
"""Sets the rows that keep their label apart from other draws of the same seed."""


@dataclass(frozen=True, kw_only=True)
class CurveConfig:
    """Train on more and more labels: a linear model, the default recipe on labelled texts alone, a recipe on all texts.

    Columns are text, label and the one that names splits; the figures are of the validation split.
    """

    unlabelled: str | None = None
    """File of texts without labels, beside those that lose theirs."""
    output: str = "curve"
    """Directory for corpora, datasets, runs and figures.jsonl, to which every finished figure is appended."""
    labels: list[int] = field(default_factory=lambda: [100, 300, 1000, 3000, 0])
    """How many training rows keep their label; 0: all."""
    draws: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Which rows those are, and the seed of the training: a number for each repetition."""
    recipe: str = "imdb-pretrained"
    """Configuration file of the training on all texts, or the name of a recipe."""
    text: str | None = None
    """Configuration file of the preprocessing, or the name of a recipe; null: its defaults."""
    weights: str | None = None
    """Pretrained run or bundle that trainings on all texts start from, with its word vectors; null: the recipe's."""
    split_column: str = "split"
    """Column that says which split a row belongs to."""
    processes: Processes = 1
    """Processes of each training."""
    picture: str | None = None
    """File for a drawing of the curve, such as curve.svg or curve.png; null: none."""
    json: bool = False
    """Print the lines of the table as JSON."""

    def __post_init__(self) -> None:
        """Check ranges."""
        find_recipes(self, recipe="train", text="preprocess")
        require(bool(self.labels) and min(self.labels) >= 0, "labels", self.labels, "numbers of rows, 0 for all")
        require(bool(self.draws) and min(self.draws) >= 0, "draws", self.draws, "at least one number from 0")


def main(config: CurveConfig, files: list[str]) -> None:
    """Do what is not done, then show the table. Raises ``SystemExit`` with the code of a command that failed."""
    check_files([*files, *filter(None, [config.unlabelled])])
    weights = read_info(bundle_directory(config.weights)).weights_sha256 if config.weights else None
    corpus = read_corpus(Path(files[0]), config.split_column)
    lines = Lines(Path(config.output, FIGURES), "key")
    of_files = {
        "linear": (),
        "labelled": (config.text, RunConfig.DEFAULT),
        "all texts": (config.text, config.recipe, config.unlabelled, weights),
    }
    found = []
    for draw, labels, method in product(config.draws, config.labels, COLOURS):
        key = hash_of(files[0], config.split_column, labels, draw, method, *of_files[method])
        if (key,) not in lines.there:
            figures = measure(config, corpus, labels, draw, method, key)
            lines.add({"key": key, "labels": labels, "draw": draw, "method": method, **figures})
        found.append(lines.there[key,])
    shown = summary(found)
    if config.picture:
        picture(shown, Path(config.picture))
    print(json.dumps(shown, indent=2) if config.json else table(cells(shown)))


Corpus = dict[str, list[str]]
"""A value of each column for each row."""


def read_corpus(file: Path, split_column: str) -> Corpus:
    """Texts, labels and splits by padless's names. Raises ``DataError`` for what is missing, and names of no split."""
    columns = read_table(file)
    for name in ("text", "label", split_column):
        if name not in columns:
            raise DataError(f"{file}: no column {name!r}; there are {', '.join(columns)}")
    splits = [SPELLINGS.get(value.strip().lower(), "") for value in columns[split_column]]
    if "" in splits:
        row = splits.index("")
        value = columns[split_column][row]
        raise DataError(f"{file}: row {row + 1}: {split_column} {value!r} is no split; train, validation, test")
    for split in {TRAIN, VALIDATION} - {*splits}:
        raise DataError(f"{file}: no row whose {split_column} is {split}")
    return {"text": columns["text"], "label": columns["label"], "split": splits}


def places(corpus: Corpus, *splits: str) -> list[int]:
    """Of the rows of some splits."""
    return [place for place, name in enumerate(corpus["split"]) if name in splits]


def drawn(corpus: Corpus, labels: int, draw: int) -> list[int]:
    """Places of the training rows that keep their label; fewer are always some of more. Raises ``UserError``."""
    rows = places(corpus, TRAIN)
    if labels > len(rows):
        raise ConfigError(f"labels: {labels} of {len(rows)} training rows; name fewer, or 0 for all")
    kept = sorted(rows[place] for place in permutation(len(rows), draw, DRAWN)[:labels]) if labels else rows
    if len({corpus["label"][place] for place in kept}) < 2:
        raise DataError(f"labels: the {labels} rows of draw {draw} are all of one class; ask for more rows")
    return kept


def measure(config: CurveConfig, corpus: Corpus, labels: int, draw: int, method: str, key: str) -> dict[str, Any]:
    """Accuracy, rows and seconds of one figure."""
    kept, began = drawn(corpus, labels, draw), time.monotonic()
    if method == "linear":
        accuracy, rows = linear(corpus["text"], corpus["label"], kept, places(corpus, VALIDATION)), len(kept)
    else:
        folder = Path(config.output, "runs", f"{labels or 'all'}-{draw}-{method.replace(' ', '-')}-{key}")
        data, directory, with_others = folder / "data", folder / "run", method == "all texts"
        prepare(data, config.text, *sources(config, corpus, kept, folder, with_others))
        start = ["--init.weights", Path(config.weights).resolve()] if with_others and config.weights else []
        train(data, directory, config.recipe if with_others else None, config.processes, draw, *start)
        accuracy, rows = accuracy_of(directory, VALIDATION), read_manifest(data).rows(TRAIN)
    return {"accuracy": accuracy, "rows": rows, "seconds": time.monotonic() - began}


def sources(config: CurveConfig, corpus: Corpus, kept: list[int], folder: Path, with_others: bool) -> list[str]:
    """Write the files of a dataset; the words of the command that reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    whole, files = pa.table(corpus), {"labelled.parquet": sorted([*kept, *places(corpus, VALIDATION, TEST)])}
    lost = sorted({*places(corpus, TRAIN)} - {*kept})
    if with_others and lost:
        files["unlabelled.parquet"] = lost
    for name, rows in files.items():
        with atomic.replacing(folder / name) as temporary:
            parquet.write_table(whole.take(rows), temporary)
    found = [str(folder / name) for name in files]
    without = [*found[1:], *([config.unlabelled] if with_others and config.unlabelled else [])]
    words = [found[0], "--splits.column", "split"]
    words += ["--source.unlabelled_path", json.dumps(without)] if without else []
    return words if TEST in corpus["split"] else [*words, "--splits.test", "0"]  # none of those that keep their label


def summary(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each number of labels, the fewest first: rows, and of each method mean, deviation, draws and seconds."""
    result: dict[int, dict[str, Any]] = {}
    for line in sorted(lines, key=lambda line: line["labels"] or float("inf")):
        labels, method = line["labels"], line["method"]
        own = [one for one in lines if (one["labels"], one["method"]) == (labels, method)]
        figures = [one["accuracy"] for one in own]
        at = result.setdefault(labels, {"labels": labels, "rows": 0, "methods": {}})
        at["rows"] = max(at["rows"], line["rows"])
        at["methods"][method] = {
            "mean": statistics.fmean(figures),
            "sd": statistics.stdev(figures) if len(figures) > 1 else None,
            "draws": len(figures),
            "seconds": statistics.fmean(one["seconds"] for one in own),
        }
    return list(result.values())


def cells(lines: Sequence[dict[str, Any]]) -> list[list[object]]:
    """The table: mean and deviation of each method."""
    rows: list[list[object]] = [["labels", *COLOURS]]
    for line in lines:
        found = [line["methods"][method] for method in COLOURS]
        rows.append([line["rows"], *(f"{one['mean']:.4f} ± {one['sd'] or 0:.4f}" for one in found)])
    return rows


def picture(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw accuracy by the number of labels, a line for each method; bars reach one deviation up and down."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "padless"
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    for method, colour in COLOURS.items():
        points = [(line["rows"], line["methods"][method]) for line in lines]
        means, spread = ([100 * (one[key] or 0) for _, one in points] for key in ("mean", "sd"))
        axes.errorbar([rows for rows, _ in points], means, spread, color=colour, marker="o", capsize=3, label=method)
    axes.set(xscale="log", xlabel="rows with a label", ylabel="accuracy, %")
    axes.set_xticks([line["rows"] for line in lines], [f"{line['rows']:,}" for line in lines])
    axes.minorticks_off()
    axes.legend(frameon=False)
    with atomic.replacing(path) as temporary:
        dateless = {"Date": None} if path.suffix == ".svg" else None  # the same figures give the same bytes
        figure.savefig(temporary, format=path.suffix[1:] or "png", dpi=160, metadata=dateless)
    pyplot.close(figure)
