# SPDX-License-Identifier: Apache-2.0
"""Shows a dataset: classes, lengths, first rows, rows left out; reads it as pandas frames and Arrow tables, with ids
decoded to tokens; and checks it: bytes against the manifest, lengths, labels and ids against ranges.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from padless.core.arrays import unpad_segments
from padless.core.errors import DataError
from padless.core.schema import Name
from padless.core.split_names import UNLABELLED
from padless.core.terminal import Screen, count_noun, plain_line, printable, public, shorten_line
from padless.core.untrusted import open_regular, sha256_of
from preprocessing.dataset import remote
from preprocessing.dataset.shards import (
    MANIFEST,
    REBUILD,
    VOCABULARY,
    Block,
    Manifest,
    check_vocabulary,
    read_manifest,
)
from preprocessing.labels import convert_names
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pandas as pd

PERCENTILES = (5, 50, 95)
NUM_EXAMPLES, MAX_EXAMPLE_CELLS = 3, 100
"""Rows that are shown, and the width of their texts."""
REASONS = {
    "filtered": "with another value than source.where says",
    "without_label": "without a label (source.missing_label)",
    "empty": "whose text has no token left (quality.drop)",
    "contradictions": "with contradictory labels: an equal text has another one (quality.drop)",
    "leaks": "with a text, or of a group, that another split holds too (quality.drop)",
    "duplicates": "repeating an earlier text of their split (quality.drop)",
}
"""Why rows are left out, or are suspect although they are kept."""
MAX_CLASS_CELLS, MAX_CLASSES_PER_LINE = 32, 12
"""Limits of a class's width in a line, and of the classes that one line names."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Classes, lengths, unknown tokens, first rows, and rows that are left out or suspect."""

    SUBJECT = ("data",)
    data: Name
    """Dataset directory."""
    verify: bool = False
    """Check every byte instead; the first file that is wrong is named, and the exit code is 3."""


def main(config: InspectConfig) -> None:
    """Print what is in a dataset, or that it is whole. Raises ``DataError``."""
    if config.verify:
        root = remote.local(config.data)
        verify_dataset(root)
        print(f"ok: {public(config.data)}: {read_manifest(root).summary()}")
    else:
        Screen().print_lines(describe_dataset(Dataset(config.data)))


def describe_dataset(dataset: Dataset) -> str:
    """A table with a column for each split, the first rows, and lines on the rows. Raises ``DataError`` for statistics
    of another version.
    """
    import pandas as pd

    manifest, path = dataset.manifest, dataset.path
    summary = TextPipeline.from_json(manifest.text, path).spec.summary()
    table = pd.DataFrame({name: describe_split(manifest, name) for name in manifest.names}).fillna("-")
    lines = [f"{path}: vocabulary {manifest.vocabulary_size:,}, {summary}", "", table.to_string(), ""]
    for name in manifest.names[:1]:
        rows = next(dataset.batches(name)).slice(0, NUM_EXAMPLES).to_pylist()
        lines += [f"{row['label']}: {shorten_line(row['text'], MAX_EXAMPLE_CELLS)}" for row in rows]
    try:
        if "rows_read" in manifest.statistics:
            lines += ["", f"read: {rows_in_words(manifest)}", *lines_on_rows(manifest)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise DataError(f"{path}: its statistics are not those of this version; {REBUILD}") from None
    return printable("\n".join(lines))


def describe_split(manifest: Manifest, name: str) -> dict[str, str]:
    """The column of a split in the table: rows of each class, lengths, and the share of tokens without an id."""
    num_rows, rows_by_length = manifest.rows(name), manifest.rows_by("lengths", name)
    numbers: dict[str, float] = {"rows": num_rows}
    for label, rows in zip(manifest.labels, manifest.class_rows(name), strict=True):
        numbers[f"label {plain_line(label)}"] = rows
    numbers["mean length"] = round(manifest.tokens(name) / num_rows, 2)
    totals = np.cumsum([*rows_by_length.values()])
    for percent in PERCENTILES:
        numbers[f"length of {percent} %, at most"] = [*rows_by_length][totals.searchsorted(num_rows * percent / 100)]
    statistics = manifest.statistics.get("splits", {}).get(name, {})
    if "unknown_rate" in statistics:
        numbers["unknown rate"] = statistics["unknown_rate"]
    return {title: f"{number:,}" for title, number in numbers.items()}


def rows_in_words(manifest: Manifest) -> str:
    """How many rows were read, of which files."""
    files = manifest.provenance["sources"]
    source = files[0]["name"] if len(files) == 1 else count_noun(len(files), "file")
    num_read, num_rows = manifest.statistics["rows_read"], sum(file["rows"] for file in files)
    share = f"{num_read:,} of " if num_read < num_rows else ""
    return f"{share}{count_noun(num_rows, 'row')} of {source}"


def lines_on_classes(manifest: Manifest) -> Iterator[str]:
    """Lines on the classes, and on those too small for a split."""
    class_rows = np.array([manifest.class_rows(name) for name in manifest.names if name != UNLABELLED])
    names = [shorten_line(name, MAX_CLASS_CELLS) for name in manifest.labels]
    classes = [f"{name} {num_rows:,}" for name, num_rows in zip(names, class_rows.sum(axis=0), strict=True)]
    yield f"labels: {len(names):,} classes: {join_first(classes)}"
    if manifest.label_sets is not None:
        yield f"labels: several to a text, in {len(manifest.label_sets):,} different sets"
    if len({name.strip().casefold() for name in manifest.labels}) < len(names):
        yield "labels: some differ only in case or spaces; source.labels says which are one class"
    small_classes = [repr(names[number]) for number in np.flatnonzero((class_rows == 0).any(axis=0))]
    if small_classes:
        yield f"labels: too few rows for every split: {join_first(small_classes)}"


def join_first(names: list[str]) -> str:
    """The first few of a list, and the number of the others."""
    num_more = len(names) - MAX_CLASSES_PER_LINE
    return ", ".join(names[:MAX_CLASSES_PER_LINE]) + (f", and {num_more:,} more" if num_more > 0 else "")


def lines_on_splits(manifest: Manifest) -> Iterator[str]:
    """Lines on groups and times."""
    statistics = manifest.statistics
    if groups := statistics.get("groups"):
        sizes = f"{groups['groups']:,} groups, the largest of {groups['largest']:,} rows"
        yield f"splits: by {groups['column']}: {sizes}"
        for entry in groups["shared"]:
            rows = " and ".join(f"{rows:,} rows in {split}" for split, rows in entry["rows"].items())
            yield f"splits: those of the source share {entry['groups']:,} groups of {groups['column']}: {rows}"
    if times := statistics.get("times"):
        starts = "; ".join(f"{split} from {time}" for split, time in times["from"].items())
        yield f"splits: by {times['column']}: {starts}; {times['without']:,} rows without a time are in train"


def lines_on_rows(manifest: Manifest) -> list[str]:
    """A line for each reason why rows are left out, suspect or shortened."""
    statistics = manifest.statistics
    num_kept = {name: statistics[name] for name in ("empty", "contradictions", "leaks")}
    unlabelled, num_dropped = statistics.get(UNLABELLED, {}), statistics["dropped"]
    num_kept["empty"] += unlabelled.get("empty", 0)
    num_kept["leaks"] += unlabelled.get("shared", 0)
    lines = []
    for name, reason in REASONS.items():
        verb = "left out" if name in num_dropped else "kept"
        count = num_dropped.get(name, num_kept.get(name, 0))
        if count and (name != "filtered" or manifest.provenance["config"]["source"]["where"]):
            lines.append(f"{verb}: {count_noun(count, 'row')} {reason}")  # the embedded corpus is a part of its file
    num_truncated = sum(split["truncated"] for split in statistics["splits"].values())
    if num_truncated:
        max_tokens = manifest.text["spec"]["max_tokens"]
        lines.append(
            f"shortened: {count_noun(num_truncated, 'row')} of more than {max_tokens:,} tokens (text.max_tokens)"
        )
    return lines


class Dataset(Mapping[str, "pd.DataFrame"]):
    """A dataset directory: a mapping from the names of its splits to frames, read on access."""

    def __init__(self, address: str | Path) -> None:
        """Open the dataset at a path or a remote address. Raises ``DataError`` unless it is complete."""
        self.path = remote.local(address)
        self.manifest = read_manifest(self.path)
        check_vocabulary(self.path, self.manifest)
        self.labels = list(self.manifest.labels)
        """The names of the classes; a class's number is its index here."""
        values = pa.array(convert_names(self.labels, self.manifest.label_type))
        if self.manifest.label_sets is not None:
            numbers = pa.array(self.manifest.label_sets, pa.list_(pa.int64()))
            values = pa.ListArray.from_arrays(numbers.offsets, values.take(numbers.values))
        self._values = values
        """What each label of a row stands for: a class, or a list of classes."""
        self.vocabulary = Vocabulary.read(self.path / VOCABULARY)

    def __getitem__(self, split: str) -> pd.DataFrame:
        """A split as a frame in the order of the source: row, label, length, text; and fold if it was cut into folds.

        ``row`` is the row's number in the source, from 1; ``label`` has the source's type, and is missing in
        ``unlabelled``; ``length`` is the number of tokens; ``text`` the tokens as the network reads them, joined by
        spaces, unknown ones as ``<unk>``. Raises ``KeyError``.
        """
        return pa.Table.from_batches(self.batches(split)).drop_columns(["ids"]).sort_by("row").to_pandas()

    def batches(self, split: str) -> Iterator[pa.RecordBatch]:
        """A split as record batches, in the order of its shards, in bounded memory.

        Columns: row, label (of the source's type), length, ids (without padding), text, and fold if the split was cut
        into folds. Raises ``KeyError``.
        """
        for part in self.manifest.splits[split]:
            manifest = replace(self.manifest, splits={split: [part]})
            for block in remote.open_split(self.path, manifest, split).blocks:
                yield self._decode(block, part.fold)

    def _decode(self, block: Block, fold: int | None) -> pa.RecordBatch:
        """A block with labels as in the source, null for a row without one, and tokens."""
        flat, starts = unpad_segments(block.ids, block.length)
        ids, offsets = pa.array(flat.astype(np.int32)), pa.array(starts)
        tokens = pa.LargeListArray.from_arrays(offsets, self.vocabulary.tokens.take(ids))
        label = pa.DictionaryArray.from_arrays(pa.array(block.label, mask=block.label < 0), self._values)
        columns = {
            "row": pa.array(block.row),
            "label": label.dictionary_decode() if self.manifest.has_label_sets else label,
            **({} if fold is None else {"fold": pa.array(np.full(len(block.row), fold, np.int64))}),
            "length": pa.array(block.length),
            "ids": pa.LargeListArray.from_arrays(offsets, ids),
            "text": pc.binary_join(tokens, pa.scalar(" ", pa.large_string())),
        }
        return pa.RecordBatch.from_pydict(columns)

    def __iter__(self) -> Iterator[str]:
        """The names of the splits."""
        return iter(self.manifest.names)

    def __len__(self) -> int:
        """The number of splits."""
        return len(self.manifest.names)

    def __repr__(self) -> str:
        return f"<padless dataset {self.path}: {self.manifest.summary()}, {len(self.labels)} classes>"


def verify_dataset(root: str | Path) -> None:
    """Check a dataset directory in full: manifest, vocabulary, every shard's bytes and, if they are right, what a
    training checks of the rows. Remote shards are checked when they are read.

    Raises ``DataError`` with the first problem.
    """
    manifest = read_manifest(root)
    check_vocabulary(root, manifest)
    check_bytes(Path(root, VOCABULARY), json.loads(Path(root, MANIFEST).read_bytes()).get("vocabulary_sha256"))
    if not Path(root, remote.ADDRESS).exists():
        for info in manifest.shards(root):
            check_bytes(Path(root, info.path), info.sha256)
    for name in manifest.names:
        deque(remote.open_split(root, manifest, name).blocks, 0)


def check_bytes(path: Path, sha256: str) -> None:
    """Raise ``DataError`` if a file is missing, or its bytes are others."""
    try:
        with open_regular(path) as file:
            is_changed = sha256_of(file) != sha256
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); {REBUILD}") from None
    if is_changed:
        raise DataError(f"{path}: its sha256 is not the manifest's: bytes were changed; {REBUILD}")
