# SPDX-License-Identifier: Apache-2.0
"""Views of datasets: with other splits, and mixtures: several datasets with one vocabulary and the same classes as one.

The name of a mixture is that of its datasets with their shares, as in ``data/reviews:0.7,data/forum:0.3``. Each split
has the rows of that split of every dataset, one dataset after the other. Row r of dataset n, both from 0, has the
number ``n * APART + r``, so every row of a mixture has its own. Shares count in training alone
(``harness.data.order``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.base import atomic
from preprocessing.base.configuration import shares_of
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TRAIN
from preprocessing.dataset.shards import VOCABULARY, Block, Lazy, Manifest, Shard, Split, read_manifest

APART = 10**12
"""Between the numbers of the first rows of two datasets; readable, and no source has so many rows."""
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


def with_splits(manifest: Manifest, splits: dict[str, Any], **more: Any) -> View:
    """The view with these splits, and ``more`` fields of their own."""
    kept = {one.name: getattr(manifest, one.name) for one in fields(Manifest)}
    return View(**{**kept, "splits": splits, "dataset": manifest.fingerprint, **more})


def mixed(parts: Sequence[Part]) -> View:
    """The mixture of datasets. Raises ``DataError`` if they do not fit each other."""
    home, first, _ = parts[0]
    splits: dict[str, list[Any]] = {}
    for path, part, _ in parts:
        if part.text_hash != first.text_hash:
            raise DataError(
                f"{path}: its vocabulary or text settings are not those of {home}, so ids mean other words; build it "
                f"again with `padless prepare … -o {path} --vocabulary.base {home}`"
            )
        if (part.labels, part.label_type) != (first.labels, first.label_type):
            raise DataError(
                f"{path}: its classes are not those of {home}; build it again with --source.labels, which has their "
                "names, in their order, and the values that mean them"
            )
        for name, entries in part.splits.items():
            splits[name] = splits.get(name, []) + entries
    known = atomic.canonical_json([[part.fingerprint, share] for _, part, share in parts])
    own = {"dataset": hashlib.sha256(known).hexdigest(), "parts": tuple(parts), "statistics": {}}
    return with_splits(first, splits, fold=getattr(first, "fold", None), **own)


def read_data(data: str | Path) -> Manifest:
    """The manifest of a dataset or of a mixture. Raises ``DataError`` as ``read_manifest`` and ``mixed`` do."""
    parts: list[Part] = [(path, read_manifest(path), share) for path, share in shares_of(str(data)).items()]
    return mixed(parts) if len(parts) > 1 else parts[0][1]


def parts_of(data: str | Path, manifest: Manifest) -> Sequence[Part]:
    """The datasets of a mixture; of one dataset that one."""
    return getattr(manifest, "parts", ()) or [(data, manifest, 1.0)]


def vocabulary_of(data: str | Path) -> Path:
    """The file of the vocabulary of a dataset or of a mixture."""
    return Path(next(iter(shares_of(str(data)))), VOCABULARY)


def open_split(parts: Sequence[Part], manifest: Manifest, name: str) -> Split:
    """Map a split of a dataset or of a mixture, whose files lie in the directories of ``parts``.

    Raises ``DataError`` as ``Split`` does.
    """
    if len(parts) == 1:
        return Split(*parts[0][:2], name)
    opened = {
        number: Split(path, part, name)
        for number, (path, part, _) in enumerate(parts)
        if name == TRAIN or part.splits.get(name)
    }
    return MixedSplit(manifest, [share for *_, share in parts], opened)


class MixedSplit(Split):
    """A split of a mixture: the blocks of that split of each dataset, one dataset after the other."""

    def __init__(self, manifest: Manifest, shares: Sequence[float], parts: Mapping[int, Split]) -> None:
        """``parts``: number of a dataset in the mixture -> its split, of those that have it."""
        self.manifest, self.shares, self.parts = manifest, shares, parts
        self.name = next(iter(parts.values())).name
        self.places = [
            (part, number * APART, block) for number, part in parts.items() for block in range(len(part.blocks))
        ]
        """Of each block: its split, the number of row 0 there, and its own number there."""
        self.block_starts = np.cumsum([0, *np.concatenate([np.diff(part.block_starts) for part in parts.values()])])
        self.block_widths = np.concatenate([part.block_widths for part in parts.values()])
        self.blocks = Lazy(len(self.places), self._block)

    def _block(self, number: int) -> Block:
        part, first_row, place = self.places[number]
        block = part.blocks[place]
        return replace(block, row=block.row + first_row)

    def checked(self, number: int) -> Block:
        """As for a split of one dataset."""
        part, _, place = self.places[number]
        part.checked(place)
        return self._block(number)

    def shard_of(self, number: int) -> Shard:
        """As for a split of one dataset."""
        part, _, place = self.places[number]
        return part.shard_of(place)
