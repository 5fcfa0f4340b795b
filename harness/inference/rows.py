# SPDX-License-Identifier: Apache-2.0
"""New files for predict, evaluate and explain: ``preprocessing.sources`` reads them as the training corpus was read,
unless the user sets ``source``.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.inference.config import STDIN
from padless.core.errors import ConfigError, DataError
from padless.core.terminal import print_stderr
from preprocessing.config import ReadingOptions, SourceConfig, SplitConfig
from preprocessing.labels import AUTO
from preprocessing.pipeline.parts import Source
from preprocessing.sources import addresses
from preprocessing.sources.columns import resolve_source, resolve_unlabelled
from preprocessing.sources.convert import read_part
from preprocessing.sources.readers import open_reader
from preprocessing.sources.sources import File, list_files

NO_SPLITS = SplitConfig(column=None)
"""New rows are of no split."""


def find_texts(names: Sequence[str], options: SourceConfig, trained: ReadingOptions, work: Path) -> list[File]:
    """Every file of these names, in their order; standard input is copied into ``work``.

    ``trained`` are the options of the training corpus. The text is in the column of ``options``, else in that of the
    corpus, else in the one that is found as in preprocessing. Raises ``DataError`` for a missing or unreadable file,
    ``ConfigError`` for a file of unknown format.
    """
    copy = work / "input.txt"
    if STDIN in names:
        with open(copy, "wb") as output:  # so that it can be read twice
            shutil.copyfileobj(sys.stdin.buffer, output, addresses.READ_BYTES)
    source = options.follow(trained)
    paths = [str(copy) if name == STDIN else name for name in names]
    unlabelled = replace(source, path=[], unlabelled_path=paths, where={}, text_column=options.text_column)
    files = [
        replace(file, name="standard input") if file.address == str(copy) else file
        for file in list_files(unlabelled, NO_SPLITS)
    ]
    if options.text_column != AUTO:
        return files
    text_column = "text" if files[0].format in ("folder", "txt") else source.text_column
    chosen = {"text_column": text_column, "label_column": source.label_column}
    lines, resolved = list[str](), list[File]()
    for file in files:
        resolved += resolve_unlabelled([file], chosen, lines)
    for line in lines[:1]:
        print_stderr(line)
    return resolved


def find_labelled(name: str, options: SourceConfig, trained: ReadingOptions, labels: Any) -> list[File]:
    """The files of labelled rows; ``labels`` is the value of ``source.labels``. Columns of the corpus that the first
    file lacks are found as in preprocessing. Raises as ``find_texts`` does.
    """
    files = [*list_files(replace(options.follow(trained), path=[name], labels=labels), NO_SPLITS)]
    source, columns = files[0].source, {*open_reader(files[0]).columns}
    if options.text_column == AUTO and not {*source.text_columns} <= columns:
        source = replace(source, text_column=AUTO)
    if options.label_column == AUTO and source.label_column not in columns:
        source = replace(source, label_column=AUTO)
    resolved = resolve_source([replace(file, source=source) for file in files])
    for line in resolved.lines:
        print_stderr(line)
    return resolved.files


def refuse_input(output: Path, files: Iterable[File]) -> None:
    """Raise ``ConfigError`` if the output is one of the inputs, links included."""
    local_paths = [addresses.local_path(file.address) for file in files if not addresses.is_remote(file.address)]
    if output.exists() and any(output.samefile(path) for path in local_paths):
        raise ConfigError(f"--output {output}: is the input; name another --output")


def iter_parts(sources: Iterable[Source]) -> Iterator[tuple[Source, pa.Table]]:
    """The converted parts of some files, each with its file."""
    for source in sources:
        for part in source.converted.parts:
            yield source, read_part(source.folder, part)
            pa.default_memory_pool().release_unused()  # or it grows with the number of parts


def iter_texts(files: Sequence[File]) -> Iterator[list[str]]:
    """The texts of some files, in batches; a row without one is an empty text. Raises ``DataError`` without rows."""
    has_rows = False
    for file in files:
        for batch in open_reader(file).batches():
            texts = [text or "" for text in batch.texts().to_pylist()]
            if texts:  # an empty file is a batch without rows
                has_rows = True
                yield texts
    if not has_rows:
        raise DataError(f"{files[0].name}: holds no rows")
