# SPDX-License-Identifier: Apache-2.0
"""One pass over a file of a corpus counts its rows and cuts it into parts; what is compressed is unpacked meanwhile."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
from pyarrow import fs

from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import SPELLINGS, TEST, UNLABELLED, UNLABELLED_SPELLINGS, VALIDATION, split_number
from preprocessing.base.untrusted import listed
from preprocessing.corpus import addresses
from preprocessing.corpus.delimited import read_header
from preprocessing.corpus.forms import converted
from preprocessing.corpus.readers import footer_of
from preprocessing.corpus.records import Cut, cuts
from preprocessing.corpus.sources import File, Part, Plan

WITHOUT_LABELS = ("unsup",)
"""What a folder of texts without labels is called among folders of labels, unless ``source.missing_label`` is set."""
MAX_CUTS_OF_A_ROW_GROUP = 16

Scan: TypeAlias = "Generator[Part, None, Plan]"


def scan(file: File, stage: Path) -> Plan:
    """Count the rows of one file and cut it into parts. A compressed file is unpacked below ``stage``."""
    parts = iter_parts(file, stage)
    while True:
        try:
            next(parts)
        except StopIteration as stop:
            plan: Plan = stop.value
            return plan


def iter_parts(file: File, stage: Path) -> Scan:
    """Yield each part as soon as it is found, so that work on it can begin. Returns the plan with all of them."""
    kinds = {"csv": scan_lines, "jsonl": scan_lines, "parquet": scan_parquet, "folder": scan_folder}
    return (yield from kinds[file.format](file, stage))


def part_bytes(file: File) -> int:
    """The size of a part."""
    return max(1, int(file.source.part_mb * 1e6))


def scan_lines(file: File, stage: Path) -> Scan:
    """CSV and JSON lines: one pass finds the record ends, counts them and takes the sha256."""
    known, digest = addresses.identity(file.address), hashlib.sha256()
    raw, data = addresses.stream(file.address, digest), file.address
    first = next(raw, b"")
    file = file.seen(first)
    form = file.form
    assert form is not None
    pieces = converted(itertools.chain([first] if first else [], raw), form, file.name)
    columns: tuple[str, ...] = ()
    header = False
    if file.format == "csv":
        first = next(pieces, b"")
        pieces = itertools.chain([first] if first else [], pieces)
        header = not file.source.columns
        columns = tuple(file.source.columns) or read_header(first[form.mark :], file.name, form.dialect)
        file = file.having(columns)
        check_columns(file, columns)
    size, where = part_bytes(file), functools.partial(cuts, dialect=form.dialect, name=file.name, mark=form.mark)
    find = functools.partial(where, part_bytes=size, header=header)
    found: Iterable[Cut]
    if addresses.is_compressed(file.address) or not form.is_plain:
        basis = [file.address, known, *([] if form.is_plain else [form.encoding, form.returns])]
        data = str(stage / hashlib.sha256(json.dumps(basis).encode()).hexdigest()[:24])
        found = unpacked(pieces, data, find)
    else:
        found = find(pieces)
    parts, identity = [], json.dumps(known if form.is_plain else [known, form.encoding, form.returns])
    for cut in found:
        parts.append(Part(file, data, columns, cut, bytes=cut.stop - cut.start, identity=identity))
        yield parts[-1]
    return Plan(file, parts, sum(part.cut.rows for part in parts), known["bytes"], {"sha256": digest.hexdigest()})


def unpacked(pieces: Iterator[bytes], path: str, find: Callable[[Iterator[bytes]], Iterator[Cut]]) -> list[Cut]:
    """Write a stream to ``path`` while ``find`` cuts it."""
    with atomic.replacing(path) as temporary, open(temporary, "wb") as copy:

        def copied() -> Iterator[bytes]:
            for piece in pieces:
                copy.write(piece)
                yield piece

        found = list(find(copied()))
        copy.flush()
        return found


def check_columns(file: File, columns: tuple[str, ...] | list[str]) -> None:
    """Refuse a file that lacks a column that is to be read, or has it twice."""
    for name in file.wanted:
        if name not in columns:
            there = listed(columns)
            raise DataError(f"{file.name}: has no column {name!r}; it has {there}; set {key_of(file, name)}")
        if list(columns).count(name) > 1:
            raise DataError(f"{file.name}: has more than one column {name!r}; rename one, or set source.columns")


def key_of(file: File, column: str) -> str:
    """The option that names a column."""
    keys = {file.source.text_column: "source.text_column", file.source.label_column: "source.label_column"}
    keys |= {file.splits.column or "": "splits.column", file.splits.group_column or "": "splits.group_column"}
    return keys.get(column, "source.where")


def scan_parquet(file: File, stage: Path) -> Scan:
    """Parquet: the footer tells the rows; large row groups are cut into a bounded number of runs of rows."""
    known = addresses.identity(file.address)
    footer = footer_of(file.address, file.name)
    schema = footer.schema.to_arrow_schema()
    names = schema.names
    file = file.having(names)
    check_columns(file, names)
    for name in file.wanted:
        if pa.types.is_nested(schema.field(name).type):
            text = name == file.source.text_column
            what = "text; join its values into one text, or" if text else "one value a row;"
            key = key_of(file, name)
            raise DataError(f"{file.name}: column {name!r} holds {schema.field(name).type}, not {what} set {key}")
    parts, row, identity = [], 1, json.dumps(known)
    for group in range(footer.num_row_groups):
        rows = footer.row_group(group).num_rows
        size = max(0, footer.row_group(group).total_byte_size)  # of all columns: one of a damaged footer is an abort
        runs = min(max(1, round(size / part_bytes(file))), MAX_CUTS_OF_A_ROW_GROUP, max(rows, 1))
        bounds = [rows * i // runs for i in range(runs + 1)]
        for start, stop in itertools.pairwise(bounds):
            cut = Cut(start, stop, row + start, stop - start)
            share = size * (stop - start) // max(rows, 1)
            parts.append(Part(file, file.address, (), cut, group, bytes=share, identity=identity))
            yield parts[-1]
        row += rows
    fingerprint = {"etag": known["etag"]} if "etag" in known else {"sha256": addresses.sha256(file.address)}
    return Plan(file, parts, row - 1, known["bytes"], fingerprint)


def scan_folder(file: File, stage: Path) -> Scan:
    """A folder: ``[split/]label/*.txt``; other files are left alone. One of texts without labels: every ``*.txt``.

    The unlabelled reviews of aclImdb, ``train/unsup``, are left alone unless ``source.missing_label`` asks for them.
    """
    file = file.having(())
    if file.splits.group_column:
        raise DataError(f"{file.name}: a folder has no column {file.splits.group_column!r}; unset splits.group_column")
    system, path = addresses.filesystem(file.address)
    infos = addresses.below(file.address, system, path)
    prefix = addresses.prefix(file.address, path)
    found = []
    for info in infos:
        inside = Path(info.path).relative_to(path).parts
        if info.type == fs.FileType.File and inside[-1].endswith(".txt"):
            split, label = place_of(inside, file)
            if label is not None:
                order = (split_number(split), label, natural(inside[-1]))
                found.append((*order, prefix + info.path, file.split or split, info))
    found.sort(key=lambda entry: entry[:4])
    if not found:
        expected = "*.txt" if file.is_unlabelled else "LABEL/*.txt or train/LABEL/*.txt"
        what = "text" if file.is_unlabelled else "labelled text"
        raise DataError(f"{file.name}: holds no {what}; expected {expected} below it")
    parts, start, size = [], 0, 0
    for stop, entry in enumerate(found, 1):
        size += entry[5].size
        if size >= part_bytes(file) or stop == len(found):
            group = found[start:stop]
            identity = hashlib.sha256(
                json.dumps([[e[3], e[5].size, e[5].mtime_ns] for e in group]).encode()
            ).hexdigest()
            cut = Cut(start, stop, start + 1, stop - start)
            texts = tuple((e[3], e[1], e[4]) for e in group)
            parts.append(Part(file, file.address, (), cut, texts=texts, bytes=size, identity=identity))
            yield parts[-1]
            start, size = stop, 0
    listing = [[entry[3].removeprefix(file.address), entry[5].size] for entry in found]
    fingerprint = {"listing_sha256": hashlib.sha256(json.dumps(listing).encode()).hexdigest()}
    return Plan(file, parts, len(found), sum(entry[5].size for entry in found), fingerprint)


def place_of(inside: Sequence[str], file: File) -> tuple[str | None, str | None]:
    """Split and label of a text file by its path within a folder: the label is empty where it has none, and None where
    the file is to be left alone.
    """
    if file.is_unlabelled:
        return UNLABELLED, ""
    split, policy = SPELLINGS.get(inside[0].casefold()), file.source.missing_label
    if len(inside) != (2 if split is None else 3):
        return split, None
    if inside[-2] not in (WITHOUT_LABELS if policy == "error" else UNLABELLED_SPELLINGS):
        return split, inside[-2]
    measured = split in (VALIDATION, TEST)
    return (split if measured else UNLABELLED, "") if policy == UNLABELLED else (split, None)


def natural(name: str) -> tuple[int, str]:
    """Sort ``10_9.txt`` after ``2_7.txt``."""
    digits = name[: len(name) - len(name.lstrip("0123456789"))]
    return (int(digits) if digits else -1, name)


def numbered(plans: list[Plan]) -> list[Part]:
    """All parts in order, each knowing how many rows the files before its own have."""
    parts, offset = [], 0
    for plan in plans:
        parts += [replace(part, offset=offset) for part in plan.parts if part.cut.rows]
        offset += plan.rows
    return parts
