# SPDX-License-Identifier: Apache-2.0
"""The intermediate form of a part: its tokenized rows, compact and already shuffled. A part is read only once.

Every row has a shuffle key, a pure function of the seed and the row's number. A part's rows are stored in the order of
that key. One output shard is a range of keys, so its rows are one contiguous run in every part. The shuffle of the
whole corpus therefore needs no exchange between workers, and its result does not depend on where the parts were cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from preprocessing.base import atomic
from preprocessing.base.arrays import take
from preprocessing.base.errors import DataError
from preprocessing.base.typed import Count, Sha256, typed
from preprocessing.base.untrusted import read_json
from preprocessing.corpus import rows
from preprocessing.corpus.sources import Part
from preprocessing.job.hashes import content_sum, exact_hashes, shuffle_keys, text_hashes
from preprocessing.labels import LabelType
from preprocessing.text.tokenizer import Tokenizer

VERSION = 4
TOGETHER = 8
"""Parts whose tokens one task counts, or looks up."""


@dataclass(frozen=True)
class Summary:
    """What the completion marker of a part says."""

    key: str
    """Hash over everything that decides the content; another key means that the part is to be done again."""
    rows: Count
    tokens: Count
    missing: Count
    neutral: Count
    filtered: Count
    content: Sha256
    """Folder: the sum of the sha256 of every text, modulo 2**256, as hex; adding up parts gives that of the folder."""
    classes: list[str]
    """Names of the classes that the labels of this part are numbers of."""
    label_type: LabelType | None
    known: list[str]
    """As ``Piece`` has them."""
    files: dict[str, str]
    """Name -> sha256 of the files of the part."""
    without_label: Count = 0
    """Rows left out because they have no label."""


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


def part_key(part: Part, text_hash: str, seed: int) -> str:
    """The hash that a finished part must carry to be used again."""
    source, splits = part.file.source, part.file.splits
    named = ("text_column", "label_column", "neutral", "where", "missing_label", "missing_text")
    settings = {name: getattr(source, name) for name in named}
    labels = source.labels if isinstance(source.labels, str) else list(source.labels.items())
    content = [
        VERSION,
        part.identity,
        part.file.format,
        [part.cut.start, part.cut.stop, part.cut.first_row, part.offset],
        [list(text) for text in part.texts],
        [part.file.split, splits.column, list(part.columns), list(vars(part.file.dialect).values())],
        [splits.names, splits.group_column],
        {**settings, "labels": labels},
        text_hash,
        seed,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def paths(work: Path, number: int) -> tuple[Path, Path, Path]:
    """Rows, types and marker of a part."""
    stem = work / "parts"
    return stem / f"{number:06d}-rows.arrow", stem / f"{number:06d}-types.arrow", stem / f"{number:06d}.json"


def finished(work: Path, number: int, key: str) -> Summary | None:
    """The summary of a part that is done, whole and still wanted."""
    marker = paths(work, number)[-1]
    try:
        summary = typed(Summary, read_json(marker, ""), str(marker), "")
        files = summary.files.items()
        if summary.key == key and all(atomic.sha256_file(marker.with_name(name)) == sha for name, sha in files):
            return summary
    except (OSError, ValueError, DataError):
        return None
    return None


def make(part: Part, number: int, work: Path, tokenizer: Tokenizer, seed: int, key: str) -> Summary:
    """Read and tokenize a part and write its intermediate form, the marker last."""
    piece = rows.read(part)
    tokens = tokenizer(piece.texts)
    keys = shuffle_keys(seed, piece.row)
    order = np.argsort(keys, kind="stable")
    codes, offsets = take(tokens.codes, tokens.offsets, order)
    narrow = np.uint16 if len(tokens.types) <= 1 << 16 else np.int32
    columns = {
        "key": keys,
        "row": piece.row,
        "label": piece.label,
        "split": piece.split,
        "missing": piece.missing.astype(np.uint8),
        "text_hash": text_hashes(tokens),
        "exact_hash": exact_hashes(piece.texts),
    }
    if piece.group is not None:
        columns["group"] = piece.group
    arrays = [pa.array(values[order]) for values in columns.values()]
    arrays.append(pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(codes.astype(narrow))))
    rows_path, types_path, marker = paths(work, number)
    written = [rows_path, types_path]
    write_batch(rows_path, pa.record_batch(arrays, [*columns, "codes"]))
    write_batch(types_path, pa.record_batch([tokens.types.cast(pa.large_string())], ["types"]))
    if piece.group is not None:
        written.append(groups_path(work, number))
        found = [pa.array(list(piece.groups), pa.uint64()), pa.array(list(piece.groups.values()), pa.large_string())]
        write_batch(written[-1], pa.record_batch(found, ["hash", "name"]))
    content = content_sum(piece.texts) if part.texts else 0
    summary = Summary(
        key,
        len(piece.row),
        len(tokens.codes),
        int(piece.missing.sum()),
        piece.neutral,
        piece.filtered,
        f"{content:064x}",
        piece.classes,
        piece.label_type,
        piece.known,
        {path.name: atomic.sha256_file(path) for path in written},
        piece.without_label,
    )
    atomic.write_json(marker, vars(summary))
    return summary


def write_batch(path: Path, batch: pa.RecordBatch) -> None:
    """One record batch as an Arrow IPC file that can be mapped."""
    with (
        atomic.replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)


def read_batch(path: Path) -> pa.RecordBatch:
    """What ``write_batch`` wrote, mapped."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def load(work: Path, number: int) -> Stored:
    """Map the rows of a part."""
    batch = read_batch(paths(work, number)[0])
    codes = batch["codes"]
    columns = {name: batch[name].to_numpy() for name in batch.schema.names if name != "codes"}
    return Stored(codes=codes.values.to_numpy(), offsets=codes.offsets.to_numpy(), **columns)


def load_types(work: Path, number: int) -> pa.Array:
    """The distinct tokens of a part; its codes are row numbers of this."""
    return read_batch(paths(work, number)[1])["types"]


def groups_path(work: Path, number: int) -> Path:
    """The names of the groups in a part."""
    return work / "parts" / f"{number:06d}-groups.arrow"


def group_name(work: Path, wanted: int) -> str | None:
    """The name of the group with this hash, looked for in one part after the other; None if no part has it."""
    for path in sorted((work / "parts").glob("*-groups.arrow")):
        batch = read_batch(path)
        places = np.flatnonzero(batch["hash"].to_numpy() == np.uint64(wanted))
        if len(places):
            return str(batch["name"][int(places[0])].as_py())
    return None


def gather(columns: Sequence[Stored], name: str) -> np.ndarray:
    """One column over all parts."""
    return np.concatenate([getattr(stored, name) for stored in columns])


def grouped(starts: Sequence[int]) -> list[tuple[int, ...]]:
    """The numbers of all parts, some at a time. ``starts`` is where each part's rows begin, and where the last ends."""
    numbers = tuple(range(len(starts) - 1))
    return [numbers[at : at + TOGETHER] for at in range(0, len(numbers), TOGETHER)]
