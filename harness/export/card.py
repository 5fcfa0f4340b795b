# SPDX-License-Identifier: Apache-2.0
"""The model card: README.md in the format of the hub, made of what the files of a run say, as far as they are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.baseline.results import read_results
from harness.export.config import ExportConfig
from harness.rundir.bundle_files import EXPORT, INT8, ONNX, BundleInfo, bundle_directory
from harness.rundir.layout import BUNDLE, CONFIG, holds_run
from harness.rundir.metrics_log import read_log
from harness.rundir.records import read_config, read_environment
from harness.rundir.results import read_measured
from harness.rundir.training_facts import read_training
from harness.scores.figures import FIGURES, title_of
from harness.scores.intervals import wilson
from harness.scores.tables import interval
from preprocessing.base.errors import DataError
from preprocessing.base.installed import VERSION
from preprocessing.base.split_names import TRAIN, VALIDATION
from preprocessing.base.terminal import markdown, markdown_code, percent, printable, public
from preprocessing.dataset.shards import MANIFEST, read_manifest

TEMPLATE = Path(__file__).with_name("card.md.j2")
HUB_METRICS = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss")
"""Figures that the hub knows, by the same names."""
CLASSES, WEAKEST = 30, 3
"""Classes that a table shows, and groups of rows."""


@dataclass(frozen=True)
class Place:
    """What was named on the command line."""

    bundle: Path
    run: Path | None
    """The run directory around the bundle, if there is one."""

    @classmethod
    def of(cls, named: Path) -> Place:
        """Run and bundle of a path; a bundle in its run is known as that run's."""
        bundle = bundle_directory(named)
        around = bundle.parent if bundle.name == BUNDLE else bundle
        return cls(bundle, around if holds_run(around) else None)

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
    splits: dict[str, Any]
    """Rows, classes and lengths of each split."""
    figures: dict[str, Any]
    """On the test split, or else on validation; with intervals where an evaluation has been made."""
    linear: dict[str, Any]
    """Figures of the linear model on the same split, if they were made and the dataset is still there."""
    sources: list[dict[str, Any]]
    """Files of the corpus: name without folders, rows, sha256; empty where the dataset is gone."""

    @classmethod
    def read(cls, place: Place, info: BundleInfo) -> Records:
        """Everything that is there. Raises ``DataError`` for a damaged file of the run."""
        run = place.run
        config = read_config(run) if run is not None and (run / CONFIG).is_file() else {}
        splits = (read_training(place.bundle, info.dataset) or {}).get("splits", {})
        figures = figures_of(run, info, splits) if run is not None else {}
        environment = read_environment(run) if run is not None else {}
        return cls(config, environment, splits, figures, *of_dataset(config.get("data"), info, figures.get("split")))


def figures_of(run: Path, info: BundleInfo, splits: dict[str, Any]) -> dict[str, Any]:
    """The figures of these weights: of an evaluation, or else the line of the validation that chose them."""
    measured = read_measured(run)
    if measured is not None:
        figures = measured.figures
        if (figures.get("dataset"), figures.get("step")) == (info.dataset, info.step):
            return {**figures, "split": measured.split}
    lines = [line for line in read_log(run) if line.get("kind") == VALIDATION and line.get("step") == info.step]
    rows = splits.get(VALIDATION, {}).get("rows")
    if not lines or not rows or not isinstance(lines[-1].get("accuracy"), float):
        return {}
    bounds = wilson(round(lines[-1]["accuracy"] * rows), rows)
    return {**lines[-1], "split": VALIDATION, "rows": rows, "intervals": {"accuracy": bounds}}


def of_dataset(data: str | None, info: BundleInfo, split: str | None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The linear model's figures on a split, and the files of the corpus; none where the dataset is gone, another one
    or damaged: the card does without.
    """
    if data is None or not Path(data, MANIFEST).is_file():
        return {}, []
    try:
        manifest = read_manifest(data)
        linear = read_results(data, info.dataset).get(split or "", {})
    except DataError:
        return {}, []
    if manifest.fingerprint != info.dataset:
        return {}, []
    sources = [
        {
            "name": Path(public(str(source.get("name")))).name,
            "rows": source.get("rows"),
            "sha256": source.get("fingerprint", {}).get("sha256"),
        }
        for source in manifest.provenance.get("sources", [])
    ]
    return linear, sources


def render(
    config: ExportConfig, name: str, info: BundleInfo, parameters: int, records: Records, files: dict[str, Any]
) -> str:
    """The whole file; ``files`` is what the index says of each file."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    figures, run_config = records.figures, records.config
    spec, language = info.text["spec"], config.language or info.text["spec"]["language"]
    bounds = figures.get("intervals", {})
    dataset = Path(run_config.get("data") or "dataset").name
    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Text Classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=figures["split"],
            metric_type=key,
            metric_name=key.replace("_", " "),
            metric_value=figures[key],
            metric_args={"interval_95": list(bounds[key])} if bounds.get(key) is not None else None,
        )
        for key in HUB_METRICS
        if isinstance(figures.get(key), float)
    ]
    head = ModelCardData(
        license=config.license,
        language=language,
        library_name="padless",
        pipeline_tag="text-classification",
        tags=["text-classification", "padless", info.model["cell"], *(["onnx"] if ONNX in files else [])],
        metrics=[result.metric_type for result in results],
        model_name=name,
        eval_results=results or None,
    )
    train = records.splits.get(TRAIN, {})
    cut = train.get("lengths", {}).get(str(spec["max_tokens"]), 0)
    groups = [one for one in figures.get("slices", []) if isinstance(one.get("accuracy"), float)]
    keys = {"epochs": run_config, "global_batch": run_config, "seed": run_config, "lr": run_config.get("optim", {})}
    versions = records.environment.get("versions", {})
    facts: dict[str, Any] = {
        **vars(records),
        "name": name,
        "info": info,
        "parameters": parameters,
        "files": files,
        "license": config.license,
        "language": language,
        "repository": config.push,
        "version": VERSION,
        "spec": spec,
        "shape": {"wide": 0, "wide_ngrams": 2, **info.model},
        "most": CLASSES,
        "classes": ", ".join(map(markdown_code, info.labels[:CLASSES])) + ", …" * (len(info.labels) > CLASSES),
        "measured": [
            (title_of(key, info.labels), figures[key], interval(bounds.get(key)))
            for key in FIGURES
            if figures.get(key) is not None
        ],
        "training": ", ".join(f"{key} {where[key]}" for key, where in keys.items() if key in where),
        "cut": cut / train["rows"] if cut else 0,
        "weakest": sorted(groups, key=lambda one: one["accuracy"])[:WEAKEST],
        "onnx": files.get(ONNX),
        "int8": files.get(INT8),
        "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
        "code": markdown_code,
        "interval": interval,
        "markdown": lambda value: markdown(str(value)),
        "number": "{:,.0f}".format,
        "percent": percent,
    }
    return printable(str(ModelCard.from_template(head, str(TEMPLATE), **facts)))
