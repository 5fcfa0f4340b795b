# SPDX-License-Identifier: Apache-2.0
"""``python -m harness label``: scores rows with a teacher and writes their soft labels beside the dataset."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.baseline.linear import Linear
from harness.baseline.linear import check as check_linear
from harness.config import EvaluationConfig
from harness.data.placement import DataPlacement, OpenData
from harness.data.soft_labels import Rows, Teacher, path_of, write_soft_labels
from harness.data.views import as_trained
from harness.inference.bundle import Bundle, read_bundle, same_text
from harness.inference.scoring import PAUSE_EVERY, Scores, score
from harness.labelling.config import LabelConfig
from harness.ranks.precision import layout_on
from harness.ranks.session import Session
from harness.rundir.bundle_files import bundle_directory
from harness.rundir.layout import BUNDLE
from harness.scores.calibration import Decision, decide
from harness.scores.intervals import above_chance, intervals
from harness.scores.metrics import classification_metrics, probabilities
from preprocessing.base.errors import DataError
from preprocessing.base.printable import duration, tell
from preprocessing.base.screen import Screen
from preprocessing.base.split_names import UNLABELLED, VALIDATION
from preprocessing.base.storage import storing
from preprocessing.dataset.shards import MANIFEST, Manifest, Split, read_manifest


def label_with_run(config: LabelConfig, session: Session) -> Path:
    """Score rows with the best weights of a run, or with a bundle; the file that rank 0 has written.

    Every rank calls this. Raises the same ``UserError`` on all of them.
    """
    assert config.run is not None
    world, device = session.world, session.device
    folder = bundle_directory(config.run).resolve()
    with world.together("loading weights and dataset"):
        bundle = read_bundle(folder)
        manifest = as_trained(read_manifest(config.data), bundle.info.fold, bundle.info.dataset, config.data)
        check_splits(config, manifest)
        same_text(bundle.info, manifest, config.data)
        check_labels(bundle, manifest, config)
    world.handshake({"weights": bundle.info.weights_sha256, "dataset": manifest.fingerprint})
    screen = Screen(quiet=config.quiet or not world.is_main)
    bundle.model.to(device).recurrent.flatten_parameters()
    found: dict[str, Scores] = {}
    for name in (VALIDATION, UNLABELLED):
        began = time.monotonic()
        found[name] = scores_of(bundle, name, config, session, manifest, screen)
        screen.fact(name, f"{len(found[name].rows):,} rows scored in {duration(time.monotonic() - began)}")
    teacher = Teacher(
        dataset=manifest.fingerprint,
        labels=manifest.labels,
        teacher=f"run {folder.parent.name if folder.name == BUNDLE else folder.name}",
        weights_sha256=bundle.info.weights_sha256,
        temperature=bundle.info.temperature,
        validation=measured(found[VALIDATION].logits, found[VALIDATION].labels, bundle.decision),
    )
    rows = {name: soft(found[name].rows, found[name].logits, bundle.decision) for name in (UNLABELLED,)}
    path = output_of(config, teacher)
    with world.together("writing soft labels"):
        if world.is_main:
            keep(path, teacher, rows, screen)
    return path


def label_with_baseline(config: LabelConfig) -> Path:
    """Score rows with a linear model that is fitted to the training rows first; the file that was written."""
    manifest = read_manifest(config.data)
    check_splits(config, manifest)
    check_linear(config.data, manifest)
    screen = Screen(quiet=config.quiet)
    began = time.monotonic()
    linear = Linear.learn(config.data, manifest)
    screen.fact("teacher", f"a linear model of {linear.rows:,} rows, fitted in {duration(time.monotonic() - began)}")
    logits: dict[str, np.ndarray] = {}
    columns: dict[str, dict[str, np.ndarray]] = {}
    for name in (VALIDATION, UNLABELLED):
        began = time.monotonic()
        split = Split(config.data, manifest, name).check()
        logits[name] = linear.logits(split)
        columns[name] = {one: column(split, one) for one in ("row", "label")}
        screen.fact(name, f"{len(split):,} rows scored in {duration(time.monotonic() - began)}")
    labels = columns[VALIDATION]["label"]
    decision = decide(logits[VALIDATION], labels, EvaluationConfig())
    teacher = Teacher(
        dataset=manifest.fingerprint,
        labels=manifest.labels,
        teacher="baseline",
        temperature=decision.temperature,
        validation=measured(logits[VALIDATION], labels, decision),
    )
    path = output_of(config, teacher)
    keep(path, teacher, {name: soft(columns[name]["row"], logits[name], decision) for name in (UNLABELLED,)}, screen)
    return path


def check_splits(config: LabelConfig, manifest: Manifest) -> None:
    """Raise ``DataError`` if the dataset lacks a split that is to be scored, or validation, which measures teachers."""
    for name in (VALIDATION, UNLABELLED):
        if not manifest.splits.get(name):
            what = "no unlabelled rows" if name == UNLABELLED else f"no {name} split"
            how = "build it with source.unlabelled_path" if name == UNLABELLED else "build it with one"
            raise DataError(f"{Path(config.data, MANIFEST)}: has {what}; {how}")


def check_labels(bundle: Bundle, manifest: Manifest, config: LabelConfig) -> None:
    """Raise ``DataError`` if the teacher's classes are not those of the dataset, in their order."""
    if bundle.info.labels != manifest.labels:
        raise DataError(
            f"{config.run}: its classes are {', '.join(bundle.info.labels)}, those of {config.data} "
            f"{', '.join(manifest.labels)}, in this order; name a run that was trained on these classes"
        )


def scores_of(
    bundle: Bundle, name: str, config: LabelConfig, session: Session, manifest: Manifest, screen: Screen
) -> Scores:
    """The scores of a split, on every rank."""
    world, device = session.world, session.device
    placement = DataPlacement(data=config.data, timeout_s=config.timeout_s, stage_dir=config.stage_dir)
    data = OpenData(placement, manifest, name, world, device, only=True)
    with world.together("staging the dataset"):
        data.copy()
    with world.together("opening the dataset"):
        data.open()
    split = data.splits[name]
    scores = score(
        bundle.model,
        split,
        world,
        batch_rows=config.batch,
        layout=layout_on(device, bundle.model.config.hidden_size)[0],
        device=device,
        resident=data.rows,
        guard=data.guard.check_sizes,
        pause=progress(name, len(split), PAUSE_EVERY * config.batch * world.world_size, screen),
    )
    screen.end()
    data.guard.close()
    return scores


def progress(name: str, rows: int, step: int, screen: Screen) -> Callable[[], None]:
    """What moves a bar when it is called before every ``step`` rows."""
    calls = itertools.count()

    def tick() -> None:
        done = min(rows, next(calls) * step)
        screen.live(f"{name} {done:,}/{rows:,}", done / rows, "rows scored")

    return tick


def column(split: Split, name: str) -> np.ndarray:
    """A column of a split's rows as they lie in the shards, int64 ``[rows]``."""
    return np.concatenate([getattr(block, name) for block in split.blocks]).astype(np.int64)


def measured(logits: np.ndarray, labels: np.ndarray, decision: Decision) -> dict[str, Any]:
    """How good the teacher is: accuracy of the most probable class, log loss of its probabilities, rows; and whether
    it is any better than chance.
    """
    calibrated = decision.calibrated(logits)
    values = classification_metrics(calibrated, labels)
    known = above_chance(intervals(calibrated, labels, values), len(np.unique(labels)))
    return {**{name: values[name] for name in ("accuracy", "log_loss", "rows")}, "above_chance": known}


def soft(rows: np.ndarray, logits: np.ndarray, decision: Decision) -> Rows:
    """Rows with their calibrated probabilities."""
    return rows, probabilities(decision.calibrated(logits)).astype(np.float32)


def output_of(config: LabelConfig, teacher: Teacher) -> Path:
    """Where the file is written."""
    return Path(config.output) if config.output else path_of(config.data, teacher.teacher.removeprefix("run "))


def keep(path: Path, teacher: Teacher, splits: Mapping[str, Rows], screen: Screen) -> None:
    """Write the file and say what is in it. Raises ``StorageError``."""
    with storing(path, otherwise="name another file with --output"):
        digest = write_soft_labels(path, teacher, splits)
    validation = teacher.validation
    screen.fact("teacher", f"accuracy {validation['accuracy']:.4f} on {validation['rows']:,} rows of validation")
    if not validation["above_chance"]:
        tell("warning: the teacher is no better than chance on validation, so a training refuses these soft labels")
    for name, (_, chances) in splits.items():
        shares = np.bincount(chances.argmax(axis=1), minlength=len(teacher.labels)) / len(chances)
        most = [f"{teacher.labels[place]} {shares[place]:.1%}" for place in np.argsort(-shares, kind="stable")[:5]]
        more = ", …" if len(shares) > len(most) else ""
        sure = float(chances.max(axis=1).mean())
        screen.fact(name, f"most probable: {', '.join(most)}{more}; probability {sure:.3f} of it, on average")
    screen.say(f"written to {path} (sha256 {digest[:12]})", "good")
