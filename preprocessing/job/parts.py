# SPDX-License-Identifier: Apache-2.0
"""The first pass: reads and tokenizes each part of the corpus once, and stores its rows already shuffled.

Every row has a shuffle key, a pure function of the seed and the row's number, and a part's rows are stored in the order
of that key. One shard is one range of keys, so its rows are contiguous in every part. Shuffling the whole corpus
therefore needs no exchange between workers, and the result does not depend on where the parts were cut. What decides a
row's split (``facts``) is stored in the order of its text's hash: equal texts are in one range of hashes.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import DataError
from preprocessing.base.randomness import permutation, splitmix64
from preprocessing.base.terminal import Screen
from preprocessing.config import PreprocessConfig, SourceConfig
from preprocessing.corpus import rows, sources
from preprocessing.corpus.sources import Plan
from preprocessing.job import engine
from preprocessing.job.executors import Workers
from preprocessing.labels import LabelType, common_type, in_order
from preprocessing.text.spec import TextPipeline
from preprocessing.text.tokenizer import Tokenizer

NO_FOLD = -1
"""The fold of rows that have none: test rows, unlabelled rows, rows that are left out."""
VERSION = 5
"""Format of stored parts; parts of another version are made again."""
UNPACKED = "unpacked"
"""Folder for the unpacked copies of compressed files, below the folder of work."""
LOOK_PARTS = 8
OTHERS = {"path", "validation_path", "test_path", "unlabelled_path", "part_mb", "validation", "test", "folds"}
"""Keys of ``source`` and ``splits`` that do not change what a part stores."""


@dataclass(frozen=True)
class Summary:
    """The result of a tokenized part."""

    rows: int
    neutral: int
    filtered: int
    without_label: int
    """Rows left out because they have no label."""
    classes: list[str]
    """Class names; the labels of this part are indices into them."""
    label_type: LabelType | None
    known: list[str]
    """As in ``Piece``."""


@dataclass(frozen=True)
class TokenizedPart(engine.Part[Summary]):
    """One part of the corpus, to be read and tokenized."""

    number: int
    part: sources.Part
    pipeline: TextPipeline
    seed: int

    result: ClassVar[type] = Summary

    @classmethod
    def of(cls, work: Path, number: int, part: sources.Part, pipeline: TextPipeline, seed: int) -> TokenizedPart:
        """A part as a task; its key is the hash of everything that decides what it stores."""
        content = asdict(part)
        for section in ("source", "splits"):
            for name in OTHERS & content["file"][section].keys():
                del content["file"][section][name]
        key = hashlib.sha256(repr((VERSION, content, pipeline.hash, seed)).encode()).hexdigest()
        folder = work / "parts"
        return cls(key, folder, folder / f"{number:06d}.json", part.cut.rows, number, part, pipeline, seed)

    def make(self) -> tuple[Summary, dict[str, str]]:
        """Store the rows in the order of their keys, and the distinct tokens."""
        piece = rows.read(self.part)
        tokens = engine.kept(self.pipeline.hash, lambda: Tokenizer(self.pipeline))(piece.texts)
        key = keyed_hash(self.seed, "shuffle", piece.row)
        order = np.argsort(key, kind="stable")
        codes, offsets = arrays.take(tokens.codes, tokens.offsets, order)
        narrow = np.uint16 if len(tokens.types) <= 1 << 16 else np.int32
        stored: dict[str, Any] = {"key": key[order], "row": piece.row[order]}
        stored["codes"] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(codes.astype(narrow)))
        text_hash = arrays.segment_hashes(type_hashes(tokens.types)[tokens.codes], tokens.offsets)
        facts = {
            "row": piece.row,
            "label": class_names(piece),
            "named": piece.split,
            "missing": piece.missing,
            "num_tokens": np.diff(tokens.offsets).astype(np.int32),
            "text_hash": text_hash,  # equal exactly where the tokens are, up to one chance in 2**64 for a pair of texts
            "priority": keyed_hash(self.seed, "split", text_hash),
            "group_hash": np.full(len(order), rows.NO_GROUP, np.uint64) if piece.group is None else piece.group,
            **{name: pa.array(times, from_pandas=True) for name, times in piece.times.items()},
        }
        files = {}
        for name, table in (("rows", stored), ("types", {"types": tokens.types})):
            path = file_of(self.root, self.number, name)
            arrays.write_batch(path, table)
            files[path.name] = atomic.sha256_file(path)
        path = file_of(self.root, self.number, "facts")
        with atomic.replacing(path) as temporary:
            pq.write_table(pa.table(facts), temporary, compression="none")
        files[path.name] = atomic.sha256_file(path)
        left_out = (piece.neutral, piece.filtered, piece.without_label)
        return Summary(len(piece.row), *left_out, piece.classes, piece.label_type, piece.known), files


def scan(config: PreprocessConfig, files: list[sources.File], workers: Workers, work: Path, before: int) -> list[Plan]:
    """Count and cut every file of the source; the corpus has ``before`` rows before them."""
    look = partial(sources.scan, stage=work / UNPACKED, look=config.limit is not None)
    found = sources.in_sequence(workers.ordered(look, files, what="scan"), before)
    return found if config.limit is None else drawn(found, config.limit, config.seed)


def drawn(plans: list[Plan], limit: int, seed: int) -> list[Plan]:
    """The plans with ``limit`` rows, drawn at random from at most ``LOOK_PARTS`` parts all over each file."""
    some = [part for plan in plans for part in plan.parts[:: 1 + len(plan.parts) // (LOOK_PARTS + 1)]]
    ends = np.cumsum([part.cut.rows for part in some])
    rows = np.sort(permutation(int(ends.max(initial=0)), seed)[:limit])
    taken = zip(some, ends, np.split(rows, np.searchsorted(rows, ends)), strict=False)  # none is left at the end
    some = [
        replace(part, drawn=tuple((its - end + part.cut.first_row + part.cut.rows).tolist()))
        for part, end, its in taken
    ]
    return [replace(plan, parts=[part for part in some if part.file is plan.file and part.drawn]) for plan in plans]


def tokenize_all(
    config: PreprocessConfig, pipeline: TextPipeline, plans: list[Plan], workers: Workers, work: Path, screen: Screen
) -> tuple[list[TokenizedPart], list[Summary]]:
    """Every part of the corpus, in order, tokenized; finished parts are not read again.

    Progress is on ``screen``. Raises ``DataError`` for an empty corpus.
    """
    cut = enumerate(sources.numbered(plans))
    tasks = [TokenizedPart.of(work, number, part, pipeline, config.seed) for number, part in cut]
    if not tasks:
        raise DataError(f"{', '.join(plan.file.name for plan in plans)}: the corpus is empty: no row to learn from")
    found: dict[int, Summary] = {}
    classes: set[str] = set()
    with engine.shown("tokenize", sum(plan.rows for plan in plans), screen.quiet) as progress:
        for task, summary in engine.run(tasks, workers, progress):
            found[task.number] = summary
            if config.source.label_map() is None:
                classes.update(summary.classes)
                rows.check_number(classes, task.part.file)
    return tasks, [found[task.number] for task in tasks]


@dataclass(frozen=True)
class Classes:
    """The classes of a corpus."""

    names: list[str]
    """In the order of their numbers."""
    numbers: dict[str, int]
    """Label as written in a part -> number of its class."""
    type: LabelType
    """Type of the label column."""

    @classmethod
    def of(cls, source: SourceConfig, summaries: Sequence[Summary]) -> Classes:
        """Merge the classes of all parts."""
        given = source.label_map()
        if given is not None:
            return cls(given.names, {name: number for number, name in enumerate(given.names)}, "text")
        known = list(dict.fromkeys(name for summary in summaries for name in summary.known))
        names, numbers = in_order({name for summary in summaries for name in summary.classes}, known)
        return cls(names, numbers, common_type((summary.label_type for summary in summaries), names))


def class_names(piece: rows.Piece) -> pa.Array:
    """The class of each row as written, null without one."""
    has_label = piece.label >= 0
    indices = pa.array(piece.label, mask=~has_label)
    return pa.DictionaryArray.from_arrays(indices, pa.array(piece.classes, pa.string()))


def load(work: Path, number: int) -> dict[str, np.ndarray]:
    """The rows of a part, mapped: ``key`` (uint64, ascending), ``row`` (number in the source) and ``codes``, into which
    ``offsets`` is int64 ``[rows + 1]``.
    """
    batch = read_batch(file_of(work / "parts", number, "rows"))
    codes = batch["codes"]
    columns = {"key": batch["key"], "row": batch["row"], "codes": codes.values, "offsets": codes.offsets}
    return {name: column.to_numpy() for name, column in columns.items()}


def load_types(work: Path, number: int) -> pa.Array:
    """The distinct tokens of a part; its codes are row numbers of this."""
    return read_batch(file_of(work / "parts", number, "types"))["types"]


def file_of(folder: Path, number: int, name: str) -> Path:
    """The file of a part's rows, types or facts."""
    return folder / f"{number:06d}-{name}.arrow"


def load_columns(path: Path) -> dict[str, np.ndarray]:
    """``read_batch`` as arrays of NumPy."""
    batch = read_batch(path)
    return {name: batch[name].to_numpy() for name in batch.schema.names}


def within(path: Path, column: str, first: int, of: int, number: int = 1) -> pa.RecordBatch:
    """``read_batch``, only the rows in ``number`` of ``of`` equal ranges of all hashes, which ascend in ``column``."""
    batch = read_batch(path)
    low, high = (np.uint64((first + step << 64) // of - bool(step)) for step in (0, number))  # both inclusive
    begin, end = (batch[column].to_numpy().searchsorted(*to) for to in ((low, "left"), (high, "right")))
    return batch.slice(begin, end - begin)


def read_batch(path: Path) -> pa.RecordBatch:
    """A file of ``write_batch``, mapped."""
    with open(path, "rb") as file:  # pa.memory_map asks for all pages at once; small ranges of many files are read
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.py_buffer(mapped)).get_batch(0)


def keyed_hash(seed: int, purpose: str, values: np.ndarray) -> np.ndarray:
    """uint64, pseudo-random: a pure function of the seed, what it is for, and each value."""
    salt = hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:8]
    return splitmix64(values.astype(np.uint64) ^ np.frombuffer(salt, "<u8")[0])


def type_hashes(types: pa.Array) -> np.ndarray:
    """uint64 per string."""
    texts = types.cast(pa.large_binary()).to_pylist()
    content = np.frombuffer(b"".join(texts), np.uint8).astype(np.uint64) + np.uint64(1)
    return arrays.segment_hashes(content, np.cumsum([0, *map(len, texts)]))
