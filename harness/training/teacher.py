# SPDX-License-Identifier: Apache-2.0
"""Soft targets for the rows without labels, by a teacher (knowledge distillation, Hinton et al., 2015).

They are written before a run, in the launcher, once for each dataset, teacher and fold. Targets of labelled rows are
their labels. A sentence encoder teaches by a logistic regression on its embeddings and a TF-IDF baseline, whose logits
are added. Where both together are hardly better than the TF-IDF baseline alone, the network, which is a few points
better too, learns more from the labels alone: the teacher is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from harness.baselines.measured import FOLDER, check_stored, write_baseline
from harness.baselines.out_of_fold import find_predictable, predict_out_of_fold, read_labelled
from harness.baselines.sentence_encoder import (
    Embeddings,
    SentenceEncoder,
    find_encoder,
    measure_encoder,
    read_texts,
    recipe_of,
)
from harness.baselines.tfidf import Linear
from harness.config import RunConfig
from harness.data.run_rows import rows_of_task
from harness.data.targets import (
    TeacherInfo,
    find_teacher_info,
    folder_of_teachers,
    path_of_info,
    path_of_targets,
    write_targets,
    write_teacher_info,
)
from harness.metrics.calibration import choose_share, fit_temperature
from harness.metrics.intervals import difference_interval
from harness.metrics.metrics import probabilities
from harness.rundir.layout import holds_run, storage, writable_path
from harness.rundir.records import read_status
from harness.rundir.results import probability_column
from padless.core import atomic
from padless.core.errors import ConfigError, DataError
from padless.core.processes import lock_file
from padless.core.split_names import TRAIN, UNLABELLED
from padless.core.terminal import Screen, percent
from padless.core.untrusted import join_names
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.dataset.remote import join
from preprocessing.dataset.shards import MANIFEST, Manifest
from preprocessing.dataset.views import home_of, open_split, read_data
from preprocessing.labels import drop_zero_fraction, normalize_label
from preprocessing.sources.batches import Reader, SourceBatch, row_error
from preprocessing.sources.readers import open_reader
from preprocessing.sources.sources import FORMAT_BY_SUFFIX, list_files, suffix_of

ROW, PROBABILITY = "row", probability_column("")
LABEL_COLUMNS = ("predicted", "label")
MAX_SUM_ERROR = 0.02
"""Of the probabilities of a row, which may be rounded."""
MAX_ROUNDING = 0.001
"""Between two predictions for the same row or text: targets are not stored more exactly."""
USUAL_SHARE = 0.125
"""The weight of a TF-IDF baseline's logits beside those of a regression on an encoder, before any row is seen."""
MIN_LEAD = 0.02
"""By how much the network's accuracy is above the TF-IDF baseline's, about."""
MAX_WAIT_S = 24 * 3600.0
"""Longest wait for another process that embeds the texts of the same dataset."""


def prepare_targets(config: RunConfig) -> None:
    """Write the targets of ``find_teacher``, if there is any.

    Raises as that does, ``DataError`` for a dataset or predictions that do not fit, ``StorageError`` if writing fails.
    """
    teacher = find_teacher(config)
    if teacher is None:
        return
    manifest = rows_of_task(config.task, read_data(config.data), config.data, config.fold)
    path = path_of_info(vars(config), manifest.fingerprint)
    if isinstance(teacher, Path):
        summary, rows, chances = read_teacher_file(config, manifest)
    else:
        refusal = ConfigError(f"teacher: another process embeds the texts of {config.data}; wait for it")
        with storage(path), lock_file(path.with_name(".lock"), MAX_WAIT_S, refusal):
            summary, rows, chances = predict_with_encoder(config, manifest, teacher)
    train = open_split(config.data, manifest, TRAIN)
    targets = np.concatenate((np.eye(len(manifest.labels))[train.column("label")], chances))
    all_rows, source_sha256 = np.concatenate((train.column("row"), rows)), hash_teacher(teacher)
    sha256 = write_targets(path_of_targets(vars(config), manifest.fingerprint, source_sha256), all_rows, targets)
    identity = str(config.teacher), manifest.fingerprint, source_sha256
    write_teacher_info(path, TeacherInfo(*identity, len(rows) > 0, summary, sha256))


def find_teacher(config: RunConfig) -> SentenceEncoder | Path | None:
    """The encoder, or the file of predictions, that is to write the targets of a run; None if they exist, the run has
    begun, or it is a dry run, for which a teacher must only be there.

    Raises ``ConfigError`` for a dataset that cannot have a teacher, for no encoder, and for a file that has changed
    since the run began, ``DataError`` for no file.
    """
    if config.teacher is None:
        return None
    manifest = rows_of_task(config.task, read_data(config.data), config.data, config.fold)
    if manifest.has_label_sets:
        problem = "a text of this dataset may have several labels, and a teacher predicts one"
        raise ConfigError(f"teacher: {problem}; leave this out")
    teacher_info = find_teacher_info(vars(config), manifest.fingerprint)
    sha256 = "" if teacher_info is None else teacher_info.source_sha256
    has_targets = path_of_targets(vars(config), manifest.fingerprint, sha256).exists()
    is_finished = read_status(config.run).get("state") == "finished" and not config.allow
    if is_finished or (has_targets and holds_run(config.run)):
        if sha256 and Path(config.teacher).is_file() and sha256 != atomic.sha256_file(Path(config.teacher)):
            problem = f"{config.teacher} has changed since the run began"
            raise ConfigError(f"teacher: {problem}; restore it, or name another run directory")
        return None
    is_file = Path(config.teacher).is_file() or suffix_of(config.teacher) in FORMAT_BY_SUFFIX
    teacher = Path(config.teacher) if is_file else find_encoder(config.teacher)
    if isinstance(teacher, Path) and not teacher.is_file():
        raise DataError(f"teacher: {teacher}: no such file; name a file of predictions, or an encoder")
    is_done = has_targets and sha256 == hash_teacher(teacher)
    return None if is_done or config.dry_run else teacher


def hash_teacher(teacher: SentenceEncoder | Path) -> str:
    """The sha256 of a teacher's files."""
    return atomic.sha256_file(teacher) if isinstance(teacher, Path) else teacher.sha256


def read_teacher_file(config: RunConfig, manifest: Manifest) -> tuple[str, np.ndarray, np.ndarray]:
    """The predictions of a file for the rows without labels: a summary, their row numbers, their probabilities.

    Rows are given by number or by text, with a column for each class, or a label alone, as ``padless predict`` writes
    them. Raises ``DataError`` for a file that cannot be read or used, and if it lacks a row.
    """
    import pandas as pd

    if not manifest.rows(UNLABELLED):
        raise DataError(
            f"{join(config.data, MANIFEST)}: has no rows without labels, which {config.teacher} could teach; "
            "name them with --source.unlabelled_path when you build the dataset, or leave the teacher out"
        )
    (file,) = list_files(SourceConfig(unlabelled_path=[str(config.teacher)]), SplitConfig(column=None))
    row_column, text_columns, columns = find_prediction_columns(open_reader(file), manifest)
    read_columns = [*row_column, *text_columns, *columns]
    reader = open_reader(replace(file, source=replace(file.source, text_column=read_columns)))
    numbers, row_keys, text_keys = list[int](), list[str](), list[str]()
    parts = [np.empty((0, len(manifest.labels)))]
    for batch in reader.batches():
        numbers += batch.numbers.tolist()
        row_keys += [drop_zero_fraction(row or "") for name in row_column for row in batch.column(name).to_pylist()]
        text_keys += pc.fill_null(batch.texts_of(text_columns), "").to_pylist() if text_columns else []
        parts.append(read_chances(batch, columns, manifest.labels))
    chances, keys = np.concatenate(parts), row_keys or text_keys
    codes, distinct_keys = pd.factorize(np.array(keys, object))
    first_lines = np.unique(codes, return_index=True)[1]
    differs = (np.abs(chances - chances[first_lines[codes]]) > MAX_ROUNDING).any(axis=1)
    if differs.any():
        problem = f"predicts otherwise than a row before with the same {join_names(row_column or text_columns)}"
        raise row_error(file, numbers[differs.argmax()], f"{problem}; keep one of them")
    split = open_split(config.data, manifest, UNLABELLED)
    rows, texts = split.column("row"), read_texts(split) if text_columns else []
    key_numbers = pd.Index(distinct_keys).get_indexer(rows.astype(str) if row_column else texts)
    if (key_numbers < 0).any():
        missing_rows = rows[key_numbers < 0]
        raise DataError(
            f"{file.name}: lacks {len(missing_rows):,} of the {len(rows):,} rows without labels, such as row "
            f"{missing_rows.min()} (by {join_names(row_column or text_columns)}); add them, or build the dataset "
            "without them"
        )
    lines = first_lines[key_numbers]
    for row, line, text in zip(rows, lines, texts, strict=False):
        if text_keys[line] != text:
            problem = f"has another text than row {row} of {config.data}; correct it, or leave out the column {ROW!r}"
            raise row_error(file, numbers[line], problem)
    by_labels = ", by labels without probabilities" if len(columns) == 1 else ""
    return describe_share(manifest) + by_labels, rows, chances[lines]


def predict_with_encoder(
    config: RunConfig, manifest: Manifest, encoder: SentenceEncoder
) -> tuple[str, np.ndarray, np.ndarray]:
    """The predictions of a regression on an encoder for the rows without labels, as ``read_teacher_file``.

    The regression is measured as a baseline too. To its logits are added those of a TF-IDF baseline, in the share that
    is best out of fold. There are no predictions if both together are surely not better, out of fold, than the TF-IDF
    baseline alone by as much as the network is: few rows show little.
    """
    parent = folder_of_teachers(config.data, config.run)
    nothing = np.empty(0, np.int64), np.empty((0, len(manifest.labels)))
    embeddings = Embeddings(encoder, parent, config.device, Screen(quiet=config.quiet))
    data = home_of(config.data)
    baselines = writable_path(str(data), config.run, FOLDER) / recipe_of(encoder.sha256)["encoder"]
    if config.fold is None:
        check_stored(baselines, data, manifest)
    regression, results = measure_encoder(config.data, manifest, embeddings)
    if config.fold is None:
        write_baseline(baselines, manifest, results)
    if not manifest.rows(UNLABELLED):
        return "left out: there are no rows without labels for it to teach", *nothing
    rows, blocks = read_labelled(config.data, manifest, [TRAIN])
    linear, is_predictable = predict_out_of_fold(config.data, manifest, rows, blocks), find_predictable(rows)
    encoded, linear = regression.held_out[is_predictable], linear[is_predictable]
    labels = rows["label"].to_numpy()[is_predictable]
    share = choose_share(encoded, linear, labels, USUAL_SHARE)
    logits = encoded + share * linear
    hits, linear_hits = (probabilities(values).argmax(axis=1) == labels for values in (logits, linear))
    accuracy = f"right on {hits.mean():.0%} of {len(labels):,} labelled rows"
    figures = f"{accuracy} out of fold, a TF-IDF baseline on {linear_hits.mean():.0%}"
    _, high = difference_interval(hits, linear_hits)
    if high < MIN_LEAD:
        return f"left out: {figures}: the network alone is as good", *nothing
    unlabelled = open_split(config.data, manifest, UNLABELLED)
    vectors = embeddings.look_up(read_texts(unlabelled))
    sums = regression.logits(vectors) + share * Linear.learn(config.data, manifest).logits(unlabelled)
    chances = probabilities(sums / fit_temperature(logits, labels))
    return f"{describe_share(manifest)}: {figures}", unlabelled.column("row"), chances


def describe_share(manifest: Manifest) -> str:
    """The share of the training rows that a teacher teaches."""
    unlabelled, total = manifest.rows(UNLABELLED), manifest.rows(TRAIN) + manifest.rows(UNLABELLED)
    return f"teaches {unlabelled:,} of {total:,} training rows ({percent(unlabelled / total)})"


def find_prediction_columns(reader: Reader, manifest: Manifest) -> tuple[list[str], list[str], list[str]]:
    """The columns of a file of predictions: that of the row's number, those of its text, of which either may be
    missing, and those of the probabilities, in the order of the dataset's classes, or that of the label alone.

    Raises ``DataError`` if some are missing, are there twice, or are of other classes.
    """
    names, labels = reader.columns, manifest.labels
    source_columns = manifest.provenance.get("config", {}).get("source", {}).get("text_column", "text")
    text_columns = [source_columns] if isinstance(source_columns, str) else list(source_columns)
    row_column = [name for name in names if name == ROW]
    missing_texts = {*text_columns} - {*names}
    chosen = list[str]()
    for candidates in (list(map(probability_column, labels)), labels, *([name] for name in LABEL_COLUMNS)):
        if chosen := [name for name in candidates if name in names]:
            break
    is_other_class = any(name.startswith(PROBABILITY) and name not in candidates for name in names)
    if chosen != [*candidates] or is_other_class or (missing_texts and not row_column):
        rows_by = f"a column {ROW!r} of row numbers, or the texts in {join_names(text_columns)}"
        raise DataError(
            f"{reader.file.name}: has no predictions: {rows_by}, and a column probability_CLASS for each of "
            f"{join_names(labels)}, or a column 'predicted' of labels and none of probabilities; it has "
            f"{join_names(names)}"
        )
    texts = [] if missing_texts else text_columns
    repeated = [name for name in (*row_column, *texts, *chosen) if names.count(name) > 1]
    if repeated:
        raise DataError(f"{reader.file.name}: has the column {repeated[0]!r} twice; remove one of them")
    return row_column, texts, chosen


def read_chances(batch: SourceBatch, columns: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """float64 ``[rows, classes]``: the probabilities of a batch, or 1 for the class that it names.

    Raises ``DataError`` for the first row that has none.
    """
    import pandas as pd

    texts = pd.DataFrame({name: batch.column(name).to_pylist() for name in columns}, dtype=object)
    if len(columns) == 1:
        names, classes = texts[columns[0]], pd.Series(labels)
        is_named = names.to_numpy()[:, None] == classes.to_numpy()
        is_alike = names.map(normalize_label).to_numpy()[:, None] == classes.map(normalize_label).to_numpy()
        is_class = np.where(is_named.any(axis=1, keepdims=True), is_named, is_alike)  # of Pos and pos, the one named
        chances, problem = is_class.astype(np.float64), f"one of {join_names(labels)}"
    else:
        chances = texts.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        problem = "numbers from 0 to 1 that add up to 1; a softmax makes them of logits"
    sums: np.ndarray = chances.sum(axis=1)
    is_right = (chances >= 0).all(axis=1) & (np.abs(sums - 1) <= MAX_SUM_ERROR)
    if not is_right.all():
        row = int(is_right.argmin())
        raise batch.error(row, f"{join_names(columns)}: {join_names(texts.iloc[row])}, expected {problem}")
    return chances / sums[:, None]
