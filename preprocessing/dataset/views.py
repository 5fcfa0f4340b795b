# SPDX-License-Identifier: Apache-2.0
"""Views of datasets: with other splits, and mixtures: several datasets with one vocabulary and the same classes as one.

The name of a mixture is that of its datasets with their shares, as in ``data/reviews:0.7,data/forum:0.3``. Each split
has the rows of that split of every dataset, one dataset after the other. Row r of dataset n, both from 0, has the
number ``n * ROW_STRIDE + r``, so no two rows of a mixture have the same. Shares count in training alone
(``harness.data.order``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.base import atomic
from preprocessing.base.configuration import shares_of
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.split_names import TRAIN
from preprocessing.corpus import addresses
from preprocessing.dataset import remote
from preprocessing.dataset.index import Lazy, Totals
from preprocessing.dataset.shards import Block, Manifest, Split, read_manifest

ROW_STRIDE = 10**12
"""Difference of the numbers of the first rows of two datasets; readable, and no source has so many rows."""
Part = tuple[str | Path, Manifest, float]
"""Directory, manifest and share of a dataset; the shares of a mixture add up to 1."""


@dataclass(frozen=True)
class View(Manifest):
    """A manifest with other splits."""

    dataset: str = ""
    fold: int | None = None
    """The fold used for validation."""
    parts: tuple[Part, ...] = ()
    """The datasets of a mixture."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the dataset on disk; of a mixture a hash of those of its datasets, and their shares."""
        return self.dataset


def with_splits(manifest: Manifest, splits: dict[str, list[Totals]], **fields: Any) -> View:
    """The view with these splits and ``fields``."""
    return View(**{**vars(manifest), "splits": splits, "dataset": manifest.fingerprint, **fields})


def mix_datasets(parts: Sequence[Part]) -> View:
    """The mixture of datasets. Raises ``DataError`` if they do not fit each other."""
    first_path, first, _ = parts[0]
    splits: dict[str, list[Totals]] = {}
    for path, part, _ in parts:
        if part.text_hash != first.text_hash:
            raise DataError(
                f"{path}: its vocabulary or text settings are not those of {first_path}, so ids mean other words; "
                f"build it again with `padless prepare … -o {path} --vocabulary.base {first_path}`"
            )
        if (part.labels, part.label_type, part.label_sets) != (first.labels, first.label_type, first.label_sets):
            raise DataError(
                f"{path}: its classes are not those of {first_path}; build it again with --source.labels, which has "
                "their names, in their order, and the values that mean them"
            )
        for name, entries in part.splits.items():
            splits[name] = splits.get(name, []) + entries
    shares = atomic.canonical_json([[part.fingerprint, share] for _, part, share in parts])
    fingerprint = hashlib.sha256(shares).hexdigest()
    return with_splits(first, splits, dataset=fingerprint, parts=tuple(parts), index="", statistics={})


def read_data(data: str | Path) -> Manifest:
    """The manifest of a dataset or of a mixture. Raises ``DataError`` as ``read_manifest`` and ``mix_datasets`` do."""
    shares = shares_of(str(data))
    if len(shares) == 1 and {":", ","} & {*str(data)} and not (addresses.is_remote(str(data)) or Path(data).exists()):
        raise DataError(
            f"{data}: no such folder; in a mixture each of several has a share above 0, as in data/a:0.7,data/b:0.3"
        )
    parts: list[Part] = []
    for name, share in shares.items():
        folder = remote.local(name)
        parts.append((folder, read_manifest(folder), share))
    return mix_datasets(parts) if len(parts) > 1 else parts[0][1]


def parts_of(data: str | Path, manifest: Manifest) -> Sequence[Part]:
    """The datasets of a mixture; of one dataset that one."""
    return getattr(manifest, "parts", ()) or [(home_of(data), manifest, 1.0)]


def home_of(data: str | Path) -> Path:
    """The directory of a dataset, from ``remote.local``; of a mixture that of the first, whose vocabulary all share."""
    return remote.local(next(iter(shares_of(str(data)))))


def folder_for(output: str | None, data: str | Path, name: str) -> Path:
    """``output``, else a folder in the dataset directory. Raises ``ConfigError`` for a mixture and for a remote one."""
    if output is None and (len(shares_of(str(data))) > 1 or addresses.is_remote(str(data))):
        raise ConfigError(f"output: {data} has no directory here, where this is kept; name one with -o")
    return Path(output or Path(data, name))


def open_split(data: str | Path, manifest: Manifest, name: str, staged: Mapping[str | Path, Path] = {}) -> Split:
    """Map a split of a dataset or of a mixture. ``staged``: directory of a dataset -> that of a copy of its shards.

    Raises ``DataError`` as ``Split`` does.
    """
    if isinstance(manifest, View) and manifest.parts:
        return MixedSplit(manifest, name, staged)
    folder = home_of(data)
    return remote.split_of(staged.get(folder, folder), manifest, name)


class MixedSplit(Split):
    """A split of a mixture: the blocks of that split of each dataset that has it, one dataset after the other."""

    def __init__(self, manifest: View, name: str, staged: Mapping[str | Path, Path]) -> None:
        """As ``open_split``."""
        self.manifest, self.name = manifest, name
        self.shares = [share for *_, share in manifest.parts]
        self.parts = {
            number: remote.split_of(staged.get(path, path), part, name)
            for number, (path, part, _) in enumerate(manifest.parts)
            if name in (TRAIN, *part.names)
        }
        """Number of a dataset -> its split; every dataset must have rows for training."""
        splits = [*self.parts.values()]
        self.is_remote = any(split.is_remote for split in splits)
        self.block_starts = np.cumsum(np.concatenate([[0], *(np.diff(split.block_starts) for split in splits)]))
        self.block_widths = np.concatenate([split.block_widths for split in splits])
        self._locations = [
            (number * ROW_STRIDE, split, block)
            for number, split in self.parts.items()
            for block in range(len(split.blocks))
        ]
        """For each block: the number of its dataset's row 0, its split, and its number in that split."""
        self.blocks = Lazy(len(self._locations), self._read_block)

    def _read_block(self, number: int) -> Block:
        """As for a split of one dataset."""
        first_row, split, block_number = self._locations[number]
        block = split.blocks[block_number]
        return replace(block, row=block.row + first_row)

    def fetch_blocks(self, blocks: Sequence[int], next_blocks: Sequence[int]) -> None:
        """As for a split of one dataset."""
        start = 0
        for split in self.parts.values():
            stop = start + len(split.blocks)
            split_blocks = [block - start for block in blocks if start <= block < stop]
            split.fetch_blocks(split_blocks, [block - start for block in next_blocks if start <= block < stop])
            start = stop

    def check_unchanged(self) -> None:
        """As for a split of one dataset."""
        for split in self.parts.values():
            split.check_unchanged()
