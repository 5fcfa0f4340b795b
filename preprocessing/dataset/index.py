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

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import DataError
from preprocessing.base.schema import Count, Positive
from preprocessing.base.split_names import ALL_SPLITS
from preprocessing.base.untrusted import one_line

INDEX = "index.arrow"
ROW_BYTES = 16
"""Bytes of a row without its ids: length, label and number."""
REBUILD = "build the dataset again with `padless prepare`"


BATCHES = {"starts": pa.int64(), "hashes": pa.binary(32)}


def without_nulls(columns: dict[str, pa.DataType]) -> pa.Schema:
    """A schema of columns that may hold no nulls."""
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


LINES = without_nulls(
    {"number": pa.int32(), "width": pa.int32(), "rows": pa.int32(), "bytes": pa.int64(), "sha256": pa.binary(32)}
    | {name: pa.list_(pa.field("item", of, nullable=False)) for name, of in BATCHES.items()}
)
"""The columns of an index."""

Number = Annotated[str, Meta(pattern=r"^(-1|0|[1-9][0-9]{0,8})\Z")]
SplitName = Annotated[str, Meta(pattern=rf"^({'|'.join(ALL_SPLITS)})\Z")]
Rows = dict[Number, Positive]
"""Rows by length, label or width, as in ``{"17": 3}``."""


@dataclass(frozen=True)
class ShardInfo:
    """What is known of one shard."""

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
    """Rows by length and by label index, of a shard that was just written; the index holds them summed up."""

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
    first: Count
    """Line of the first one in the index."""
    shards: Positive
    rows: Positive
    tokens: Positive
    """Sum of the lengths."""
    bytes: Positive
    widths: Rows
    lengths: Rows
    """Enough to plan a run without opening a shard."""
    labels: Rows
    """By label index."""
    fold: Annotated[int, Meta(ge=0, lt=100)] | None = None


def write_index(root: str | Path, shards: Iterable[ShardInfo]) -> tuple[dict[str, list[Totals]], str]:
    """Write ``index.arrow`` over shards in any order; returns the totals of each split, and the sha256 of the file.

    Then a power cut spares the names of all shards. Raises ``OSError``.
    """
    lines, counts = [], defaultdict[tuple[int, int], list[Counter[str]]](lambda: [Counter() for _ in range(4)])
    for shard in shards:
        key = key_of(shard)
        sha256, *hashes = map(bytes.fromhex, (shard.sha256, *shard.hashes))
        lines.append((*key, shard.number, shard.width, shard.rows, shard.bytes, sha256, shard.starts, hashes))
        own = {"shards": 1, "rows": shard.rows, "bytes": shard.bytes}, {str(shard.width): shard.rows}
        for total, one in zip(counts[key], (*own, shard.lengths, shard.labels), strict=True):
            total.update(one)
    columns = zip(*(line[2:] for line in sorted(lines)), strict=True)
    arrays.write_batch(Path(root, INDEX), [pa.array(*of) for of in zip(columns, LINES.types, strict=True)], LINES)
    splits, first = dict[str, list[Totals]](), 0
    for (place, fold), (sums, *histograms) in sorted(counts.items()):
        widths, lengths, labels = ({key: of[key] for key in sorted(of, key=int)} for of in histograms)
        tokens = sum(int(length) * rows for length, rows in lengths.items())
        numbers = first, sums["shards"], sums["rows"], tokens, sums["bytes"]
        totals = Totals(ALL_SPLITS[place], *numbers, widths, lengths, labels, None if fold < 0 else fold)
        splits.setdefault(totals.split, []).append(totals)
        first += sums["shards"]
    for split in splits:
        atomic.fsync(Path(root, split))
    return splits, atomic.sha256_file(Path(root, INDEX))


def key_of(part: ShardInfo | Totals) -> tuple[int, int]:
    """Split and fold, as they are sorted."""
    return ALL_SPLITS.index(part.split), -1 if part.fold is None else part.fold


T = TypeVar("T")


class Lazy(Sequence[T]):
    """A sequence whose members are made when they are asked for."""

    def __init__(self, size: int, get: Callable[[int], T]) -> None:
        """``size`` members; ``get`` makes one."""
        self.size, self.get = size, get

    def __len__(self) -> int:
        """Number of members."""
        return self.size

    def __getitem__(self, place: Any) -> Any:
        """One member. Raises ``IndexError``."""
        return self.get(place)


class Index(Lazy[ShardInfo]):
    """The shards of some parts of a dataset, as columns in the order of the parts."""

    def __init__(self, root: str | Path, sha256: str, parts: Sequence[Totals]) -> None:
        """Map ``index.arrow``, which has this hash.

        Raises ``DataError`` for another file, and for lines that contradict the totals.
        """
        path, self.parts = Path(root, INDEX), parts
        try:
            with arrays.mapped(path) as file:
                whole = file.read_buffer()
            layout, (batch,) = arrays.record_batches(pa.BufferReader(whole))
            if hashlib.sha256(whole).hexdigest() != sha256 or layout != LINES:
                raise ValueError("its sha256 or its columns are others")
            batch.validate(full=True)
            holds_nulls = any(one.null_count for one in (*batch.columns, *(batch[name].flatten() for name in BATCHES)))
            if holds_nulls or not all(agree(part, batch) for part in parts):
                raise ValueError("its shards are not those that the manifest counts")
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{path}: not the index that the manifest names ({one_line(error)}); {REBUILD}") from None
        self._lines = pa.Table.from_batches([batch.slice(part.first, part.shards) for part in parts], LINES)
        self.number, self.width, self.rows, self.bytes = (column.to_numpy() for column in self._lines.columns[:4])
        self.part_of = np.repeat(np.arange(len(parts)), [part.shards for part in parts])
        super().__init__(len(self.number), self._shard)

    def _shard(self, place: int) -> ShardInfo:
        part, (line,) = self.parts[self.part_of[place]], self._lines.slice(place, 1).to_pylist()
        hashes = {"sha256": line["sha256"].hex(), "hashes": [one.hex() for one in line["hashes"]]}
        return ShardInfo(part.split, **line | hashes, fold=part.fold)

    def paths(self) -> Iterator[str]:
        """The path of each shard."""
        for part, number, width in zip(*(of.tolist() for of in (self.part_of, self.number, self.width)), strict=True):
            yield shard_path(self.parts[part].split, number, self.parts[part].fold, width)


def agree(part: Totals, batch: pa.RecordBatch) -> bool:
    """Whether the shards of a part have the rows and bytes of the part, and each has bytes for its rows."""
    rows, size = (batch[name].to_numpy()[part.first :][: part.shards].astype(np.int64) for name in ("rows", "bytes"))
    fitting = (rows > 0) & (rows <= size // ROW_BYTES)
    return bool(fitting.all()) and (len(rows), rows.sum(), size.sum()) == (part.shards, part.rows, part.bytes)
