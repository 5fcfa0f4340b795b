# SPDX-License-Identifier: Apache-2.0
"""The first pass: each part of the corpus is read and tokenized once, into a compact form that is already shuffled.

Every row has a shuffle key, a pure function of the seed and the row's number, and a part's rows are stored in the order
of that key. One output shard is a range of keys, so its rows are one contiguous run in every part. The shuffle of the
whole corpus therefore needs no exchange between workers, and its result does not depend on where the parts were cut.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import DataError
from preprocessing.base.screen import Screen
from preprocessing.config import PreprocessConfig
from preprocessing.corpus import addresses, rows, sources
from preprocessing.corpus.sources import Plan
from preprocessing.job import engine
from preprocessing.job.engine import Progress
from preprocessing.job.executors import Workers
from preprocessing.job.hashes import content_sum, exact_hashes, shuffle_keys, text_hashes
from preprocessing.labels import LabelType
from preprocessing.text.spec import TextPipeline
from preprocessing.text.tokenizer import Tokenizer

VERSION = 1
"""Of what is stored: parts of another version are made again."""
UNPACKED = "unpacked"
"""Folder for the unpacked copies of compressed files, below the folder of work."""
OTHERS = {"path", "validation_path", "test_path", "unlabelled_path", "part_mb", "validation", "test", "folds"}
"""Keys of ``source`` and ``splits`` that decide which parts there are, or what becomes of rows, but no part itself."""
KEPT = threading.local()
"""The tokenizer of each thread, kept between parts: it remembers the words that it has seen."""
LOADING = threading.Lock()
"""One thread at a time loads language data."""


@dataclass(frozen=True)
class Summary:
    """What is known of a part that is tokenized."""

    rows: int
    neutral: int
    filtered: int
    without_label: int
    """Rows left out because they have no label."""
    content: str
    """Folder: the sum of the sha256 of every text, modulo 2**256, as hex; adding up parts gives that of the folder."""
    classes: list[str]
    """Names of the classes that the labels of this part are numbers of."""
    label_type: LabelType | None
    known: list[str]
    """As ``Piece`` has them."""


@dataclass(frozen=True)
class TokenizedPart(engine.Part[Summary]):
    """One part of the corpus, to be read and tokenized."""

    number: int
    part: sources.Part
    pipeline: str
    """The text pipeline as JSON."""
    seed: int

    result: ClassVar[type] = Summary

    @classmethod
    def of(cls, work: Path, number: int, part: sources.Part, pipeline: TextPipeline, seed: int) -> TokenizedPart:
        """A part as a task; its key is the hash of all that decides what is stored of it."""
        content = asdict(part)
        for section in ("source", "splits"):
            for name in OTHERS & content["file"][section].keys():
                del content["file"][section][name]
        key = hashlib.sha256(repr((VERSION, content, pipeline.hash, seed)).encode()).hexdigest()
        folder, text = work / "parts", json.dumps(pipeline.to_json())
        return cls(key, folder, folder / f"{number:06d}.json", part.bytes, number, part, text, seed)

    def make(self) -> tuple[Summary, dict[str, str]]:
        """Store the rows in the order of their keys, the distinct tokens, and the names of groups if there are any."""
        piece = rows.read(self.part)
        tokens = tokenizer_of(self.pipeline)(piece.texts)
        keys = shuffle_keys(self.seed, piece.row)
        order = np.argsort(keys, kind="stable")
        codes, offsets = arrays.take(tokens.codes, tokens.offsets, order)
        narrow = np.uint16 if len(tokens.types) <= 1 << 16 else np.int32
        columns = {
            "key": keys,
            "row": piece.row,
            "label": piece.label,
            "split": piece.split,
            "missing": piece.missing.astype(np.uint8),
            "text_hash": text_hashes(tokens),
            "exact_hash": exact_hashes(piece.texts),
            **({} if piece.group is None else {"group": piece.group}),
        }
        stored: dict[str, Any] = {name: values[order] for name, values in columns.items()}
        stored["codes"] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(codes.astype(narrow)))
        tables: dict[str, dict[str, Any]] = {"rows": stored, "types": {"types": tokens.types.cast(pa.large_string())}}
        if piece.group is not None:
            names = pa.array(list(piece.groups.values()), pa.large_string())
            tables["groups"] = {"hash": pa.array(list(piece.groups), pa.uint64()), "name": names}
        files = {}
        for name, table in tables.items():
            path = file_of(self.root, self.number, name)
            write_table(path, table)
            files[path.name] = atomic.sha256_file(path)
        content = content_sum(piece.texts) if self.part.texts else 0
        left_out = (piece.neutral, piece.filtered, piece.without_label)
        of_labels = (piece.classes, piece.label_type, piece.known)
        return Summary(len(piece.row), *left_out, f"{content:064x}", *of_labels), files


def tokenizer_of(pipeline: str) -> Tokenizer:
    """This thread's tokenizer for a pipeline as JSON."""
    kept: tuple[str, Tokenizer] | None = getattr(KEPT, "tokenizer", None)
    if kept is None or kept[0] != pipeline:
        with LOADING:
            kept = pipeline, Tokenizer(TextPipeline.from_json(json.loads(pipeline)))
        KEPT.tokenizer = kept
    return kept[1]


def scan(files: list[sources.File], workers: Workers, work: Path) -> list[Plan]:
    """Count and cut every file of the source."""
    tasks = [(number, file, work / UNPACKED) for number, file in enumerate(files)]
    plans = {number: plan for (number, _, _), plan in workers.map(scan_file, tasks, what="scan")}
    return [plans[number] for number in range(len(tasks))]


def scan_file(task: tuple[int, sources.File, Path]) -> Plan:
    """Count and cut one file."""
    return sources.scan(task[1], task[2])


def tokenize_all(
    config: PreprocessConfig,
    pipeline: TextPipeline,
    workers: Workers,
    work: Path,
    files: list[sources.File],
    plans: list[Plan],
    screen: Screen,
) -> list[tuple[TokenizedPart, Summary]]:
    """Every part of the corpus, in order, tokenized: those that are not done yet are read now.

    Fills ``plans`` if it is empty. Progress is on ``screen``. Raises ``DataError`` for an empty corpus.
    """
    total = sum(addresses.identity(file.address)["bytes"] or 0 for file in files) if not plans else 0
    progress = Progress("tokenize", total or sum(part.bytes for plan in plans for part in plan.parts), screen=screen)
    done: list[tuple[TokenizedPart, Summary]] = []
    classes: set[str] = set()

    cut = (
        TokenizedPart.of(work, number, part, pipeline, config.seed)
        for number, part in enumerate(find_parts(files, plans, work / UNPACKED))
    )
    for task, summary in engine.run(cut, workers, progress):
        done.append((task, summary))
        if config.source.label_map() is None:
            classes.update(summary.classes)
            rows.check_number(classes, task.part.file)
    if not done:
        raise DataError(f"{', '.join(file.name for file in files)}: the corpus is empty: no row to learn from")
    return sorted(done, key=lambda one: one[0].number)


def find_parts(files: list[sources.File], plans: list[Plan], stage: Path) -> Iterator[sources.Part]:
    """Every part in order. Without plans there is one file: it is scanned meanwhile, its plan put into ``plans``."""
    if plans:
        yield from sources.numbered(plans)
        return
    found = sources.iter_parts(files[0], stage)
    while True:
        try:
            part = next(found)
        except StopIteration as stop:
            plans.append(stop.value)
            return
        if part.cut.rows:
            yield part


@dataclass(frozen=True)
class Stored:
    """A part's rows, mapped, in the order of ``key``; nothing is copied until it is touched."""

    key: np.ndarray
    """uint64, ascending."""
    row: np.ndarray
    label: np.ndarray
    split: np.ndarray
    missing: np.ndarray
    text_hash: np.ndarray
    exact_hash: np.ndarray
    codes: np.ndarray
    offsets: np.ndarray
    """int64 ``[rows + 1]`` into ``codes``."""
    group: np.ndarray | None = None
    """uint64, or None where the source has no groups."""


def load(work: Path, number: int) -> Stored:
    """Map the rows of a part."""
    table = read_table(file_of(work / "parts", number, "rows"))
    codes = table.pop("codes")
    columns = {name: column.to_numpy() for name, column in table.items()}
    return Stored(codes=codes.values.to_numpy(), offsets=codes.offsets.to_numpy(), **columns)


def load_types(work: Path, number: int) -> pa.Array:
    """The distinct tokens of a part; its codes are row numbers of this."""
    return read_table(file_of(work / "parts", number, "types"))["types"]


def group_name(work: Path, wanted: int) -> str | None:
    """The name of the group with this hash, looked for in one part after the other; None if no part has it."""
    for path in sorted((work / "parts").glob("*-groups.arrow")):
        table = read_table(path)
        found = np.flatnonzero(table["hash"].to_numpy() == np.uint64(wanted))
        if len(found):
            return str(table["name"][int(found[0])].as_py())
    return None


def file_of(folder: Path, number: int, name: str) -> Path:
    """The file of a part's rows, types or groups."""
    return folder / f"{number:06d}-{name}.arrow"


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Arrays of equal length as one record batch of an Arrow IPC file, which can be mapped."""
    batch = pa.record_batch([pa.array(values) for values in columns.values()], list(columns))
    with (
        atomic.replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)


def read_table(path: Path) -> dict[str, pa.Array]:
    """What ``write_table`` wrote, mapped."""
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    return dict(zip(batch.schema.names, batch.columns, strict=True))
