# SPDX-License-Identifier: Apache-2.0
"""``corpora FILE …``: a recipe on labelled corpora, beside linear models, seed after seed.

Each corpus is preprocessed, a linear model learns from its raw texts and another from its shards, and then the recipe
trains once for each seed. Every finished training is a line appended to ``OUTPUT/figures.jsonl``. What is there already
is not done again, so the command goes on after an interruption, and a training inside goes on too.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measuring import Lines, table
from harness.baseline.linear import RECIPE
from harness.baseline.results import read_results
from harness.config import RunConfig
from harness.rundir.metrics_log import read_log
from harness.rundir.results import figures_name, read_figures
from preprocessing.base import configuration
from preprocessing.base.errors import ConfigError, DataError, require
from preprocessing.base.schema import Processes
from preprocessing.base.split_names import TEST, VALIDATION
from preprocessing.dataset.shards import read_manifest

FIGURES = "figures.jsonl"


@dataclass(frozen=True, kw_only=True)
class CorporaConfig:
    """Train a recipe on corpora, several seeds each, and show it beside linear models on the same rows.

    The figures are of the test split, or of validation where a corpus has no test rows.
    """

    output: str = "corpora"
    """Directory for datasets, runs and figures.jsonl, to which every finished training is appended."""
    recipe: str | None = None
    """Configuration file of the training, or the name of a recipe; null: the default recipe."""
    text: str | None = None
    """Configuration file of the preprocessing, or the name of a recipe; null: its defaults."""
    split_column: str = "split"
    """Column that says which split a row belongs to."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds of the training."""
    processes: Processes = 1
    """Processes of each training."""
    json: bool = False
    """Print the lines of the table as JSON."""

    def __post_init__(self) -> None:
        """Check ranges."""
        find_recipes(self, recipe="train", text="preprocess")
        fits = bool(self.seeds) and min(self.seeds) >= 0
        require(fits, "seeds", self.seeds, "at least one whole number from 0")


def main(config: CorporaConfig, files: list[str]) -> None:
    """Do what is not done, then show the table."""
    check_files(files)
    lines = Lines(Path(config.output, FIGURES), "key")
    rows = [summary(measure(config, Path(file), lines)) for file in files]
    mean = {"corpus": "mean", **{key: statistics.fmean(row[key] for row in rows) for key in COMPARED}}
    shown = [*rows, mean]
    cells = [[f"{row[key]:.4f}" if key in COMPARED else row.get(key, "") for key in rows[0]] for row in shown]
    print(json.dumps(rows, indent=2) if config.json else table([tuple(rows[0]), *cells]))


def measure(config: CorporaConfig, file: Path, lines: Lines) -> list[dict[str, Any]]:
    """The lines of a corpus, one for each seed. Raises ``SystemExit`` with the code of a command that failed."""
    of_data = hash_of(file, config.text, config.split_column)
    keys = {seed: (hash_of(of_data, config.recipe or RunConfig.DEFAULT, seed),) for seed in config.seeds}
    missing = [seed for seed in config.seeds if keys[seed] not in lines.there]
    if missing:
        data = Path(config.output, f"{file.stem}-{of_data}")
        prepare(data, config.text, file, "--splits.column", config.split_column)
        run("harness", "baseline", "--data", data)
        manifest = read_manifest(data)
        split = TEST if manifest.rows(TEST) else VALIDATION
        facts = {"corpus": file.stem, "rows": manifest.rows("train"), "classes": len(manifest.labels), "split": split}
        source, columns, began = manifest.provenance["config"]["source"], read_table(file), time.monotonic()
        held = [value == split for value in columns[config.split_column]]
        learned = ([place for place, one in enumerate(held) if one is measured] for measured in (False, True))
        texts, labels = columns[source["text_column"]], columns[source["label_column"]]
        facts |= {"linear_on_texts": linear(texts, labels, *learned), "linear_s": time.monotonic() - began}
        facts["linear_on_shards"] = read_results(data, manifest.fingerprint)[split]["accuracy"]
    for seed in missing:
        began, directory = time.monotonic(), Path(config.output, "runs", f"{file.stem}-{keys[seed][0]}")
        train(data, directory, config.recipe, config.processes, seed)
        found = {"network": accuracy_of(directory, split), "network_s": time.monotonic() - began}
        lines.add({"key": keys[seed][0], **facts, "seed": seed, **found})
    return [lines.there[key] for key in keys.values()]


COMPARED = ("linear_on_texts", "linear_on_shards", "network")


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The line of one corpus in the table: means over seeds."""
    network = [line["network"] for line in lines]
    shared = {key: value for key, value in lines[0].items() if key not in ("key", "seed", "network_s")}
    spread = {"network_sd": statistics.stdev(network) if len(network) > 1 else None, "seeds": len(lines)}
    seconds = statistics.fmean(line["network_s"] for line in lines)
    return {**shared, "network": statistics.fmean(network), **spread, "network_s": seconds}


def find_recipes(config: Any, **kinds: str) -> None:
    """Put the file of a recipe where its name stands. Raises ``ConfigError``."""
    for name, kind in kinds.items():
        if value := getattr(config, name):
            object.__setattr__(config, name, configuration.find(value, kind, f"--{name}"))


def check_files(files: Sequence[str]) -> None:
    """Raise ``ConfigError`` for a file that is not there."""
    for file in files:
        if not Path(file).is_file():
            raise ConfigError(f"{file}: no such file")


def hash_of(*facts: object) -> str:
    """Of values, and of the content of those that are files."""
    named = [Path(str(one)) for one in facts]
    contents = [hashlib.sha256(one.read_bytes()).hexdigest() if one.is_file() else str(one) for one in named]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:12]


def run(*arguments: object) -> None:
    """``python -m arguments``, its output passed on. Raises ``SystemExit`` with its exit code where it fails."""
    # cannot hang: padless's own commands, whose waits have limits
    if code := subprocess.run([sys.executable, "-m", *map(str, arguments)], check=False).returncode:
        raise SystemExit(code)


def prepare(data: Path, text: str | None, *words: object) -> None:
    """Build a dataset, unless it is there."""
    if not (data / "dataset.json").exists():
        run("preprocessing", "run", *words, *(["--config", text] if text else []), "--output", data)


def train(data: Path, directory: Path, recipe: str | None, processes: int, seed: int, *more: object) -> None:
    """Train a recipe."""
    words = ("--num_processes", processes, *(["--config", recipe] if recipe else []), *more)
    run("harness", "launch", *words, "--data", data, "--run", directory, "--seed", seed)


def linear(texts: Sequence[str], labels: Sequence[str], train: Sequence[int], measured: Sequence[int]) -> float:
    """Accuracy of TF-IDF of words and pairs and logistic regression, as people write it in ten lines."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    features = vectorizer.fit_transform([texts[place] for place in train])
    model = LogisticRegression(C=RECIPE["C"], max_iter=1000).fit(features, [labels[place] for place in train])
    seen = vectorizer.transform([texts[place] for place in measured])
    return float(model.score(seen, [labels[place] for place in measured]))


def read_table(file: Path) -> dict[str, list[str]]:
    """The columns of a CSV, JSON lines or Parquet file, every value as text."""
    import pandas as pd

    if file.suffix == ".parquet":
        frame = pd.read_parquet(file)
    elif file.suffix in (".jsonl", ".json"):
        frame = pd.read_json(file, lines=True, dtype=False, convert_dates=False)
    else:
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    return {str(name): frame[name].map(str).tolist() for name in frame.columns}


def accuracy_of(directory: Path, split: str) -> float:
    """What a run reached: on the test split, or at its best validation. Raises ``DataError``."""
    if split == TEST:
        values = read_figures(directory, TEST)
        if values is None:
            raise DataError(f"{directory / figures_name(TEST)}: missing though the run has finished")
        return float(values["accuracy"])
    best = [line for line in read_log(directory) if line["kind"] == VALIDATION and line["best"]]
    return float(best[-1]["accuracy"])
