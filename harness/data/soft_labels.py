# SPDX-License-Identifier: Apache-2.0
"""``DATA/soft_labels/NAME.arrow``: a teacher's probability of each class, for a dataset's unlabelled rows.

One Arrow IPC file without compression::

    row            int64                              the row's number in the source, as in the shards
    probability    fixed_size_list<float>[classes]    of each class, in the order of the dataset's labels; sums to 1

The schema's metadata key ``padless`` is JSON with the fields of ``Teacher`` and ``sha256``, a hash over these fields
and all rows. Any teacher can write such a file with ``write_soft_labels``. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from msgspec import Meta

from preprocessing.base import atomic
from preprocessing.base.arrays import mapped, record_batches, write_batch
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.schema import typed
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.untrusted import one_line, parse_json, shown
from preprocessing.dataset.shards import Manifest, Split

FOLDER, SUFFIX = "soft_labels", ".arrow"
FORMAT, FORMAT_VERSION = "padless-soft-labels", 1
KEY = b"padless"
REMAKE = "make it again with `padless label`"
SUM_TOLERANCE = 1e-3
"""Allowed difference from 1 of the sum of a row's probabilities."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Metadata of a file of soft labels."""

    dataset: str
    """Fingerprint of the dataset whose rows were scored."""
    labels: Annotated[list[str], Meta(min_length=2)]
    """Name of each class, in the order of the probabilities."""
    teacher: str
    """Description of the teacher."""
    weights_sha256: str | None = None
    """sha256 of the teacher's weights, if it is a run or a bundle."""
    temperature: Annotated[float, Meta(ge=1e-6, le=1e6)] = 1.0
    """Temperature that divides the teacher's logits; fitted on the validation split."""
    validation: dict[str, float | int | bool | None] = field(default_factory=dict)
    """Of the teacher on the dataset's validation split: accuracy, log_loss, rows."""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class SoftLabels:
    """The content of a file of soft labels."""

    path: Path
    teacher: Teacher
    sha256: str
    """Of metadata, rows and probabilities."""
    rows: np.ndarray
    """int64 ``[rows]``: row numbers in the source."""
    chances: np.ndarray
    """fp32 ``[rows, classes]``."""

    @property
    def facts(self) -> dict[str, Any]:
        """Facts kept in checkpoints and bundles."""
        known = {name: getattr(self.teacher, name) for name in ("teacher", "weights_sha256", "validation")}
        return {"sha256": self.sha256, **known}

    @property
    def in_words(self) -> str:
        """One readable line."""
        accuracy = self.teacher.validation.get("accuracy")
        good = "" if accuracy is None else f", accuracy {accuracy:.4f} on validation"
        return f"of {self.teacher.teacher}{good}; {len(self.rows):,} rows"


def path_of(data: str | Path, name: str) -> Path:
    """Path of the soft labels ``name`` of a dataset."""
    return Path(data, FOLDER, name + SUFFIX)


def find_soft_labels(data: str | Path, name: str) -> Path:
    """The file for ``self_training.labels``: a path, or a name in the dataset's folder. Raises ``ConfigError``."""
    beside = path_of(data, name.removesuffix(SUFFIX))
    for path in (Path(name), beside):
        if path.is_file():
            return path
    raise ConfigError(
        f"self_training.labels: there is no file {name} and no {beside}; write one with `padless label "
        f"--data {data}` and --run RUN or --baseline"
    )


def write_soft_labels(path: str | Path, teacher: Teacher, rows: np.ndarray, chances: np.ndarray) -> str:
    """Write soft labels of unlabelled rows atomically; returns their sha256. Raises ``OSError``.

    ``rows``: row numbers in the source ``[rows]``; ``chances``: probabilities ``[rows, classes]``.
    """
    rows, chances = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(chances, np.float32)
    assert chances.shape == (len(rows), len(teacher.labels))
    digest = digest_of(asdict(teacher), rows, chances)
    about = json.dumps({**asdict(teacher), "sha256": digest}, allow_nan=False)
    layout = schema(len(teacher.labels)).with_metadata({KEY: about})
    values = pa.FixedSizeListArray.from_arrays(pa.array(chances.reshape(-1)), type=layout.field("probability").type)
    write_batch(path, [pa.array(rows), values], layout)
    return digest


def schema(classes: int) -> pa.Schema:
    """The columns of a file of soft labels for this number of classes."""
    values = pa.list_(pa.field("item", pa.float32(), nullable=False), classes)
    return pa.schema([pa.field("row", pa.int64(), nullable=False), pa.field("probability", values, nullable=False)])


def digest_of(about: dict[str, Any], rows: np.ndarray, chances: np.ndarray) -> str:
    return hashlib.sha256(atomic.canonical_json(about) + rows.tobytes() + chances.tobytes()).hexdigest()


def read_soft_labels(path: str | Path) -> SoftLabels:
    """Read a file of soft labels. Raises ``DataError`` if it is damaged or another kind of file."""
    path = Path(path)
    try:
        layout, batches = record_batches(mapped(path))
        about = parse_json((layout.metadata or {}).get(KEY, b"null"))
        known = about if isinstance(about, dict) else {}
        if (known.get("format"), known.get("format_version")) != (FORMAT, FORMAT_VERSION):
            raise DataError(f"{path}: not a file of soft labels of this version of padless; {REMAKE}")
        claimed = known.pop("sha256", None)
        teacher: Teacher = typed(Teacher, known, str(path), REMAKE)
        table = pa.Table.from_batches(batches, layout)
        if layout != schema(len(teacher.labels)) or any(column.null_count for column in table.columns):
            raise ValueError(f"its columns are not those of soft labels of {len(teacher.labels)} classes")
        values = table["probability"].combine_chunks().flatten()
        if values.null_count:
            raise ValueError("it holds nulls")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable file of soft labels ({one_line(error)}); {REMAKE}") from None
    rows, chances = table["row"].to_numpy(), values.to_numpy().reshape(-1, len(teacher.labels))
    if digest_of(known, rows, chances) != claimed:
        raise DataError(f"{path}: its content does not match its sha256: edited or damaged; {REMAKE}")
    return SoftLabels(path, teacher, claimed, rows, chances)


def check_soft_labels(found: SoftLabels, data: str | Path, manifest: Manifest) -> None:
    """Raise ``DataError`` unless the soft labels belong to this dataset."""
    path, about, rows, chances = found.path, found.teacher, found.rows, found.chances
    if about.dataset != manifest.fingerprint:
        raise DataError(
            f"{path}: soft labels of another dataset (fingerprint {shown(about.dataset[:12])}, {data} has "
            f"{manifest.fingerprint[:12]}); {REMAKE}"
        )
    if about.labels != manifest.labels:
        raise DataError(
            f"{path}: its classes are {shown(about.labels)}, those of {data} {shown(manifest.labels)}, in "
            f"this order; {REMAKE}"
        )
    if len(rows) != manifest.rows(UNLABELLED):
        raise DataError(f"{path}: {len(rows)} rows, the dataset has {manifest.rows(UNLABELLED)} unlabelled; {REMAKE}")
    right = (chances >= 0).all(axis=1) & (np.abs(chances.sum(axis=1, dtype=np.float64) - 1) <= SUM_TOLERANCE)
    if not right.all():
        place = int(np.argmin(right))
        raise DataError(
            f"{path}: row {rows[place]} has {shown(chances[place].tolist())}, which are no probabilities that add up "
            f"to 1; {REMAKE}"
        )


def targets_of(found: SoftLabels, split: Split) -> np.ndarray:
    """The soft labels of a split's rows in the order of its blocks, in the format of ``Loader``.

    fp32 ``[rows]``, the probability of class 1, for two classes; ``[rows, classes]`` for more. Raises ``DataError`` if
    the file has other rows than the split.
    """
    rows, first = np.unique(found.rows, return_index=True)
    wanted = split.column("row")
    place = rows.searchsorted(wanted).clip(max=len(rows) - 1)
    missing = wanted[rows[place] != wanted]
    if len(missing) or len(rows) != len(found.rows):
        what = f"row {missing[0]} of {split.name} has no soft label" if len(missing) else "a row occurs twice"
        raise DataError(f"{found.path}: {what}; {REMAKE}")
    chances = found.chances[first[place]]
    return np.ascontiguousarray(chances[:, 1]) if chances.shape[1] == 2 else chances
