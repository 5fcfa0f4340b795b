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
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.inference.engines import open_scorer
from harness.inference.rows import own_options, texts_of
from harness.inference.scorer import Scorer, unknown_shares
from harness.scores.metrics import probabilities
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.corpus import addresses, tables
from preprocessing.corpus.records import Dialect
from preprocessing.corpus.sources import Part
from preprocessing.corpus.tables import Rows
from preprocessing.job import engine

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
class Made:
    """What is known of a part that is whole."""

    rows: int
    bytes: int
    sha256: str
    without_known_word: int
    """Texts of which no token is in the vocabulary."""
    difference: float | None
    """Where the arithmetic is not fp32: by how much a probability of some of the rows differs from that in fp32."""


@dataclass(frozen=True)
class ScoredPart(engine.Part[Made]):
    """One part of the input, to be written with its predictions to the file ``name``."""

    number: int
    name: str
    part: Part
    layout: Layout
    opening: Opening
    has_header: bool
    """Whether the file stands alone, in a folder of parts."""
    identity: dict[str, Any]
    """Of the input file when it was looked at; empty for a folder."""

    result: ClassVar[type] = Made

    @property
    def path(self) -> Path:
        """The file to write."""
        return self.root / self.name

    def make(self) -> tuple[Made, dict[str, str]]:
        """Raises ``DataError`` for what cannot be read, ``OSError`` for what cannot be written."""
        scorer, part, layout = scorer_of(self.opening), self.part, self.layout
        if self.identity and addresses.identity(part.file.address) != self.identity:
            raise DataError(f"{part.file.name}: it changed while it was read; start again when it is whole")
        count, unread, differences, held = 0, 0, list[float](), list[pa.Table]()
        is_exact = self.opening.settled["precision"] == "fp32"
        with atomic.replacing(self.path) as temporary, open(temporary, "wb") as file, own_options():
            file.write(layout.header(part) if self.has_header else b"")
            for rows, encoded in encoded_ahead(part, layout, scorer):
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
        size, digest = self.path.stat().st_size, atomic.sha256_file(self.path)
        return Made(count, size, digest, unread, max(differences, default=None)), {self.name: digest}


def scorer_of(opening: Opening) -> Scorer:
    """This thread's scorer: opened once, and kept from one part to the next."""
    kept: tuple[Opening, Scorer] | None = getattr(KEPT, "scorer", None)
    if kept is None or kept[0] != opening:
        kept = opening, open_scorer(opening.run, opening.engine, opening.batch, opening.settled)
        KEPT.scorer = kept
    return kept[1]


def encoded_ahead(part: Part, layout: Layout, scorer: Scorer) -> Iterator[tuple[Rows, list[np.ndarray]]]:
    """Some rows at a time with their ids; another thread reads and encodes the next ones meanwhile."""
    needed = None if layout.top is None else [part.file.source.text_column]  # the bytes of the others stay as they are
    pieces = tables.iter_rows(part, needed, layout.schema)

    def step() -> tuple[Rows, list[np.ndarray]] | None:
        rows = next(pieces, None)
        return None if rows is None else (rows, scorer.encode(texts_of(part, rows, layout.missing)))

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
