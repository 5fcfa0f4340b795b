# SPDX-License-Identifier: Apache-2.0
"""The model card: README.md in the format of the hub, from the files of a run that exist."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.baseline.results import find_results
from harness.export.config import ExportConfig, Place
from harness.rundir.bundle_files import INT8, ONNX, BundleInfo
from harness.rundir.layout import CONFIG
from harness.rundir.records import read_config, read_environment
from harness.rundir.results import read_measured
from harness.rundir.training_facts import read_training
from harness.scores.figures import FIGURES, title_of
from harness.scores.tables import interval
from preprocessing.base.errors import DataError
from preprocessing.base.installed import VERSION
from preprocessing.base.split_names import TRAIN
from preprocessing.base.terminal import markdown, markdown_code, percent, printable

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

TEMPLATE = Path(__file__).with_name("card.md.j2")
HUB_METRICS = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss")
"""Figures with the same names on the hub."""
SETTINGS = ("epochs", "global_batch", "seed", "lr")
"""Settings of the training in a card."""
CLASSES, WEAKEST = 30, 3
"""Maximum number of classes in a table, and number of weakest groups of rows."""


def records_of(place: Place, info: BundleInfo) -> dict[str, Any]:
    """Records of a training; missing ones are empty. ``run_config`` and ``environment``; ``splits`` with their rows,
    classes and lengths; ``figures`` of these weights on the test split, or else on validation; and ``linear``, those of
    the linear model on the same split. Raises ``DataError`` for a damaged file of the run.
    """
    found: dict[str, Any] = {"run_config": {}, "environment": {}, "figures": {}, "linear": {}}
    found["splits"] = (read_training(place.bundle, info.dataset) or {}).get("splits", {})
    if place.run is None:
        return found
    found["run_config"] = read_config(place.run) if (place.run / CONFIG).is_file() else {}
    found["environment"] = read_environment(place.run)
    measured = read_measured(place.run)
    if measured and (measured.figures["dataset"], measured.figures["step"]) == (info.dataset, info.step):
        found["figures"] = {**measured.figures, "split": measured.split}
        with suppress(DataError):
            kept = find_results(place.run, found["run_config"].get("data", ""), info.dataset)[1]
            found["linear"] = kept.get(measured.split, {})
    return found


def metadata(
    config: ExportConfig, name: str, info: BundleInfo, records: dict[str, Any], files: dict[str, Any]
) -> ModelCardData:
    """The metadata block above the text, for the hub."""
    from huggingface_hub import EvalResult, ModelCardData

    figures = records["figures"]
    bounds = figures.get("intervals", {})
    dataset = Path(records["run_config"].get("data") or "dataset").name
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
    return ModelCardData(
        license=config.license,
        language=config.language or info.text["spec"]["language"],
        library_name="padless",
        pipeline_tag="text-classification",
        tags=["text-classification", "padless", info.model["cell"], *(["onnx"] if ONNX in files else [])],
        metrics=[result.metric_type for result in results],
        model_name=name,
        eval_results=results or None,
    )


def render(
    config: ExportConfig, name: str, info: BundleInfo, parameters: int, records: dict[str, Any], files: dict[str, Any]
) -> str:
    """The whole file; ``files``: facts of each file from the index."""
    from huggingface_hub import ModelCard

    figures, run_config, train = records["figures"], records["run_config"], records["splits"].get(TRAIN, {})
    bounds, spec = figures.get("intervals", {}), info.text["spec"]
    groups = [one for one in figures.get("slices", []) if isinstance(one.get("accuracy"), float)]
    settings = {**run_config, "lr": run_config.get("optim", {}).get("lr")}
    facts: dict[str, Any] = {
        **records,
        "config": config,
        "name": name,
        "info": info,
        "parameters": parameters,
        "files": files,
        "version": VERSION,
        "spec": spec,
        "shape": {"wide": 0, "wide_ngrams": 2, **info.model},
        "most": CLASSES,
        "measured": [
            (title_of(key, info.labels), figures[key], interval(bounds.get(key)))
            for key in FIGURES
            if figures.get(key) is not None
        ],
        "training": {key: settings[key] for key in SETTINGS if settings.get(key) is not None},
        "cut": train.get("lengths", {}).get(str(spec["max_tokens"]), 0) / train.get("rows", 1),
        "weakest": sorted(groups, key=lambda one: one["accuracy"])[:WEAKEST],
        "onnx": files.get(ONNX),
        "int8": files.get(INT8),
        "code": markdown_code,
        "interval": interval,
        "markdown": lambda value: markdown(str(value)),
        "number": "{:,.0f}".format,
        "percent": percent,
    }
    return printable(str(ModelCard.from_template(metadata(config, name, info, records, files), str(TEMPLATE), **facts)))
