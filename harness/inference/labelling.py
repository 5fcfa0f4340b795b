# SPDX-License-Identifier: Apache-2.0
"""``padless label``: scores rows with a teacher and writes their soft labels to the dataset's directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.baseline.linear import Linear
from harness.baseline.linear import check as check_linear
from harness.config import EvaluationConfig
from harness.data.soft_labels import FOLDER, Teacher, path_of, write_soft_labels
from harness.inference.config import LabelConfig
from harness.inference.scoring import score_split, weights_and_dataset
from harness.ranks.session import Session
from harness.rundir.bundle_files import bundle_directory
from harness.rundir.layout import BUNDLE
from harness.scores.calibration import Decision, decide
from harness.scores.intervals import above_chance, intervals
from harness.scores.metrics import classification_metrics, probabilities
from preprocessing.base.atomic import storing
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.split_names import UNLABELLED, VALIDATION
from preprocessing.base.terminal import Screen, tell
from preprocessing.dataset.shards import MANIFEST, Manifest
from preprocessing.dataset.views import folder_for, open_split, parts_of, read_data

Scored = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Row numbers and labels, int64 ``[rows]``, and logits before calibration, float64, of a split."""


def label_with_run(config: LabelConfig, session: Session) -> None:
    """Score rows with the best weights of a run or a bundle; rank 0 writes the file.

    Every rank calls this. Raises the same ``UserError`` on all of them.
    """
    assert config.run is not None
    world, folder = session.world, bundle_directory(config.run).resolve()
    bundle, manifest = weights_and_dataset(folder, config.data, session)
    with world.together("looking for rows to score"):
        check_splits(config, manifest)
    found: list[Scored] = []
    for split in (VALIDATION, UNLABELLED):
        scores, _ = score_split(bundle, manifest, split, config.data, config, session)
        found.append((scores.rows, scores.labels, scores.logits))
    name = folder.parent.name if folder.name == BUNDLE else folder.name
    with world.together("writing soft labels"):
        if world.is_main:
            facts = {"teacher": f"run {name}", "weights_sha256": bundle.info.weights_sha256}
            write(config, name, manifest, found, bundle.decision, **facts)


def label_with_baseline(config: LabelConfig) -> None:
    """Fit a linear model to the training rows, score rows with it, and write the file."""
    manifest = read_data(config.data)
    check_splits(config, manifest)
    check_linear(config.data, manifest)
    linear = Linear.learn(config.data, manifest)
    found: list[Scored] = []
    for name in (VALIDATION, UNLABELLED):
        split = open_split(config.data, manifest, name).check()
        found.append((split.column("row"), split.column("label"), linear.logits(split)))
    _, labels, logits = found[0]
    write(config, "baseline", manifest, found, decide(logits, labels, EvaluationConfig()), teacher="baseline")


def check_splits(config: LabelConfig, manifest: Manifest) -> None:
    """Raise ``DataError`` if the dataset lacks unlabelled rows, or validation, on which the teacher is measured;
    ``ConfigError`` for a mixture.
    """
    if len(parts_of(config.data, manifest)) > 1:
        raise ConfigError(
            f"data: soft labels belong to one dataset, and {config.data} is a mixture; name one with --data"
        )
    folder_for(config.output, config.data, FOLDER)  # there is one
    wanted = {VALIDATION: "no validation split; build it with one"}
    wanted[UNLABELLED] = "no unlabelled rows; build it with source.unlabelled_path"
    for name, lacks in wanted.items():
        if not manifest.splits.get(name):
            raise DataError(f"{Path(config.data, MANIFEST)}: has {lacks}")


def measured(logits: np.ndarray, labels: np.ndarray, decision: Decision) -> dict[str, Any]:
    """The teacher's accuracy (of the most probable class), log loss and rows, and whether it beats chance."""
    calibrated = decision.calibrated(logits)
    values = classification_metrics(calibrated, labels)
    known = above_chance(intervals(calibrated, labels, values), len(np.unique(labels)))
    return {**{name: values[name] for name in ("accuracy", "log_loss", "rows")}, "above_chance": known}


def write(
    config: LabelConfig, name: str, manifest: Manifest, found: list[Scored], decision: Decision, **facts: Any
) -> None:
    """Write the calibrated probabilities of the unlabelled rows, and print a summary. Raises ``StorageError``.

    ``found`` has the scores of validation, which measure the teacher, and of the unlabelled rows of teacher ``name``;
    ``facts`` are fields of ``Teacher``.
    """
    (_, labels, logits), (rows, _, unlabelled) = found
    path = Path(config.output or path_of(config.data, name))
    validation = measured(logits, labels, decision)
    teacher = Teacher(
        dataset=manifest.fingerprint,
        labels=manifest.labels,
        temperature=decision.temperature,
        validation=validation,
        **facts,
    )
    chances = probabilities(decision.calibrated(unlabelled)).astype(np.float32)
    with storing(path, otherwise="name another file with --output"):
        digest = write_soft_labels(path, teacher, rows, chances)
    screen = Screen(quiet=config.quiet)
    screen.fact("teacher", f"accuracy {validation['accuracy']:.4f} on {validation['rows']:,} rows of validation")
    if not validation["above_chance"]:
        tell("warning: the teacher is no better than chance on validation, so a training refuses these soft labels")
    sure = float(chances.max(axis=1).mean())
    screen.fact(UNLABELLED, f"{len(rows):,} rows; the most probable class has {sure:.3f}, on average")
    screen.say(f"written to {path} (sha256 {digest[:12]})", "good")
