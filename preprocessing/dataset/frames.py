# SPDX-License-Identifier: Apache-2.0
"""A dataset as pandas frames and Arrow tables, with ids decoded to tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.base.arrays import unpadded
from preprocessing.dataset import remote
from preprocessing.dataset.shards import VOCABULARY, Block, read_manifest
from preprocessing.labels import typed_values
from preprocessing.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pandas as pd


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
        has_folds = all(part.fold is not None for part in self.manifest.splits[split])
        for shard in remote.split_of(self.path, self.manifest, split).check().shards:
            for block in shard.blocks:
                yield batch_of(block, self.vocabulary, self._values, shard.info.fold if has_folds else None)

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
        rows = ", ".join(f"{name} {self.manifest.rows(name):,}" for name in self)
        return f"<padless dataset {self.path}: {rows} rows, {len(self.labels)} classes>"


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
