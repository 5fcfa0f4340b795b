# SPDX-License-Identifier: Apache-2.0
"""What a teacher says of the rows of a dataset: a target for each training row, with a label or without.

The folder of a teacher is for one dataset, one teacher and one fold that is held out::

    targets.arrow     one line a row, ascending by its number in the source: row int64, target list<float16>[classes]
    teacher.json      who teaches, what came of it, and the sha256 of the targets (sealed, written last)

A target holds the probability of each class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.rundir.bundle_files import read_named
from harness.rundir.json_files import read_sealed, write_sealed
from harness.rundir.layout import TEACHERS, storage, writable_path
from preprocessing.base import arrays, atomic
from preprocessing.base.schema import Sha256, convert_json
from preprocessing.dataset.views import home_of

TARGETS, TEACHER_INFO = "targets.arrow", "teacher.json"
KIND = ("padless-teacher", 1)
REMOVE = "remove the folder, and `padless train` makes it again"


@dataclass(frozen=True)
class TeacherInfo:
    """``teacher.json``."""

    teacher: str
    """As the user names it."""
    source_sha256: Sha256
    """Of the files of an encoder, or of the file of predictions."""
    is_used: bool
    """Whether the network learns from the targets."""
    summary: str
    """How many rows it teaches, or why it is left out."""
    targets_sha256: Sha256

    @property
    def origin(self) -> str:
        """The teacher and the beginning of the sha256, for checkpoints and people."""
        return f"{Path(self.teacher).name} (targets {self.targets_sha256[:12]})"


@dataclass(frozen=True)
class SoftTargets:
    """The targets of a teacher_info."""

    rows: np.ndarray
    """int64 ``[rows]``, ascending."""
    values: np.ndarray
    """float16 ``[rows, classes]``."""

    def look_up(self, rows: np.ndarray) -> np.ndarray:
        """float32 ``[rows, classes]``: the targets of rows by their number in the source."""
        return self.values[self.rows.searchsorted(rows)].astype(np.float32)


def folder_of_teachers(data: str, run: str) -> Path:
    """The folder of targets and embeddings, beside the dataset, or in the run if nothing can be written there."""
    return writable_path(str(home_of(data)), run, TEACHERS)


def folder_of_targets(config: Mapping[str, Any], fingerprint: str) -> Path:
    """The folder of the targets for the dataset with this fingerprint; ``config``: data, run, fold and teacher."""
    teacher = str(config["teacher"])
    key = hashlib.sha256(f"{fingerprint} {config['fold']} {teacher}".encode()).hexdigest()[:12]
    return folder_of_teachers(config["data"], config["run"]) / f"{Path(teacher).name}-{key}"


def find_teacher_info(config: Mapping[str, Any], fingerprint: str) -> TeacherInfo | None:
    """The ``teacher.json`` of a run, as for ``folder_of_targets``; None without a teacher, and before it has targets.

    Raises ``DataError`` for a damaged one.
    """
    if config.get("teacher") is None:
        return None
    path = folder_of_targets(config, fingerprint) / TEACHER_INFO
    content = read_sealed(path, KIND, REMOVE)
    return None if content is None else convert_json(TeacherInfo, content, str(path), REMOVE)


def open_targets(config: Mapping[str, Any], fingerprint: str) -> SoftTargets | None:
    """The targets of a run's teacher_info, as for ``find_teacher_info``; None if it does not learn from them.

    Raises ``DataError`` if the file is missing, or not the one of the teacher_info.
    """
    teacher_info = find_teacher_info(config, fingerprint)
    if teacher_info is None or not teacher_info.is_used:
        return None
    content = read_named(folder_of_targets(config, fingerprint) / TARGETS, teacher_info.targets_sha256, TEACHER_INFO)
    _, (batch,) = arrays.record_batches(pa.BufferReader(content))
    values = batch["target"].flatten().to_numpy().reshape(batch.num_rows, -1)
    return SoftTargets(batch["row"].to_numpy(), values)


def write_targets(folder: Path, rows: np.ndarray, values: np.ndarray) -> str:
    """Write targets, float ``[rows, classes]`` in any order of rows; returns the sha256 of the file.

    Raises ``StorageError``.
    """
    path, order = folder / TARGETS, np.argsort(rows)
    columns = {"row": pa.array(rows[order]), "target": pa.array([*values[order].astype(np.float16)])}
    with storage(path):
        arrays.write_batch(path, columns)
    return atomic.sha256_file(path)


def write_teacher_info(folder: Path, teacher_info: TeacherInfo) -> None:
    """Write ``teacher.json``, the last file of a teacher_info. Raises ``StorageError``."""
    with storage(folder / TEACHER_INFO):
        write_sealed(folder / TEACHER_INFO, KIND, asdict(teacher_info))
