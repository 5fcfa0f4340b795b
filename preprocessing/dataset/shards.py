# SPDX-License-Identifier: Apache-2.0
"""The dataset directory: its schema, how a shard is written and mapped, and the manifest that comes last.

A shard is one Arrow IPC *file* (random access, no compression, so that it can be mapped) of rows padded to one width::

    ids     fixed_size_list<uint16 | int32>[width]   token ids, 0 beyond the row's length
    length  int32                                     1 <= length <= width
    label   int32                                     index into the manifest's labels; -1 in the split unlabelled
    row     int64                                     the row's number in the source

It is cut into record batches of ``block_rows`` rows (the last one shorter). A record batch is the unit that the
trainer's order permutes and the array that its loader gathers from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from preprocessing.base import atomic
from preprocessing.base.errors import DataError

FORMAT = "padless-dataset"
FORMAT_VERSION = 1
MANIFEST = "dataset.json"
VOCABULARY = "vocabulary.arrow"
BLOCK_ROWS = 8192

Source = Callable[[Path, "ShardInfo"], Any]
"""Makes what ``pyarrow.ipc.open_file`` reads of a shard's path: mapped pages unless told otherwise."""


@dataclass(frozen=True)
class ShardInfo:
    """What the manifest says of one shard."""

    path: str
    """Relative to the dataset directory, as in ``train/00000-w0128.arrow``."""
    rows: int
    width: int
    bytes: int
    sha256: str
    lengths: dict[str, int]
    """How many rows have which length: ``{"17": 3}``; enough to plan a run without opening a shard."""
    labels: dict[str, int]
    """How many rows have which label index."""
    tokens: int
    """Sum of the lengths."""
    fold: int | None = None
    """The fold that all its rows are in; None in a dataset without folds, and for rows that are in none."""


@dataclass(frozen=True)
class Manifest:
    """``dataset.json``. Whoever holds one may rely on every file it names being there, whole."""

    labels: list[str]
    """Name of each class; a row's ``label`` is an index into it, or ``NO_LABEL`` in the split ``unlabelled``."""
    splits: dict[str, list[ShardInfo]]
    id_dtype: str
    block_rows: int
    vocabulary_size: int
    vocabulary_hash: str
    text: dict[str, Any]
    """The resolved text pipeline, as ``TextPipeline.to_json`` writes it."""
    text_hash: str
    """Hash over text pipeline and vocabulary (law 1): checkpoints and bundles carry the same."""
    statistics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """sha256 over all that decides what a trainer reads; statistics and provenance are left out."""
        content = self.content()
        del content["statistics"], content["provenance"]
        return hashlib.sha256(atomic.canonical_json(content)).hexdigest()

    def content(self) -> dict[str, Any]:
        """All of it as plain values; a shard says its fold only if it has one."""
        content = asdict(self)
        for shards in content["splits"].values():
            for shard in shards:
                if shard["fold"] is None:
                    del shard["fold"]
        return content

    @property
    def folds(self) -> int:
        """Into how many folds rows of training and validation are cut; 0 where they are not."""
        found = [info.fold for shards in self.splits.values() for info in shards if info.fold is not None]
        return max(found, default=-1) + 1

    def rows(self, split: str) -> int:
        """Number of rows in a split."""
        return sum(shard.rows for shard in self.splits[split])

    def rows_by_width(self, split: str) -> dict[int, int]:
        """Number of rows of a split in shards of each width."""
        widths = sorted({shard.width for shard in self.splits[split]})
        return {width: sum(shard.rows for shard in self.splits[split] if shard.width == width) for width in widths}


def id_dtype(vocabulary_size: int) -> np.dtype:
    """The narrowest supported dtype that holds every id of a vocabulary: uint16 or int32."""
    return np.dtype(np.uint16) if vocabulary_size <= 1 << 16 else np.dtype(np.int32)


def schema(width: int, dtype: np.dtype) -> pa.Schema:
    """The Arrow schema of a shard; no column may hold nulls."""
    ids = pa.list_(pa.field("item", pa.from_numpy_dtype(dtype), nullable=False), width)
    return pa.schema(
        [
            pa.field("ids", ids, nullable=False),
            pa.field("length", pa.int32(), nullable=False),
            pa.field("label", pa.int32(), nullable=False),
            pa.field("row", pa.int64(), nullable=False),
        ]
    )


def write_shard(
    root: str | Path,
    path: str,
    ids: np.ndarray,
    length: np.ndarray,
    label: np.ndarray,
    row: np.ndarray,
    *,
    block_rows: int = BLOCK_ROWS,
) -> ShardInfo:
    """Write one shard under its final name, whole or not at all.

    ``ids`` is ``[rows, width]`` of uint16 or int32, zero beyond each row's ``length``; the other three are ``[rows]``.
    """
    rows, width = ids.shape
    assert rows == len(length) == len(label) == len(row)
    assert rows > 0
    layout = schema(width, ids.dtype)
    columns = [np.ascontiguousarray(column, kind) for column, kind in ((length, "i4"), (label, "i4"), (row, "i8"))]
    target = Path(root, path)
    with atomic.replacing(target) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, layout) as writer:
            for start in range(0, rows, block_rows):
                piece = slice(start, start + block_rows)
                values = pa.array(np.ascontiguousarray(ids[piece]).reshape(-1))
                arrays = [pa.FixedSizeListArray.from_arrays(values, type=layout.field("ids").type)]
                arrays += [pa.array(column[piece]) for column in columns]
                writer.write_batch(pa.record_batch(arrays, schema=layout))
        size, digest = temporary.stat().st_size, atomic.sha256_file(temporary)
    return ShardInfo(
        path, rows, width, size, digest, histogram(columns[0]), histogram(columns[1]), int(columns[0].sum())
    )


def histogram(values: np.ndarray) -> dict[str, int]:
    """``{"value": count}`` of a small-integer column, in ascending order of value."""
    distinct, counts = np.unique(values, return_counts=True)
    return {str(value): int(count) for value, count in zip(distinct, counts, strict=True)}


@dataclass(frozen=True)
class Block:
    """One record batch of a shard as numpy arrays that point into the mapped file: nothing is copied."""

    ids: np.ndarray
    """``[rows, width]``, uint16 or int32."""
    length: np.ndarray
    label: np.ndarray
    row: np.ndarray


def mapped(path: Path, _: ShardInfo) -> Any:
    """A shard's bytes as pages of the file."""
    return pa.memory_map(str(path))


class Shard:
    """A shard, mapped. Opening reads the footer only; pages come in when rows are touched."""

    def __init__(self, root: str | Path, info: ShardInfo, source: Source = mapped) -> None:
        """Map ``root/info.path``; raises ``DataError`` if it is missing, cut short or not what ``info`` says."""
        self.info = info
        self.path = Path(root, info.path)
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            raise DataError(f"{self.path}: the manifest names this shard, but it is missing; {REBUILD}") from None
        if size != info.bytes:
            raise DataError(
                f"{self.path}: {size} bytes, the manifest says {info.bytes}: truncated or changed; {REBUILD}"
            )
        try:
            reader = pa.ipc.open_file(source(self.path, info))
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{self.path}: not a readable Arrow file ({error}); {REBUILD}") from None
        self.blocks = [self._block(batch) for batch in batches]
        rows = sum(len(block.row) for block in self.blocks)
        if rows != info.rows:
            raise DataError(f"{self.path}: {rows} rows, the manifest says {info.rows}; {REBUILD}")

    def _block(self, batch: pa.RecordBatch) -> Block:
        width = self.info.width
        kinds = [schema(width, np.dtype(kind)) for kind in (np.uint16, np.int32)]
        if batch.schema not in kinds:
            raise DataError(f"{self.path}: its columns are not those of a shard of width {width}; {REBUILD}")
        ids, *columns = batch.columns
        return Block(ids.flatten().to_numpy().reshape(-1, width), *(column.to_numpy() for column in columns))


REBUILD = "build the dataset again with `python -m preprocessing run`"


def write_manifest(root: str | Path, manifest: Manifest) -> None:
    """Write ``dataset.json``: the last file of a dataset, so its presence means that the rest is there.

    The vocabulary must be there. ``sha256`` vouches for all of the manifest, statistics and provenance included.
    """
    vocabulary = atomic.sha256_file(Path(root, VOCABULARY))
    content = {**manifest.content(), "fingerprint": manifest.fingerprint, "vocabulary_sha256": vocabulary}
    digest = hashlib.sha256(atomic.canonical_json(content)).hexdigest()
    atomic.write_json(Path(root, MANIFEST), {**content, "sha256": digest})


def read_manifest(root: str | Path) -> Manifest:
    """Read and check ``dataset.json``. Raises ``DataError`` for a missing, foreign, damaged or newer one."""
    path = Path(root, MANIFEST)
    try:
        return parse_manifest(path.read_bytes(), str(path))
    except FileNotFoundError:
        what = f"{root} is not a dataset directory, or one whose preprocessing has not finished"
        raise DataError(f"{path}: missing: {what}; {REBUILD}") from None
    except OSError as error:
        raise DataError(f"{path}: not readable ({error}); {REBUILD}") from None


def parse_manifest(data: bytes, path: str) -> Manifest:
    """Check and take apart the bytes of a ``dataset.json``; errors call it ``path``. Raises ``DataError``."""
    try:
        content = json.loads(data)
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error}); {REBUILD}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path}: not a padless dataset manifest; name a directory that preprocessing has written")
    if (found := content.get("format_version")) != FORMAT_VERSION:
        raise DataError(f"{path}: format version {found}, this padless reads version {FORMAT_VERSION}; {REBUILD}")
    digest = content.pop("sha256", None)
    if hashlib.sha256(atomic.canonical_json(content)).hexdigest() != digest:
        raise DataError(f"{path}: its content does not match its sha256: edited or damaged; {REBUILD}")
    stored = content.pop("fingerprint", None)
    content.pop("vocabulary_sha256", None)
    try:
        splits = {name: [ShardInfo(**shard) for shard in shards] for name, shards in content.pop("splits").items()}
        manifest = Manifest(splits=splits, **content)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({error}); {REBUILD}") from None
    if manifest.fingerprint != stored:
        raise DataError(f"{path}: its content does not match its fingerprint: edited or damaged; {REBUILD}")
    return manifest


def open_split(root: str | Path, manifest: Manifest, split: str, source: Source = mapped) -> list[Shard]:
    """Map every shard of a split, in manifest order."""
    if not manifest.splits.get(split):
        names = ", ".join(sorted(name for name, shards in manifest.splits.items() if shards))
        raise DataError(f"{root}: has no split {split!r}; it has {names}")
    return [Shard(root, info, source) for info in manifest.splits[split]]


class Split:
    """All blocks of one split side by side, with a global row index that runs through them in manifest order."""

    def __init__(self, root: str | Path, manifest: Manifest, name: str, source: Source = mapped) -> None:
        """Map the split's shards; raises ``DataError`` as ``open_split`` and ``Shard`` do."""
        self.name = name
        self.shards = open_split(root, manifest, name, source)
        self.blocks = [block for shard in self.shards for block in shard.blocks]
        self.block_starts = np.cumsum([0, *(len(block.row) for block in self.blocks)])
        """int64 ``[blocks + 1]``: global row ``r`` lies in the block with ``starts[b] <= r < starts[b + 1]``."""

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.block_starts[-1])

    @cached_property
    def block_widths(self) -> np.ndarray:
        """int64 ``[blocks]``: the width of the shard that each block lies in."""
        return np.array([block.ids.shape[1] for block in self.blocks], np.int64)

    @cached_property
    def max_width(self) -> int:
        """Width of the widest shard."""
        return max(shard.info.width for shard in self.shards)
