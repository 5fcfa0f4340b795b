# SPDX-License-Identifier: Apache-2.0
"""``python -m harness label``: scores rows with a teacher and writes their soft labels beside the dataset."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.baseline.linear import Linear
from harness.baseline.linear import check as check_linear
from harness.config import EvaluationConfig
from harness.data.soft_labels import Teacher, path_of, write_soft_labels
from harness.inference.config import LabelConfig
from harness.inference.scoring import PAUSE_EVERY, score_split, weights_and_dataset
from harness.ranks.session import Session
from harness.rundir.bundle_files import bundle_directory
from harness.rundir.layout import BUNDLE
from harness.scores.calibration import Decision, decide
from harness.scores.intervals import above_chance, intervals
from harness.scores.metrics import classification_metrics, probabilities
from preprocessing.base.atomic import storing
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import UNLABELLED, VALIDATION
from preprocessing.base.terminal import Screen, duration, tell
from preprocessing.dataset.shards import MANIFEST, Manifest, Split, read_manifest

Scored = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Row numbers and labels, int64 ``[rows]``, and logits before calibration, float64, of a split."""


def label_with_run(config: LabelConfig, session: Session) -> Path:
    """Score rows with the best weights of a run, or with a bundle; the file that rank 0 has written.

    Every rank calls this. Raises the same ``UserError`` on all of them.
    """
    assert config.run is not None
    world = session.world
    folder = bundle_directory(config.run).resolve()
    check = partial(check_splits, config)
    bundle, manifest = weights_and_dataset(folder, config.data, session, check)
    screen = Screen(quiet=config.quiet or not world.is_main)
    found: dict[str, Scored] = {}
    for name in (VALIDATION, UNLABELLED):
        began = time.monotonic()
        step = PAUSE_EVERY * config.batch * world.world_size
        pause = progress(name, manifest.rows(name), step, screen)
        scores, split = score_split(bundle, manifest, name, config.data, config, session, pause)
        found[name] = scores.rows, scores.labels, scores.logits
        screen.end()
        screen.fact(name, f"{len(split):,} rows scored in {duration(time.monotonic() - began)}")
    name = f"run {folder.parent.name if folder.name == BUNDLE else folder.name}"
    path = output_of(config, name)
    with world.together("writing soft labels"):
        if world.is_main:
            write(path, manifest, found, bundle.decision, name, screen, weights_sha256=bundle.info.weights_sha256)
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
    found: dict[str, Scored] = {}
    for name in (VALIDATION, UNLABELLED):
        began = time.monotonic()
        split = Split(config.data, manifest, name).check()
        found[name] = column(split, "row"), column(split, "label"), linear.logits(split)
        screen.fact(name, f"{len(split):,} rows scored in {duration(time.monotonic() - began)}")
    _, labels, logits = found[VALIDATION]
    path = output_of(config, "baseline")
    write(path, manifest, found, decide(logits, labels, EvaluationConfig()), "baseline", screen)
    return path


def check_splits(config: LabelConfig, manifest: Manifest) -> None:
    """Raise ``DataError`` if the dataset lacks a split that is to be scored, or validation, which measures teachers."""
    for name in (VALIDATION, UNLABELLED):
        if not manifest.splits.get(name):
            what = "no unlabelled rows" if name == UNLABELLED else f"no {name} split"
            how = "build it with source.unlabelled_path" if name == UNLABELLED else "build it with one"
            raise DataError(f"{Path(config.data, MANIFEST)}: has {what}; {how}")


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


def output_of(config: LabelConfig, teacher: str) -> Path:
    """Where the file is written."""
    return Path(config.output) if config.output else path_of(config.data, teacher.removeprefix("run "))


def write(
    path: Path,
    manifest: Manifest,
    found: Mapping[str, Scored],
    decision: Decision,
    name: str,
    screen: Screen,
    weights_sha256: str | None = None,
) -> None:
    """Write the calibrated probabilities of the unlabelled rows, and say what is in the file. Raises ``StorageError``.

    ``name`` is the teacher's; how good it is on validation is written too.
    """
    (_, labels, logits), (rows, _, unlabelled) = found[VALIDATION], found[UNLABELLED]
    teacher = Teacher(
        dataset=manifest.fingerprint,
        labels=manifest.labels,
        teacher=name,
        temperature=decision.temperature,
        validation=measured(logits, labels, decision),
        weights_sha256=weights_sha256,
    )
    chances = probabilities(decision.calibrated(unlabelled)).astype(np.float32)
    with storing(path, otherwise="name another file with --output"):
        digest = write_soft_labels(path, teacher, {UNLABELLED: (rows, chances)})
    validation = teacher.validation
    screen.fact("teacher", f"accuracy {validation['accuracy']:.4f} on {validation['rows']:,} rows of validation")
    if not validation["above_chance"]:
        tell("warning: the teacher is no better than chance on validation, so a training refuses these soft labels")
    shares = np.bincount(chances.argmax(axis=1), minlength=len(teacher.labels)) / len(chances)
    most = [f"{teacher.labels[place]} {shares[place]:.1%}" for place in np.argsort(-shares, kind="stable")[:5]]
    more = ", …" if len(shares) > len(most) else ""
    sure = float(chances.max(axis=1).mean())
    screen.fact(UNLABELLED, f"most probable: {', '.join(most)}{more}; probability {sure:.3f} of it, on average")
    screen.say(f"written to {path} (sha256 {digest[:12]})", "good")
