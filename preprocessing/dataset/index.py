# SPDX-License-Identifier: Apache-2.0
"""The two levels of a manifest: totals of each split and fold, and a line for each shard.

``dataset.json`` has the totals, so its size does not depend on the number of shards, and it names the hash of
``index.arrow``::

    number  int32       the number in the shard's name
    width   int32       ids of a row
    rows    int32
    bytes   int64       of the file
    sha256  binary[32]  of the file
    starts  list<int64>       where its record batches begin, and where the last one ends: one number more than batches
    hashes  list<binary[32]>  sha256 of each record batch: a remote one is read and checked alone

The shards of one split and fold are consecutive lines. The file is mapped, and checked as a whole against the totals.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import pyarrow as pa
from msgspec import Meta

from padless.core import arrays, atomic
from padless.core.errors import DataError
from padless.core.schema import AtLeast0, AtLeast1
from padless.core.split_names import ALL_SPLITS
from padless.core.untrusted import one_line

INDEX = "index.arrow"
ROW_BYTES = 16
"""Bytes of a row without its ids: length, label and number."""
REBUILD = "build the dataset again with `padless prepare`"


BATCH_COLUMNS = {"starts": pa.int64(), "hashes": pa.binary(32)}


def non_null_schema(columns: dict[str, pa.DataType]) -> pa.Schema:
    """A schema of columns that may hold no nulls."""
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


INDEX_SCHEMA = non_null_schema(
    {"number": pa.int32(), "width": pa.int32(), "rows": pa.int32(), "bytes": pa.int64(), "sha256": pa.binary(32)}
    | {name: pa.list_(pa.field("item", kind, nullable=False)) for name, kind in BATCH_COLUMNS.items()}
)

Number = Annotated[str, Meta(pattern=r"^(-1|0|[1-9][0-9]{0,8})\Z")]
SplitName = Annotated[str, Meta(pattern=rf"^({'|'.join(ALL_SPLITS)})\Z")]
Rows = dict[Number, AtLeast1]
"""Rows by length, label or width, as in ``{"17": 3}``."""


@dataclass(frozen=True)
class ShardInfo:
    """A shard's line of the index, with its split and fold."""

    split: str
    number: int
    width: int
    rows: int
    bytes: int
    sha256: str
    starts: list[int]
    """Of each record batch, and the end of the last."""
    hashes: list[str]
    """sha256 of each record batch."""
    fold: int | None = None
    """The fold of all its rows; None for rows without a fold."""
    lengths: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    """Rows by length and by label index, of a shard that was just written; the manifest has their sums."""

    @property
    def path(self) -> str:
        """Relative to the dataset directory."""
        return shard_path(self.split, self.number, self.fold, self.width)


def shard_path(split: str, number: int, fold: int | None, width: int) -> str:
    """As in ``train/00000-w0128.arrow``, and ``train/00000-f02-w0128.arrow`` for a fold."""
    return f"{split}/{number:05d}{'' if fold is None else f'-f{fold:02d}'}-w{width:04d}.arrow"


@dataclass(frozen=True)
class Totals:
    """The shards of one fold of a split, or of a split without folds: their lines of the index, and totals of them."""

    split: SplitName
    """The folder of the shards."""
    first: AtLeast0
    """Line of the first one in the index."""
    shards: AtLeast1
    rows: AtLeast1
    tokens: AtLeast1
    """Sum of the lengths."""
    bytes: AtLeast1
    widths: Rows
    lengths: Rows
    """Enough to plan a run without opening a shard."""
    labels: Rows
    """By label index."""
    fold: Annotated[int, Meta(ge=0, lt=100)] | None = None


def write_index(root: str | Path, shards: Iterable[ShardInfo]) -> tuple[dict[str, list[Totals]], str]:
    """Write ``index.arrow`` over shards in any order; returns the totals of each split, and the sha256 of the file.

    Syncs the folders of the shards, so a power cut removes no name. Raises ``OSError``.
    """
    lines = []
    sums, widths, lengths, labels = (defaultdict[tuple[int, int], Counter[str]](Counter) for _ in range(4))
    for shard in shards:
        key = ALL_SPLITS.index(shard.split), -1 if shard.fold is None else shard.fold
        sha256, *hashes = map(bytes.fromhex, (shard.sha256, *shard.hashes))
        lines.append((*key, shard.number, shard.width, shard.rows, shard.bytes, sha256, shard.starts, hashes))
        sums[key].update(shards=1, rows=shard.rows, bytes=shard.bytes)
        widths[key][str(shard.width)] += shard.rows
        lengths[key].update(shard.lengths)
        labels[key].update(shard.labels)
    columns = zip(*(line[2:] for line in sorted(lines)), strict=True)
    batch = [pa.array(column, kind) for column, kind in zip(columns, INDEX_SCHEMA.types, strict=True)]
    arrays.write_batch(Path(root, INDEX), batch, INDEX_SCHEMA)
    splits, first = dict[str, list[Totals]](), 0
    for key, total in sorted(sums.items()):
        split, fold = ALL_SPLITS[key[0]], None if key[1] < 0 else key[1]
        totals = Totals(
            split=split,
            first=first,
            tokens=sum(int(length) * rows for length, rows in lengths[key].items()),
            widths=sort_by_number(widths[key]),
            lengths=sort_by_number(lengths[key]),
            labels=sort_by_number(labels[key]),
            fold=fold,
            **total,
        )
        splits.setdefault(split, []).append(totals)
        first += totals.shards
    for split in splits:
        atomic.fsync(Path(root, split))
    return splits, atomic.sha256_file(Path(root, INDEX))


def sort_by_number(counts: Counter[str]) -> dict[str, int]:
    """Counts of numbers, ascending by number."""
    return dict(sorted(counts.items(), key=lambda item: int(item[0])))


T = TypeVar("T")


class Lazy(Sequence[T]):
    """A sequence that makes a member at each access."""

    def __init__(self, size: int, get: Callable[[int], T]) -> None:
        """``size`` members; ``get`` makes one."""
        self.size, self.get = size, get

    def __len__(self) -> int:
        """Number of members."""
        return self.size

    def __getitem__(self, number: Any) -> Any:
        """One member. Raises ``IndexError``."""
        return self.get(number)


class Index(Lazy[ShardInfo]):
    """The shards of some parts of a dataset, as columns in the order of the parts."""

    def __init__(self, root: str | Path, sha256: str, parts: Sequence[Totals]) -> None:
        """Map ``index.arrow``, which has this hash.

        Raises ``DataError`` for another file, and for lines that contradict the totals.
        """
        path, self.parts = Path(root, INDEX), parts
        try:
            with arrays.map_file(path) as file:
                content = file.read_buffer()
            schema, (batch,) = arrays.record_batches(pa.BufferReader(content))
            if hashlib.sha256(content).hexdigest() != sha256 or schema != INDEX_SCHEMA:
                raise ValueError("its sha256 or its columns are others")
            batch.validate(full=True)
            columns = [*batch.columns, *(batch[name].flatten() for name in BATCH_COLUMNS)]
            has_nulls = any(column.null_count for column in columns)
            if has_nulls or not all(matches_totals(part, batch) for part in parts):
                raise ValueError("its shards are not those that the manifest counts")
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{path}: not the index that the manifest names ({one_line(error)}); {REBUILD}") from None
        self._lines = pa.Table.from_batches([batch.slice(part.first, part.shards) for part in parts], INDEX_SCHEMA)
        self.number, self.width, self.rows, self.bytes = (column.to_numpy() for column in self._lines.columns[:4])
        self.part_of = np.repeat(np.arange(len(parts)), [part.shards for part in parts])
        super().__init__(len(self.rows), self._read_shard)

    def _read_shard(self, number: int) -> ShardInfo:
        part, (line,) = self.parts[self.part_of[number]], self._lines.slice(number, 1).to_pylist()
        hashes = {"sha256": line["sha256"].hex(), "hashes": [digest.hex() for digest in line["hashes"]]}
        return ShardInfo(part.split, **line | hashes, fold=part.fold)

    def paths(self) -> Iterator[str]:
        """The path of each shard, without reading its line."""
        for index, number, width in zip(self.part_of.tolist(), self.number.tolist(), self.width.tolist(), strict=True):
            part = self.parts[index]
            yield shard_path(part.split, number, part.fold, width)


def matches_totals(part: Totals, batch: pa.RecordBatch) -> bool:
    """Whether the shards of a part have the rows and bytes of the part, and each has bytes for its rows."""
    rows, size = (batch[name].to_numpy()[part.first :][: part.shards].astype(np.int64) for name in ("rows", "bytes"))
    is_possible = (rows > 0) & (rows <= size // ROW_BYTES)
    return bool(is_possible.all()) and (len(rows), rows.sum(), size.sum()) == (part.shards, part.rows, part.bytes)
