# SPDX-License-Identifier: Apache-2.0
"""Reports on a dataset from its manifest, as tables or JSON; a dataset as pandas frames and Arrow
tables, with ids decoded to tokens; and its checks: bytes against the manifest, lengths, labels and ids against ranges.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from padless.core.arrays import unpad_segments
from padless.core.cli import print_json
from padless.core.errors import DataError
from padless.core.schema import Name
from padless.core.split_names import UNLABELLED
from padless.core.terminal import Screen, count_noun, plain_line, print_stderr, printable, public, shorten_line
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

PERCENTILES = (5, 25, 50, 75, 95, 99)
TITLES = {"labels": "label {}", "length_percentiles": "length of {} %, at most"}
"""Figures of a split by label or percentage, and the titles of their lines in the table."""

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
    """Label balance, lengths, truncation, unknown tokens, duplicates."""

    SUBJECT = ("data",)
    data: Name
    """Dataset directory."""
    verify: bool = False
    """Check every byte instead; each problem is a line, and the exit code is 3."""
    json: bool = False
    """Print one JSON object instead of tables; with verify, the list of problems."""


def main(config: InspectConfig) -> int:
    """Print what is in a dataset, or what is wrong with it; returns the exit code."""
    root = remote.local(config.data)
    if not config.verify:
        manifest = read_complete(root)
        if config.json:
            print_json(collect_figures(root, manifest))
        else:
            Screen().print_lines(describe_dataset(root, manifest))
        return 0
    problems = verify_dataset(root)
    for problem in problems:
        print_stderr(f"error: {problem}")
    if config.json:
        print_json({"problems": problems})
    elif not problems:
        print(f"ok: {public(config.data)}: {read_manifest(root).summary()}")
    return DataError.exit_code if problems else 0


def read_complete(root: str | Path) -> Manifest:
    """The manifest of a dataset directory with its vocabulary. Raises ``DataError`` unless both are readable."""
    manifest = read_manifest(root)
    check_vocabulary(root, manifest)
    return manifest


def collect_figures(root: str | Path, manifest: Manifest) -> dict[str, Any]:
    """What ``--json`` prints of a dataset: its text options, its statistics, and the figures of each split."""
    statistics = {name: value for name, value in manifest.statistics.items() if name != "splits"}
    figures_by_split = {name: describe_split(manifest, name) for name in manifest.names}
    return {
        "dataset": str(root),
        "fingerprint": manifest.fingerprint,
        "labels": manifest.labels,
        "vocabulary_size": manifest.vocabulary_size,
        "text": manifest.text,
        "statistics": statistics,
        "splits": figures_by_split,
    }


def describe_dataset(root: str | Path, manifest: Manifest) -> str:
    """A table with a column for each split, and lines on the rows. Raises ``DataError`` for statistics of another
    version.
    """
    import pandas as pd

    pipeline = TextPipeline.from_json(manifest.text, root)
    columns = {name: format_column(describe_split(manifest, name)) for name in manifest.names}
    table = pd.DataFrame(columns).fillna("-")
    lines = [f"{root}: vocabulary {manifest.vocabulary_size:,}, {pipeline.spec.summary()}", "", table.to_string(), ""]
    try:
        if "rows_read" in manifest.statistics:
            lines += [f"read: {rows_in_words(manifest)}", *lines_on_splits(manifest), *lines_on_rows(manifest)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise DataError(f"{root}: its statistics are not those of this version; {REBUILD}") from None
    return printable("\n".join(lines))


def describe_split(manifest: Manifest, name: str) -> dict[str, Any]:
    """The figures of a split: label balance, lengths, truncation and unknown tokens."""
    rows, tokens, lengths = manifest.rows(name), manifest.tokens(name), manifest.rows_by("lengths", name)
    ranks = [rows * percent / 100 for percent in PERCENTILES]
    positions = np.cumsum([*lengths.values()]).searchsorted(ranks)
    percentiles = np.array([*lengths])[positions].tolist()
    figures: dict[str, Any] = {
        "rows": rows,
        "labels": dict(zip(manifest.labels, manifest.class_rows(name), strict=True)),
        "tokens": tokens,
        "mean_length": round(tokens / rows, 2),
        "length_percentiles": dict(zip(map(str, PERCENTILES), percentiles, strict=True)),
    }
    statistics = manifest.statistics.get("splits", {}).get(name, {})
    return figures | {key: statistics[key] for key in ("unknown_rate", "truncated", "empty") if key in statistics}


def format_column(figures: Mapping[str, Any]) -> dict[str, str]:
    """The column of a split in the table: titles, and numbers as texts."""
    cells = dict[str, str]()
    for name, value in figures.items():
        title = TITLES.get(name, name.replace("_", " "))
        for key, number in value.items() if isinstance(value, dict) else [("", value)]:
            cells[title.format(plain_line(key))] = f"{number:,}"
    return cells


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
    """Lines on groups, times, folds and unlabelled rows."""
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
    if "folds" in statistics:
        rows = statistics["folds"]["rows"]
        sizes = f"{len(rows)} folds of {min(rows):,} to {max(rows):,} rows of training and validation"
        yield f"folds: {sizes}, groups and equal texts whole"
    if UNLABELLED in statistics:
        num_kept, num_rows = manifest.rows(UNLABELLED), statistics[UNLABELLED]["rows"]
        yield f"unlabelled: {num_kept:,} of {num_rows:,} rows without labels are kept"


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
        self.path = remote.local(str(address))
        self.manifest = read_complete(self.path)
        self.labels = list(self.manifest.labels)
        """The names of the classes; a class's number is its index here."""
        classes = convert_names(self.labels, self.manifest.label_type)
        self._values = label_values(classes, self.manifest.label_sets)
        self.vocabulary = Vocabulary.read(self.path / VOCABULARY)

    def __getitem__(self, split: str) -> pd.DataFrame:
        """A split as a frame in the order of the source: row, label, length, text; and fold if it was cut into folds.

        ``row`` is the row's number in the source, from 1; ``label`` has the source's type, and is missing in
        ``unlabelled``; ``length`` is the number of tokens; ``text`` the tokens as the network reads them, joined by
        spaces, unknown ones as ``<unk>``. Raises ``KeyError``.
        """
        return self.arrow(split).drop_columns(["ids"]).to_pandas()

    def batches(self, split: str) -> Iterator[pa.RecordBatch]:
        """A split as record batches, in the order of its shards, in bounded memory.

        Columns: row, label (of the source's type), length, ids (without padding), text, and fold if the split was cut
        into folds. Raises ``KeyError``.
        """
        if not self.manifest.splits.get(split):
            raise KeyError(f"{self.path}: has no split {split!r}; it has {', '.join(self)}")
        for part in self.manifest.splits[split]:
            manifest = replace(self.manifest, splits={split: [part]})
            for block in remote.split_of(self.path, manifest, split).blocks:
                yield batch_of(block, self.vocabulary, self._values, part.fold)

    def arrow(self, split: str) -> pa.Table:
        """A split as one table in the order of the source, with the columns of ``batches``."""
        return pa.Table.from_batches(self.batches(split)).sort_by("row")

    def __iter__(self) -> Iterator[str]:
        """The names of the splits."""
        return iter(self.manifest.names)

    def __len__(self) -> int:
        """The number of splits."""
        return len(self.manifest.names)

    def __repr__(self) -> str:
        return f"<padless dataset {self.path}: {self.manifest.summary()}, {len(self.labels)} classes>"


def label_values(classes: Sequence[str] | np.ndarray, label_sets: list[list[int]] | None) -> pa.Array:
    """What each label of a row stands for: a class, or a list of classes."""
    values = pa.array(classes)
    if label_sets is None:
        return values
    numbers = pa.array(label_sets, pa.list_(pa.int64()))
    return pa.ListArray.from_arrays(numbers.offsets, values.take(numbers.values))


def batch_of(block: Block, vocabulary: Vocabulary, labels: pa.Array, fold: int | None) -> pa.RecordBatch:
    """A block with class names from ``labels`` (null for a row without one) and decoded tokens."""
    flat, starts = unpad_segments(block.ids, block.length)
    ids, offsets = pa.array(flat.astype(np.int32)), pa.array(starts)
    tokens = pa.LargeListArray.from_arrays(offsets, vocabulary.tokens.take(ids))
    label = pa.DictionaryArray.from_arrays(pa.array(block.label, mask=block.label < 0), labels)
    columns = {
        "row": pa.array(block.row),
        "label": label.dictionary_decode() if pa.types.is_list(labels.type) else label,
        **({} if fold is None else {"fold": pa.array(np.full(len(block.row), fold, np.int64))}),
        "length": pa.array(block.length),
        "ids": pa.LargeListArray.from_arrays(offsets, ids),
        "text": pc.binary_join(tokens, pa.scalar(" ", pa.large_string())),
    }
    return pa.RecordBatch.from_pydict(columns)


def verify_dataset(root: str | Path) -> list[str]:
    """Check a dataset directory in full: manifest, vocabulary, every shard's bytes and, if they are right, what a
    training checks of the rows. Remote shards are checked when they are read.

    Returns one sentence per problem; raises ``DataError`` if there is no readable manifest or index.
    """
    manifest = read_manifest(root)
    problems = problems_of(check_vocabulary, root, manifest)
    sha256 = json.loads(Path(root, MANIFEST).read_bytes()).get("vocabulary_sha256")
    problems += problems_of(check_bytes, Path(root, VOCABULARY), sha256)
    if not Path(root, remote.ADDRESS).exists():
        for info in manifest.shards(root):
            problems += problems_of(check_bytes, Path(root, info.path), info.sha256)
    for name in manifest.names if not problems else ():
        problems += problems_of(lambda name: deque(remote.split_of(root, manifest, name).blocks, 0), name)
    return problems


def problems_of(check: Callable[..., object], *arguments: Any) -> list[str]:
    """The sentence of the ``DataError`` that a check raises, if it does."""
    try:
        check(*arguments)
    except DataError as error:
        return [str(error)]
    return []


def check_bytes(path: Path, sha256: str) -> None:
    """Raise ``DataError`` if a file is missing, or its bytes are others."""
    try:
        with open_regular(path) as file:
            is_changed = sha256_of(file) != sha256
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); {REBUILD}") from None
    if is_changed:
        raise DataError(f"{path}: its sha256 is not the manifest's: bytes were changed; {REBUILD}")
