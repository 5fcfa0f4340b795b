# SPDX-License-Identifier: Apache-2.0
"""The dataset directory: the schema of shards, writing and mapping them, and the manifest, which is written last.

A shard is one Arrow IPC *file* (random access, no compression, so that it can be mapped) of rows padded to one width::

    ids     fixed_size_list<uint16 | int32>[width]   token ids, 0 beyond the row's length
    length  int32                                     1 <= length <= width
    label   int32                                     index into the manifest's labels; -1 in the split unlabelled
    row     int64                                     the row's number in the source

It consists of record batches of ``block_rows`` rows (the last one shorter). The trainer permutes record batches and
gathers rows from them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
import pyarrow as pa
from msgspec import Meta

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import DataError
from preprocessing.base.help_page import beside
from preprocessing.base.schema import Count, Positive, Sha256, Share, typed
from preprocessing.base.split_names import ALL_SPLITS, NO_LABEL, UNLABELLED
from preprocessing.base.untrusted import check_regular, confined, one_line, parse_json, read_bytes, shown
from preprocessing.labels import LabelType, fits
from preprocessing.text.spec import MOST_TOKENS

FORMAT = "padless-dataset"
FORMAT_VERSION = 1
MANIFEST = "dataset.json"
VOCABULARY = "vocabulary.arrow"
NEAR_DUPLICATES = "near_duplicates.csv"
"""Which rows were left out by ``quality.near_duplicates``."""
MOST_WIDTH, MOST_WORDS = MOST_TOKENS, (1 << 31) - 1
"""Most ids of a row, and of a vocabulary."""
ROW_BYTES = 16
"""Bytes of a row without its ids: length, label and number."""
BLOCK_ROWS = 8192
HASHES = ("fingerprint", "vocabulary_sha256")
"""Keys of ``dataset.json`` that are not fields of ``Manifest``."""
MOST_MANIFEST = 1 << 28
"""Most bytes of a manifest; a shard takes up to a few thousand."""

REBUILD = "build the dataset again with `padless prepare`"


@dataclass(frozen=True)
class ShardInfo:
    """The manifest's entry for one shard."""

    path: str
    """Relative to the dataset directory, as in ``train/00000-w0128.arrow``."""
    rows: Positive
    width: Annotated[int, Meta(ge=1, le=MOST_WIDTH)]
    bytes: Positive
    sha256: Sha256
    lengths: dict[Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,8}\Z")], Positive]
    """Length -> rows, as in ``{"17": 3}``; enough to plan a run without opening a shard."""
    labels: dict[Annotated[str, Meta(pattern=r"^(-1|0|[1-9][0-9]{0,8})\Z")], Positive]
    """Label index -> rows."""
    tokens: Positive
    """Sum of the lengths."""
    fold: Count | None = None
    """The fold of all its rows; None for rows without a fold."""


@dataclass(frozen=True)
class Manifest:
    """``dataset.json``. It is written last, so every file that it names is complete."""

    labels: Annotated[list[str], Meta(min_length=2)]
    """Names of the classes; a row's ``label`` is an index into them, or ``NO_LABEL`` in the split ``unlabelled``."""
    splits: dict[str, list[ShardInfo]]
    id_dtype: str
    block_rows: Positive
    vocabulary_size: Annotated[int, Meta(ge=3, le=MOST_WORDS)]
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

    @property
    def fingerprint(self) -> str:
        """sha256 of all that a trainer reads; statistics, provenance and the type of labels are left out."""
        content = self.content()
        for name in ("statistics", "provenance", "label_type"):
            content.pop(name, None)
        return hashlib.sha256(atomic.canonical_json(content)).hexdigest()

    def content(self) -> dict[str, Any]:
        """Plain values, without ``fold`` of a shard that has none and without ``label_type`` if it is text."""
        content = asdict(self)
        if self.label_type == "text":
            del content["label_type"]
        for shard in (shard for shards in content["splits"].values() for shard in shards if shard["fold"] is None):
            del shard["fold"]
        return content

    @property
    def folds(self) -> int:
        """Number of folds of the training and validation rows; 0: none."""
        found = [info.fold for shards in self.splits.values() for info in shards if info.fold is not None]
        return max(found, default=-1) + 1

    def rows(self, split: str) -> int:
        """Number of rows in a split."""
        return sum(shard.rows for shard in self.splits[split])

    def rows_by_width(self, split: str) -> dict[int, int]:
        """Number of rows of a split in shards of each width."""
        widths = Counter[int]()
        for shard in self.splits[split]:
            widths[shard.width] += shard.rows
        return dict(sorted(widths.items()))


class LengthHistogram(TypedDict):
    """Rows by length before truncation, between edges that ascend."""

    edges: list[Count]
    rows: list[Count]


class OfSplit(TypedDict, total=False):
    """``statistics.splits`` of one split: the keys that reports read."""

    truncated: Count
    empty: Count
    unknown_rate: Share
    length_histogram: LengthHistogram


class SourceFile(TypedDict):
    """``provenance.sources``: a file of the corpus, with the keys for reading its texts again."""

    name: str
    rows: Count
    first_row: Count
    bytes: Count
    fingerprint: dict[str, Any]


class Described(TypedDict, total=False):
    """Descriptive keys, not part of the fingerprint; other keys are allowed."""

    splits: dict[str, OfSplit]
    dropped: dict[str, Count]
    sources: list[SourceFile]
    config: dict[str, Any]
    versions: dict[str, str]


class Text(TypedDict):
    """``text``: a resolved text pipeline."""

    spec: dict[str, Any]
    stop_words: list[str]
    resources: dict[str, str]


def contradictions(manifest: Manifest, id_dtype: str) -> Iterator[str]:
    """Contradictions in a manifest, as clauses; ``id_dtype`` is the right one for its vocabulary size."""
    if manifest.id_dtype != id_dtype:
        yield f"id_dtype is {shown(manifest.id_dtype)}, that of {manifest.vocabulary_size} ids is {id_dtype}"
    if len(set(manifest.labels)) < len(manifest.labels):
        yield f"labels has {shown(max(manifest.labels, key=manifest.labels.count))} twice"
    if not fits(manifest.labels, manifest.label_type):
        yield f"label_type is {manifest.label_type}, and labels are other values"
    shards = sum(map(len, manifest.splits.values()))
    for split, infos in manifest.splits.items():
        if split not in ALL_SPLITS:
            yield f"splits has {shown(split)}, which is none of {', '.join(ALL_SPLITS)}"
        for number, info in enumerate(infos):
            at = f"splits.{split}[{number}]"
            for wrong in of_shard(info, np.dtype(id_dtype).itemsize, len(manifest.labels), split):
                yield f"{at}.{wrong}"
            if info.fold is not None and info.fold >= shards:
                yield f"{at}.fold is {info.fold}, but there are only {shards} shards"


def of_shard(info: ShardInfo, itemsize: int, labels: int, split: str) -> Iterator[str]:
    """Contradictions in a shard's entry, with the name of the key."""
    try:
        confined("", info.path)
    except ValueError as error:
        yield f"path {error}"
    if info.rows * (info.width * itemsize + ROW_BYTES) > info.bytes:
        yield f"rows is {info.rows} of width {info.width}, more than {info.bytes} bytes hold"
    lengths, known = ({int(key): rows for key, rows in of.items()} for of in (info.lengths, info.labels))
    if sum(lengths.values()) != info.rows or sum(length * rows for length, rows in lengths.items()) != info.tokens:
        yield f"lengths do not add up to {info.rows} rows with {info.tokens} tokens"
    elif max(lengths) > info.width:
        yield f"lengths has {max(lengths)}, beyond the width of {info.width}"
    low, high = labels_of(split, labels)
    if sum(known.values()) != info.rows:
        yield f"labels do not add up to {info.rows} rows"
    elif min(known) < low or max(known) > high:
        yield f"labels are not numbers of rows by label, from {low} to {high}"


def labels_of(split: str, labels: int) -> tuple[int, int]:
    """The lowest and the highest label of a row of a split, for so many classes."""
    return (NO_LABEL, NO_LABEL) if split == UNLABELLED else (0, labels - 1)


def id_dtype(vocabulary_size: int) -> np.dtype:
    """The narrowest supported dtype for the ids of a vocabulary: uint16 or int32."""
    return np.dtype(np.uint16) if vocabulary_size <= 1 << 16 else np.dtype(np.int32)


def schema(width: int, dtype: np.dtype) -> pa.Schema:
    """The Arrow schema of a shard; no column may hold nulls."""
    ids = pa.list_(pa.field("item", pa.from_numpy_dtype(dtype), nullable=False), width)
    columns = {"ids": ids, "length": pa.int32(), "label": pa.int32(), "row": pa.int64()}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


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
    """Write one shard atomically.

    ``ids`` is ``[rows, width]`` of uint16 or int32, zero beyond each row's ``length``; the other three are ``[rows]``.
    """
    rows, width = ids.shape
    assert rows == len(length) == len(label) == len(row)
    assert rows > 0
    layout = schema(width, ids.dtype)
    columns = [np.ascontiguousarray(column, kind) for column, kind in ((length, "i4"), (label, "i4"), (row, "i8"))]
    values = pa.array(np.ascontiguousarray(ids).reshape(-1))
    every = [pa.FixedSizeListArray.from_arrays(values, type=layout.field("ids").type), *map(pa.array, columns)]
    with atomic.replacing(Path(root, path)) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, layout) as writer:
            writer.write_table(pa.table(every, schema=layout), block_rows)
        size, digest = temporary.stat().st_size, atomic.sha256_file(temporary)
    counted = histogram(columns[0]), histogram(columns[1])
    return ShardInfo(path, rows, width, size, digest, *counted, int(columns[0].sum()))


def histogram(values: np.ndarray) -> dict[str, int]:
    """``{"value": count}`` of a column of small integers, ascending by value."""
    distinct, counts = np.unique(values, return_counts=True)
    return {str(value): int(count) for value, count in zip(distinct, counts, strict=True)}


@dataclass(frozen=True)
class Block:
    """One record batch of a shard as numpy views of the mapped file."""

    ids: np.ndarray
    """``[rows, width]``, uint16 or int32."""
    length: np.ndarray
    label: np.ndarray
    row: np.ndarray

    def outside(self, vocabulary_size: int, labels: tuple[int, int] | None) -> str | None:
        """The first length, label or id out of range, in words; reads the whole block.

        ``labels`` are the lowest and the highest label; None if labels are ignored, as in pretraining.
        """
        width = self.ids.shape[1]
        if self.length.min() < 1 or self.length.max() > width:
            return f"a length outside 1..{width}"
        if labels is not None and (self.label.min() < labels[0] or self.label.max() > labels[1]):
            return f"a label outside {labels[0]}..{labels[1]}"
        if self.ids.max() >= vocabulary_size or (self.ids.dtype.kind == "i" and self.ids.min() < 0):
            return f"an id beyond the vocabulary of {vocabulary_size}"
        return None


Source = Callable[[Path, ShardInfo], Any]
"""Opens a shard's file for pyarrow; memory-mapped by default."""


def mapped(path: Path, _: ShardInfo) -> Any:
    """Memory-map a shard's file."""
    return arrays.mapped(path)


class Shard:
    """A memory-mapped shard. Opening reads only the positions of its record batches."""

    def __init__(self, root: str | Path, info: ShardInfo, source: Source = mapped, id_dtype: str | None = None) -> None:
        """Map ``root/info.path``; raises ``DataError`` if it is missing, truncated or does not match ``info``.

        ``id_dtype`` is the manifest's; None allows both.
        """
        self.info = info
        self.path = Path(root, info.path)
        check_size(self.path, info.bytes, "shard")
        try:
            layout, batches = arrays.record_batches(source(self.path, info))
            kinds = ("uint16", "int32") if id_dtype is None else (id_dtype,)
            if layout not in [schema(info.width, np.dtype(kind)) for kind in kinds]:
                what = f"its columns are not those of a shard of width {info.width} with ids of {' or '.join(kinds)}"
                raise DataError(f"{self.path}: {what}; {REBUILD}")
            self.blocks = [self._block(batch) for batch in batches]
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{self.path}: not a readable Arrow file ({one_line(error)}); {REBUILD}") from None
        rows = sum(len(block.row) for block in self.blocks)
        if rows != info.rows:
            raise DataError(f"{self.path}: {rows} rows, the manifest says {info.rows}; {REBUILD}")

    def _block(self, batch: pa.RecordBatch) -> Block:
        """Raises ``ValueError`` for nulls and for unaligned arrays."""
        ids, *columns = batch.columns
        flat = [ids.values.slice(ids.offset * self.info.width, len(ids) * self.info.width), *columns]
        if any(column.null_count for column in (ids, *flat)):
            raise ValueError("it holds nulls")
        arrays = [column.to_numpy() for column in flat]
        if not all(array.flags.aligned for array in arrays):
            raise ValueError("its numbers are not aligned")
        return Block(arrays[0].reshape(-1, self.info.width), *arrays[1:])


def check_size(path: Path, size: int, what: str) -> None:
    """Raise ``DataError`` for a file of the manifest that is missing, not a regular file, or of another size."""
    try:
        found = path.stat()
        check_regular(path, found.st_mode)
    except FileNotFoundError:
        raise DataError(f"{path}: the manifest names this {what}, but it is missing; {REBUILD}") from None
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); {REBUILD}") from None
    if found.st_size != size:
        raise DataError(f"{path}: {found.st_size} bytes, the manifest says {size}: truncated or changed; {REBUILD}")


def write_manifest(root: str | Path, manifest: Manifest) -> None:
    """Write ``dataset.json``, the last file of a dataset: its presence means that the dataset is complete.

    The vocabulary must exist. ``sha256`` covers the whole manifest, with statistics and provenance.
    """
    vocabulary = atomic.sha256_file(Path(root, VOCABULARY))
    content = {**manifest.content(), "fingerprint": manifest.fingerprint, "vocabulary_sha256": vocabulary}
    digest = hashlib.sha256(atomic.canonical_json(content)).hexdigest()
    atomic.write_json(Path(root, MANIFEST), {**content, "sha256": digest})


def read_manifest(root: str | Path) -> Manifest:
    """Read and check ``dataset.json``. Raises ``DataError`` for a missing, damaged or newer one, or another format."""
    path = Path(root, MANIFEST)
    try:
        return parse_manifest(read_bytes(path, MOST_MANIFEST), str(path))
    except FileNotFoundError:
        what = f"{root} is not a dataset directory, or one whose preprocessing has not finished; {REBUILD}"
        if not path.parent.is_dir():
            first = "" if path.parent.suffix else f"; `padless prepare FILE -o {root}` makes it"
            what = f"there is no folder {root}{beside(root) or first}"
        elif (path.parent / "bundle").is_dir():
            what = f"{root} is a run; name the dataset that it was trained on"
        raise DataError(f"{path}: missing: {what}") from None
    except NotADirectoryError:
        raise DataError(
            f"{root}: a file, no dataset; first: `padless prepare {root} -o data/{Path(root).stem}`"
        ) from None
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
    if (found := content.get("format_version")) != FORMAT_VERSION:
        raise DataError(
            f"{path}: format version {shown(found)}, this padless reads version {FORMAT_VERSION}; {REBUILD}"
        )
    digest = content.pop("sha256", None)
    if hashlib.sha256(atomic.canonical_json(content)).hexdigest() != digest:
        raise DataError(f"{path}: its content does not match its sha256: edited or damaged; {REBUILD}")
    hashes: list[str | None] = [typed(Sha256 | None, content.pop(name, None), path, REBUILD) for name in HASHES]
    manifest: Manifest = typed(Manifest, content, path, REBUILD)
    for kind, value in ((Text, manifest.text), (Described, manifest.statistics), (Described, manifest.provenance)):
        typed(kind, value, path, REBUILD)
    if manifest.fingerprint != hashes[0]:
        raise DataError(f"{path}: its content does not match its fingerprint: edited or damaged; {REBUILD}")
    if wrong := next(contradictions(manifest, str(id_dtype(manifest.vocabulary_size))), None):
        raise DataError(f"{path}: {wrong}; {REBUILD}")
    return manifest


class Split:
    """All blocks of one split, with a global row index over them in manifest order."""

    def __init__(self, root: str | Path, manifest: Manifest, name: str, source: Source = mapped) -> None:
        """Map the split's shards; raises ``DataError`` if there are none or one does not match the manifest."""
        if not manifest.splits.get(name):
            names = ", ".join(sorted(name for name, shards in manifest.splits.items() if shards))
            raise DataError(f"{root}: has no split {name!r}; it has {names}")
        self.name, self.manifest = name, manifest
        self.shards = [Shard(root, info, source, manifest.id_dtype) for info in manifest.splits[name]]
        self.blocks = [block for shard in self.shards for block in shard.blocks]
        self._shard_of = [shard for shard in self.shards for _ in shard.blocks]
        self._checked = bytearray(len(self.blocks))
        self.block_starts = np.cumsum([0, *(len(block.row) for block in self.blocks)])
        """int64 ``[blocks + 1]``: global row ``r`` lies in the block with ``starts[b] <= r < starts[b + 1]``."""

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.block_starts[-1])

    def checked(self, number: int) -> Block:
        """A block whose lengths, labels and ids are in range: checked once. Raises ``DataError``."""
        if not self._checked[number]:
            shard = self._shard_of[number]
            labels = labels_of(self.name, len(self.manifest.labels)) if shard.info.labels else None
            if wrong := self.blocks[number].outside(self.manifest.vocabulary_size, labels):
                raise DataError(f"{shard.path}: it holds {wrong}; {REBUILD}")
            self._checked[number] = True
        return self.blocks[number]

    def check(self) -> Split:
        """Check all blocks; returns this split. Raises ``DataError``."""
        for number in range(len(self.blocks)):
            self.checked(number)
        return self

    @cached_property
    def block_widths(self) -> np.ndarray:
        """int64 ``[blocks]``: the width of each block's shard."""
        return np.array([block.ids.shape[1] for block in self.blocks], np.int64)

    @cached_property
    def max_width(self) -> int:
        """Width of the widest shard."""
        return max(shard.info.width for shard in self.shards)
