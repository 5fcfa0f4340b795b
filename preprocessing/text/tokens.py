# SPDX-License-Identifier: Apache-2.0
"""Tokenized texts as arrays: what the tokenizer gives, and what vocabulary, encoder and shards take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa

Texts: TypeAlias = "pa.Array | pa.ChunkedArray | Sequence[str]"
"""Texts that can be tokenized: an Arrow string or large_string array, chunked or not, or a sequence of str."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokenized texts: text i holds the tokens ``types[codes[offsets[i]:offsets[i + 1]]]``."""

    types: pa.Array
    """large_string ``[types]``: the distinct tokens, in the order of their first occurrence, after stop words and
    lemmas."""
    codes: np.ndarray
    """int32 ``[tokens]``: each token as a row of ``types``."""
    offsets: np.ndarray
    """int64 ``[texts + 1]`` into ``codes``."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def to_lists(self) -> list[list[str]]:
        """The tokens of every text as Python strings: for people and tests, not for speed."""
        tokens = self.types.take(pa.array(self.codes)).to_pylist()
        return [tokens[a:b] for a, b in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True)]
