# SPDX-License-Identifier: Apache-2.0
"""The dataset directory: the schema of shards, writing and mapping them, and the manifest, which is written last.

A shard is one Arrow IPC *file* (random access, no compression, so that it can be mapped) of rows padded to one width::

    ids     fixed_size_list<uint16 | int32>[width]   token ids, 0 beyond the row's length
    length  int32                                     1 <= length <= width
    label   int32                                     index into the manifest's labels, or into its label sets if a text
                                                      may have several labels; -1 in the split unlabelled
    row     int64                                     the row's number in the source

It consists of record batches of ``block_rows`` rows (the last one shorter). The trainer permutes record batches and
gathers rows from them.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
import pyarrow as pa
from msgspec import Meta

from padless.core import arrays, atomic
from padless.core.errors import DataError
from padless.core.schema import AtLeast0, AtLeast1, Sha256, Share, convert_json
from padless.core.split_names import NO_LABEL, UNLABELLED
from padless.core.untrusted import check_regular, one_line, parse_json, read_bytes
from preprocessing.dataset.index import REBUILD, Index, Lazy, ShardInfo, SplitName, Totals, non_null_schema, shard_path
from preprocessing.labels import MAX_LABEL_SETS, LabelType, fits_label_type, label_set_members
from preprocessing.text.encoder import text_hash
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary

FORMAT = "padless-dataset"
FORMAT_VERSION = 1
MANIFEST = "dataset.json"
VOCABULARY = "vocabulary.arrow"
MAX_VOCABULARY_SIZE = (1 << 31) - 1
BLOCK_ROWS = 8192
MAX_MANIFEST_BYTES = 1 << 28


@dataclass(frozen=True)
class Manifest:
    """``dataset.json``. It is written last, so every file that it names is complete."""

    labels: Annotated[list[str], Meta(min_length=2)]
    """Names of the classes; a row's ``label`` is an index into them, or into ``label_sets`` if there are any, or
    ``NO_LABEL`` in the split ``unlabelled``."""
    splits: dict[SplitName, list[Totals]]
    index: Sha256
    """sha256 of ``index.arrow``, which has a line for each shard."""
    id_dtype: Annotated[str, Meta(pattern=r"^(uint16|int32)\Z")]
    block_rows: AtLeast1
    vocabulary_size: Annotated[int, Meta(ge=3, le=MAX_VOCABULARY_SIZE)]
    vocabulary_hash: Sha256
    text: dict[str, Any]
    """The resolved text pipeline, as ``TextPipeline.to_json`` writes it."""
    text_hash: Sha256
    """Hash of text pipeline and vocabulary (law 1), also in checkpoints and bundles."""
    statistics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    label_type: LabelType = "text"
    """The type of the source's label column, and of predictions; ``labels`` are its values as texts."""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    label_sets: Annotated[list[list[AtLeast0]], Meta(max_length=MAX_LABEL_SETS)] | None = None
    """With several labels to a text: the classes of each set of labels that occurs, ascending."""

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values; without ``label_sets`` where a text has one label."""
        content = asdict(self)
        if self.label_sets is None:
            del content["label_sets"]
        return content

    @property
    def has_label_sets(self) -> bool:
        """Whether a text may have several labels, or none."""
        return self.label_sets is not None

    @property
    def members(self) -> np.ndarray | None:
        """Bool ``[sets, classes]``: the classes of each set of labels; None if a text has one label."""
        return None if self.label_sets is None else label_set_members(self.label_sets, len(self.labels))

    @property
    def num_labels(self) -> int:
        """Number of labels that a row may have: of classes, or of sets of them."""
        return len(self.labels if self.label_sets is None else self.label_sets)

    @property
    def fingerprint(self) -> str:
        """sha256 of all that a trainer reads; statistics, provenance and the type of labels are left out."""
        content = self.to_json()
        for name in ("statistics", "provenance", "label_type"):
            del content[name]
        return hashlib.sha256(atomic.canonical_json(content)).hexdigest()

    @property
    def folds(self) -> int:
        """Number of folds of the training and validation rows; 0: none."""
        folds = [part.fold for parts in self.splits.values() for part in parts if part.fold is not None]
        return max(folds, default=-1) + 1

    def shards(self, root: str | Path, splits: Iterable[str] | None = None) -> Index:
        """The shards of some splits of this dataset, or view of it, in the directory ``root``; of all for None.

        Raises ``DataError`` as ``Index`` does.
        """
        names = self.splits if splits is None else splits
        parts = [part for name in names for part in self.splits[name]]
        return Index(root, self.index, parts)

    @property
    def names(self) -> list[str]:
        """The splits that have rows."""
        return [name for name, parts in self.splits.items() if parts]

    def rows(self, split: str) -> int:
        """Number of rows in a split; 0 if there is none of this name."""
        return sum(part.rows for part in self.splits.get(split, ()))

    def tokens(self, split: str) -> int:
        """Number of tokens in a split; 0 if there is none of this name."""
        return sum(part.tokens for part in self.splits.get(split, ()))

    def rows_by(self, histogram: str, split: str) -> dict[int, int]:
        """Rows of a split by ``widths`` of shards, ``lengths`` or ``labels``, ascending; empty without the split."""
        counts = Counter[int]()
        for part in self.splits.get(split, ()):
            counts.update({int(value): rows for value, rows in getattr(part, histogram).items()})
        return dict(sorted(counts.items()))

    def class_rows(self, split: str) -> list[int]:
        """Number of rows of a split that have each class."""
        rows_by_label, members = self.rows_by("labels", split), self.members
        rows = np.array([rows_by_label.get(label, 0) for label in range(self.num_labels)])
        counts: list[int] = (rows if members is None else rows @ members).tolist()
        return counts

    def summary(self) -> str:
        """Rows per split."""
        rows = ", ".join(f"{name} {self.rows(name):,}" for name in self.names)
        return f"{rows} rows" + (f" in {self.folds} folds" if self.folds else "")


class SplitStatistics(TypedDict, total=False):
    """``statistics.splits`` of one split: the keys that reports read."""

    unknown_rate: Share


class SourceFile(TypedDict):
    """``provenance.sources``: a file of the corpus, with the keys for reading its texts again."""

    name: str
    rows: AtLeast0
    first_row: AtLeast0
    bytes: AtLeast0
    fingerprint: dict[str, Any]


class DescriptiveKeys(TypedDict, total=False):
    """Descriptive keys, not part of the fingerprint; other keys are allowed."""

    splits: dict[str, SplitStatistics]
    sources: list[SourceFile]
    config: dict[str, Any]


def id_dtype(vocabulary_size: int) -> np.dtype:
    """The narrowest supported dtype for the ids of a vocabulary: uint16 or int32."""
    return np.dtype(np.uint16) if vocabulary_size <= 1 << 16 else np.dtype(np.int32)


def schema(width: int, dtype: np.dtype) -> pa.Schema:
    """The Arrow schema of a shard; no column may hold nulls."""
    ids = pa.list_(pa.field("item", pa.from_numpy_dtype(dtype), nullable=False), width)
    return non_null_schema({"ids": ids, "length": pa.int32(), "label": pa.int32(), "row": pa.int64()})


def write_shard(
    root: str | Path,
    split: str,
    number: int,
    content: Block,
    *,
    fold: int | None = None,
    block_rows: int = BLOCK_ROWS,
) -> ShardInfo:
    """Write shard ``number`` of a split, or of its ``fold``, atomically; ``write_index`` syncs its name to the disk.

    The ids in ``content`` are zero beyond each row's length. Its record batches have ``block_rows`` rows.
    """
    num_rows, width = content.ids.shape
    assert num_rows > 0
    layout = schema(width, content.ids.dtype)
    values = pa.array(np.ascontiguousarray(content.ids).reshape(-1))
    lists = pa.FixedSizeListArray.from_arrays(values, type=layout.field("ids").type)
    columns = {"ids": lists, "length": content.length, "label": content.label, "row": content.row}
    path = Path(root, shard_path(split, number, fold, width))
    with atomic.replacing(path, lasting=False) as temporary:
        starts = list[int]()
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, layout) as writer:
            for batch in pa.table(columns, schema=layout).to_batches(block_rows):
                writer.write_batch(batch)
                starts += [sink.tell() - pa.ipc.get_record_batch_size(batch)] * (not starts) + [sink.tell()]
        atomic.fsync(temporary)
        with arrays.map_file(temporary) as file:
            data = memoryview(file.read_buffer())
        parts = (slice(0, None), *map(slice, starts, starts[1:]))
        digest, *hashes = (hashlib.sha256(data[part]).hexdigest() for part in parts)
    line = number, width, num_rows, len(data), digest, starts, hashes
    return ShardInfo(split, *line, fold, histogram(content.length), histogram(content.label))


def histogram(values: np.ndarray) -> dict[str, int]:
    """``{"value": count}`` of a column of small integers, ascending by value."""
    distinct, counts = np.unique(values, return_counts=True)
    return {str(value): int(count) for value, count in zip(distinct, counts, strict=True)}


@dataclass(frozen=True)
class Block:
    """The rows of a shard, or one of its record batches as numpy views of the mapped file."""

    ids: np.ndarray
    """``[rows, width]``, uint16 or int32."""
    length: np.ndarray
    label: np.ndarray
    row: np.ndarray

    def is_valid(self, vocabulary_size: int, labels: range | None) -> bool:
        """Whether lengths, labels and ids are in range; reads the whole block. ``labels``: None if they are ignored, as
        in pretraining.
        """
        return bool(
            self.length.min() >= 1
            and self.length.max() <= self.ids.shape[1]
            and (labels is None or {self.label.min(), self.label.max()} <= {*labels})
            and self.ids.max() < vocabulary_size
            and (self.ids.dtype.kind == "u" or self.ids.min() >= 0)
        )


class Shard:
    """A memory-mapped shard. Opening reads only the positions of its record batches."""

    def __init__(
        self, path: str | Path, info: ShardInfo, id_dtype: str, block_rows: int, *, is_mapped: bool = True
    ) -> None:
        """Map a file; raises ``DataError`` if it is missing, truncated or does not match ``info``.

        ``id_dtype`` and ``block_rows`` are the manifest's. A shard that is not mapped is read into memory.
        """
        self.info = info
        self.path = Path(path)
        check_size(self.path, info.bytes)
        try:
            with arrays.map_file(self.path) if is_mapped else pa.OSFile(str(self.path)) as file:
                buffer = file.read_buffer()
            layout, batches = arrays.record_batches(pa.BufferReader(buffer))
            num_full, last_rows = divmod(info.rows, block_rows)
            sizes = [block_rows] * num_full + [last_rows] * (last_rows > 0)
            expected = sizes, schema(info.width, np.dtype(id_dtype))
            if ([batch.num_rows for batch in batches], layout) != expected:
                raise ValueError(f"it does not hold {info.rows} rows of {info.width} ids")
            if len(info.starts) != len(batches) + 1 or len(info.hashes) != len(batches):
                raise ValueError(f"the index does not name its {len(batches)} record batches")
            self.blocks, self.bytes = [self._block(batch) for batch in batches], memoryview(buffer)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{self.path}: not the shard of the manifest ({one_line(error)}); {REBUILD}") from None

    def check_hash(self, number: int) -> None:
        """Raise ``DataError`` if the bytes of a block are not those of its hash in the index."""
        start, stop = self.info.starts[number : number + 2]
        if hashlib.sha256(self.bytes[start:stop]).hexdigest() != self.info.hashes[number]:
            raise DataError(f"{self.path}: its sha256 is not the manifest's: bytes were changed; {REBUILD}")

    def _block(self, batch: pa.RecordBatch) -> Block:
        """Raises ``ArrowInvalid`` for nulls."""
        ids, *columns = batch.columns
        flat = ids.values.slice(ids.offset * self.info.width, len(ids) * self.info.width)
        matrix = flat.to_numpy().reshape(-1, self.info.width)
        return Block(matrix, *(column.to_numpy() for column in columns))


def check_size(path: str | Path, size: int) -> int:
    """A number that changes if a shard's file is modified or replaced.

    Raises ``DataError`` for a file that is missing, not a regular file, or of another size.
    """
    try:
        status = os.stat(path)
        check_regular(path, status.st_mode)
    except OSError as error:
        raise DataError(f"{path}: the manifest names this shard ({error.strerror}); {REBUILD}") from None
    if status.st_size != size:
        raise DataError(f"{path}: {status.st_size} bytes, the manifest says {size}: truncated or changed; {REBUILD}")
    return hash((status.st_ino, status.st_size, status.st_mtime_ns))


def write_manifest(root: str | Path, manifest: Manifest) -> None:
    """Write ``dataset.json``, the last file of a dataset: its presence means that the dataset is complete.

    The vocabulary must exist, and the index. ``sha256`` covers the whole manifest, with statistics and provenance.
    """
    vocabulary = atomic.sha256_file(Path(root, VOCABULARY))
    content = {**manifest.to_json(), "fingerprint": manifest.fingerprint, "vocabulary_sha256": vocabulary}
    digest = hashlib.sha256(atomic.canonical_json(content)).hexdigest()
    atomic.write_json(Path(root, MANIFEST), {**content, "sha256": digest})


def read_manifest(root: str | Path) -> Manifest:
    """Read and check ``dataset.json``. Raises ``DataError`` for a missing, damaged or newer one, or another format."""
    path = Path(root, MANIFEST)
    try:
        return parse_manifest(read_bytes(path, MAX_MANIFEST_BYTES), str(path))
    except (FileNotFoundError, NotADirectoryError):
        folder = Path(root)
        reason = f"{root} is not a dataset directory, or one whose preprocessing has not finished; {REBUILD}"
        if not folder.exists():
            hint = "" if folder.suffix else f"; `padless prepare FILE -o {root}` makes it"
            reason = f"there is no folder {root}{hint}"
        elif folder.is_file():
            reason = f"{root} is a file, no dataset; first: `padless prepare {root} -o data/{folder.stem}`"
        raise DataError(f"{path}: missing: {reason}") from None
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); {REBUILD}") from None


def parse_manifest(data: bytes, path: str) -> Manifest:
    """Parse and check the bytes of a ``dataset.json``; errors name ``path``. Raises ``DataError``."""
    try:
        content = parse_json(data)
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error}); {REBUILD}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path}: not a padless dataset manifest; name a directory that preprocessing has written")
    if content.get("format_version") != FORMAT_VERSION:
        raise DataError(f"{path}: not of format version {FORMAT_VERSION}, which this padless reads; {REBUILD}")
    digest = content.pop("sha256", None)
    if hashlib.sha256(atomic.canonical_json(content)).hexdigest() != digest:
        raise DataError(f"{path}: its content does not match its sha256: edited or damaged; {REBUILD}")
    manifest: Manifest = convert_json(Manifest, content, path, REBUILD)
    for description in (manifest.statistics, manifest.provenance):
        convert_json(DescriptiveKeys, description, path, REBUILD)
    parts = [part for name in manifest.splits for part in manifest.splits[name]]
    histograms = [(part.rows, rows_by) for part in parts for rows_by in (part.widths, part.lengths, part.labels)]
    is_consistent = all(sum(rows_by.values()) == rows for rows, rows_by in histograms)
    is_distinct = len({*manifest.labels}) == len(manifest.labels)
    is_distinct &= all(number < len(manifest.labels) for classes in manifest.label_sets or () for number in classes)
    if not (is_consistent and is_distinct and fits_label_type(manifest.labels, manifest.label_type)):
        raise DataError(f"{path}: its totals or labels contradict each other; {REBUILD}")
    return manifest


def check_vocabulary(root: str | Path, manifest: Manifest) -> None:
    """Raise ``DataError`` if vocabulary or text pipeline are not those of the manifest's hashes."""
    path, vocabulary = Path(root, MANIFEST), Vocabulary.read(Path(root, VOCABULARY))
    expected = manifest.vocabulary_size, manifest.vocabulary_hash, manifest.text_hash
    digest = text_hash(TextPipeline.from_json(manifest.text, path), vocabulary.hash)
    if (len(vocabulary), vocabulary.hash, digest) != expected:
        raise DataError(f"{path}: its text does not match its text_hash, or {VOCABULARY} is another; {REBUILD}")


class Split:
    """All blocks of one split, with a global row index over them in the order of the index.

    A shard is mapped when one of its blocks is read; the last ``max_open_shards`` stay mapped, and those that still
    have a view. Hash and values of a block are checked when it is first read, by whichever command.
    """

    is_remote, is_mapped, max_open_shards = False, True, 1024
    """Linux allows a process 65,530 maps."""

    def __init__(self, root: str | Path, manifest: Manifest, name: str) -> None:
        """Check the sizes of the split's files; raises ``DataError`` if there are none or one has another size."""
        if not manifest.splits.get(name):
            names = ", ".join(sorted(manifest.names))
            raise DataError(f"{root}: has no split {name!r}; it has {names}; name another, or build it with one")
        self.root, self.name, self.manifest = root, name, manifest
        self.index = manifest.shards(root, [name])
        self._states = self.states()
        shard_rows = self.index.rows.astype(np.int64)
        num_blocks = -(-shard_rows // manifest.block_rows)
        self._first_blocks = np.concatenate([[0], np.cumsum(num_blocks)])
        """int64 ``[shards + 1]``: the first block of each shard."""
        block_rows = np.full(self._first_blocks[-1], manifest.block_rows)
        block_rows[self._first_blocks[1:] - 1] = shard_rows - (num_blocks - 1) * manifest.block_rows
        self.block_starts = np.concatenate([[0], np.cumsum(block_rows)])
        """int64 ``[blocks + 1]``: global row ``r`` lies in the block with ``starts[b] <= r < starts[b + 1]``."""
        self.block_widths = np.repeat(self.index.width.astype(np.int64), num_blocks)
        """int64 ``[blocks]``: the width of each block's shard."""
        self._is_checked = bytearray(len(block_rows))
        self.shards: Sequence[Shard] = Lazy(len(self.index), lru_cache(self.max_open_shards)(self._map_shard))
        self.blocks: Sequence[Block] = Lazy(len(block_rows), self._read_block)

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.block_starts[-1])

    def read_unmapped(self) -> Split:
        """Read shards into memory from now on, one at a time: one that is cut raises ``DataError``, where the system
        would end a process that has mapped it (SIGBUS).
        """
        self.is_mapped = False
        self.shards = Lazy(len(self.index), lru_cache(1)(self._map_shard))
        return self

    def states(self) -> np.ndarray:
        """int64 ``[shards]``: numbers that change if a file is modified or replaced. Raises ``DataError``."""
        sizes = zip(self.index.paths(), self.index.bytes.tolist(), strict=True)
        return np.fromiter((check_size(f"{self.root}/{path}", size) for path, size in sizes), np.int64)

    def check_unchanged(self) -> None:
        """Raise ``DataError`` if a file has changed since this split was opened."""
        changed = np.flatnonzero(self.states() != self._states)
        if len(changed):
            path = Path(self.root, self.index[changed[0]].path)
            raise DataError(f"{path}: this shard was removed or replaced while the run used it; put it back")

    def _map_shard(self, line: int) -> Shard:
        info, shape = self.index[line], (self.manifest.id_dtype, self.manifest.block_rows)
        return Shard(Path(self.root, info.path), info, *shape, is_mapped=self.is_mapped)

    def _read_block(self, number: int) -> Block:
        line = int(self._first_blocks.searchsorted(number, side="right")) - 1
        shard, number_in_shard = self.shards[line], number - int(self._first_blocks[line])
        if not self.is_remote:  # copies are removed, but never changed
            check_size(shard.path, shard.info.bytes)  # reading mapped bytes beyond the end is SIGBUS
        block = shard.blocks[number_in_shard]
        if not self._is_checked[number]:
            shard.check_hash(number_in_shard)
            part = self.index.parts[self.index.part_of[line]]
            labels = range(self.manifest.num_labels) if part.split != UNLABELLED else range(NO_LABEL, NO_LABEL + 1)
            if not block.is_valid(self.manifest.vocabulary_size, labels if part.labels else None):
                raise DataError(f"{shard.path}: it holds a length, a label or an id out of range; {REBUILD}")
            self._is_checked[number] = True
        return block

    def column(self, name: str) -> np.ndarray:
        """int64 ``[rows]``: the length, label or row of all rows, in the order of the blocks."""
        return np.concatenate([getattr(block, name).astype(np.int64) for block in self.blocks])

    @property
    def max_width(self) -> int:
        """Width of the widest shard."""
        return int(self.block_widths.max())
