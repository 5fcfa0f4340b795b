# SPDX-License-Identifier: Apache-2.0
"""A teacher is a file of predictions: soft targets for the rows without labels (knowledge distillation, Hinton et al.,
2015). ``padless baseline --encoder`` writes one, also for a run that names an encoder.

Targets are written into a run before it begins, in the launcher. Targets of labelled rows are their labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from harness.baselines.sentence_encoder import (
    find_encoder,
    measure_encoder,
    read_encoder_facts,
    read_texts,
)
from harness.config import RunConfig
from harness.data.run_rows import rows_of_task
from harness.data.targets import find_teacher_info, write_targets
from harness.rundir.bundle_files import source_of
from harness.rundir.layout import CONFIG, TEACHERS, check_directory
from harness.rundir.results import probability_column
from padless.core import atomic
from padless.core.errors import ConfigError, DataError
from padless.core.split_names import TRAIN, UNLABELLED
from padless.core.terminal import percent
from padless.core.untrusted import join_names
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.dataset.remote import join, open_split
from preprocessing.dataset.shards import MANIFEST, Manifest
from preprocessing.dataset.views import read_data
from preprocessing.labels import drop_zero_fraction
from preprocessing.sources.batches import Reader, SourceBatch, row_error
from preprocessing.sources.readers import open_reader
from preprocessing.sources.sources import FORMAT_BY_SUFFIX, list_files, suffix_of

ROW, PREDICTED, PROBABILITY = "row", "predicted", probability_column("")
MAX_SUM_ERROR = 0.02
"""Of the probabilities of a row, which may be rounded."""
MAX_ROUNDING = 0.001
"""Between two predictions for the same row or text: targets are not stored more exactly."""


def prepare_teacher(config: RunConfig) -> RunConfig:
    """Write the targets of a run with a teacher; returns it with a file of predictions where an encoder teaches.

    Raises ``ConfigError`` for a dataset that cannot have a teacher, for one that learned from a fold that is held out,
    for an encoder that wrote no predictions, and for a file that has changed since the run began, ``DataError`` for a
    dataset or predictions that do not fit, ``StorageError`` if writing fails.
    """
    if config.teacher is None:
        return config
    manifest = rows_of_task(config)
    if manifest.has_label_sets:
        problem = "a text of this dataset may have several labels, and a teacher predicts one"
        raise ConfigError(f"teacher: {problem}; leave this out")
    is_encoder = not is_file_name(config.teacher)
    if config.fold is not None and (is_encoder or read_encoder_facts(Path(config.teacher))):
        raise ConfigError(f"teacher: {config.teacher} learns from the labels of all folds; leave out the folds")
    if is_encoder:
        path = predict_with_encoder(config, config.teacher)
        if config.dry_run and not path.exists():
            return config
        config = replace(config, teacher=str(path))
    write_targets_of_file(config, manifest)
    return config


def is_file_name(teacher: str) -> bool:
    """Whether a teacher is a file of predictions, else it is an encoder."""
    return Path(teacher).is_file() or suffix_of(teacher) in FORMAT_BY_SUFFIX


def predict_with_encoder(config: RunConfig, name: str) -> Path:
    """The file of an encoder's predictions, which is written unless a run has its targets.

    Raises ``ConfigError`` if none was written, and as ``measure_encoder`` does.
    """
    encoder, folder = find_encoder(name), Path(config.data, TEACHERS)
    if not (has_begun(config) or config.dry_run):
        facts = measure_encoder(config.data, read_data(config.data), encoder, folder, quiet=config.quiet)
        if facts["predictions"] is None:
            raise ConfigError(f"teacher: {name}: no predictions were written: {facts['summary']}; leave it out")
    return folder / encoder.file_name


def has_begun(config: RunConfig) -> bool:
    """Whether a run has begun to learn from its targets."""
    return all(Path(config.run, name).exists() for name in (CONFIG, TEACHERS))


def write_targets_of_file(config: RunConfig, manifest: Manifest) -> None:
    """Write the targets of a file of predictions, unless the run has begun. Raises as ``prepare_teacher``."""
    file = Path(str(config.teacher))
    if has_begun(config):
        info = find_teacher_info(config, manifest.fingerprint)
        if info is not None and file.is_file() and atomic.sha256_file(file) != info.source_sha256:
            problem = f"{file} has changed since the run began"
            raise ConfigError(f"teacher: {problem}; restore it, or name another run directory")
        return
    if not file.is_file():
        advice = "name a file of predictions; `padless baseline --encoder` writes one"
        raise DataError(f"teacher: {file}: no such file; {advice}")
    if config.dry_run:
        return
    check_directory(config.run)
    summary, rows, chances = read_teacher_file(config, manifest)
    train = open_split(config.data, manifest, TRAIN)
    targets = np.concatenate((np.eye(len(manifest.labels))[train.column("label")], chances))
    rows = np.concatenate((train.column("row"), rows))
    write_targets(config, manifest.fingerprint, rows, targets, atomic.sha256_file(file), summary)


def read_teacher_file(config: RunConfig, manifest: Manifest) -> tuple[str, np.ndarray, np.ndarray]:
    """The predictions of a file for the rows without labels: a summary, their row numbers, their probabilities.

    Rows are given by text or by number, with a column for each class, or a label alone, as ``padless predict`` writes
    them. Raises ``DataError`` for a file that cannot be read or used, and if it lacks a row.
    """
    import pandas as pd

    facts = read_encoder_facts(Path(str(config.teacher)))
    if facts.get("dataset", manifest.fingerprint) != manifest.fingerprint:
        problem = f"has predictions for another dataset than {config.data}"
        raise DataError(f"{config.teacher}: {problem}; `padless baseline {config.data} --encoder` writes new ones")
    if not manifest.rows(UNLABELLED):
        raise DataError(
            f"{join(config.data, MANIFEST)}: has no rows without labels, which {config.teacher} could teach; "
            "name them with --source.unlabelled_path when you build the dataset, or leave the teacher out"
        )
    (file,) = list_files(SourceConfig(unlabelled_path=[str(config.teacher)]), SplitConfig(column=None))
    key_columns, columns = find_prediction_columns(open_reader(file), manifest)
    reader = open_reader(replace(file, source=replace(file.source, text_column=[*key_columns, *columns])))
    numbers, keys, parts = list[int](), list[str](), [np.empty((0, len(manifest.labels)))]
    for batch in reader.batches():
        numbers += batch.numbers.tolist()
        keys += pc.fill_null(batch.texts_of(key_columns), "").to_pylist()
        parts.append(read_chances(batch, columns, manifest.labels))
    split = open_split(config.data, manifest, UNLABELLED)
    rows = split.column("row")
    if key_columns == [ROW]:
        keys, keys_of_rows = [*map(drop_zero_fraction, keys)], rows.astype(str).tolist()
    else:
        keys_of_rows = read_texts(split)
    answers = pd.DataFrame(np.concatenate(parts), index=keys)
    differences = answers - answers.groupby(level=0).transform("first")
    differs = (differences.abs() > MAX_ROUNDING).any(axis=1).to_numpy()
    if differs.any():
        problem = f"predicts otherwise than a row before with the same {join_names(key_columns)}"
        raise row_error(file, numbers[differs.argmax()], f"{problem}; keep one of them")
    answers = answers[~answers.index.duplicated()].reindex(keys_of_rows)
    if len(missing_rows := rows[answers[0].isna()]):
        raise DataError(
            f"{file.name}: lacks {len(missing_rows):,} of the {len(rows):,} rows without labels, such as row "
            f"{missing_rows.min()} (by {join_names(key_columns)}); add them, or build the dataset without them"
        )
    total_rows = manifest.rows(TRAIN) + len(rows)
    summary = f"teaches {len(rows):,} of {total_rows:,} training rows ({percent(len(rows) / total_rows)})"
    return ": ".join(filter(None, [summary, facts.get("summary")])), rows, answers.to_numpy()


def find_prediction_columns(reader: Reader, manifest: Manifest) -> tuple[list[str], list[str]]:
    """The columns of a file of predictions: those of its texts, or that of the row's number if they are missing, and
    those of the probabilities, in the order of the dataset's classes, or that of the label alone.

    Raises ``DataError`` if some are missing, are there twice, or are of other classes.
    """
    names, labels = reader.columns, manifest.labels
    text_columns = source_of(manifest).text_columns
    key_columns = text_columns if {*text_columns} <= {*names} else [ROW]
    probability_columns = {name for name in names if name.startswith(PROBABILITY)}
    columns = [*map(probability_column, labels)] if probability_columns else [PREDICTED]
    if not {*key_columns, *columns} <= {*names} or not probability_columns <= {*columns}:
        rows_by = f"the texts in {join_names(text_columns)}, or a column {ROW!r} of row numbers"
        raise DataError(
            f"{reader.file.name}: has no predictions: {rows_by}, and a column probability_CLASS for each of "
            f"{join_names(labels)}, or a column {PREDICTED!r} of labels and none of probabilities; it has "
            f"{join_names(names)}"
        )
    repeated = [name for name in (*key_columns, *columns) if names.count(name) > 1]
    if repeated:
        raise DataError(f"{reader.file.name}: has the column {repeated[0]!r} twice; remove one of them")
    return key_columns, columns


def read_chances(batch: SourceBatch, columns: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """float64 ``[rows, classes]``: the probabilities of a batch, or 1 for the class that it names.

    Raises ``DataError`` for the first row that has none.
    """
    import pandas as pd

    texts = pd.DataFrame({name: batch.column(name).to_pylist() for name in columns}, dtype=object)
    if len(columns) == 1:
        names = texts[columns[0]].fillna("").map(drop_zero_fraction).to_numpy()
        chances, problem = names[:, None] == np.array(labels, object), f"one of {join_names(labels)}"
    else:
        chances = texts.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        problem = "numbers from 0 to 1 that add up to 1; a softmax makes them of logits"
    sums: np.ndarray = chances.sum(axis=1)
    is_right = (chances >= 0).all(axis=1) & (np.abs(sums - 1) <= MAX_SUM_ERROR)
    if not is_right.all():
        row = int(is_right.argmin())
        raise batch.error(row, f"{join_names(columns)}: {join_names(texts.iloc[row])}, expected {problem}")
    return chances / sums[:, None]
