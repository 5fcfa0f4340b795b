# SPDX-License-Identifier: Apache-2.0
"""A mixture: several datasets with one vocabulary and the same classes, read as one.

Its name is that of its datasets with their shares, as in ``data/reviews:0.7,data/forum:0.3``. Each split has the rows
of that split of every dataset, one dataset after the other. Row r of dataset n, both from 0, has the number
``n * APART + r``, so every row of a mixture has its own. Shares count in training alone (``harness.data.order``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from preprocessing.base import atomic
from preprocessing.base.configuration import shares_of
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TRAIN
from preprocessing.dataset.shards import VOCABULARY, Block, Lazy, Manifest, Shard, Split, read_manifest

APART = 10**12
"""Between the numbers of the first rows of two datasets; readable, and no source has so many rows."""
Part = tuple[str | Path, Manifest]
"""Directory and manifest of a dataset, or of a view of it."""


@dataclass(frozen=True)
class Mixture(Manifest):
    """The manifests of several datasets as one; that of the first, with the rows of all."""

    parts: tuple[Part, ...] = ()
    shares: tuple[float, ...] = ()
    """Of the training rows of a step, those of each dataset; their sum is 1."""
    fold: int | None = None
    """The fold that is held out of every dataset."""

    @property
    def fingerprint(self) -> str:
        """sha256 of the fingerprints of all datasets and their shares."""
        return hashlib.sha256(
            atomic.canonical_json([[part.fingerprint for _, part in self.parts], self.shares])
        ).hexdigest()

    def viewed(self, view: Callable[[Manifest, str | Path], Manifest]) -> Mixture:
        """The mixture of views of the datasets; ``view`` takes manifest and directory."""
        return mixed([(path, view(part, path)) for path, part in self.parts], self.shares)


def mixed(parts: Sequence[Part], shares: Sequence[float]) -> Mixture:
    """The mixture of datasets. Raises ``DataError`` if they do not fit each other."""
    (home, first), *others = parts
    for path, part in others:
        if part.text_hash != first.text_hash:
            raise DataError(
                f"{path}: its vocabulary or text settings are not those of {home}, so ids mean other words; build it "
                f"again with `padless prepare … -o {path} --vocabulary.base {home}`"
            )
        if (part.labels, part.label_type) != (first.labels, first.label_type):
            raise DataError(
                f"{path}: its classes are {', '.join(part.labels)} ({part.label_type}), those of {home} "
                f"{', '.join(first.labels)} ({first.label_type}); build one of the two again with the labels of the "
                "other (source.labels)"
            )
    kept = {one.name: getattr(first, one.name) for one in fields(Manifest)} | {"statistics": {}}
    kept["splits"] = {
        name: [entry for _, part in parts for entry in part.splits.get(name, [])]
        for name in dict.fromkeys(name for _, part in parts for name in part.splits)
    }
    return Mixture(**kept, parts=tuple(parts), shares=tuple(shares), fold=getattr(first, "fold", None))


def read_data(data: str | Path) -> Manifest:
    """The manifest of a dataset or of a mixture. Raises ``DataError`` as ``read_manifest`` and ``mixed`` do."""
    shares = shares_of(str(data))
    parts = [(path, read_manifest(path)) for path in shares]
    return mixed(parts, [*shares.values()]) if len(parts) > 1 else parts[0][1]


def parts_of(data: str | Path, manifest: Manifest) -> Sequence[Part]:
    """The datasets of a mixture; of one dataset that one."""
    return manifest.parts if isinstance(manifest, Mixture) else [(data, manifest)]


def vocabulary_of(data: str | Path) -> Path:
    """The file of the vocabulary of a dataset or of a mixture."""
    return Path(next(iter(shares_of(str(data)))), VOCABULARY)


def open_split(data: str | Path, manifest: Manifest, name: str, parts: Sequence[Part] = ()) -> Split:
    """Map a split of a dataset or of a mixture; ``parts``: where its files lie, if elsewhere.

    Raises ``DataError`` as ``Split`` does.
    """
    parts = parts or parts_of(data, manifest)
    if not isinstance(manifest, Mixture):
        return Split(*parts[0], name)
    held = {number: part for number, part in enumerate(parts) if name == TRAIN or part[1].splits.get(name)}
    return MixedSplit(manifest, {number: Split(*part, name) for number, part in held.items()})


class MixedSplit(Split):
    """A split of a mixture: the blocks of that split of each dataset, one dataset after the other."""

    def __init__(self, manifest: Mixture, parts: Mapping[int, Split]) -> None:
        """``parts``: number of a dataset in the mixture -> its split, of those that have it."""
        self.manifest, self.shares, self.parts = manifest, manifest.shares, parts
        self.name = next(iter(parts.values())).name
        self.places = [(number, block) for number, part in parts.items() for block in range(len(part.blocks))]
        """Of each block: the number of its dataset, and its own there."""
        self.block_starts = np.cumsum([0, *np.concatenate([np.diff(part.block_starts) for part in parts.values()])])
        self.blocks = Lazy(len(self.places), self._block)

    def _block(self, number: int) -> Block:
        source, place = self.places[number]
        block = self.parts[source].blocks[place]
        return replace(block, row=block.row + source * APART)

    def checked(self, number: int) -> Block:
        """As for a split of one dataset."""
        source, place = self.places[number]
        self.parts[source].checked(place)
        return self.blocks[number]

    def shard_of(self, number: int) -> Shard:
        """As for a split of one dataset."""
        source, place = self.places[number]
        return self.parts[source].shard_of(place)

    @cached_property
    def block_widths(self) -> np.ndarray:
        """As for a split of one dataset."""
        return np.concatenate([part.block_widths for part in self.parts.values()])
