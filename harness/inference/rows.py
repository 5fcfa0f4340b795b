# SPDX-License-Identifier: Apache-2.0
"""The texts of new files, for predict and explain: which files an input means, which column holds the text, each row.

Files are read by ``preprocessing.corpus``, as the corpus of the training was read unless the user says otherwise.
"""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from pyarrow import fs

from harness.inference.config import STDIN, ReadingConfig
from harness.rundir.bundle_files import BundleInfo
from harness.rundir.training_facts import DIALECT, Reading, read_training, reading_of
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.terminal import public, tell
from preprocessing.base.untrusted import listed
from preprocessing.config import SplitConfig
from preprocessing.corpus import addresses, sources, tables
from preprocessing.corpus.forms import BYTE_ORDER_MARK, uncompressed
from preprocessing.corpus.records import Dialect
from preprocessing.corpus.sources import File, Part
from preprocessing.corpus.tables import Rows

KINDS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
}
TEXT = "text"
NOTICE_AFTER_S, PIPE_TIMEOUT_S = 2, 300
AVAILABLE_BYTES = 1 << 16
"""Most that is taken from standard input at once; less where less has come."""
HIDDEN = re.compile(r"(^|/)[._]")
"""Files and folders that hold no rows: of an earlier prediction, of Spark, of the system."""


@dataclass(frozen=True)
class Input:
    """One file, or a folder of text files, before all of it is read."""

    file: File
    kind: str
    """csv, tsv, jsonl, parquet, txt or folder."""
    identity: dict[str, Any]
    """Changes when the file does; empty for a folder."""
    form: str = ""
    """How it was written, where that is not UTF-8 with newlines."""


def reading_by(config: ReadingConfig, bundle: Path, info: BundleInfo) -> Reading:
    """How files are read: as ``config`` says, else as the training of a bundle read its corpus."""
    known = (read_training(bundle, info.dataset) or {}).get("source", {})
    given = {name for name in ("encoding", *DIALECT) if getattr(config, name) is not None}  # perhaps the default
    given |= {"dialect"} if given & set(DIALECT) else set()
    return reading_of(config.source(), {name: value for name, value in known.items() if name not in given})


def find(
    names: Sequence[str],
    kind: str,
    config: ReadingConfig,
    reading: Reading,
    work: Path,
    own: Sequence[Path] = (),
    part_mb: float = 8.0,
) -> list[Input]:
    """Every file that some names mean, in their order; standard input and pipes are copied into ``work``.

    ``kind`` is ``auto`` or one of ``KINDS``. Globs and folders pass over what lies at or below one of the ``own``
    places, since it is being written. Raises ``DataError`` for what is not there or cannot be read, ``ConfigError`` for
    a file of unknown kind, or files of several.
    """
    found: list[tuple[str, str, str]] = []  # kind, address, name
    with own_options():
        for given in names:
            if is_pipe(given):
                copy = copied(given, work / f"input-{len(found):05d}")
                found.append(("txt" if kind == "auto" else kind, *copy))
                continue
            for name in addresses.find(given):
                if name != given and is_below(name, own):
                    continue
                if addresses.kind(name) == fs.FileType.Directory:
                    found += [(its_kind, one, one) for its_kind, one in files_of_folder(name, own)]
                else:
                    found.append((kind_of(name, kind), name, name))
        kinds = {its_kind: name for its_kind, _, name in reversed(found)}
        if len(kinds) > 1:
            (first, name), (second, other) = list(kinds.items())[:2]
            raise ConfigError(
                f"--input: {name} is {first} and {other} is {second}; predict one kind at a time, or set --format"
            )
        return [opened(*one, config, reading, part_mb) for one in found]


def opened(kind: str, address: str, name: str, config: ReadingConfig, reading: Reading, part_mb: float) -> Input:
    """One file, with its form and the column of its texts. Raises ``DataError``."""
    columns = [reading.source.text_column, TEXT] if config.column is None else [config.column]
    source, is_csv, known = reading.source, kind in ("csv", "tsv"), reading.dialect
    if kind == "tsv" and source.delimiter is None and known is None:
        known = Dialect("\t", source.quote, source.escape)
    source = replace(source, part_mb=part_mb, text_column=columns[-1])
    identity = {} if kind == "folder" else addresses.identity(address)
    address = addresses.absolute(address)
    form = "csv" if is_csv else kind
    file = File(address, public(name), form, UNLABELLED, source, SplitConfig(column=None), known=known)
    if kind == "folder":
        return Input(file, kind, identity)
    seen = tables.sample(replace(file, source=replace(source, columns=[])))
    if is_csv and source.columns and not has_header(seen.columns, source.columns):
        seen = tables.sample(file)
    if seen.columns or kind != "jsonl":  # of a file without rows that is what is said later
        chosen = next((one for one in columns if one in seen.columns), None)
        if chosen is None:
            raise DataError(f"{file.name}: no column {columns[0]!r}; it has {listed(seen.columns)}; use --column")
        seen = replace(seen, file=replace(seen.file, source=replace(seen.file.source, text_column=chosen)))
    said = seen.file.form.in_words(file.expected, seen.first) if seen.file.form else ""
    return Input(replace(seen.file, form=None), kind, identity, said)


def has_header(first_line: Sequence[str], columns: Sequence[str]) -> bool:
    """Whether a file begins with a header, although the corpus of the training, whose columns were named, had none."""
    return len(first_line) != len(columns) or sorted(first_line) == sorted(columns)


def kind_of(name: str, kind: str) -> str:
    """The kind of a file to read. Raises ``ConfigError`` for an unknown ending."""
    found = KINDS.get(Path(uncompressed(name)).suffix) if kind == "auto" else kind
    if found is None:
        what = "unknown ending; use .csv, .tsv, .jsonl, .parquet or .txt, or set --format"
        raise ConfigError(f"--input {name}: {what}")
    return found


def files_of_folder(name: str, own: Sequence[Path]) -> list[tuple[str, str]]:
    """Kind and address of the files of a folder; of the folder itself, if it holds nothing but text files."""
    root = name.rstrip("/")
    system, path = addresses.filesystem(root)
    start = addresses.prefix(root, path)
    files = [start + info.path for info in addresses.below(root, system, path) if info.type == fs.FileType.File]
    shown = sorted(one for one in files if not HIDDEN.search(one.removeprefix(root)) and not is_below(one, own))
    kinds = [(KINDS[suffix], one) for one in shown if (suffix := Path(uncompressed(one)).suffix) in KINDS]
    if not kinds:
        raise DataError(f"{name}: holds no .csv, .tsv, .jsonl, .parquet or .txt; check --input")
    return kinds if {kind for kind, _ in kinds} != {"txt"} else [("folder", root)]


def is_pipe(name: str) -> bool:
    """Whether an address is standard input or a pipe."""
    return name == STDIN or (not addresses.is_remote(name) and "\0" not in name and Path(name).is_fifo())


def is_below(name: str, own: Sequence[Path]) -> bool:
    """Whether a file lies at or below one of some places."""
    return not addresses.is_remote(name) and any(Path(addresses.absolute(name)).is_relative_to(one) for one in own)


def copied(name: str, copy: Path) -> tuple[str, str]:
    """Standard input or a pipe as a file that can be read twice: its address, and what sentences call it."""
    if name == STDIN and sys.stdin.isatty():
        print("one text a line; Ctrl-D ends", file=sys.stderr)
    pipe = sys.stdin.buffer if name == STDIN else open_pipe(name)
    with pipe, atomic.replacing(copy) as temporary, open(temporary, "wb") as file:
        while piece := pipe.read(addresses.READ_BYTES):
            file.write(piece)
    return str(copy), "standard input" if name == STDIN else name


def open_pipe(name: str) -> IO[bytes]:
    """A named pipe, once something comes out of it. Raises ``DataError`` where nothing does."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(1000 * NOTICE_AFTER_S):
        tell(f"{name}: a named pipe, into which nothing has been written yet; waiting up to {PIPE_TIMEOUT_S} s")
        if not poll.poll(1000 * PIPE_TIMEOUT_S):
            os.close(descriptor)
            raise DataError(
                f"{name}: nothing was written into this pipe for {PIPE_TIMEOUT_S} s; start the program that writes, or "
                "name a file"
            )
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb")


def texts_of(part: Part, rows: Rows, missing: bool) -> list[str]:
    """The texts of some rows. Raises ``DataError`` for a row without one, unless ``missing`` makes it an empty text."""
    name, number = part.file.source.text_column, len(rows.table)
    if name not in rows.table.column_names:  # a key that no row of these has
        texts: list[str | None] = [None] * number
    else:
        texts = tables.as_text(part, rows.table[name], np.arange(rows.first, rows.first + number), name).to_pylist()
    if not missing and part.file.format != "txt" and not all(texts):
        empty = next(row for row, text in enumerate(texts, rows.first) if not text)
        what = "holds no text; remove it" if part.texts else f"column {name!r} holds no text; fill or remove the row"
        raise tables.fail(part, empty, f"{what}, or set --missing keep")
    return [text or "" for text in texts]


def texts_in(inputs: Sequence[Input], stage: Path, missing: bool = False) -> Iterator[list[str]]:
    """All texts of some files, some at a time; ``missing`` is as for ``texts_of``."""
    with own_options():
        for one in inputs:
            for part in sources.scan(one.file, stage).parts:
                for rows in tables.iter_rows(part, None if one.kind == "jsonl" else [part.file.source.text_column]):
                    yield texts_of(part, rows, missing)


def lines_of_stdin() -> Iterator[list[str]]:
    """The texts on standard input, one a line, as many at a time as have come. Raises ``DataError`` for no text."""
    if sys.stdin.isatty():
        print("one text a line; Ctrl-D ends", file=sys.stderr)
    stdin: Any = sys.stdin.buffer
    rest, number = b"", 0
    while piece := stdin.read1(AVAILABLE_BYTES):
        *lines, rest = (rest + piece).split(b"\n")
        for start in range(0, len(lines), tables.MOST_ROWS):
            some = lines[start : start + tables.MOST_ROWS]
            yield [text_of(line, at) for at, line in enumerate(some, number + 1)]
            number += len(some)
    if rest:
        yield [text_of(rest, number + 1)]
    elif not number:
        raise DataError("standard input: holds no text; give one a line")


def text_of(line: bytes, number: int) -> str:
    """The text of a line of standard input."""
    try:
        return line.removeprefix(BYTE_ORDER_MARK if number == 1 else b"").removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} (0x{error.object[error.start]:02x}) is not UTF-8"
        what = "convert the text, for example with iconv -f latin1 -t utf-8"
        raise DataError(f"standard input: line {number}: {byte}; {what}") from None


@contextmanager
def own_options() -> Iterator[None]:
    """Errors of reading name options of preprocessing; those that leave the block name the ones of predict."""
    try:
        yield
    except (DataError, ConfigError) as error:
        text = str(error).replace("source.path", "--input").replace("source.text_column", "--column")
        text = re.sub(r"\bsource\.(encoding|delimiter|quote|escape)\b", r"--\1", text)
        raise type(error)(text) from None
