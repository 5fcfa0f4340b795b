# SPDX-License-Identifier: Apache-2.0
"""What a teacher says of the rows of a dataset: a target for each training row, with a label or without.

``padless train`` writes them into the run before it begins::

    teachers/teacher.json     who teaches, what came of it, and hashes (sealed, written last)
    teachers/targets.arrow    one line a row, ascending by its number in the source: row int64, target float16[classes]

A target holds the probability of each class.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from harness.config import RunConfig
from harness.rundir.bundle_files import read_named
from harness.rundir.json_files import RESTORE, read_sealed, write_sealed
from harness.rundir.layout import TEACHERS, storage
from padless.core import arrays, atomic
from padless.core.errors import DataError
from padless.core.schema import Sha256, convert_json

TEACHER, TARGETS = "teacher.json", "targets.arrow"
KIND = ("padless-teacher", 3)


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
            raise DataError(f"teacher: {problem}; start another run")
        return self.values[lines].astype(np.float32)


def find_teacher_info(config: RunConfig, fingerprint: str) -> TeacherInfo | None:
    """What a run knows of its teacher; None without a teacher, and before it has targets. Raises ``DataError`` for a
    damaged file.
    """
    path = Path(config.run, TEACHERS, TEACHER)
    if config.teacher is None or (content := read_sealed(path, KIND, RESTORE)) is None:
        return None
    info: TeacherInfo = convert_json(TeacherInfo, content, str(path), RESTORE)
    is_same_name = Path(info.teacher).name == Path(config.teacher).name
    return info if is_same_name and info.dataset == fingerprint else None


def open_targets(config: RunConfig, fingerprint: str) -> SoftTargets | None:
    """The targets of a run; None if it does not learn from them. Raises ``DataError`` if the file is missing or
    damaged.
    """
    teacher_info = find_teacher_info(config, fingerprint)
    if teacher_info is None:
        return None
    content = read_named(Path(config.run, TEACHERS, TARGETS), teacher_info.targets_sha256, TEACHER)
    _, (batch,) = arrays.record_batches(pa.BufferReader(content))
    values = batch["target"].flatten().to_numpy().reshape(batch.num_rows, -1)
    return SoftTargets(batch["row"].to_numpy(), values)


def write_targets(
    config: RunConfig, fingerprint: str, rows: np.ndarray, values: np.ndarray, source_sha256: str, summary: str
) -> None:
    """Write the targets of a run's teacher, float ``[rows, classes]`` in any order of rows, and what is known of it.

    Raises ``StorageError``.
    """
    order, folder = np.argsort(rows), Path(config.run, TEACHERS)
    targets = pa.FixedSizeListArray.from_arrays(values[order].astype(np.float16).reshape(-1), values.shape[1])
    with storage(folder):
        arrays.write_batch(folder / TARGETS, {"row": pa.array(rows[order]), "target": targets})
        sha256 = atomic.sha256_file(folder / TARGETS)
        info = TeacherInfo(str(config.teacher), fingerprint, source_sha256, summary, sha256)
        write_sealed(folder / TEACHER, KIND, asdict(info))
