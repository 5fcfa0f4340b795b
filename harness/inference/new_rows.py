# SPDX-License-Identifier: Apache-2.0
"""``python -m harness evaluate --run RUN --input FILE``: how good old weights are on new labelled rows, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.data.folds import held_out
from harness.inference.bundle import Bundle, read_bundle
from harness.inference.config import EvaluateHereConfig
from harness.inference.labelled import Rows, meanings, read_and_score, source_of
from harness.ranks.precision import choose_device
from harness.rundir.bundle_files import bundle_directory
from harness.rundir.configuration import read_config
from harness.rundir.layout import EVALUATION
from harness.rundir.results import figures_name, predictions_name, write_figures, write_predictions
from harness.rundir.training_facts import read_training, training_facts
from harness.scores.drift import drift
from harness.scores.figures import figures
from harness.scores.metrics import predicted_labels, probabilities
from harness.scores.on_screen import tables
from preprocessing.base.errors import DataError
from preprocessing.base.storage import storing
from preprocessing.dataset.shards import read_manifest


def evaluate_input(config: EvaluateHereConfig) -> None:
    """Score the input, write the figures and the predictions beside each other, and show them.

    Raises ``ConfigError``, ``DataError`` or ``StorageError``.
    """
    assert config.input is not None
    directory = bundle_directory(config.run)
    bundle = read_bundle(directory)
    training = known_training(config.run, directory, bundle.info.dataset)
    known: Mapping[str, Any] = (training or {}).get("source", {})
    classes = meanings(bundle.info.labels, config.source.labels, known.get("labels"))
    source = source_of(config.input, config.source, known)
    bundle.model.to(torch.device(choose_device(config.device).value))
    rows = read_and_score(bundle, config.input, source, classes, config.batch)
    values = assess_rows(bundle, rows, training) | {"input": config.input}
    target, name = Path(config.output) if config.output else Path(config.run, EVALUATION), name_of(config.input)
    write(target, name, bundle, rows, values)
    if config.json:
        print(json.dumps(values, indent=2, ensure_ascii=False))
        return
    print(tables(name, values))
    print(f"written to {target / figures_name(name)} and {predictions_name(name)}")


def known_training(run: str, directory: Path, fingerprint: str) -> dict[str, Any] | None:
    """What is known of the training: from the bundle, or from the dataset if it still lies where the run found it."""
    found = read_training(directory, fingerprint)
    if found is not None:
        return found
    try:
        known = read_config(run)
        manifest = read_manifest(known["data"])
    except (DataError, KeyError):
        return None  # a bundle alone, or a dataset that has moved: nothing is compared, and that is said
    if manifest.fingerprint != fingerprint:
        return None
    return training_facts(held_out(manifest, known.get("fold"), known["data"]))


def assess_rows(bundle: Bundle, rows: Rows, training: Mapping[str, Any] | None) -> dict[str, Any]:
    """All figures of new rows, as plain values."""
    names, counts = bundle.info.labels, bundle.vocabulary.counts
    facts: dict[str, Any] = {"lengths": rows.length, "unknown": rows.unknown, "names": names}
    return {
        "dataset": bundle.info.dataset,
        "step": bundle.info.step,
        **figures(rows.logits, rows.label, **facts, decision=bundle.decision),
        "left_out": rows.left_out,
        "missing": rows.missing,
        "mistakes": rows.mistakes,
        "drift": drift(
            training,
            labels=rows.label,
            **facts,
            vocabulary_rate=float(counts[1] / max(counts.sum(), 1)),
            words=rows.words,
        ),
    }


def name_of(address: str) -> str:
    """What the files are called: the input's own name, with its ending, so that no split is called so."""
    name = Path(address.rstrip("/")).name.replace("*", "_").replace("?", "_")
    return name if "." in name else f"{name}.rows"


def write(directory: Path, name: str, bundle: Bundle, rows: Rows, values: dict[str, Any]) -> None:
    """Write predictions, then figures. Raises ``StorageError``."""
    logits = bundle.decision.calibrated(rows.logits)
    said = {"predicted": predicted_labels(logits, bundle.decision.threshold), "chances": probabilities(logits)}
    info = bundle.info
    with storing(directory, otherwise="name another --output"):
        write_predictions(directory, name, info.labels, info.label_type, rows=rows.row, labels=rows.label, **said)
        write_figures(directory, name, {"split": name, **values})
