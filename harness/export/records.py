# SPDX-License-Identifier: Apache-2.0
"""What the files of a run say of the model in it, as far as they are there: what a model card is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.baseline.results import read_results
from harness.rundir.bundle_files import EXPORT, BundleInfo, bundle_directory
from harness.rundir.layout import BUNDLE, CONFIG, holds_run
from harness.rundir.metrics_log import read_log
from harness.rundir.records import read_config, read_environment
from harness.rundir.results import read_measured
from harness.rundir.training_facts import read_training
from harness.scores.intervals import wilson
from preprocessing.base.errors import DataError
from preprocessing.base.printable import public
from preprocessing.base.split_names import VALIDATION
from preprocessing.dataset.shards import MANIFEST, read_manifest


@dataclass(frozen=True)
class Place:
    """What was named on the command line."""

    bundle: Path
    run: Path | None
    """The run directory around the bundle, if there is one."""

    @property
    def name(self) -> str:
        """What the model is called unless the user says otherwise."""
        return (self.run or self.bundle).resolve().name

    @property
    def is_export(self) -> bool:
        """Whether it is an export folder already."""
        return (self.bundle / EXPORT).is_file()


@dataclass(frozen=True)
class Records:
    """What is known of a training. Whatever is not there is empty."""

    config: dict[str, Any]
    environment: dict[str, Any]
    training: dict[str, Any]
    """Rows, classes and lengths of the splits (``training_facts``)."""
    figures: dict[str, Any]
    """On the test split, or else on validation; with intervals where an evaluation has been made."""
    linear: dict[str, Any]
    """Figures of the linear model on the same split, if they were made and the dataset is still there."""
    sources: list[dict[str, Any]]
    """Files of the corpus: name without folders, rows, sha256; empty where the dataset is gone."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card is made of."""

    name: str
    license: str
    language: str
    repository: str | None
    info: BundleInfo
    parameters: int
    records: Records
    files: dict[str, dict[str, Any]]
    """What the index says of each file."""


def place_of(named: Path) -> Place:
    """Run and bundle of a path; a bundle in its run is known as that run's."""
    bundle = bundle_directory(named)
    around = bundle.parent if bundle.name == BUNDLE else bundle
    return Place(bundle, around if holds_run(around) else None)


def read_records(place: Place, info: BundleInfo) -> Records:
    """Everything that is there. Raises ``DataError`` for a damaged file."""
    run = place.run
    config = read_config(run) if run is not None and (run / CONFIG).is_file() else {}
    training = read_training(place.bundle, info.dataset) or {}
    figures = figures_of(run, info, training) if run is not None else {}
    return Records(
        config=config,
        environment=read_environment(run) if run is not None else {},
        training=training,
        figures=figures,
        linear=linear_of(config.get("data"), info.dataset).get(figures.get("split", ""), {}),
        sources=sources_of(config.get("data"), info.dataset),
    )


def figures_of(run: Path, info: BundleInfo, training: dict[str, Any]) -> dict[str, Any]:
    """The figures of these weights: of an evaluation, or else the line of the validation that chose them."""
    measured = read_measured(run)
    if measured is not None and (measured.figures.get("dataset"), measured.figures.get("step")) == (
        info.dataset,
        info.step,
    ):
        return {**measured.figures, "split": measured.split}
    lines = [line for line in read_log(run) if line.get("kind") == VALIDATION and line.get("step") == info.step]
    rows = training.get("splits", {}).get(VALIDATION, {}).get("rows")
    if not lines or not rows or not isinstance(lines[-1].get("accuracy"), float):
        return {}
    accuracy = lines[-1]["accuracy"]
    bounds = wilson(round(accuracy * rows), rows)
    return {**lines[-1], "split": VALIDATION, "rows": rows, "intervals": {"accuracy": bounds, "method": "Wilson"}}


def linear_of(data: str | None, fingerprint: str) -> dict[str, dict[str, Any]]:
    """The figures of the linear model by split; none where they cannot be read: the card does without."""
    try:
        return read_results(data, fingerprint) if data is not None else {}
    except DataError:
        return {}


def sources_of(data: str | None, fingerprint: str) -> list[dict[str, Any]]:
    """The files of the corpus as the manifest of the dataset names them; none where it is gone or another one."""
    if data is None or not Path(data, MANIFEST).is_file():
        return []
    try:
        manifest = read_manifest(data)
    except DataError:
        return []  # another version's, or damaged: the card does without
    if manifest.fingerprint != fingerprint:
        return []
    return [
        {
            "name": Path(public(str(source.get("name")))).name,
            "rows": source.get("rows"),
            "sha256": source.get("fingerprint", {}).get("sha256"),
        }
        for source in manifest.provenance.get("sources", [])
    ]


def bare(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a bundle says of where its weights come from, without the folders of the machine that made it."""
    if value is None or not isinstance(value.get("source"), str):
        return value
    return {**value, "source": Path(public(value["source"])).name}
