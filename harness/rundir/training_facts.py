# SPDX-License-Identifier: Apache-2.0
"""``bundle/training.json``: how the texts of a training were read and what they were like.

New labelled rows are read in the same way and held against it. It is made of the dataset's manifest, so that neither
the dataset nor its corpus is needed later.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from harness.rundir.json_files import read_object
from preprocessing.base import atomic
from preprocessing.base.split_names import NO_LABEL
from preprocessing.dataset.shards import Manifest

FORMAT, FORMAT_VERSION = "padless-training", 1
FILE = "training.json"
READ_WITH = ("text_column", "label_column", "labels", "neutral", "delimiter", "quote", "escape", "columns")
"""Options of ``source`` that say how a file like the corpus is read."""


def training_facts(manifest: Manifest) -> dict[str, Any]:
    """What is kept of a manifest: options of the source, and of each split rows, classes, lengths and unknown tokens.

    ``lengths`` counts the rows of each length after truncation. ``unknown_rate`` is the share of tokens that are not in
    the vocabulary, None where the manifest does not say.
    """
    source = manifest.provenance.get("config", {}).get("source", {})
    statistics = manifest.statistics.get("splits", {})
    splits = {}
    for name, shards in manifest.splits.items():
        lengths: Counter[int] = Counter()
        labels: Counter[str] = Counter()
        for shard in shards:
            lengths.update({int(length): rows for length, rows in shard.lengths.items()})
            known = {int(label): rows for label, rows in shard.labels.items() if int(label) != NO_LABEL}
            labels.update({manifest.labels[label]: rows for label, rows in known.items()})
        splits[name] = {
            "rows": sum(shard.rows for shard in shards),
            "labels": {label: labels[label] for label in manifest.labels},
            "lengths": {str(length): lengths[length] for length in sorted(lengths)},
            "unknown_rate": statistics.get(name, {}).get("unknown_rate"),
        }
    return {"source": {name: source[name] for name in READ_WITH if name in source}, "splits": splits}


def write_training(directory: Path, manifest: Manifest) -> None:
    """Write ``training.json`` into a bundle. Raises ``OSError``."""
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "dataset": manifest.fingerprint}
    atomic.write_json(directory / FILE, head | training_facts(manifest))


def read_training(directory: Path, fingerprint: str) -> dict[str, Any] | None:
    """What is known of the training on the dataset with this fingerprint; None for a bundle without it.

    Raises ``DataError`` for a damaged file.
    """
    content = read_object(directory / FILE) or {}
    wanted = (FORMAT, FORMAT_VERSION, fingerprint)
    return content if tuple(content.get(name) for name in ("format", "format_version", "dataset")) == wanted else None
