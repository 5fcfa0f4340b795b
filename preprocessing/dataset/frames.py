# SPDX-License-Identifier: Apache-2.0
"""A dataset as pandas frames and Arrow tables: each split with its ids read back into words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.dataset import remote
from preprocessing.dataset.shards import VOCABULARY, Block, Split, read_manifest
from preprocessing.labels import typed_values
from preprocessing.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    import pandas as pd


class Dataset(Mapping[str, "pd.DataFrame"]):
    """A dataset directory: a mapping from the names of its splits to frames, each read when it is asked for."""

    def __init__(self, address: str | Path) -> None:
        """Open the dataset at a path or a remote address. Raises ``DataError`` where there is no whole one."""
        self.path = remote.local(str(address))
        self.manifest = read_manifest(self.path)
        self.labels = list(self.manifest.labels)
        """The names of the classes; a class's number is its place here."""
        self._values = typed_values(self.labels, self.manifest.label_type)
        self.vocabulary = Vocabulary.read(self.path / VOCABULARY)

    def __getitem__(self, split: str) -> pd.DataFrame:
        """One line per row of a split, in the order of the source: row, label (none if it is ``unlabelled``), length,
        text.

        ``row`` is the row's number in the source, from 1; ``label`` is of the source's own type; ``length`` its number
        of tokens; ``text`` its tokens as the network reads them, with spaces between, so that unknown ones are
        ``<unk>``. Where the split was cut into folds there is a column ``fold``. Raises ``KeyError``.
        """
        return self._table(split, "ids").to_pandas()

    def batches(self, split: str) -> Iterator[pa.RecordBatch]:
        """A split piece by piece, in the order of its shards, so that memory does not grow with it.

        Columns: row, label (of the source's own type), length, ids (those of the tokens, without padding), text, and
        fold where the split was cut into folds. Raises ``KeyError``.
        """
        if not self.manifest.splits.get(split):
            raise KeyError(f"{self.path}: has no split {split!r}; it has {', '.join(self)}")
        has_folds = all(info.fold is not None for info in self.manifest.splits[split])
        for shard in Split(self.path, self.manifest, split).check().shards:
            for block in shard.blocks:
                yield batch_of(block, self.vocabulary, self._values, shard.info.fold if has_folds else None)

    def arrow(self, split: str) -> pa.Table:
        """A whole split as one table, in the order of the source; the columns are those of ``batches``."""
        return self._table(split)

    def _table(self, split: str, *without: str) -> pa.Table:
        return pa.Table.from_batches(self.batches(split)).drop_columns(list(without)).sort_by("row")

    def __iter__(self) -> Iterator[str]:
        """The names of the splits."""
        return (name for name, shards in self.manifest.splits.items() if shards)

    def __len__(self) -> int:
        """How many splits there are."""
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        rows = ", ".join(f"{name} {self.manifest.rows(name):,}" for name in self)
        return f"<padless dataset {self.path}: {rows} rows, {len(self.labels)} classes>"


def batch_of(block: Block, vocabulary: Vocabulary, labels: np.ndarray, fold: int | None) -> pa.RecordBatch:
    """A block with its labels, which are numbers of these, null where a row has none, and its words."""
    real = np.arange(block.ids.shape[1]) < block.length[:, None]
    offsets = pa.array(np.concatenate([[0], np.cumsum(block.length, dtype=np.int64)]))
    ids = pa.array(block.ids[real].astype(np.int32))
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
