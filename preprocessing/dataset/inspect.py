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
from preprocessing.base.terminal import plain_line, printable, public, tell
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
    found = inspect(remote.local(config.data), config.samples)
    print(json.dumps(found, indent=2, ensure_ascii=False) if config.json else render(found))


def inspect(root: str | Path, samples: int) -> dict[str, Any]:
    """The description, as JSON. Raises ``DataError`` if there is no readable dataset."""
    manifest = read_manifest(root)
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
        "tokens": TextPipeline.from_json(manifest.text, root).spec.in_words(),
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
        if len(row["text"]) > SAMPLE_CHARACTERS:
            row["text"] = row["text"][:SAMPLE_CHARACTERS] + " …"
    return rows


def render(found: dict[str, Any]) -> str:
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
        lines += of_corpus(found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise DataError(f"{found['dataset']}: its statistics are not those of this version; {REBUILD}") from None
    lines += ["", "most frequent tokens: " + " ".join(map(plain_line, found["frequent_tokens"])), ""]
    for name, samples in found["samples"].items():
        for row in samples:
            label = "no label" if row["label"] is None else plain_line(row["label"])
            lines.append(f"{name} row {row['row']} ({label}, {row['length']} tokens): {row['text']}")
    return printable("\n".join(lines))


def of_corpus(found: dict[str, Any]) -> list[str]:
    """The statistics of the preprocessing job in words; none for a dataset that was made otherwise."""
    corpus, lines = found["corpus"], list[str]()
    if "rows_read" in corpus:
        dropped = ", ".join(f"{name} {count:,}" for name, count in corpus["dropped"].items() if count) or "none"
        repeated = corpus["duplicates"]
        lines = [
            f"rows read {corpus['rows_read']:,}, kept {corpus['rows_kept']:,}; left out: {dropped}",
            f"duplicates: {repeated['normalised']:,} after the text pipeline, "
            f"{repeated['across_splits']:,} rows across splits; contradictory labels: {corpus['contradictions']:,}",
        ]
    return [*lines, *found_in_words(corpus, found["splits"].get(UNLABELLED, {"rows": 0})["rows"])]


def found_in_words(report: dict[str, Any], kept: int) -> Iterator[str]:
    """Lines about splits, folds and unlabelled rows, for the job and for ``inspect``. ``kept``: unlabelled rows."""
    if "groups" in report:
        yield from (f"splits: {line}" for line in groups_in_words(report["groups"]))
    if "times" in report:
        times = report["times"]
        parts = [f"{share_in_words(*cut)} from {cut[1]['from']}" for cut in times["cut"].items()]
        parts += [f"{times['without']:,} rows without a time are in train"] if times["without"] else []
        yield f"splits: by {times['column']}: {'; '.join(parts)}"
    if "folds" in report:
        rows = report["folds"]["rows"]
        what = f"{len(rows)} folds of {min(rows):,} to {max(rows):,} rows of training and validation"
        yield f"folds: {what}, groups and equal texts whole"
    if UNLABELLED in report:
        found = report[UNLABELLED]
        parts = [f"{kept:,} of {found['rows']:,} rows without labels are kept"]
        for count, what in (
            (found["shared"], "have texts that are validated or tested (quality.leaks)"),
            (found.get("groups_measured", 0), "are of groups of validation or test (quality.leaks)"),
            (found["duplicates"], "repeat another of them (quality.duplicates)"),
            (found["empty"], "are empty (quality.empty)"),
        ):
            parts += [f"{count:,} {what}"] if count else []
        yield f"unlabelled: {'; '.join(parts)}"


def groups_in_words(groups: dict[str, Any]) -> list[str]:
    """Lines about groups."""
    parts = [f"{groups['groups']:,} groups, the largest of {groups['largest']:,} rows"]
    parts += [share_in_words(*cut) for cut in groups["cut"].items()]
    lines = [f"by {groups['column']}: {'; '.join(parts)}"]
    for entry in groups["shared"]:
        rows = " and ".join(f"{rows:,} rows in {split}" for split, rows in entry["rows"].items())
        lines.append(f"the source's own splits share {entry['groups']:,} groups of {groups['column']}: {rows}")
    return lines


def share_in_words(split: str, cut: dict[str, Any]) -> str:
    """The rows of a split, its share, and the wanted one."""
    return f"{split} {cut['rows']:,} rows ({cut['share']:.2%}, wanted {cut['wanted']:.2%})"


class Dataset(Mapping[str, "pd.DataFrame"]):
    """A dataset directory: a mapping from the names of its splits to frames, read on access."""

    def __init__(self, address: str | Path) -> None:
        """Open the dataset at a path or a remote address. Raises ``DataError`` unless it is complete."""
        self.path = remote.local(str(address))
        self.manifest = read_manifest(self.path)
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
        return self._table(split, "ids").to_pandas()

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
        return self._table(split)

    def _table(self, split: str, *without: str) -> pa.Table:
        return pa.Table.from_batches(self.batches(split)).drop_columns(list(without)).sort_by("row")

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
