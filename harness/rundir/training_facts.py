# SPDX-License-Identifier: Apache-2.0
"""``bundle/training.json``: how the training texts were read, and statistics of them.

New labelled rows are read in the same way and compared with it. It is made from the dataset's manifest, so that neither
the dataset nor its corpus is needed later.
"""

from __future__ import annotations

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
"""Options of ``source`` for reading files like the corpus."""

Length = Annotated[str, Meta(pattern=r"^[0-9]{1,9}\Z")]
Plain = str | bool | int | float | None
"""A value of a configuration file; a label may be a number."""


@dataclass(frozen=True)
class SourceFacts:
    """The options of ``source`` in ``READ_WITH``, and the dialect."""

    text_column: str | list[str] | None = None
    label_column: str | None = None
    labels: dict[str, list[Plain]] | str | None = None
    neutral: list[Plain] | None = None
    delimiter: str | None = None
    quote: str | None = None
    escape: str | None = None
    encoding: str | None = None
    columns: list[str] | None = None
    dialect: Dialect | None = None
    """The dialect of its CSV files, configured or detected, if all of them have the same."""


@dataclass(frozen=True)
class SplitFacts:
    """Statistics of a split."""

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
    """For each split: rows, rows of each class, of each length after truncation, and the share of unknown tokens.

    The share is None if the manifest does not have it.
    """
    splits = {}
    for name in manifest.splits:
        labels = manifest.rows_by("labels", name)
        splits[name] = {
            "rows": manifest.rows(name),
            "labels": {label: labels.get(number, 0) for number, label in enumerate(manifest.labels)},
            "lengths": {str(length): rows for length, rows in manifest.rows_by("lengths", name).items()},
            "unknown_rate": manifest.statistics.get("splits", {}).get(name, {}).get("unknown_rate"),
        }
    return splits


def dialect_of(provenance: Mapping[str, Any]) -> Dialect | None:
    """The dialect of the labelled CSV files of a corpus; None without any, or if they differ."""
    source, found = provenance.get("config", {}).get("source", {}), set()
    for entry in provenance.get("sources", []):
        if entry.get("format") == "csv" and entry.get("split") != UNLABELLED:
            usual = "\t" if uncompressed(entry["name"]).endswith(".tsv") else ","
            known = {"delimiter": source.get("delimiter") or usual, "quote": source.get("quote", '"')}
            known |= {"escape": source.get("escape")} | entry.get("read_as", {})
            found.add(checked({name: known[name] for name in DIALECT}))
    return found.pop() if len(found) == 1 else None


def checked(dialect: Mapping[str, Any]) -> Dialect:
    """A stored dialect. Raises ``UserError`` unless its values are single characters."""
    known: Dialect = typed(Dialect, dialect, "the dialect of the corpus", MEND)
    SourceConfig(**asdict(known))
    return known


@dataclass(frozen=True)
class Reading:
    """How to read new files like those of a training."""

    source: SourceConfig
    dialect: Dialect | None = None
    """The dialect to try first."""


def reading_of(config: SourceConfig, known: Mapping[str, Any]) -> Reading:
    """How to read new files: by ``config``, and where it has defaults, like the training corpus.

    ``known`` has the options of that corpus (``SourceFacts``). Labels are read unchanged.
    """
    usual = SourceConfig()
    unsaid = {name for name in SAME if getattr(config, name) == getattr(usual, name)}
    taken = {name: known[name] for name in unsaid if known.get(name) is not None}
    if "neutral" in taken:
        taken["neutral"] = [str(value) for value in taken["neutral"]]
    as_it_was = known.get("dialect") and unsaid.issuperset(DIALECT)
    return Reading(replace(config, labels=AUTO, **taken), checked(known["dialect"]) if as_it_was else None)


def read_training(directory: Path, fingerprint: str) -> dict[str, Any]:
    """The facts of the training on the dataset with this fingerprint; empty for a bundle without them.

    Raises ``DataError`` for a damaged file.
    """
    content = read_typed(TrainingFacts, directory / FILE) or {}
    head = tuple(content.get(key) for key in ("format", "format_version", "dataset"))
    return content if head == (FORMAT, FORMAT_VERSION, fingerprint) else {}
