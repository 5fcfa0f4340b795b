# SPDX-License-Identifier: Apache-2.0
"""A teacher for the rows without labels (knowledge distillation): before a run, in the launcher, once for each dataset,
teacher and fold. The network then learns the labels of labelled rows, and what the teacher says of all others.

A sentence encoder teaches by a logistic regression on its embeddings. Where that is hardly better than the TF-IDF
baseline, the network, which is a few points better too, learns more from the labels alone: it is left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.baseline.encoder import Embeddings, Encoder, find_encoder, read_texts
from harness.baseline.out_of_fold import predict_out_of_fold, read_labelled
from harness.baseline.regression import measure_encoder, recipe_of
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
from harness.training.answers import hash_answers, is_answers, read_answers
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.processes import lock_file
from preprocessing.base.split_names import TRAIN, UNLABELLED
from preprocessing.base.terminal import Screen, percent
from preprocessing.dataset.shards import MANIFEST, Manifest
from preprocessing.dataset.views import home_of, open_split, parts_of, read_data

MIN_LEAD = 0.02
"""By how much the network's accuracy is above the TF-IDF baseline's, about."""
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
    if manifest.has_label_sets:
        problem = "a text of this dataset may have several labels, and a teacher says which one it has"
        raise ConfigError(f"teacher: {problem}; leave this out")
    lesson = find_lesson(vars(config), manifest.fingerprint)
    if lesson is not None and holds_run(config.run):
        return
    encoder = None if is_answers(config.teacher) else find_encoder(config.teacher)
    source_sha256 = hash_answers(config.teacher) if encoder is None else encoder.sha256
    if lesson is not None and lesson.source_sha256 == source_sha256:
        return
    folder = folder_of_lesson(vars(config), manifest.fingerprint)
    refusal = ConfigError(f"teacher: another process embeds the texts of {config.data}; wait for it")
    with storage(folder), lock_file(folder.with_name(".lock"), MAX_WAIT_S, refusal):
        if encoder is None:
            summary, rows, chances = ask_file(config, manifest)
        else:
            summary, rows, chances = ask_encoder(config, manifest, encoder)
        train = open_split(config.data, manifest, TRAIN)
        targets = np.concatenate((np.eye(len(manifest.labels))[train.column("label")], chances))
        targets_sha256 = write_targets(folder, np.concatenate((train.column("row"), rows)), targets)
        write_lesson(folder, Lesson(config.teacher, source_sha256, len(rows) > 0, summary, targets_sha256))


def ask_file(config: RunConfig, manifest: Manifest) -> tuple[str, np.ndarray, np.ndarray]:
    """What a file of predictions says of the rows without labels: a summary, their numbers, their probabilities."""
    if not manifest.rows(UNLABELLED):
        raise DataError(
            f"{Path(config.data, MANIFEST)}: has no rows without labels, which {config.teacher} could teach; "
            "name them with --source.unlabelled_path when you build the dataset, or leave the teacher out"
        )
    return describe_share(manifest), *read_answers(str(config.teacher), config.data, manifest)


def ask_encoder(config: RunConfig, manifest: Manifest, encoder: Encoder) -> tuple[str, np.ndarray, np.ndarray]:
    """What the regression on an encoder, which is measured as a baseline too, says of the rows without labels, as
    ``ask_file``; of none if training rows that neither learned from show that it is not better than the TF-IDF baseline
    by as much as the network is: few rows show little.
    """
    parent = folder_of_teachers(config.data, config.run)
    nothing = np.empty(0, np.int64), np.empty((0, len(manifest.labels)))
    embeddings = Embeddings(parent, encoder, config.device, Screen(quiet=config.quiet))
    regression, results = measure_encoder(config.data, manifest, embeddings)
    if config.fold is None:
        baselines = writable_path(str(home_of(config.data)), config.run, FOLDER)
        write_baseline(baselines / recipe_of(encoder.sha256)["encoder"], manifest, results)
    if not manifest.rows(UNLABELLED):
        return "left out: there are no rows without labels for it to teach", *nothing
    rows, blocks = read_labelled(config.data, manifest, [TRAIN])
    linear = predict_out_of_fold(config.data, manifest, rows, blocks)
    hits, linear_hits = (chances.argmax(axis=1) == rows["label"] for chances in (regression.held_out, linear))
    share, linear_share = percent(float(hits.mean())), percent(float(linear_hits.mean()))
    figures = f"right on {share} of {len(rows):,} labelled rows out of fold, a TF-IDF baseline on {linear_share}"
    _, high = difference_interval(hits.to_numpy(), linear_hits.to_numpy())
    if high < MIN_LEAD:
        return f"left out: {figures}: the network alone is as good", *nothing
    unlabelled = open_split(config.data, manifest, UNLABELLED)
    chances = regression.chances(embeddings.look_up(read_texts(unlabelled)))
    return f"{describe_share(manifest)}: {figures}", unlabelled.column("row"), chances


def describe_share(manifest: Manifest) -> str:
    """The share of the training rows that a teacher teaches."""
    unlabelled, total = manifest.rows(UNLABELLED), manifest.rows(TRAIN) + manifest.rows(UNLABELLED)
    return f"teaches {unlabelled:,} of {total:,} training rows ({percent(unlabelled / total)})"
