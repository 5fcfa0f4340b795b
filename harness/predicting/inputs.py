# SPDX-License-Identifier: Apache-2.0
"""Which files an input means, and each of them as bytes that parts can be cut from."""

from __future__ import annotations

import itertools
import os
import re
import select
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from pyarrow import fs

from harness.inference.pieces import Source, Table, Wanted, own_words
from harness.inference.tables import KINDS, kind_of_input, open_table
from harness.predicting.config import STDIN, PredictConfig, ReadingConfig
from harness.rundir.bundle_files import BundleInfo
from harness.rundir.training_facts import DIALECT, Reading, read_training, reading_of
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.printable import public, tell
from preprocessing.config import SplitConfig
from preprocessing.corpus import addresses
from preprocessing.corpus.records import Dialect, read_header
from preprocessing.corpus.sources import File

LINES = {"csv": "csv", "tsv": "csv", "jsonl": "jsonl", "txt": "jsonl"}
"""Kinds of text files -> what their records are told apart as: a line that ends nowhere else, or fields."""
TEXT = "text"
SAID_AFTER_S, PIPE_TIMEOUT_S = 2, 300
HIDDEN = re.compile(r"(^|/)[._]")
"""Files and folders that hold no rows: of an earlier prediction, of Spark, of the system."""


@dataclass(frozen=True)
class Input:
    """One file, or a folder of text files, before it is read."""

    source: Source
    kind: str
    identity: dict[str, Any]
    """What changes when the content does."""
    texts: tuple[tuple[str, int], ...] = ()
    """Of a folder of text files: the address and the bytes of each."""
    form: str = ""
    """How it was written, where that is not UTF-8 with newlines."""

    def table(self, wanted: Wanted) -> Table:
        """All of its rows, to be read. Raises ``DataError`` for a bad file."""
        facts = {"files": [address for address, _ in self.texts]} if self.kind == "folder" else None
        return open_table(self.source, self.kind, wanted, facts)


def reading_by(config: ReadingConfig, bundle: Path, info: BundleInfo) -> Reading:
    """How files are read: as ``config`` says, else as the training of a bundle read its corpus."""
    known = (read_training(bundle, info.dataset) or {}).get("source", {})
    said = {name for name in ("encoding", *DIALECT) if getattr(config, name) is not None}  # perhaps as it is by default
    said |= {"dialect"} if said & set(DIALECT) else set()
    return reading_of(config.source(()), {name: value for name, value in known.items() if name not in said})


def wanted_by(config: ReadingConfig, reading: Reading, *, keep: bool = False) -> Wanted:
    """Where texts stand: in the column that was named, or that the training read them from, or in ``text``."""
    usual = list(dict.fromkeys((reading.source.text_column, TEXT)))
    return Wanted(usual if config.column is None else [config.column], keep)


def find(config: PredictConfig, reading: Reading, work: Path, own: Sequence[Path] = ()) -> list[Input]:
    """Every file that ``config`` names, in the order in which it does; what must be copied lies in ``work`` then.

    They are read as ``reading`` says. What lies at or below one of the ``own`` places is what is being written, and
    found by no glob and in no folder. Raises ``DataError`` for what is not there or cannot be read, ``ConfigError`` for
    what is of no known kind.
    """
    found: list[Input] = []
    with own_words():
        for address in config.inputs:
            for name in [address] if address == STDIN else addresses.find(address):
                if name != address and is_below(name, own):
                    continue
                found += folder(name, own) if is_folder(name) else [single(name, config, work, len(found))]
        kinds = {one.kind: one.source.name for one in reversed(found)}
        if len(kinds) > 1:
            (kind, name), (other, another) = list(kinds.items())[:2]
            raise ConfigError(
                f"--input: {name} is {kind} and {another} is {other}; predict one kind at a time, or set --format"
            )
        for number, one in enumerate(found):
            if one.kind in LINES:
                found[number] = readable(one, reading, work / f"input-{number:05d}.copy")
            elif one.kind == "folder":
                found[number] = replace(one, source=replace(one.source, encoding=reading.source.encoding))
    return found


def is_folder(name: str) -> bool:
    """Whether an address is a folder."""
    return not is_pipe(name) and addresses.kind(name) == fs.FileType.Directory


def is_pipe(name: str) -> bool:
    """Whether an address is standard input or a pipe."""
    return name == STDIN or (not addresses.is_remote(name) and "\0" not in name and Path(name).is_fifo())


def is_below(name: str, own: Sequence[Path]) -> bool:
    """Whether a file lies at or below one of some places."""
    return not addresses.is_remote(name) and any(Path(addresses.absolute(name)).is_relative_to(one) for one in own)


def folder(name: str, own: Sequence[Path] = ()) -> list[Input]:
    """The files of a folder that hold tables; or the folder itself, if it holds nothing but text files."""
    root = name.rstrip("/")
    system, path = addresses.filesystem(root)
    infos = addresses.below(root, system, path)
    start = addresses.prefix(root, path)
    files = {start + info.path: info for info in infos if info.type == fs.FileType.File}
    shown = sorted(one for one in files if not HIDDEN.search(one.removeprefix(root)))
    kinds = {one: KINDS.get(Source(one).suffix) for one in shown}
    known = [one for one in shown if kinds[one] and not is_below(one, own)]
    if not known:
        raise DataError(f"{name}: holds no .csv, .tsv, .jsonl, .parquet or .txt; check --input")
    if {kinds[one] for one in known} != {"txt"}:
        return [Input(Source(one), str(kinds[one]), addresses.identity(one)) for one in known]
    identity = {"files": [[public(one), files[one].size, files[one].mtime_ns] for one in known]}
    return [Input(Source(name), "folder", identity, texts=tuple((one, files[one].size) for one in known))]


def single(name: str, config: PredictConfig, work: Path, number: int) -> Input:
    """One file, or standard input or a pipe, which is kept in ``work`` so that it can be read twice."""
    if is_pipe(name):
        copy = work / f"input-{number:05d}"
        called = "standard input" if name == STDIN else name
        if name == STDIN and sys.stdin.isatty():
            print("one text a line; Ctrl-D ends", file=sys.stderr)
        keep(sys.stdin.buffer if name == STDIN else open_pipe(name), copy)
        identity = {"bytes": copy.stat().st_size, "sha256": atomic.sha256_file(copy)}
        return Input(Source(called, str(copy)), "txt" if config.format == "auto" else config.format, identity)
    return Input(Source(name), kind_of_input(Source(name), config.format), addresses.identity(name))


def open_pipe(name: str) -> IO[bytes]:
    """A named pipe, once something comes out of it. Raises ``DataError`` where nothing does."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(1000 * SAID_AFTER_S):
            tell(f"{name}: a named pipe, into which nothing has been written yet; waiting up to {PIPE_TIMEOUT_S} s")
            if not poll.poll(1000 * PIPE_TIMEOUT_S):
                raise DataError(
                    f"{name}: nothing was written into this pipe for {PIPE_TIMEOUT_S} s; start the program that "
                    "writes, or name a file"
                )
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def keep(pipe: IO[bytes], copy: Path) -> None:
    """Write what comes out of a pipe to a file, in bounded pieces."""
    with pipe, atomic.replacing(copy) as temporary, open(temporary, "wb") as file:
        while piece := pipe.read(addresses.READ_BYTES):
            file.write(piece)


def readable(one: Input, reading: Reading, copy: Path) -> Input:
    """A text file as UTF-8 with newlines: as it lies, or as a copy, if it is packed or written otherwise."""
    place, source = one.source.place, reading.source
    raw = addresses.stream(place)
    first = next(raw, b"")
    usual = Dialect("\t", source.quote, source.escape) if one.kind == "tsv" and source.delimiter is None else None
    known = reading.dialect or usual
    file = File(place, one.source.name, LINES[one.kind], None, source, SplitConfig(column=None), known=known)
    file, form = file.seen(first)
    said = ", ".join(form.in_words(file.expected, first))
    one = replace(one, source=replace(one.source, dialect=form.dialect), form=said)
    if not form.is_plain or addresses.is_compressed(place):
        with atomic.replacing(copy) as temporary, open(temporary, "wb") as target:
            for piece in form.converted(itertools.chain([first], raw), one.source.name):
                target.write(piece)
        one = replace(one, source=replace(one.source, data=str(copy)))
    if file.format == "csv" and source.columns:
        head = next(form.converted([first], one.source.name), b"")[form.mark :]
        columns = [] if has_header(head, one.source, source.columns) else source.columns
        one = replace(one, source=replace(one.source, columns=columns))
    return one


def has_header(first: bytes, source: Source, columns: list[str]) -> bool:
    """Whether a file has a header although the corpus of the training, whose columns were named so, had none."""
    names = read_header(first, source.name, source.dialect) if first.strip() else ()
    return len(names) != len(columns) or sorted(names) == sorted(columns)
