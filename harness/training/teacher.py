# SPDX-License-Identifier: Apache-2.0
"""A teacher for the rows without labels (knowledge distillation): before a run, in the launcher, once for each dataset,
teacher and fold. The network then learns the labels of labelled rows, and what the teacher says of all others.

A sentence encoder teaches by a logistic regression on its embeddings. Where that is hardly better than the linear
model, the network, which is a few points better too, learns more from the labels alone: it is left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.baseline.encoder import Embeddings, Encoder, find_encoder, name_of_folder
from harness.baseline.linear import predict_held_out_rows
from harness.baseline.regression import MeasuredEncoder, measure_encoder, read_rows, recipe_of
from harness.baseline.results import FOLDER, write_baseline
from harness.config import RunConfig
from harness.data.targets import (
    Lesson,
    find_lesson,
    folder_of_lesson,
    folder_of_teachers,
    write_lesson,
    write_targets,
)
from harness.data.views import rows_of_task
from harness.rundir.layout import holds_run, storage, writable_path
from harness.scores.intervals import difference_interval
from harness.scores.metrics import probabilities
from harness.training.answers import is_answers, read_answers
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.processes import lock_file
from preprocessing.base.split_names import TRAIN, UNLABELLED
from preprocessing.base.terminal import Screen, percent
from preprocessing.dataset.shards import MANIFEST, Manifest
from preprocessing.dataset.views import home_of, open_split, parts_of, read_data

MIN_LEAD = 0.02
"""By how much the network's accuracy is above the linear model's, about."""
MAX_WAIT_S = 24 * 3600.0
"""Longest wait for another process that lets the same teacher teach."""


def teach(config: RunConfig) -> None:
    """Let the teacher of a run teach, unless it has done so, or the run has begun. A dry run has no teacher.

    Raises ``ConfigError`` for a teacher that cannot be found, ``DataError`` for one that does not fit the dataset, or a
    dataset without rows for it, ``StorageError`` if writing fails.
    """
    if config.teacher is None or config.dry_run:
        return
    manifest = rows_of_task(config.task, read_data(config.data), config.data, config.fold)
    if len(parts_of(config.data, manifest)) > 1:
        raise ConfigError("teacher: a teacher teaches one dataset, not a mixture; name one in data")
    lesson = find_lesson(vars(config), manifest.fingerprint)
    if lesson is not None and (holds_run(config.run) or lesson.source_sha256 == hash_source(config.teacher)):
        return
    folder = folder_of_lesson(vars(config), manifest.fingerprint)
    if is_answers(config.teacher):
        write_lesson(folder, make_lesson_of_answers(config, manifest, folder))
        return
    encoder = find_encoder(config.teacher)
    encoder.check_package()
    refusal = ConfigError(f"teacher: another process embeds the texts of {config.data}; wait for it")
    with storage(folder), lock_file(folder.with_name(".lock"), MAX_WAIT_S, refusal):
        write_lesson(folder, make_lesson_of_encoder(config, manifest, folder, encoder))


def hash_source(teacher: str) -> str:
    """The sha256 of a file of predictions, or of the files of an encoder."""
    if Path(teacher).is_file():
        return atomic.sha256_file(teacher)
    return "" if is_answers(teacher) else find_encoder(teacher).sha256


def make_lesson_of_answers(config: RunConfig, manifest: Manifest, folder: Path) -> Lesson:
    """Take the targets from a file of predictions."""
    assert config.teacher is not None
    if not manifest.rows(UNLABELLED):
        raise DataError(
            f"{Path(config.data, MANIFEST)}: has no rows without labels, which {config.teacher} could teach; "
            "name them with --source.unlabelled_path when you build the dataset, or leave the teacher out"
        )
    rows, chances = read_answers(config.teacher, config.data, manifest)
    return Lesson(
        teacher=config.teacher,
        what="predictions of another program",
        source_sha256=hash_source(config.teacher),
        is_used=True,
        summary=describe_share(manifest),
        rows=len(rows),
        targets_sha256=write_all_targets(config, manifest, folder, rows, chances),
    )


def make_lesson_of_encoder(config: RunConfig, manifest: Manifest, folder: Path, encoder: Encoder) -> Lesson:
    """Embed all texts, fit and measure the regression, and take the targets from it."""
    assert config.teacher is not None
    screen = Screen(quiet=config.quiet)
    folder_of_embeddings = folder_of_teachers(config.data, config.run)
    embeddings = Embeddings(folder_of_embeddings, encoder, config.device, screen)
    measured = measure_encoder(config.data, manifest, embeddings)
    if config.fold is None:
        baselines = writable_path(str(home_of(config.data)), config.run, FOLDER)
        write_baseline(baselines / name_of_folder(encoder), manifest, measured.results)
    is_used, reason = judge(config, manifest, measured)
    rows, chances = np.empty(0, np.int64), np.empty((0, len(manifest.labels)))
    if is_used:
        unlabelled = read_rows(config.data, manifest, UNLABELLED, embeddings)
        rows, chances = unlabelled.rows, measured.regression.chances(unlabelled.vectors)
    screen.fact("teacher", f"{config.teacher}: {reason}")
    return Lesson(
        teacher=config.teacher,
        what="sentence encoder with a logistic regression",
        source_sha256=encoder.sha256,
        is_used=is_used,
        summary=f"{describe_share(manifest)}: {reason}" if is_used else reason,
        rows=len(rows),
        targets_sha256=write_all_targets(config, manifest, folder, rows, chances),
        facts={"recipe": recipe_of(encoder), "folder": name_of_folder(encoder)},
    )


def judge(config: RunConfig, manifest: Manifest, measured: MeasuredEncoder) -> tuple[bool, str]:
    """Whether an encoder teaches, and why: it does unless training rows that neither learned from show that it is not
    better than the linear model by as much as the network is; few rows show little.
    """
    if not manifest.rows(UNLABELLED):
        return False, "left out: there are no rows without labels for it to teach"
    labels = measured.train.labels
    logits = measured.regression.held_out, predict_held_out_rows(config.data, manifest)
    encoder, linear = (probabilities(values).argmax(axis=1) == labels for values in logits)
    share, linear_share = percent(float(encoder.mean())), percent(float(linear.mean()))
    figures = f"right on {share} of {len(encoder):,} labelled rows out of fold, a linear model on {linear_share}"
    _, high = difference_interval(encoder, linear)
    if high < MIN_LEAD:
        return False, f"left out: {figures}: the network alone is as good"
    return True, figures


def describe_share(manifest: Manifest) -> str:
    """The share of the training rows that a teacher teaches."""
    labelled, unlabelled = manifest.rows(TRAIN), manifest.rows(UNLABELLED)
    share = percent(unlabelled / (labelled + unlabelled))
    return f"teaches {unlabelled:,} of {labelled + unlabelled:,} training rows ({share})"


def write_all_targets(
    config: RunConfig, manifest: Manifest, folder: Path, rows: np.ndarray, chances: np.ndarray
) -> str:
    """Write the targets of labelled rows, which are their labels, and of ``rows``, by what the teacher says of them,
    float ``[rows, classes]``; returns the sha256 of the file.
    """
    train = open_split(config.data, manifest, TRAIN)
    labels = np.eye(len(manifest.labels))[train.column("label")]
    return write_targets(folder, np.concatenate((train.column("row"), rows)), np.concatenate((labels, chances)))
