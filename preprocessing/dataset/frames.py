# SPDX-License-Identifier: Apache-2.0
"""A dataset as pandas frames: each split with its ids read back into words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.dataset import remote
from preprocessing.dataset.shards import VOCABULARY, Block, Split, read_manifest
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
        self.vocabulary = Vocabulary.read(self.path / VOCABULARY)

    def __getitem__(self, split: str) -> pd.DataFrame:
        """One line per row of a split, in the order of the source: row, label (none if it is ``unlabelled``), length,
        text.

        ``row`` is the row's number in the source, from 1; ``length`` its number of tokens; ``text`` its tokens as the
        network reads them, with spaces between, so that unknown ones are ``<unk>``. Raises ``KeyError``.
        """
        import pandas as pd

        if split not in self.manifest.splits:
            raise KeyError(f"{self.path}: has no split {split!r}; it has {', '.join(self)}")
        blocks = Split(self.path, self.manifest, split).blocks
        rows, label, length = (
            np.concatenate([getattr(block, name) for block in blocks]) for name in ("row", "label", "length")
        )
        texts = pa.chunked_array([words_of(block, self.vocabulary) for block in blocks]).take(np.argsort(rows))
        frame = pd.DataFrame(
            {
                "row": rows,
                "label": pd.Categorical.from_codes(label.tolist(), categories=pd.Index(self.labels)),
                "length": length,
            }
        )
        frame = frame.sort_values("row", ignore_index=True)
        return frame.assign(text=texts.to_pandas().to_numpy())

    def __iter__(self) -> Iterator[str]:
        """The names of the splits."""
        return (name for name, shards in self.manifest.splits.items() if shards)

    def __len__(self) -> int:
        """How many splits there are."""
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        rows = ", ".join(f"{name} {self.manifest.rows(name):,}" for name in self)
        return f"<padless dataset {self.path}: {rows} rows, {len(self.labels)} classes>"


def words_of(block: Block, vocabulary: Vocabulary) -> pa.Array:
    """The rows of a block as large_string, tokens with spaces between."""
    real = np.arange(block.ids.shape[1]) < block.length[:, None]
    offsets = np.concatenate([[0], np.cumsum(block.length, dtype=np.int64)])
    tokens = vocabulary.tokens.take(pa.array(block.ids[real].astype(np.int64)))
    return pc.binary_join(pa.LargeListArray.from_arrays(pa.array(offsets), tokens), pa.scalar(" ", pa.large_string()))
