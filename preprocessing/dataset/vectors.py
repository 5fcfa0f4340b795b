# SPDX-License-Identifier: Apache-2.0
"""``DATASET/vectors/``: word vectors learned from a dataset's own texts, beside its shards, where every run finds them.

::

    vectors/cbow-128-<key>.npy    float32 ``[vocabulary, dim]``, a row for each id; zeros for an id without a vector
    vectors/cbow-128-<key>.json   written last: settings, fingerprint of the dataset, sha256 of the array

The key is a hash over fingerprint and settings, so vectors of other settings lie side by side (law 2).
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import DataError
from preprocessing.base.schema import Count, Positive, Sha256, typed
from preprocessing.base.split_names import TRAIN, UNLABELLED
from preprocessing.base.untrusted import read_bytes, read_json, shown

FORMAT, FORMAT_VERSION = "padless-vectors", 1
FOLDER = "vectors"
MOST_DIM = 1 << 20
"""Numbers of a vector."""
LEARN_FROM = (TRAIN, UNLABELLED)
"""The splits that are learned from, as far as a dataset has them. What is measured on is never among them."""
REMAKE = "delete it, and `python -m preprocessing vectors` makes it again"


@dataclass(frozen=True, kw_only=True)
class VectorSettings:
    """What decides vectors, beside the dataset."""

    dim: Annotated[int, Meta(ge=1, le=MOST_DIM)] = 128
    window: Positive = 8
    negative: Count = 10
    epochs: Positive
    seed: int = 0
    splits: list[str] = field(default_factory=lambda: list(LEARN_FROM))

    def key(self, fingerprint: str) -> str:
        """Twelve hex digits that stand for these settings on the dataset with this fingerprint."""
        content = {"format": FORMAT, "version": FORMAT_VERSION, "dataset": fingerprint, **asdict(self)}
        return hashlib.sha256(atomic.canonical_json(content)).hexdigest()[:12]

    def __str__(self) -> str:
        """``128 numbers, window 8, 10 negatives, 10 epochs, seed 0``."""
        return (
            f"{self.dim} numbers, window {self.window}, {self.negative} negatives, {self.epochs} epochs, "
            f"seed {self.seed}"
        )


@dataclass(frozen=True, kw_only=True)
class VectorsInfo:
    """``cbow-….json``."""

    dataset: str
    """Fingerprint of the dataset that they were learned from."""
    settings: VectorSettings
    threads: Positive
    """One: the same seed gives the same bytes. With more, threads overwrite each other's updates as they come."""
    rows: Count
    tokens: Count
    """Tokens of one epoch."""
    words: Count
    """Ids that have a vector."""
    seconds: Annotated[float, Meta(ge=0)]
    versions: dict[str, str]
    made: str
    """When, ISO 8601, UTC."""
    file: str
    sha256: Sha256
    bytes: Count
    vocabulary: str = ""
    """Hash of the vocabulary whose ids they belong to: a dataset with the same one may take them too. Empty: nobody
    wrote it down."""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class KeptVectors:
    """Vectors that are there, and what is known of them."""

    path: Path
    """The array's file."""
    info: VectorsInfo

    def read(self) -> np.ndarray:
        """float32 ``[vocabulary, dim]``. Raises ``DataError`` for bytes that are not those of the index."""
        try:
            data = read_bytes(self.path, self.info.bytes)
        except OSError as error:
            raise DataError(f"{self.path}: not readable ({error.strerror}); {REMAKE}") from None
        vectors = of_npy(data, self.info.settings.dim)
        wrong = None
        if hashlib.sha256(data).hexdigest() != self.info.sha256:
            wrong = f"its sha256 is not the one in {index_of(self.path).name}"
        elif vectors is None:
            wrong = f"holds no vectors of {self.info.settings.dim} numbers"
        elif not np.isfinite(vectors).all():
            wrong = "holds a number that is not finite"
        if wrong or vectors is None:
            raise DataError(f"{self.path}: {wrong}; {REMAKE}")
        return vectors


def of_npy(data: bytes, dim: int) -> np.ndarray | None:
    """float32 ``[rows, dim]`` of a file as ``np.save`` writes it; None for another array, or none.

    The head of such a file is Python's text of a dict. It is never read: it must be the one that such an array has.
    """
    start = 10 + int.from_bytes(data[8:10], "little")
    shape = (max(0, len(data) - start) // (4 * dim), dim)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    if data[:start] != head.getvalue() or len(data) != start + 4 * dim * shape[0]:
        return None
    return np.frombuffer(data, "<f4", offset=start).reshape(shape).copy()


def folder_of(data: str | Path) -> Path:
    """Where the vectors of a dataset lie."""
    return Path(data, FOLDER)


def array_of(folder: Path, fingerprint: str, settings: VectorSettings) -> Path:
    """The file of vectors with these settings."""
    return folder / f"cbow-{settings.dim}-{settings.key(fingerprint)}.npy"


def index_of(array: Path) -> Path:
    """The JSON file beside an array."""
    return array.with_suffix(".json")


def read_kept(array: str | Path) -> KeptVectors | None:
    """What is known of the vectors in this file; None if they are not there. Raises ``DataError`` for a damaged one."""
    path = index_of(Path(array))
    if not path.exists():
        return None
    content = read_json(path, REMAKE)
    head = (content.get("format"), content.get("format_version")) if isinstance(content, dict) else None
    if head != (FORMAT, FORMAT_VERSION):
        raise DataError(f"{path}: not of this version of padless; {REMAKE}")
    info: VectorsInfo = typed(VectorsInfo, content, str(path), REMAKE)
    if info.file != path.with_suffix(".npy").name:
        raise DataError(f"{path}: names {shown(info.file)}, which is not the file beside it; {REMAKE}")
    return KeptVectors(path.with_name(info.file), info)


def find_kept(folder: Path, fingerprint: str, dim: int) -> KeptVectors | None:
    """The newest vectors of ``dim`` numbers for the dataset with this fingerprint; None if there are none.

    Raises ``DataError`` for a damaged index.
    """
    known = [read_kept(path) for path in sorted(folder.glob(f"cbow-{dim}-*.json"))]
    fitting = [one for one in known if one is not None and one.info.dataset == fingerprint]
    return max(fitting, key=lambda one: one.info.made, default=None)


def write_kept(array: Path, vectors: np.ndarray, **facts: Any) -> KeptVectors:
    """Write vectors and, last, their index with these ``facts``; those of a dataset that is no more are removed."""
    with atomic.replacing(array) as temporary:
        with open(temporary, "wb") as file:
            arrays.save(file, np.ascontiguousarray(vectors, np.float32))
        digest, size = atomic.sha256_file(temporary), temporary.stat().st_size
        index_of(array).unlink(missing_ok=True)  # never an index beside the bytes of another array
    info = VectorsInfo(**facts, file=array.name, sha256=digest, bytes=size)
    atomic.write_json(index_of(array), asdict(info))
    remove_stale(array.parent, info.dataset)
    return KeptVectors(array, info)


def remove_stale(folder: Path, fingerprint: str) -> None:
    """Remove vectors of another dataset than that with this fingerprint, and what was left unfinished."""
    for path in folder.iterdir():
        if re.fullmatch(r"cbow-.+|corpus", atomic.final_of(path.name) or ""):
            path.unlink(missing_ok=True)
    for path in folder.glob("cbow-*.json"):
        try:
            kept = read_kept(path)
        except DataError:
            continue
        if kept is not None and kept.info.dataset != fingerprint:
            path.unlink(missing_ok=True)
            kept.path.unlink(missing_ok=True)
