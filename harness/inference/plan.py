# SPDX-License-Identifier: Apache-2.0
"""The plan of a prediction: the parts of its input, and all that decides what becomes of them.

Where the input is cut is a pure function of the input and the settings, so a part is the same whoever makes it, and
whenever. The plan lies beside the parts: whoever goes on with them must mean the same input, weights and settings.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from harness.inference.csv_table import CsvTable
from harness.inference.inputs import Input
from harness.inference.json_table import JsonTable
from harness.inference.parquet_table import ParquetTable
from harness.inference.pieces import BYTE_ORDER_MARK, Source, Table, Wanted
from harness.inference.tables import check_free, open_table
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.printable import public
from preprocessing.base.typed import Count, Positive, having, typed
from preprocessing.base.untrusted import read_json, shown

VERSION = 2
SEAL = "sha256"
MOST_PLAN = 1 << 30
ANEW = "set --overwrite true to begin anew"
MOST_RUNS = 16
"""Parts that a row group of Parquet is cut into at most: each reads all that comes before it."""


KNOWN = {
    **dict.fromkeys(("csv", "tsv"), having(names=list[str], column=str, before=str, header=str)),
    "jsonl": having(kinds=dict[str, list[str]], column=str | None),
    "parquet": having(column=str, types=list[str]),
    "txt": having(column=str),
    "folder": having(files=list[str]),
}
"""What is known of a file of each kind, to make its table again."""
WRITTEN = ("csv", "tsv", "jsonl", "parquet")
Known = dict[str, Any]


@dataclass(frozen=True)
class File:
    """One file of the input, or a folder of texts."""

    source: Source
    kind: str
    identity: dict[str, Any]
    facts: dict[str, Any]
    """What its table is made of again."""


@dataclass(frozen=True)
class Part:
    """Some rows of one file."""

    file: Count
    start: Count
    """First byte; of Parquet, first row of the row group; of a folder, first text."""
    stop: Count
    first_row: Positive
    rows: Positive
    bytes: Count
    """About how much is read."""
    group: Count | None = None
    """Of Parquet: the first row group."""
    groups: Positive = 1


Basis = Annotated[
    dict[str, Any],
    having(inputs=list[tuple[str, str, dict[str, Any]]], weights=dict[str, Any], settings=dict[str, Any]),
]
"""All that decides a prediction."""


@dataclass(frozen=True)
class Plan:
    """What is to be made, and of what."""

    basis: Basis
    """``inputs``, ``weights`` and ``settings``: all that decides the result."""
    kind: str
    """What is written."""
    same: bool
    """Whether lines stay as they are, byte for byte."""
    names: list[str]
    """The columns that are added."""
    wanted: Wanted
    files: list[File] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The hash that a part must carry to belong to this plan."""
        return hashlib.sha256(atomic.canonical_json([VERSION, self.basis])).hexdigest()

    @property
    def rows(self) -> int:
        """Rows of the input."""
        return sum(part.rows for part in self.parts)

    def table(self, number: int) -> Table:
        """The rows of a part, to be read."""
        part = self.parts[number]
        file = self.files[part.file]
        cut = {name: getattr(part, name) for name in ("start", "stop", "first_row", "group", "groups")}
        return open_table(replace(file.source, **cut), file.kind, self.wanted, file.facts)

    def only(self, number: int) -> Plan:
        """The plan of one part, small enough to be sent to another process."""
        part = self.parts[number]
        file = self.files[part.file]
        if file.kind == "folder":
            file = replace(file, facts={"files": file.facts["files"][part.start : part.stop]})
            part = replace(part, start=0, stop=part.rows)
        return replace(self, files=[file], parts=[replace(part, file=0)])

    def write(self, path: Path) -> None:
        """Write the plan with its hash, whole or not at all. Raises ``OSError``."""
        content = {"version": VERSION, **asdict(self)}
        atomic.write_bytes(path, json.dumps({**content, SEAL: seal_of(content)}).encode())

    def check(self, path: Path) -> None:
        """Raise ``DataError`` unless all parts lie in the files that the basis names, one behind the other."""
        named = [[public(file.source.name), file.kind, file.identity] for file in self.files]
        row = 1
        before: Part | None = None
        for part in self.parts:
            if before is None or part.file != before.file:
                row = 1
            known = part.file < len(self.files) and (before is None or part.file >= before.file)
            if not known or part.stop < part.start or part.first_row != row:
                raise DataError(f"{path}: its parts do not follow one another; {ANEW}")
            row, before = row + part.rows, part
        if self.basis["inputs"] != named or not self.parts or self.kind not in WRITTEN:
            raise DataError(f"{path}: its files are not those that it was made for; {ANEW}")
        for file in self.files:
            if file.kind not in KNOWN or not KNOWN[file.kind].holds(file.facts):
                raise DataError(f"{path}: what it knows of {shown(file.source.name)} is damaged; {ANEW}")

    def check_sources(self, listed: Sequence[Input], path: Path) -> None:
        """Raise ``DataError`` for a plan that would open what is not among the inputs."""
        mine = [(file.source, file.facts["files"] if file.kind == "folder" else []) for file in self.files]
        theirs = [(one.source, [address for address, _ in one.texts]) for one in listed]
        if mine != theirs:
            raise DataError(f"{path}: its files are not those that --input names; {ANEW}")


def seal_of(content: Mapping[str, Any]) -> str:
    """The sha256 by which a plan vouches for itself."""
    return hashlib.sha256(atomic.canonical_json(content)).hexdigest()


def read_plan(path: Path) -> Plan | None:
    """The plan that was written, None where there is none. Raises ``DataError`` for what is no plan."""
    try:
        content = read_json(path, ANEW, most=MOST_PLAN)
    except FileNotFoundError:
        return None
    if not isinstance(content, dict):
        raise DataError(f"{path}: is no plan of a prediction; {ANEW}")
    seal = content.pop(SEAL, None)
    if content.get("version") != VERSION or seal is None:
        raise DataError(f"{path}: is no plan of a prediction, or one of another version of padless; {ANEW}")
    if seal != seal_of(content):
        raise DataError(f"{path}: its content does not match its sha256: edited or damaged; {ANEW}")
    del content["version"]
    plan = typed(Plan, content, str(path), ANEW)
    plan.check(path)
    return plan


def filled(plan: Plan, inputs: Sequence[Input], part_bytes: int, tick: Callable[[int, int], None]) -> Plan:
    """The plan with its files and parts: every row is looked at once, and counted.

    ``tick(rows, bytes)`` is called as that goes on. Raises ``DataError`` for the first row that cannot be predicted.
    """
    tables: list[Table] = []
    parts: list[Part] = []
    for number, one in enumerate(inputs):
        table = one.table(plan.wanted)
        cut = {"parquet": cut_parquet, "folder": cut_folder}.get(one.kind, cut_lines)
        found = [replace(part, file=number) for part in cut(table, one, part_bytes, tick)]
        is_headless = one.kind == "jsonl" or one.source.columns
        if number and found and is_headless and next(one.source.stream(), b"").startswith(BYTE_ORDER_MARK):
            found[0] = replace(found[0], start=len(BYTE_ORDER_MARK))  # in the middle of a file it would be no mark
        parts += found
        check_free(one.source, table, plan.names)
        tables.append(table)
    if not parts:
        name = inputs[0].source.name + (f" and {len(inputs) - 1} more" if len(inputs) > 1 else "")
        raise DataError(f"{name}: holds no rows")
    agree(tables)
    files = [File(one.source, one.kind, one.identity, table.facts()) for one, table in zip(inputs, tables, strict=True)]
    return replace(plan, files=files, parts=parts, same=keeps_lines(tables, plan.kind))


def agree(tables: Sequence[Table]) -> None:
    """Check that all files have the same columns; the keys of JSON lines are put together."""
    first = tables[0]
    if isinstance(first, JsonTable):
        kinds: dict[str, set[str]] = {}
        for table in tables:
            assert isinstance(table, JsonTable)
            for name, found in table.kinds.items():
                kinds.setdefault(name, set()).update(found)
        for table in tables:
            assert isinstance(table, JsonTable)
            table.kinds, table.names = kinds, list(kinds)
        return
    for table in tables[1:]:
        if table.names != first.names:
            what = f"its columns ({', '.join(table.names)}) are not those of {first.source.name}"
            raise DataError(f"{table.source.name}: {what} ({', '.join(first.names)}); predict them apart")
        if isinstance(table, ParquetTable) and isinstance(first, ParquetTable):
            for name, one, other in zip(first.names, table.schema.types, first.schema.types, strict=True):
                if one != other:
                    what = f"its column {name!r} holds {one}, that of {first.source.name} {other}"
                    raise DataError(f"{table.source.name}: {what}; predict them apart")


def keeps_lines(tables: Sequence[Table], kind: str) -> bool:
    """Whether what is written is what was read with more behind each line: the lines above must then be the same."""
    first = tables[0]
    if first.kind != kind or not isinstance(first, CsvTable | JsonTable):
        return False
    return len({table.header([]) for table in tables if isinstance(table, CsvTable | JsonTable)}) == 1


def cut_lines(table: Table, one: Input, part_bytes: int, tick: Callable[[int, int], None]) -> Iterator[Part]:
    """CSV, JSON lines and texts a line: runs of whole lines of about ``part_bytes``."""
    start = at = table.top.bytes if isinstance(table, CsvTable) else 0
    rows = 0
    row = 1
    held: Part | None = None
    for piece in table.pieces():
        size = sum(line.bytes for line in piece.lines)
        at, rows = at + size, rows + len(piece.texts)
        tick(len(piece.texts), size)
        if at - start >= part_bytes and rows:
            if held is not None:
                yield held
            held, start, row, rows = Part(0, start, at, row, rows, at - start), at, row + rows, 0
    if rows:
        if held is not None:
            yield held
        held = Part(0, start, at, row, rows, at - start)
    elif held is not None:  # blank lines behind the last row
        held = replace(held, stop=at)
    if held is not None:
        yield held


def cut_parquet(table: Table, one: Input, part_bytes: int, tick: Callable[[int, int], None]) -> Iterator[Part]:
    """Parquet: row groups, the large ones cut into runs of rows, the small ones together."""
    assert isinstance(table, ParquetTable)
    for piece in table.read([table.column]):
        tick(len(piece.texts), sum(map(len, piece.texts)))
    places = {table.footer.schema.column(place).path: place for place in range(table.footer.num_columns)}
    row = 1
    held: Part | None = None
    for group in range(table.footer.num_row_groups):
        facts = table.footer.row_group(group)
        size = facts.column(places[table.column]).total_uncompressed_size if table.column in places else 0
        if size < part_bytes:
            first = held or Part(0, 0, 0, row, 0, 0, group, 0)
            row, rows = row + facts.num_rows, first.rows + facts.num_rows
            more = {"stop": rows, "rows": rows, "bytes": first.bytes + size, "groups": first.groups + 1}
            held = replace(first, **more)
            if held.bytes >= part_bytes:
                yield held
                held = None
            continue
        if held is not None and held.rows:
            yield held
        held, runs = None, max(1, min(round(size / part_bytes), MOST_RUNS, facts.num_rows))
        bounds = [facts.num_rows * run // runs for run in range(runs + 1)]
        for start, stop in itertools.pairwise(bounds):
            if stop > start:
                share = size * (stop - start) // facts.num_rows
                yield Part(0, start, stop, row + start, stop - start, share, group)
        row += facts.num_rows
    if held is not None and held.rows:
        yield held


def cut_folder(table: Table, one: Input, part_bytes: int, tick: Callable[[int, int], None]) -> Iterator[Part]:
    """A folder of texts: runs of files."""
    for piece in table.pieces():
        tick(len(piece.texts), sum(map(len, piece.texts)))
    start = size = 0
    for stop, (_, length) in enumerate(one.texts, 1):
        size += length
        if size >= part_bytes or stop == len(one.texts):
            yield Part(0, start, stop, start + 1, stop - start, size)
            start, size = stop, 0
