# SPDX-License-Identifier: Apache-2.0
"""``--append``: adds the rows of new files to a dataset. The old texts are not read again.

The job is the usual one, with the dataset's settings, classes and vocabulary; rows and shards are numbered after the
old ones. It writes a whole dataset beside the old one, with links to the old shards, which takes its place in one step.
The old shards stay as they are, so a training that reads them goes on.

Old and new rows are compared by what a model reads: a hash of the ids of each old row, which takes 8 bytes in a file
that workers map, and 16 in memory while the file is made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import ConfigError
from preprocessing.base.schema import typed
from preprocessing.base.split_names import UNLABELLED_NUMBER, split_number
from preprocessing.config import PreprocessConfig
from preprocessing.corpus.sources import Plan
from preprocessing.dataset.index import REBUILD, ShardInfo
from preprocessing.dataset.shards import MANIFEST, Manifest, Shard
from preprocessing.job import parts
from preprocessing.job.executors import Workers
from preprocessing.labels import AUTO
from preprocessing.text.encoder import Encoded

CUT = "cut"
"""Key of a manifest's provenance: the fractions of rows that the seed put into validation and test."""
OWN = ("seed", "text", "vocabulary", "shards", "quality")
"""Settings that are those of the dataset."""
NEED_ALL = {"group_column", "time_column", "folds", "near_duplicates"}
"""Settings by which new rows cannot be decided without the old ones."""
SOURCES = ("path", "validation_path", "test_path", "unlabelled_path")


@dataclass(frozen=True)
class Before:
    """The dataset that rows are added to."""

    root: Path
    """Absolute."""
    manifest: Manifest

    def settings(self, config: PreprocessConfig) -> PreprocessConfig:
        """The configuration of the job for the new files. Raises ``ConfigError`` for settings that are not those of the
        dataset, and for a dataset that needs all rows together.
        """
        known, where = self.manifest.provenance.get("config", {}), str(self.root / MANIFEST)
        built: PreprocessConfig = typed(
            PreprocessConfig, {key: known.get(key) for key in OWN} | {"output": config.output}, where, REBUILD
        )
        usual, mine = PreprocessConfig(output=config.output).deciding(), config.deciding()
        if others := [key for key in OWN if mine[key] not in (usual[key], known[key])]:
            raise ConfigError(f"append: {', '.join(others)}: new rows get the settings of the dataset; leave this out")
        if needs := sorted(NEED_ALL & {*known["splits"], *known["quality"], *mine["splits"]}):
            raise ConfigError(f"append: {needs[0]} needs the old texts beside the new ones; prepare all files together")
        labels, names = config.source.labels, self.manifest.labels
        if labels == AUTO and (labels := known["source"]["labels"]) == AUTO:
            labels = {name: [name] for name in names}
        if [*labels] != names:
            raise ConfigError(f"source.labels: the dataset's classes are {', '.join(names)}; name these in this order")
        given, default = mine["splits"], usual["splits"]
        cut = {
            name: share for name, share in self.manifest.provenance.get(CUT, {}).items() if given[name] == default[name]
        }
        return replace(
            config,
            seed=built.seed,
            text=built.text,
            shards=built.shards,
            quality=built.quality,
            source=replace(config.source, labels=labels),
            splits=replace(config.splits, **cut),
            vocabulary=replace(built.vocabulary, base=str(self.root), min_count=AUTO),
        )

    def has(self, plans: list[Plan]) -> bool:
        """Whether it holds these files. Raises ``ConfigError`` if it holds some of them."""
        known = [entry["fingerprint"] for entry in self.manifest.provenance["sources"]]
        there = [plan.file.name for plan in plans if plan.fingerprint in known]
        if 0 < len(there) < len(plans):
            raise ConfigError(f"append: {there[0]}: the dataset has its rows already; name only the other files")
        return bool(there)

    @property
    def rows(self) -> int:
        """Rows of its sources."""
        return sum(entry["rows"] for entry in self.manifest.provenance["sources"])

    def link(self, paths: Iterable[str], root: Path) -> None:
        """Put its shards into ``root`` too: links, or copies where the file system has none."""
        for path in paths:
            new = root / path
            new.parent.mkdir(exist_ok=True)
            new.unlink(missing_ok=True)
            try:
                os.link(self.root / path, new)
            except OSError:
                with atomic.replacing(new) as temporary:
                    shutil.copyfile(self.root / path, temporary)

    def write_hashes(self, shards: Iterable[ShardInfo], work: Path, workers: Workers) -> Path:
        """Store the hashes of its rows, with their ``level`` in the last bits, ascending."""
        found = np.concatenate([hashes for _, hashes in workers.map(self.hashes, shards, what="compare")])
        found.sort()
        arrays.write_batch(path := work / "hashes.arrow", {"hash": found})
        return path

    def hashes(self, info: ShardInfo) -> np.ndarray:
        """Those of one shard."""
        blocks = Shard(self.root, info, self.manifest.id_dtype, self.manifest.block_rows).blocks
        found = np.concatenate([hashed(*arrays.unpadded(block.ids, block.length)) for block in blocks])
        return found | level(split_number(info.split))

    def provenance(self, new: dict[str, Any], config: PreprocessConfig) -> dict[str, Any]:
        """That of both, with the settings of the old one."""
        old = self.manifest.provenance
        added = {key: getattr(config.source, key) for key in SOURCES}
        source = old["config"]["source"]
        source = source | {key: source.get(key, []) + more for key, more in added.items() if more}
        return old | {"sources": old["sources"] + new["sources"], "config": old["config"] | {"source": source}}


def level(split: Any) -> Any:
    """uint64: 0 for what is learned from, 1 for validation, 2 for test."""
    return np.uint64(split % UNLABELLED_NUMBER)


def hashed(ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """uint64 per row: a hash of its ids, without the last two bits."""
    return arrays.segment_hashes(ids.astype(np.uint64), offsets) & ~np.uint64(3)


def compared(path: Path, rows: Encoded, split: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two bools per row: whether a row with equal ids, of those in ``path``, is in a split of another ``level``, and
    whether one is in a split of the same.
    """
    known, own = parts.load_columns(path)["hash"], hashed(rows.ids, rows.offsets)
    leaks, repeats = np.zeros(len(own), bool), np.zeros(len(own), bool)
    for number in range(UNLABELLED_NUMBER):
        wanted = own | level(number)
        place = np.minimum(known.searchsorted(wanted), len(known) - 1)
        is_same = split % UNLABELLED_NUMBER == number
        leaks |= (known[place] == wanted) & ~is_same
        repeats |= (known[place] == wanted) & is_same
    full = (split >= 0) & (rows.num_tokens > 0)
    return leaks & full, repeats & full & ~leaks
