# SPDX-License-Identifier: Apache-2.0
"""``bundle/training.json``: how the texts of a training were read and what they were like.

New labelled rows are read in the same way and held against it. It is made of the dataset's manifest, so that neither
the dataset nor its corpus is needed later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from harness.rundir.json_files import MEND, read_typed
from preprocessing.base import atomic
from preprocessing.base.schema import Count, Share, typed
from preprocessing.base.split_names import UNLABELLED
from preprocessing.config import SourceConfig
from preprocessing.corpus.forms import uncompressed
from preprocessing.corpus.records import Dialect
from preprocessing.dataset.shards import Manifest
from preprocessing.labels import AUTO

FORMAT, FORMAT_VERSION = "padless-training", 1
FILE = "training.json"
DIALECT = ("delimiter", "quote", "escape")
SAME = ("text_column", "label_column", "neutral", *DIALECT, "encoding", "columns")
READ_WITH = (*SAME, "labels")
"""Options of ``source`` that say how a file like the corpus is read."""

Length = Annotated[str, Meta(pattern=r"^[0-9]{1,9}\Z")]
Plain = str | bool | int | float | None
"""A value as a configuration file spells it: a label may be 0."""


@dataclass(frozen=True)
class SourceFacts:
    """Options of ``source``, as far as they say how a file like the corpus is read."""

    text_column: str | None = None
    label_column: str | None = None
    labels: dict[str, list[Plain]] | str | None = None
    neutral: list[Plain] | None = None
    delimiter: str | None = None
    quote: str | None = None
    escape: str | None = None
    encoding: str | None = None
    columns: list[str] | None = None
    dialect: Dialect | None = None
    """How the fields of its CSV files were told apart, where all of them are alike: as configured, or as found."""


@dataclass(frozen=True)
class SplitFacts:
    """What the texts of a split were like."""

    rows: Count
    labels: dict[str, Count]
    lengths: dict[Length, Count]
    unknown_rate: Share | None


@dataclass(frozen=True)
class TrainingFacts:
    """``training.json``."""

    format: str
    format_version: int
    dataset: str
    source: SourceFacts
    splits: dict[str, SplitFacts]


def write_training(directory: Path, manifest: Manifest) -> None:
    """Write ``training.json`` into a bundle. Raises ``OSError``."""
    source = manifest.provenance.get("config", {}).get("source", {})
    read_with = {name: source[name] for name in READ_WITH if name in source}
    if dialect := dialect_of(manifest.provenance):
        read_with["dialect"] = asdict(dialect)
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "dataset": manifest.fingerprint}
    atomic.write_json(directory / FILE, head | {"source": read_with, "splits": split_facts(manifest)})


def split_facts(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Of each split rows, rows of each class and of each length after truncation, and the share of unknown tokens.

    The share is of tokens that are not in the vocabulary; None where the manifest does not say.
    """
    splits = {}
    for name, shards in manifest.splits.items():
        lengths, labels = Counter[str](), Counter[str]()
        for shard in shards:
            lengths.update(shard.lengths)
            labels.update(shard.labels)
        splits[name] = {
            "rows": manifest.rows(name),
            "labels": {label: labels[str(number)] for number, label in enumerate(manifest.labels)},
            "lengths": {length: lengths[length] for length in sorted(lengths, key=int)},
            "unknown_rate": manifest.statistics.get("splits", {}).get(name, {}).get("unknown_rate"),
        }
    return splits


def dialect_of(provenance: Mapping[str, Any]) -> Dialect | None:
    """How the fields of the labelled CSV files of a corpus were told apart; None without any, or where they differ."""
    source, found = provenance.get("config", {}).get("source", {}), set()
    for entry in provenance.get("sources", []):
        if entry.get("format") == "csv" and entry.get("split") != UNLABELLED:
            usual = "\t" if uncompressed(entry["name"]).endswith(".tsv") else ","
            known = {"delimiter": source.get("delimiter") or usual, "quote": source.get("quote", '"')}
            known |= {"escape": source.get("escape")} | entry.get("read_as", {})
            found.add(checked({name: known[name] for name in DIALECT}))
    return found.pop() if len(found) == 1 else None


def checked(dialect: Mapping[str, Any]) -> Dialect:
    """The dialect that a file tells of. Raises ``UserError`` unless it is one of single characters."""
    known: Dialect = typed(Dialect, dialect, "the dialect of the corpus", MEND)
    SourceConfig(**asdict(known))
    return known


@dataclass(frozen=True)
class Reading:
    """How new files are read that are like those of a training."""

    source: SourceConfig
    dialect: Dialect | None = None
    """The one that is tried first."""


def reading_of(config: SourceConfig, known: Mapping[str, Any]) -> Reading:
    """As ``config`` says where it says something, else as the corpus of the training was read.

    ``known`` are the options of that corpus (``SourceFacts``). Labels are read as they are written.
    """
    usual = SourceConfig()
    unsaid = {name for name in SAME if getattr(config, name) == getattr(usual, name)}
    taken = {name: known[name] for name in unsaid if known.get(name) is not None}
    if "neutral" in taken:
        taken["neutral"] = [str(value) for value in taken["neutral"]]
    as_it_was = known.get("dialect") and unsaid.issuperset(DIALECT)
    return Reading(replace(config, labels=AUTO, **taken), checked(known["dialect"]) if as_it_was else None)


def read_training(directory: Path, fingerprint: str) -> dict[str, Any] | None:
    """What is known of the training on the dataset with this fingerprint; None for a bundle without it.

    Raises ``DataError`` for a damaged file.
    """
    content = read_typed(TrainingFacts, directory / FILE)
    head = None if content is None else (content["format"], content["format_version"], content["dataset"])
    return content if head == (FORMAT, FORMAT_VERSION, fingerprint) else None
