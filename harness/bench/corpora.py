# SPDX-License-Identifier: Apache-2.0
"""``python -m harness bench corpora FILE …``: a recipe on labelled corpora, beside linear models, seed after seed.

Each corpus is preprocessed, a linear model learns from its raw texts and another from its shards, and then the recipe
trains once for each seed. Every finished training is a line appended to ``OUTPUT/figures.jsonl``. What is there already
is not done again, so the command goes on after an interruption, and a training inside goes on too.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.baseline.linear import RECIPE
from harness.baseline.results import read_results
from harness.config import Recipe, require
from harness.rundir.metrics_log import read_metrics
from harness.rundir.results import figures_name, read_figures
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.meant import check_processes
from preprocessing.base.readable import duration
from preprocessing.base.split_names import TEST, VALIDATION
from preprocessing.dataset.shards import Manifest, read_manifest

FIGURES = "figures.jsonl"


@dataclass(frozen=True, kw_only=True)
class CorporaConfig:
    """Train a recipe on corpora, several seeds each, and show it beside linear models on the same rows.

    The figures are of the test split, or of validation where a corpus has no test rows.
    """

    output: str = "corpora"
    """Directory for datasets, runs and figures.jsonl, to which every finished training is appended."""
    recipe: str | None = None
    """Configuration file of the training; null: the default recipe."""
    text: str | None = None
    """Configuration file of the preprocessing; null: its defaults."""
    split_column: str | None = "split"
    """Column that says which split a row belongs to; null: splits are cut."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds of the training."""
    processes: int = 1
    """Processes of each training."""
    json: bool = False
    """Print the lines of the table as JSON."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_processes("processes", self.processes)
        fits = bool(self.seeds) and min(self.seeds) >= 0
        require(fits, "seeds", self.seeds, "at least one whole number from 0")


def main(config: CorporaConfig, files: list[str]) -> int:
    """Do what is not done, then show the table. Returns the exit code of the first command that failed, or 0."""
    names = [Path(file).stem for file in files]
    if len(set(names)) < len(names):
        raise ConfigError("two of the files have the same name; rename one, since results are kept under it")
    for file in files:
        if not Path(file).is_file():
            raise ConfigError(f"{file}: no such file")
    for file in files:
        failed = measure(config, Path(file))
        if failed:
            return failed
    lines = [line for file in files if (line := summary(config, Path(file))) is not None]
    print(json.dumps(lines, indent=2) if config.json else render(lines))
    return 0


def measure(config: CorporaConfig, file: Path) -> int:
    """Everything of one corpus that is not done yet; the exit code of the first command that failed, or 0."""
    digest, done = recipe_hash(config), finished(config)
    content = sha256(file)
    missing = [seed for seed in config.seeds if (file.stem, content, digest, seed) not in done]
    if not missing:
        return 0
    data = Path(config.output, f"{file.stem}-{content[:8]}-{text_hash(config)}")
    code = prepare(config, file, data) or run("harness", "baseline", "--data", data)
    if code:
        return code
    manifest = read_manifest(data)
    split = TEST if manifest.rows(TEST) else VALIDATION
    raw = read_or_learn(config, file, data, manifest, split)
    linear = read_results(data, manifest.fingerprint)[split]
    for seed in missing:
        directory = Path(config.output, "runs", f"{data.name}-{digest}-{seed}")
        began = time.monotonic()
        recipe = [] if config.recipe is None else ["--config", config.recipe]
        code = run(
            *("harness", "launch", "--num_processes", config.processes, *recipe),
            *("--data", data, "--run", directory, "--seed", seed),
        )
        if code:
            return code
        line = {
            "corpus": file.stem,
            "content": content,
            "recipe": digest,
            "seed": seed,
            "split": split,
            "rows": manifest.rows("train"),
            "measured_rows": manifest.rows(split),
            "classes": len(manifest.labels),
            "network": accuracy_of(directory, split),
            "network_s": time.monotonic() - began,
            "linear_on_texts": raw["accuracy"],
            "linear_on_texts_s": raw["seconds"],
            "linear_on_shards": linear["accuracy"],
            "linear_on_shards_s": linear["seconds"],
        }
        atomic.append_line(Path(config.output, FIGURES), json.dumps(line))
    return 0


def prepare(config: CorporaConfig, file: Path, data: Path) -> int:
    """Build the dataset, unless it is there; the exit code."""
    if (data / "dataset.json").exists():
        return 0
    text = [] if config.text is None else ["--config", config.text]
    column = [] if config.split_column is None else ["--splits.column", config.split_column]
    return run("preprocessing", "run", *text, "--source.path", file, *column, "--output", data)


def run(*arguments: object) -> int:
    """``python -m arguments``, its output passed on; the exit code."""
    # cannot hang: padless's own commands, whose waits have limits
    return subprocess.run([sys.executable, "-m", *map(str, arguments)], check=False).returncode


def read_or_learn(config: CorporaConfig, file: Path, data: Path, manifest: Manifest, split: str) -> dict[str, float]:
    """What the linear model reaches that learns from raw texts; kept beside the dataset."""
    path = Path(f"{data}-texts.json")
    if path.exists():
        return json.loads(path.read_text())
    print(f"{file.stem}: a linear model of the raw texts", flush=True)
    found = learn_from_texts(config, file, manifest, split)
    atomic.write_json(path, found)
    return found


def learn_from_texts(config: CorporaConfig, file: Path, manifest: Manifest, split: str) -> dict[str, float]:
    """TF-IDF of words and pairs and logistic regression, as people write it in ten lines.

    It learns from every row that is not in ``split``, as its user would, who has no use for a validation split; with
    splits that are cut from a file without such a column there is nothing to agree on, and it is left out (NaN).
    """
    if config.split_column is None:
        return {"accuracy": float("nan"), "seconds": float("nan")}
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    source = manifest.provenance["config"]["source"]
    table = read_table(file)
    texts, labels = table[source["text_column"]], table[source["label_column"]]
    measured = [value == split for value in table[config.split_column]]
    began = time.monotonic()
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    train = vectorizer.fit_transform([text for text, held in zip(texts, measured, strict=True) if not held])
    known = [label for label, held in zip(labels, measured, strict=True) if not held]
    model = LogisticRegression(C=RECIPE["C"], max_iter=1000).fit(train, known)
    test = vectorizer.transform([text for text, held in zip(texts, measured, strict=True) if held])
    truth = [label for label, held in zip(labels, measured, strict=True) if held]
    return {"accuracy": float(model.score(test, truth)), "seconds": time.monotonic() - began}


def read_table(file: Path) -> dict[str, list[str]]:
    """The columns of a CSV, JSON lines or Parquet file, every value as text."""
    import pandas as pd

    if file.suffix == ".parquet":
        frame = pd.read_parquet(file)
    elif file.suffix in (".jsonl", ".json"):
        frame = pd.read_json(file, lines=True, dtype=False, convert_dates=False)
    else:
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    return {str(name): [str(value) for value in frame[name]] for name in frame.columns}


def accuracy_of(directory: Path, split: str) -> float:
    """What a run reached: on the test split, or at its best validation. Raises ``DataError``."""
    if split == TEST:
        values = read_figures(directory, TEST)
        if values is None:
            raise DataError(f"{directory / figures_name(TEST)}: missing though the run has finished")
        return float(values["accuracy"])
    best = [line for line in read_metrics(directory) if line["kind"] == VALIDATION and line["best"]]
    return float(best[-1]["accuracy"])


def finished(config: CorporaConfig) -> dict[tuple[str, str, str, int], dict[str, Any]]:
    """The lines that are there, by corpus, content, recipe and seed; a line that was cut short counts as none."""
    path = Path(config.output, FIGURES)
    Path(config.output).mkdir(parents=True, exist_ok=True)
    found = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        found[line["corpus"], line["content"], line["recipe"], line["seed"]] = line
    return found


def sha256(path: Path) -> str:
    """Of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def text_hash(config: CorporaConfig) -> str:
    """Of what decides a dataset beside its file."""
    text = b"" if config.text is None else Path(config.text).read_bytes()
    return hashlib.sha256(text + str(config.split_column).encode()).hexdigest()[:8]


def recipe_hash(config: CorporaConfig) -> str:
    """Of what decides a training beside its dataset and seed."""
    recipe = Path(config.recipe or Recipe.DEFAULT).read_bytes()
    return hashlib.sha256(recipe + text_hash(config).encode()).hexdigest()[:8]


def summary(config: CorporaConfig, file: Path) -> dict[str, Any] | None:
    """The line of one corpus in the table: means over seeds."""
    done, digest, content = finished(config), recipe_hash(config), sha256(file)
    keys = [(file.stem, content, digest, seed) for seed in config.seeds]
    lines = [done[key] for key in keys if key in done]
    if not lines:
        return None
    network = [line["network"] for line in lines]
    first = lines[0]
    shared = {key: value for key, value in first.items() if key not in ("seed", "network", "network_s", "content")}
    return {
        **shared,
        "seeds": len(lines),
        "network": statistics.fmean(network),
        "network_sd": statistics.stdev(network) if len(network) > 1 else float("nan"),
        "network_s": statistics.fmean(line["network_s"] for line in lines),
    }


def render(lines: Sequence[dict[str, Any]]) -> str:
    """The table, with the mean of all corpora below it."""
    names = f"{'corpus':<14} {'rows':>7} {'classes':>7} {'split':<6}"
    rows = [f"{names} {'linear':>7} {'shards':>7} {'network':>16} {'diff':>6}"]
    for line in lines:
        network = f"{line['network']:.4f} ± {line['network_sd']:.4f}"
        rows.append(
            f"{line['corpus'][:14]:<14} {line['rows']:>7,} {line['classes']:>7} {line['split'][:6]:<6} "
            f"{line['linear_on_texts']:>7.4f} {line['linear_on_shards']:>7.4f} {network:>16} "
            f"{100 * (line['network'] - line['linear_on_texts']):>+6.2f}"
        )
    keys = ("linear_on_texts", "linear_on_shards", "network")
    means = [statistics.fmean(line[key] for line in lines) for key in keys]
    rows.append(
        f"{'mean':<37} {means[0]:>7.4f} {means[1]:>7.4f} {means[2]:>7.4f} {100 * (means[2] - means[0]):>+15.2f}"
    )
    times = ", ".join(
        f"{line['corpus']} {duration(line['network_s'])} ({duration(line['linear_on_texts_s'])})" for line in lines
    )
    rows.append(f"a training, and the linear model of raw texts: {times}")
    return os.linesep.join(rows)
