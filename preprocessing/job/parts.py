# SPDX-License-Identifier: Apache-2.0
"""The first passes: each source becomes Parquet parts; each part is tokenized, and its rows stored already shuffled.

Every row has a shuffle key, a pure function of the seed and the row's number, and a part's rows are stored in the order
of that key. One shard is one range of keys, so its rows are contiguous in every part. Shuffling the whole corpus
therefore needs no exchange between workers, and the result does not depend on where the parts were cut. What decides a
row's split is stored beside (``facts``, Parquet), in the order of the source: see ``preprocessing.job.rules``.
"""

from __future__ import annotations

import hashlib
import mmap
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import DataError
from preprocessing.base.randomness import splitmix64
from preprocessing.base.terminal import Screen
from preprocessing.config import PreprocessConfig, SourceConfig
from preprocessing.corpus.convert import NO_GROUP, Converted, ConvertedPart, check_number, convert
from preprocessing.corpus.sources import File, identity_of
from preprocessing.job import engine
from preprocessing.job.executors import ROWS, Workers
from preprocessing.labels import LabelType, common_type, order_classes
from preprocessing.text.spec import TextPipeline
from preprocessing.text.tokenizer import Tokenizer

NO_FOLD = -1
"""The fold of rows that have none: test rows, unlabelled rows, rows that are left out."""
VERSION = 5
"""Format of stored parts; parts of another version are made again."""
NOT_DECIDING = {
    "source": {"path", "validation_path", "test_path", "unlabelled_path"},
    "splits": {"validation", "test", "folds"},
}
"""Keys that do not change what is read of a source."""


@dataclass(frozen=True)
class ConvertedFile(engine.Part[Converted]):
    """One source, to be converted."""

    file: File
    keep_columns: bool

    result: ClassVar[type] = Converted

    @classmethod
    def of(cls, work: Path, file: File, keep_columns: bool) -> ConvertedFile:
        """A source as a task; its key is the hash of the file's identity and everything that decides its rows."""
        content = asdict(file)
        for section, names in NOT_DECIDING.items():
            content[section] = {name: value for name, value in content[section].items() if name not in names}
        deciding = repr((VERSION, content, identity_of(file), keep_columns))
        key, folder = hashlib.sha256(deciding.encode()).hexdigest(), work / "sources"
        return cls(key, folder, folder / f"{key[:24]}.json", 0, file, keep_columns)

    def make(self) -> tuple[Converted, dict[str, str]]:
        """Write the rows as Parquet."""
        prefix = f"{self.key[:24]}-"
        converted = convert(self.file, self.root, prefix, keep_columns=self.keep_columns, on_rows=ROWS.add)
        return converted, {part.path: part.sha256 for part in converted.parts}


@dataclass(frozen=True)
class Source:
    """A converted source of the corpus."""

    file: File
    converted: Converted
    offset: int
    """Rows of the corpus before it."""
    folder: Path
    """Of its parts."""


def convert_all(files: Sequence[File], workers: Workers, work: Path, *, keep_columns: bool = False) -> list[Source]:
    """Every file of the source as Parquet, in order. Finished files are not read again."""
    tasks = [ConvertedFile.of(work, file, keep_columns) for file in files]
    result_by_key = dict[str, Converted]()
    with engine.show_progress("read", 0, quiet=True) as progress:
        for task, converted in engine.run(list({task.key: task for task in tasks}.values()), workers, progress):
            result_by_key[task.key] = converted
    sources, classes, offset = list[Source](), set[str](), 0
    for task in tasks:
        converted = result_by_key[task.key]
        sources.append(Source(task.file, converted, offset, task.root))
        offset += converted.rows_read
        classes.update(converted.classes)
        check_number(classes, task.file)
    return sources


@dataclass(frozen=True)
class TokenizedPart(engine.Part[int]):
    """One part of the corpus, to be tokenized; the result is its number of rows."""

    number: int
    path: Path
    """Absolute: the rows as Parquet."""
    offset: int
    """Rows of the corpus before its file."""
    pipeline: TextPipeline
    seed: int

    result: ClassVar[type] = int

    @classmethod
    def of(
        cls, work: Path, number: int, source: Source, part: ConvertedPart, pipeline: TextPipeline, seed: int
    ) -> TokenizedPart:
        """A part as a task; its key is the hash of everything that decides what it stores."""
        deciding = repr((VERSION, part.sha256, source.offset, pipeline.hash, seed))
        key = hashlib.sha256(deciding.encode()).hexdigest()
        folder, path = work / "parts", source.folder / part.path
        marker = folder / f"{number:06d}.json"
        return cls(key, folder, marker, part.rows, number, path, source.offset, pipeline, seed)

    def make(self) -> tuple[int, dict[str, str]]:
        """Store the rows in the order of their keys, and the distinct tokens."""
        table = pq.read_table(self.path, use_threads=False)
        texts = table["text"].combine_chunks()
        tokens = engine.open_once(self.pipeline.hash, lambda: Tokenizer(self.pipeline))(pc.fill_null(texts, ""))
        row = table["row"].to_numpy() + self.offset
        key = keyed_hash(self.seed, "shuffle", row)
        order = np.argsort(key, kind="stable")
        codes, offsets = arrays.take(tokens.codes, tokens.offsets, order)
        narrow = np.uint16 if len(tokens.types) <= 1 << 16 else np.int32
        stored: dict[str, Any] = {"key": key[order], "row": row[order]}
        stored["codes"] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(codes.astype(narrow)))
        text_hash = arrays.segment_hashes(type_hashes(tokens.types)[tokens.codes], tokens.offsets)
        facts = {
            "row": row,
            "label": table["label"],
            "named": table["split"],
            "missing": texts.is_null(),
            "num_tokens": np.diff(tokens.offsets).astype(np.int32),
            "text_hash": text_hash,  # equal exactly where the tokens are, up to one chance in 2**64 for a pair of texts
            "priority": keyed_hash(self.seed, "split", text_hash),
            "group_hash": table["group"] if "group" in table.column_names else np.full(len(row), NO_GROUP, np.uint64),
        }
        for name in {"number", "date"} & {*table.column_names}:
            facts[name] = pa.array(table[name].to_numpy(), from_pandas=True)
        paths = {name: file_of(self.root, self.number, name) for name in ("rows", "types", "facts")}
        arrays.write_batch(paths["rows"], stored)
        arrays.write_batch(paths["types"], {"types": tokens.types})
        with atomic.replacing(paths["facts"]) as temporary:
            pq.write_table(pa.table(facts), temporary, compression="none")
        return len(table), {path.name: atomic.sha256_file(path) for path in paths.values()}


def tokenize_all(
    config: PreprocessConfig,
    pipeline: TextPipeline,
    sources: list[Source],
    workers: Workers,
    work: Path,
    screen: Screen,
) -> list[TokenizedPart]:
    """Every part of the corpus, in order, tokenized; finished parts are not read again.

    Progress is on ``screen``. Raises ``DataError`` for an empty corpus.
    """
    pairs = [(source, part) for source in sources for part in source.converted.parts]
    tasks = [
        TokenizedPart.of(work, number, source, part, pipeline, config.seed)
        for number, (source, part) in enumerate(pairs)
    ]
    if not any(source.converted.rows_read for source in sources):
        names = ", ".join(source.file.name for source in sources)
        raise DataError(f"{names}: the corpus is empty: no row to learn from")
    with engine.show_progress("tokenize", sum(task.size for task in tasks), screen.quiet) as progress:
        deque(engine.run(tasks, workers, progress), maxlen=0)
    return tasks


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
    def of(cls, config: SourceConfig, sources: Sequence[Source]) -> Classes:
        """Merge the classes of all parts."""
        given = config.label_map()
        if given is not None:
            return cls(given.names, {name: number for number, name in enumerate(given.names)}, "text")
        converted = [source.converted for source in sources]
        known = list(dict.fromkeys(name for source in converted for name in source.class_names))
        names, numbers = order_classes({name for source in converted for name in source.classes}, known)
        return cls(names, numbers, common_type((kind for source in converted for kind in source.label_types), names))


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
    """The file of a part's rows, types, facts or what was assigned to them."""
    return folder / f"{number:06d}-{name}.{'parquet' if name == 'facts' else 'arrow'}"


def load_columns(path: Path) -> dict[str, np.ndarray]:
    """``read_batch`` as arrays of NumPy."""
    batch = read_batch(path)
    return {name: batch[name].to_numpy() for name in batch.schema.names}


def read_hash_range(path: Path, column: str, first: int, num_ranges: int, number: int) -> pa.RecordBatch:
    """``read_batch``, only the rows in ``number`` of ``num_ranges`` equal ranges of all hashes; ``column`` ascends."""
    batch = read_batch(path)
    low, high = (np.uint64((first + step << 64) // num_ranges - bool(step)) for step in (0, number))  # both inclusive
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
