# SPDX-License-Identifier: Apache-2.0
"""What a teacher says of the rows of a dataset: a target for each training row, with a label or without.

They lie in ``DATA/teachers``, or in the run if nothing can be written there::

    NAME-0123456789ab.json    who teaches, what came of it, and hashes (sealed, written last), for one dataset, one
                              held-out fold and one path or name of a teacher; replaced when the teacher changes
    NAME-0123456789ab.arrow   the targets, for one content of a teacher; one line a row, ascending by its number in the
                              source: row int64, target float16[classes]

A run keeps the former as ``RUN/teacher.json`` and goes on with its targets. A target holds the probability of each
class.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.rundir.bundle_files import read_named
from harness.rundir.json_files import read_sealed, write_sealed
from harness.rundir.layout import TEACHERS, storage, writable_path
from padless.core import arrays, atomic
from padless.core.errors import DataError
from padless.core.schema import Sha256, convert_json
from preprocessing.dataset.views import home_of

TEACHER = "teacher.json"
KIND = ("padless-teacher", 3)
REMOVE = "remove the file, and `padless train` makes it again"


@dataclass(frozen=True)
class TeacherInfo:
    """``teacher.json``."""

    teacher: str
    """The path of its file of predictions."""
    dataset: Sha256
    """The fingerprint of the dataset."""
    source_sha256: Sha256
    """Of the file of predictions."""
    summary: str
    """How many rows it teaches."""
    targets_sha256: Sha256

    @property
    def origin(self) -> str:
        """The teacher and the beginning of the sha256, for checkpoints and people."""
        return f"{Path(self.teacher).name} (targets {self.targets_sha256[:12]})"


@dataclass(frozen=True)
class SoftTargets:
    """The targets of the rows of a split."""

    rows: np.ndarray
    """int64 ``[rows]``, ascending."""
    values: np.ndarray
    """float16 ``[rows, classes]``."""

    def look_up(self, rows: np.ndarray) -> np.ndarray:
        """float32 ``[rows, classes]``: the targets of rows by their number in the source.

        Raises ``DataError`` for a row that has none.
        """
        lines = self.rows.searchsorted(rows).clip(max=len(self.rows) - 1)
        is_missing = self.rows[lines] != rows
        if is_missing.any():
            problem = f"has no target for row {rows[is_missing][0]}, which the dataset has"
            raise DataError(f"teacher: {problem}; remove the dataset's folder {TEACHERS}, and start another run")
        return self.values[lines].astype(np.float32)


def path_of_info(config: Mapping[str, Any], fingerprint: str) -> Path:
    """The file on the teacher of the dataset with this fingerprint; ``config``: data, run, fold and teacher."""
    teacher = str(config["teacher"])
    return path_of(config, fingerprint, os.path.realpath(teacher) if os.path.exists(teacher) else teacher, ".json")


def path_of_targets(config: Mapping[str, Any], fingerprint: str, source_sha256: str) -> Path:
    """The file of the targets by a teacher with this content."""
    return path_of(config, fingerprint, source_sha256, ".arrow")


def path_of(config: Mapping[str, Any], fingerprint: str, source: str, suffix: str) -> Path:
    """A file named after a teacher and what it is for: beside the dataset, or in the run if it cannot be there."""
    key = hashlib.sha256(f"{fingerprint} {config['fold']} {source}".encode()).hexdigest()[:12]
    folder = writable_path(str(home_of(config["data"])), config["run"], TEACHERS)
    return folder / f"{Path(str(config['teacher'])).name}-{key}{suffix}"


def find_teacher_info(config: Mapping[str, Any], fingerprint: str) -> TeacherInfo | None:
    """What is known of a run's teacher: as it was when the run began, else as it is now; ``config`` is as for
    ``path_of_info``. None without a teacher, and before it has targets. Raises ``DataError`` for a damaged file.
    """
    if config.get("teacher") is None:
        return None
    for path in (Path(config["run"], TEACHER), path_of_info(config, fingerprint)):
        if (content := read_sealed(path, KIND, REMOVE)) is not None:
            info: TeacherInfo = convert_json(TeacherInfo, content, str(path), REMOVE)
            is_same_name = Path(info.teacher).name == Path(str(config["teacher"])).name
            if is_same_name and info.dataset == fingerprint:
                return info
    return None


def open_targets(config: Mapping[str, Any], fingerprint: str) -> SoftTargets | None:
    """The targets of a run, as for ``find_teacher_info``; None if it does not learn from them.

    Raises ``DataError`` if the file is missing or damaged.
    """
    teacher_info = find_teacher_info(config, fingerprint)
    if teacher_info is None:
        return None
    path = path_of_targets(config, fingerprint, teacher_info.source_sha256)
    content = read_named(path, teacher_info.targets_sha256, TEACHER)
    _, (batch,) = arrays.record_batches(pa.BufferReader(content))
    values = batch["target"].flatten().to_numpy().reshape(batch.num_rows, -1)
    return SoftTargets(batch["row"].to_numpy(), values)


def write_targets(path: Path, rows: np.ndarray, values: np.ndarray) -> str:
    """Write targets, float ``[rows, classes]`` in any order of rows; returns the sha256 of the file.

    Raises ``StorageError``.
    """
    order = np.argsort(rows)
    targets = pa.FixedSizeListArray.from_arrays(values[order].astype(np.float16).reshape(-1), values.shape[1])
    with storage(path):
        arrays.write_batch(path, {"row": pa.array(rows[order]), "target": targets})
    return atomic.sha256_file(path)


def write_teacher_info(path: Path, teacher_info: TeacherInfo) -> None:
    """Write what is known of a teacher, after its targets. Raises ``StorageError``."""
    with storage(path):
        write_sealed(path, KIND, asdict(teacher_info))
