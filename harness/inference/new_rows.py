# SPDX-License-Identifier: Apache-2.0
"""``python -m harness evaluate --run RUN --input FILE``: how good old weights are on new labelled rows, and why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harness.data.seen import trained_on, training_texts
from harness.inference.bundle import Bundle, read_bundle
from harness.inference.config import EvaluateHereConfig
from harness.inference.labelled import Rows, meanings, read_and_score
from harness.ranks.precision import choose_device
from harness.rundir.bundle_files import bundle_directory
from harness.rundir.json_files import read_object
from harness.rundir.layout import EVALUATION
from harness.rundir.results import figures_name, predictions_name, write_figures, write_predictions
from harness.rundir.training_facts import read_training, reading_of, training_facts
from harness.scores.drift import drift
from harness.scores.figures import figures, texts_of
from harness.scores.metrics import predicted_labels, probabilities
from harness.scores.tables import describe_new_rows
from preprocessing.base.errors import DataError
from preprocessing.base.printable import public
from preprocessing.base.storage import storing
from preprocessing.corpus import addresses


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
    reading = reading_of(replace(config.source, path=[config.input]), known)
    bundle.model.to(torch.device(choose_device(config.device).value))
    rows = read_and_score(bundle, config.input, reading, classes, config.batch)
    trained = training_texts(rows.hashes[rows.unknown < rows.length], config.run, bundle.info.dataset)
    values = assess_rows(bundle, rows, training) | {"input": public(addresses.absolute(config.input))}
    values["texts"] = texts_of(rows.length, rows.unknown, trained)
    target = Path(config.output) if config.output else Path(config.run, EVALUATION)
    name = name_of(config.input, target)
    write(target, name, bundle, rows, values)
    if config.json:
        print(json.dumps(values, indent=2, ensure_ascii=False))
        return
    print(describe_new_rows(name, values))
    print(f"written to {target / figures_name(name)} and {predictions_name(name)}")


def known_training(run: str, directory: Path, fingerprint: str) -> dict[str, Any] | None:
    """What is known of the training: from the bundle, or from the dataset if it still lies where the run found it."""
    found = read_training(directory, fingerprint)
    if found is not None:
        return found
    there = trained_on(run, fingerprint)
    return None if there is None else training_facts(there[1])


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


def name_of(address: str, directory: Path) -> str:
    """What the files are called: the input's own name, with its ending, so that no split is called so.

    Where the figures of another input have that name, or a file of somebody else's, a hash of the address tells them
    apart.
    """
    place = public(addresses.absolute(address))
    name = Path(public(address).rstrip("/")).name.replace("*", "_").replace("?", "_")
    name = name if "." in name else f"{name}.rows"
    path = directory / figures_name(name)
    with suppress(DataError):
        if not path.exists() or (read_object(path) or {}).get("input") == place:
            return name
    stem, _, ending = name.rpartition(".")
    return f"{stem}-{hashlib.sha256(place.encode()).hexdigest()[:8]}.{ending}"


def write(directory: Path, name: str, bundle: Bundle, rows: Rows, values: dict[str, Any]) -> None:
    """Write predictions, then figures. Raises ``StorageError``."""
    logits = bundle.decision.calibrated(rows.logits)
    said = {"predicted": predicted_labels(logits, bundle.decision.threshold), "chances": probabilities(logits)}
    info = bundle.info
    with storing(directory, otherwise="name another --output"):
        write_predictions(directory, name, info.labels, info.label_type, rows=rows.row, labels=rows.label, **said)
        write_figures(directory, name, {"split": name, **values})
