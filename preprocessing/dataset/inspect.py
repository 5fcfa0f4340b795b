# SPDX-License-Identifier: Apache-2.0
"""A dataset for people: described from its manifest and a few rows, as tables or JSON; as pandas frames and Arrow
tables, with ids decoded to tokens; and verified: bytes against the manifest, lengths, labels and ids against ranges.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.base import atomic
from preprocessing.base.arrays import unpadded
from preprocessing.base.errors import DataError
from preprocessing.base.schema import AtLeast0
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.terminal import counted, plain_line, printable, public, shortened, tell
from preprocessing.dataset import remote
from preprocessing.dataset.shards import (
    MANIFEST,
    REBUILD,
    VOCABULARY,
    Block,
    Manifest,
    Shard,
    Split,
    check_words,
    read_manifest,
)
from preprocessing.labels import typed_values
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pandas as pd

FREQUENT = 25
SAMPLE_CHARACTERS = 240
PERCENTILES = (5, 25, 50, 75, 95, 99)

REASONS = {
    "filtered": "with another value than source.where says",
    "neutral": "with a label of source.neutral",
    "without_label": "without a label (source.missing_label)",
    "empty": "whose text has no token left (quality.empty)",
    "contradictions": "with contradictory labels: an equal text has another one (quality.contradictions)",
    "leaks": "with a text, or of a group, that another split holds too (quality.leaks)",
    "near_duplicates": "nearly repeating a row of validation or test (quality.near_duplicates, near_duplicates.csv)",
    "duplicates": "repeating an earlier text of their split (quality.duplicates)",
}
"""Why rows are left out, or are suspect although they are kept."""
LABEL_CELLS, NAMED = 32, 12
"""Width of a class in a line, and most classes that one line names."""


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Label balance, lengths, truncation, unknown tokens, padding, duplicates, sample rows."""

    SUBJECT = ("data",)
    data: str
    """Dataset directory."""
    json: bool = False
    """Print one JSON object instead of tables."""
    samples: AtLeast0 = 2
    """Rows of each split to read back, at most."""


def main(config: InspectConfig) -> None:
    """Print what is in a dataset."""
    root = remote.local(config.data)
    found = inspect(root, config.samples)
    print(json.dumps(found, indent=2, ensure_ascii=False) if config.json else render(found, read_manifest(root)))


def inspect(root: str | Path, samples: int) -> dict[str, Any]:
    """The description, as JSON. Raises ``DataError`` if there is no readable dataset."""
    manifest = read_manifest(root)
    check_words(root, manifest)
    vocabulary = Vocabulary.read(Path(root, VOCABULARY))
    words = slice(2, 2 + FREQUENT)
    counts = vocabulary.counts[words].tolist()
    return {
        "dataset": str(root),
        "fingerprint": manifest.fingerprint,
        "labels": manifest.labels,
        "vocabulary_size": manifest.vocabulary_size,
        "id_dtype": manifest.id_dtype,
        "text": manifest.text,
        "tokens": TextPipeline.from_json(manifest.text, root).spec.summary(),
        "corpus": {key: value for key, value in manifest.statistics.items() if key != "splits"},
        "splits": {name: describe(name, manifest) for name in manifest.names},
        "frequent_tokens": dict(zip(vocabulary.tokens[words].to_pylist(), counts, strict=True)),
        "samples": {
            name: sampled(remote.split_of(root, manifest, name), vocabulary, samples) for name in manifest.names
        },
    }


def describe(name: str, manifest: Manifest) -> dict[str, Any]:
    """Label balance, lengths, truncation, unknown tokens and padding of one split."""
    rows, tokens = manifest.rows(name), manifest.tokens(name)
    widths, lengths, labels = (manifest.rows_by(what, name) for what in ("widths", "lengths", "labels"))
    ascending = list(lengths)
    places = np.searchsorted(np.cumsum([*lengths.values()]), [rows * percent / 100 for percent in PERCENTILES])
    known = manifest.statistics.get("splits", {}).get(name, {})
    return {
        "rows": rows,
        "labels": {} if name == UNLABELLED else {label: labels.get(at, 0) for at, label in enumerate(manifest.labels)},
        "tokens": tokens,
        "length_mean": round(tokens / rows, 2),
        "length_percentiles": {str(percent): ascending[at] for percent, at in zip(PERCENTILES, places, strict=True)},
        "rows_per_width": {str(width): count for width, count in widths.items()},
        "padding_on_disk": round(1 - tokens / sum(width * count for width, count in widths.items()), 6),
        **{key: known[key] for key in ("unknown_rate", "truncated", "empty") if key in known},
    }


def sampled(split: Split, vocabulary: Vocabulary, number: int) -> list[dict[str, Any]]:
    """At most so many rows of the middle block, with decoded tokens."""
    block, labels = split.blocks[(len(split.blocks) - 1) // 2], np.array(split.manifest.labels, object)
    rows: list[dict[str, Any]] = batch_of(block, vocabulary, labels, None).drop_columns(["ids"])[:number].to_pylist()
    for row in rows:
        row["text"] = shortened(row["text"], SAMPLE_CHARACTERS)
    return rows


def render(found: dict[str, Any], manifest: Manifest) -> str:
    """The description as text."""
    import pandas as pd

    table = {}
    for name, split in found["splits"].items():
        rows = split["rows"]
        table[name] = {
            "rows": f"{rows:,}",
            **{plain_line(label): f"{count / rows:.1%}" for label, count in split["labels"].items()},
            **{f"length, {percent} %": f"{length:,}" for percent, length in split["length_percentiles"].items()},
            "padding on disk": f"{split['padding_on_disk']:.1%}",
            "unknown tokens": f"{split['unknown_rate']:.2%}" if "unknown_rate" in split else "-",
            **{key: f"{split[key] / rows:.2%}" for key in ("truncated", "empty") if key in split},
        }
    size = f"{found['vocabulary_size']:,} ({found['id_dtype']})"
    lines = [f"{found['dataset']}: vocabulary {size}, {found['tokens']}", ""]
    lines += [pd.DataFrame(table).fillna("-").to_string(), ""]
    try:
        if "rows_read" in manifest.statistics:
            lines += [f"read: {rows_in_words(manifest)}", *lines_on_splits(manifest), *lines_on_rows(manifest)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise DataError(f"{found['dataset']}: its statistics are not those of this version; {REBUILD}") from None
    lines += ["", "most frequent tokens: " + " ".join(map(plain_line, found["frequent_tokens"])), ""]
    for name, samples in found["samples"].items():
        for row in samples:
            label = "no label" if row["label"] is None else plain_line(row["label"])
            lines.append(f"{name} row {row['row']} ({label}, {row['length']} tokens): {row['text']}")
    return printable("\n".join(lines))


def rows_in_words(manifest: Manifest) -> str:
    """How many rows were read, of which files."""
    files = manifest.provenance["sources"]
    where = files[0]["name"] if len(files) == 1 else counted(len(files), "file")
    number, there = manifest.statistics["rows_read"], sum(file["rows"] for file in files)
    return f"{f'{number:,} of ' if number < there else ''}{counted(there, 'row')} of {where}"


def lines_on_classes(manifest: Manifest) -> Iterator[str]:
    """Lines on the classes, and on those too small for a split."""
    splits = [manifest.rows_by("labels", name) for name in manifest.names if name != UNLABELLED]
    names = [shortened(name, LABEL_CELLS) for name in manifest.labels]
    every = [f"{name} {sum(its.get(number, 0) for its in splits):,}" for number, name in enumerate(names)]
    yield f"labels: {len(names):,} classes: {some(every)}"
    if len({name.strip().casefold() for name in manifest.labels}) < len(names):
        yield "labels: some differ only in case or spaces; source.labels says which are one class"
    if few := [repr(name) for number, name in enumerate(names) if not all(number in its for its in splits)]:
        yield f"labels: too few rows for every split: {some(few)}"


def some(names: list[str]) -> str:
    """The first few of a list, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f", and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def lines_on_splits(manifest: Manifest) -> Iterator[str]:
    """Lines on groups, times, folds and unlabelled rows."""
    found = manifest.statistics
    if groups := found.get("groups"):
        many = f"{groups['groups']:,} groups, the largest of {groups['largest']:,} rows"
        yield f"splits: by {groups['column']}: {many}{shares_in_words(groups)}"
        for entry in groups["shared"]:
            rows = " and ".join(f"{rows:,} rows in {split}" for split, rows in entry["rows"].items())
            yield f"splits: those of the source share {entry['groups']:,} groups of {groups['column']}: {rows}"
    if times := found.get("times"):
        without = f"{times['without']:,} rows without a time are in train"
        yield f"splits: by {times['column']}{shares_in_words(times)}; {without}"
    if "folds" in found:
        rows = found["folds"]["rows"]
        what = f"{len(rows)} folds of {min(rows):,} to {max(rows):,} rows of training and validation"
        yield f"folds: {what}, groups and equal texts whole"
    if UNLABELLED in found:
        kept, rows = manifest.rows(UNLABELLED), found[UNLABELLED]["rows"]
        yield f"unlabelled: {kept:,} of {rows:,} rows without labels are kept"


def shares_in_words(found: dict[str, Any]) -> str:
    """The rows of each split, its share, the wanted one, and its first time."""
    return "".join(
        f"; {split} {cut['rows']:,} rows ({cut['share']:.2%}, wanted {cut['wanted']:.2%})"
        + (f" from {cut['from']}" if "from" in cut else "")
        for split, cut in found["cut"].items()
    )


def lines_on_rows(manifest: Manifest) -> list[str]:
    """A line for each reason why rows are left out, suspect or shortened."""
    found = manifest.statistics
    kept, others = {name: found[name] for name in ("empty", "contradictions", "leaks")}, found.get(UNLABELLED, {})
    kept["empty"] += others.get("empty", 0)
    kept["leaks"] += others.get("shared", 0)
    lines = []
    for name, what in REASONS.items():
        verb, count = ("left out", found["dropped"][name]) if name in found["dropped"] else ("kept", kept.get(name, 0))
        if count and (name != "filtered" or manifest.provenance["config"]["source"]["where"]):
            lines.append(f"{verb}: {counted(count, 'row')} {what}")  # the embedded corpus is a part of its file
    if cut := sum(split["truncated"] for split in found["splits"].values()):
        most = manifest.text["spec"]["max_tokens"]
        lines.append(f"shortened: {counted(cut, 'row')} of more than {most:,} tokens (text.max_tokens)")
    return lines


class Dataset(Mapping[str, "pd.DataFrame"]):
    """A dataset directory: a mapping from the names of its splits to frames, read on access."""

    def __init__(self, address: str | Path) -> None:
        """Open the dataset at a path or a remote address. Raises ``DataError`` unless it is complete."""
        self.path = remote.local(str(address))
        self.manifest = read_manifest(self.path)
        check_words(self.path, self.manifest)
        self.labels = list(self.manifest.labels)
        """The names of the classes; a class's number is its index here."""
        self._values = typed_values(self.labels, self.manifest.label_type)
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
            own = replace(self.manifest, splits={split: [part]})
            for block in remote.split_of(self.path, own, split).blocks:
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
        return f"<padless dataset {self.path}: {self.manifest.in_words()}, {len(self.labels)} classes>"


def batch_of(block: Block, vocabulary: Vocabulary, labels: np.ndarray, fold: int | None) -> pa.RecordBatch:
    """A block with class names from ``labels`` (null for a row without one) and decoded tokens."""
    found, starts = unpadded(block.ids, block.length)
    ids, offsets = pa.array(found.astype(np.int32)), pa.array(starts)
    tokens = pa.LargeListArray.from_arrays(offsets, vocabulary.tokens.take(ids))
    columns = {
        "row": pa.array(block.row),
        "label": pa.DictionaryArray.from_arrays(pa.array(block.label, mask=block.label < 0), pa.array(labels)),
        **({} if fold is None else {"fold": pa.array(np.full(len(block.row), fold, np.int64))}),
        "length": pa.array(block.length),
        "ids": pa.LargeListArray.from_arrays(offsets, ids),
        "text": pc.binary_join(tokens, pa.scalar(" ", pa.large_string())),
    }
    return pa.RecordBatch.from_pydict(columns)


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Verify every byte of a dataset; each problem is a line, and the exit code is 3."""

    SUBJECT = ("data",)
    data: str
    """Dataset directory."""


def check(config: CheckConfig) -> int:
    """``padless check``: verify a dataset; returns the exit code."""
    root = remote.local(config.data)
    problems = verify(root)
    for problem in problems:
        tell(f"error: {problem}")
    if problems:
        return DataError.exit_code
    print(f"ok: {public(config.data)}: {read_manifest(root).in_words()}")
    return 0


def verify(root: str | Path) -> list[str]:
    """Check a dataset directory in full: manifest, vocabulary, every shard's bytes and, if they are right, what a
    training checks of the rows. Remote shards are checked when they are read.

    Returns one sentence per problem; raises ``DataError`` if there is no readable manifest or index.
    """
    manifest, path, problems = read_manifest(root), Path(root, VOCABULARY), list[str]()
    try:
        check_words(root, manifest)
        known = json.loads(Path(root, MANIFEST).read_bytes()).get("vocabulary_sha256")
        if atomic.sha256_file(path) != known:
            raise DataError(f"{path}: its sha256 is not the manifest's; {REBUILD}")
    except DataError as error:
        problems.append(str(error))
    for info in manifest.shards(root) if not Path(root, remote.ADDRESS).exists() else ():
        try:
            path = Shard(root, info, manifest.id_dtype, manifest.block_rows).path
            if atomic.sha256_file(path) != info.sha256:
                raise DataError(f"{path}: its sha256 is not the manifest's: bytes were changed; {REBUILD}")
        except DataError as error:
            problems.append(str(error))
    for name in manifest.names if not problems else ():
        try:
            deque(remote.split_of(root, manifest, name).blocks, 0)
        except DataError as error:
            problems.append(str(error))
    return problems
