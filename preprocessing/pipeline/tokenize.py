# SPDX-License-Identifier: Apache-2.0
"""The second pass: each part is tokenized, and its rows are stored already shuffled.

Every row has a shuffle key, a pure function of the seed and the row's number, and a part's rows are stored in the order
of that key. One shard is one range of keys, so its rows are contiguous in every part. Shuffling the whole corpus
therefore needs no exchange between workers, and the result does not depend on where the parts were cut. What decides a
row's split is stored beside (``facts``, Parquet), in the order of the source: see ``rules.sql``.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from padless.core import arrays, atomic, jobs
from padless.core.jobs import Workers
from padless.core.randomness import splitmix64
from preprocessing.config import PreprocessConfig
from preprocessing.pipeline.parts import VERSION, ConvertedFile, Source, convert_all, hash_of
from preprocessing.sources.convert import NO_GROUP
from preprocessing.sources.sources import File
from preprocessing.text.spec import TextPipeline
from preprocessing.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenizedPart(jobs.Task[int]):
    """One part of the corpus, to be tokenized; the result is its number of rows."""

    number: int
    path: Path
    """Absolute: the converted part."""
    offset: int
    """Rows of the corpus before its file."""
    pipeline: TextPipeline
    seed: int

    result: ClassVar[type] = int

    def run(self) -> tuple[int, dict[str, str]]:
        """Store the rows in the order of their keys, the distinct tokens, and the facts."""
        table = arrays.read_batch(self.path)
        texts = table["text"]
        tokens = jobs.open_once(self.pipeline.hash, lambda: Tokenizer(self.pipeline))(pc.fill_null(texts, ""))
        row = table["row"].to_numpy() + self.offset
        key = mix_hash(self.seed, "shuffle", row)
        order = np.argsort(key, kind="stable")
        codes, offsets = arrays.take(tokens.codes, tokens.offsets, order)
        code_type = np.uint16 if len(tokens.types) <= 1 << 16 else np.int32
        columns: dict[str, Any] = {"key": key[order], "row": row[order]}
        columns["codes"] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(codes.astype(code_type)))
        text_hash = arrays.segment_hashes(hash_types(tokens.types)[tokens.codes], tokens.offsets)
        facts = {
            "row": row,
            "label": table["label"],
            "named": table["split"],
            "missing": texts.is_null(),
            "num_tokens": np.diff(tokens.offsets).astype(np.int32),
            "text_hash": text_hash,  # equal exactly where the tokens are, up to one chance in 2**64 for a pair of texts
            "priority": mix_hash(self.seed, "split", text_hash),
            "group_hash": table["group"] if "group" in table.schema.names else np.full(len(row), NO_GROUP, np.uint64),
        }
        for name in {"number", "date"} & {*table.schema.names}:
            facts[name] = table[name]
        paths = {name: part_path(self.root, self.number, name) for name in ("rows", "types", "facts")}
        arrays.write_batch(paths["rows"], columns, lasting=False)
        arrays.write_batch(paths["types"], {"types": tokens.types}, lasting=False)
        repeating = ["label", "named", "missing", "num_tokens", "group_hash"]
        with atomic.replacing(paths["facts"], lasting=False) as temporary:
            pq.write_table(
                pa.table(facts), temporary, compression="none", use_dictionary=repeating, write_statistics=False
            )
        return len(table), {path.name: atomic.sha256_file(path) for path in paths.values()}


def tokenize_all(
    config: PreprocessConfig,
    pipeline: TextPipeline,
    files: Sequence[File],
    workers: Workers,
    work: Path,
) -> tuple[list[Source], list[TokenizedPart]]:
    """Convert all sources and tokenize their parts; returns both in order. What is finished is not made again.

    Several files are converted by the workers. A single one is converted here, while the workers tokenize the parts
    that are there already.
    """
    is_single = len(files) == 1 and workers.share.count == 1
    sources, tasks = [] if is_single else convert_all(files, workers, work), list[TokenizedPart]()
    conversion = ConvertedFile.from_file(work, files[0])

    def list_tasks() -> Iterator[TokenizedPart]:
        parts = ((part, source.offset) for source in sources for part in source.converted.parts)
        if is_single:
            parts = ((part, 0) for part in conversion.find_parts())
        for number, (part, offset) in enumerate(parts):
            key = hash_of((VERSION, part.sha256, offset, pipeline.hash, config.seed))
            marker, path = work / "parts" / f"{number:06d}.json", conversion.root / part.path
            task = TokenizedPart(key, marker.parent, marker, part.rows, number, path, offset, pipeline, config.seed)
            tasks.append(task)
            yield task

    tasks_to_run = list_tasks() if is_single else [*list_tasks()]
    deque(jobs.run_tasks("tokenize", work / "parts", tasks_to_run, workers), maxlen=0)
    if is_single:
        converted = jobs.read_result(conversion, verify=False)
        assert converted is not None
        sources.append(Source(files[0], converted, 0, conversion.root))
    return sources, tasks


def part_path(folder: Path, number: int, name: str) -> Path:
    """The file of a part's rows, types, facts, or of what later steps add to them."""
    return folder / f"{number:06d}-{name}.{'parquet' if name == 'facts' else 'arrow'}"


def load_part(folder: Path, number: int) -> dict[str, np.ndarray]:
    """The rows of a part, mapped: ``key`` (uint64, ascending), ``row`` (number in the source) and ``codes``, into which
    ``offsets`` is int64 ``[rows + 1]``.
    """
    columns = arrays.read_batch(part_path(folder, number, "rows"))
    codes = columns["codes"]
    arrays_by_name = {name: columns[name].to_numpy() for name in ("key", "row")}
    return arrays_by_name | {"codes": codes.values.to_numpy(), "offsets": codes.offsets.to_numpy()}


def load_types(folder: Path, number: int) -> pa.Array:
    """The distinct tokens of a part; its codes are row numbers of this."""
    return arrays.read_batch(part_path(folder, number, "types"))["types"]


def mix_hash(seed: int, purpose: str, values: np.ndarray) -> np.ndarray:
    """uint64, pseudo-random: a pure function of the seed, what it is for, and each value."""
    salt = hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:8]
    return splitmix64(values.astype(np.uint64) ^ np.frombuffer(salt, "<u8")[0])


def hash_types(types: pa.Array) -> np.ndarray:
    """uint64 per string."""
    texts = types.cast(pa.large_binary()).to_pylist()
    content = np.frombuffer(b"".join(texts), np.uint8).astype(np.uint64) + np.uint64(1)
    return arrays.segment_hashes(content, np.cumsum([0, *map(len, texts)]))
