# SPDX-License-Identifier: Apache-2.0
"""One part of a file as it is predicted: read, encoded, scored, and written with the predictions.

What comes of a part depends on its rows and the task alone, whoever makes it. One thread reads and encodes while
another scores.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.inference.engines import open_scorer
from harness.inference.rows import own_options, texts_of
from harness.inference.scorer import Scorer, unknown_shares
from harness.scores.metrics import probabilities
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.storage import storing
from preprocessing.base.typed import Count, Sha256, typed
from preprocessing.base.untrusted import open_regular, read_json, sha256_of
from preprocessing.corpus import addresses, tables
from preprocessing.corpus.records import Dialect
from preprocessing.corpus.sources import Part
from preprocessing.corpus.tables import Rows

AGAIN = "it is made again"
OTHERWISE = "name another --output"
SAMPLE = 32
"""Rows of a part that are also computed in fp32 where the others are not."""
AHEAD = 2
"""Pieces that are encoded before they are asked for."""
GROUP_ROWS = 1 << 16
"""Most rows of a row group of Parquet."""
KEPT = threading.local()
"""The scorer of each thread, kept between parts."""
Cells = dict[str, list[Any]]
"""Name -> values of the columns that are added."""


@dataclass(frozen=True)
class Opening:
    """How the weights are opened."""

    engine: str
    run: str
    settled: dict[str, str]
    batch: int


@dataclass(frozen=True)
class Layout:
    """How rows are written, the same for all parts."""

    kind: str
    """csv, tsv, jsonl or parquet."""
    names: list[str]
    """The columns that are added."""
    missing: bool
    """Whether rows without a text are predicted as an empty text."""
    top: bytes | None = None
    """CSV from CSV and JSON lines from JSON lines keep the bytes of each row, and these above the first one; None: rows
    are written anew from their values."""
    schema: pa.Schema | None = None
    """JSON lines: all keys, and the types of their values."""

    def header(self, part: Part) -> bytes:
        """What is written above the first row."""
        if self.kind in ("parquet", "jsonl"):
            return self.top or b""
        if self.top is None:
            return as_csv([*columns_of(part, self.schema), *self.names], self.kind).encode()
        return with_fields(part, self.top, self.names) if self.top.strip() else self.top

    def lines(self, part: Part, rows: Rows, added: Cells) -> bytes:
        """Some rows of a text file with their predictions."""
        cells = [dict(zip(added, values, strict=True)) for values in zip(*added.values(), strict=True)]
        if self.top is None:
            whole = values_of(part, rows)
            columns = [column.to_pylist() for column in whole.columns]
            every = [*whole.column_names, *self.names]
            records = zip(zip(*columns, strict=True), cells, strict=True)
            lines = ([*values, *more.values()] for values, more in records)
            is_json = self.kind == "jsonl"
            return "".join(as_json(line, every) if is_json else as_csv(line, self.kind) for line in lines).encode()
        following = iter(cells)
        return b"".join(self.extended(part, line, next(following)) if is_row(line) else line for line in rows.lines)

    def extended(self, part: Part, line: bytes, cells: Mapping[str, Any]) -> bytes:
        """A record with more fields or members behind it; its own bytes stay as they are."""
        if self.kind == "jsonl":
            return with_members(line, cells)
        plain = [str(value).lower() if isinstance(value, bool) else str(value) for value in cells.values()]
        return with_fields(part, line, plain, b"\r\n" if (self.top or b"").endswith(b"\r\n") else b"\n")

    def table(self, part: Part, rows: Rows, added: Cells) -> pa.Table:
        """Some rows with their predictions, for Parquet; columns from Parquet keep their types."""
        whole = values_of(part, rows)
        for name, values in added.items():
            whole = whole.append_column(name, pa.array(values, pa.string() if isinstance(values[0], str) else None))
        return whole


@dataclass(frozen=True)
class Task:
    """One part, as work for any process."""

    number: int
    part: Part
    layout: Layout
    key: str
    """Hash of all that decides the predictions."""
    opening: Opening
    path: Path
    """The file to write."""
    marker: Path
    target: str
    """What sentences call the whole."""
    has_header: bool
    """Whether the file stands alone, in a folder of parts."""
    identity: dict[str, Any] = field(default_factory=dict)
    """Of the input file when it was looked at."""


@dataclass(frozen=True)
class Made:
    """What the marker of a part says."""

    key: str
    rows: Count
    bytes: Count
    sha256: Sha256
    without_known_word: Count = 0
    """Texts of which no token is in the vocabulary."""
    difference: float | None = None
    """Where the arithmetic is not fp32: by how much a probability of some of the rows differs from that in fp32."""


def made(task: Task, *, thorough: bool = True) -> Made | None:
    """What is known of a part that is whole and belongs to this job; None: it is to be made.

    ``thorough`` reads the part, too. Raises ``OSError`` where it cannot be read though it is there.
    """
    try:
        found = typed(Made, read_json(task.marker, AGAIN), str(task.marker), AGAIN)
        with open_regular(task.path) as file:
            if found.key != task.key or os.fstat(file.fileno()).st_size != found.bytes:
                return None
            return found if not thorough or sha256_of(file) == found.sha256 else None
    except (FileNotFoundError, DataError):
        return None


def make(task: Task) -> Made:
    """Make a part. Raises ``DataError`` for what cannot be read, ``StorageError`` for what cannot be written."""
    scorer, part, layout = scorer_of(task.opening), task.part, task.layout
    if task.identity and addresses.identity(part.file.address) != task.identity:
        raise DataError(f"{part.file.name}: it changed while it was read; start again when it is whole")
    count, unread, differences, held = 0, 0, list[float](), list[pa.Table]()
    is_exact = task.opening.settled["precision"] == "fp32"
    with storing(task.target, otherwise=OTHERWISE):
        with atomic.replacing(task.path) as temporary, open(temporary, "wb") as file, own_options():
            file.write(layout.header(part) if task.has_header else b"")
            for rows, encoded in encoded_ahead(task, scorer):
                added = dict(zip(layout.names, map(list_of, scorer.predict(encoded).values()), strict=True))
                if layout.kind == "parquet":
                    held.append(layout.table(part, rows, added))
                else:
                    file.write(layout.lines(part, rows, added))
                if not (is_exact or count):
                    differences.append(difference(scorer, encoded[:SAMPLE]))
                count += len(encoded)
                unread += int((unknown_shares(encoded) == 1).sum())
            if layout.kind == "parquet":
                pq.write_table(pa.concat_tables(held), file, row_group_size=GROUP_ROWS)
        if count != part.cut.rows:
            raise DataError(f"{part.file.name}: {count:,} rows where there were {part.cut.rows:,}: it changed")
        size, digest = task.path.stat().st_size, atomic.sha256_file(task.path)
        done = Made(task.key, count, size, digest, unread, max(differences, default=None))
        atomic.write_json(task.marker, vars(done))
    return done


def scorer_of(opening: Opening) -> Scorer:
    """This thread's scorer: opened once, and kept from one part to the next."""
    kept: tuple[Opening, Scorer] | None = getattr(KEPT, "scorer", None)
    if kept is None or kept[0] != opening:
        kept = opening, open_scorer(opening.run, opening.engine, opening.batch, opening.settled)
        KEPT.scorer = kept
    return kept[1]


def encoded_ahead(task: Task, scorer: Scorer) -> Iterator[tuple[Rows, list[np.ndarray]]]:
    """Some rows at a time with their ids; another thread reads and encodes the next ones meanwhile."""
    pieces = tables.iter_rows(task.part, schema=task.layout.schema)

    def step() -> tuple[Rows, list[np.ndarray]] | None:
        rows = next(pieces, None)
        return None if rows is None else (rows, scorer.encode(texts_of(task.part, rows, task.layout.missing)))

    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[tuple[Rows, list[np.ndarray]] | None]] = deque(pool.submit(step) for _ in range(AHEAD))
        # cannot hang: the next rows are read from a regular file and encoded
        while (found := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(step))
            yield found


def difference(scorer: Scorer, encoded: list[np.ndarray]) -> float:
    """The greatest change of a probability of some texts against fp32."""
    here, exact = (
        probabilities(scorer.decision.calibrated(logits)) for logits in (scorer.score(encoded), scorer.exact(encoded))
    )
    return float(np.abs(here - exact).max())


def list_of(values: Any) -> list[Any]:
    """An array as plain values."""
    found: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return found


def columns_of(part: Part, schema: pa.Schema | None) -> list[str]:
    """The columns of a file; of JSON lines those in ``schema``."""
    text = part.file.source.text_column
    others = {"txt": [text], "folder": [tables.FILE, text], "jsonl": schema.names if schema else []}
    return list(part.columns) or others.get(part.file.format, [])


def values_of(part: Part, rows: Rows) -> pa.Table:
    """Some rows as typed values: CSV and text files hold texts. Raises ``DataError`` for bytes that are not UTF-8."""
    table = rows.table
    if part.file.format not in ("csv", "txt", "folder"):
        return table
    numbers = np.arange(rows.first, rows.first + len(table))
    named = zip(table.columns, table.column_names, strict=True)
    texts = [tables.as_text(part, column, numbers, name).cast(pa.string()) for column, name in named]
    return pa.table(texts, names=table.column_names)


def is_row(line: bytes) -> bool:
    """Whether a line is no blank one."""
    return bool(line.strip(b"\r\n"))


def with_fields(part: Part, line: bytes, fields: Sequence[str], end: bytes = b"\n") -> bytes:
    """A record of CSV with more fields; ``end`` is its line end if it has none. Raises ``DataError`` where the dialect
    cannot hold one.
    """
    dialect = part.file.dialect
    try:
        added = "".join(dialect.delimiter + quoted(one, dialect) for one in fields)
    except ValueError as error:
        raise DataError(f"{part.file.name}: {error}; name an --output that ends in .parquet or .jsonl") from None
    bare = line.removesuffix(b"\n").removesuffix(b"\r")
    return bare + added.encode() + (line[len(bare) :] or end)


def quoted(cell: str, dialect: Dialect) -> str:
    """A cell as a file of this dialect holds it. Raises ``ValueError`` where it has no way to."""
    quote, escape = dialect.quote, dialect.escape
    if not any(sign in cell for sign in (dialect.delimiter, quote, escape, "\n", "\r") if sign):
        return cell
    if escape:
        cell = cell.replace(escape, escape + escape)
        cell = cell if quote else cell.replace(dialect.delimiter, escape + dialect.delimiter)
    if quote:
        return quote + cell.replace(quote, quote + quote) + quote
    if "\n" in cell or "\r" in cell or not escape:
        raise ValueError(f"its fields are not quoted, so that {cell[:60]!r} cannot be one")
    return cell


def with_members(line: bytes, cells: Mapping[str, Any]) -> bytes:
    """An object of JSON with more members; its own bytes stay as they are."""
    bare = line.rstrip()
    comma = b"" if bare[:-1].rstrip().endswith(b"{") else b", "
    more = json.dumps(cells, ensure_ascii=False)[1:].encode()
    return bare[:-1] + comma + more + line[len(bare) :] + (b"" if line.endswith(b"\n") else b"\n")


def as_json(values: list[Any], names: list[str]) -> str:
    """A line of JSON; dates, times and decimals are texts, and a number that is none is null."""
    finite = [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
    return json.dumps(dict(zip(names, finite, strict=True)), ensure_ascii=False, default=plain_text) + "\n"


def as_csv(values: list[Any], kind: str) -> str:
    """A line of CSV or TSV; what is neither text nor number nor date is written as JSON."""
    line = io.StringIO()
    cells = [
        json.dumps(value, default=plain_text) if isinstance(value, list | dict | bool) else value for value in values
    ]
    csv.writer(line, delimiter="\t" if kind == "tsv" else ",", lineterminator="\n").writerow(
        [plain_text(cell) if isinstance(cell, bytes) else cell for cell in cells]
    )
    return line.getvalue()


def plain_text(value: Any) -> str:
    """A value that JSON does not know, as a text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
