# SPDX-License-Identifier: Apache-2.0
"""The vocabulary: count, merge, freeze, hash. ``<pad>`` is 0, ``<unk>`` is 1, then tokens by falling count."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta

from padless.core.arrays import record_batches, write_batch
from padless.core.errors import ConfigError, DataError
from padless.core.schema import MAX_COUNT, AtLeast1, Name
from padless.core.untrusted import one_line, read_bytes

MAX_VOCABULARY_BYTES = 1 << 36
PAD, UNK = 0, 1
TINY_CORPUS, HUGE_CORPUS = 10_000, 50_000_000
"""Numbers of training tokens at which ``min_count: auto`` changes."""
RESERVED = ("<pad>", "<unk>")
_SCHEMA = pa.schema([("token", pa.large_string()), ("count", pa.int64())])
_HASH_KEY = b"padless.vocabulary.sha256"


@dataclass(frozen=True, eq=False)
class TokenCounts:
    """How often each token occurs. ``types``: large_string, distinct, any order; ``counts``: int64, one per type."""

    types: pa.Array
    counts: np.ndarray


def merge_counts(parts: Sequence[TokenCounts]) -> TokenCounts:
    """The sum of counts, in any order of rows."""
    table = pa.concat_tables(pa.table([part.types, part.counts], schema=_SCHEMA) for part in parts)
    table = table.group_by("token").aggregate([("count", "sum")])
    return TokenCounts(table["token"].combine_chunks(), table["count_sum"].to_numpy())


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """Which tokens of the training split get an id of their own."""

    min_count: AtLeast1 | Literal["auto"] = "auto"
    """A token that occurs less often in the training split is read as <unk>. auto: 2; of a tiny corpus 1, of a huge one
    5."""
    max_size: Annotated[int, Meta(ge=3, le=MAX_COUNT)] = 65536
    """Largest number of ids, <pad> and <unk> included; up to 65536 they take two bytes each."""
    base: Name | None = None
    """Run, bundle or dataset whose vocabulary is used with the same ids, so that its weights can read the new texts;
    the settings under text must be those of the base. null: none."""

    def __post_init__(self) -> None:
        """Check that a base takes no further tokens."""
        if self.base is not None and self.min_count != "auto":
            raise ConfigError("vocabulary.min_count: no token is added to those of vocabulary.base; set this to auto")

    def resolve_min_count(self, num_tokens: int) -> VocabularyConfig:
        """This configuration with ``auto`` resolved for ``num_tokens`` training tokens.

        One occurrence is too little to learn a token's vector from; as ``<unk>`` such tokens train one vector together.
        A tiny corpus needs them all; a huge one can do without those that occur four times.
        """
        if self.base is not None or self.min_count != "auto":
            return self
        if num_tokens < TINY_CORPUS:
            return replace(self, min_count=1)
        return replace(self, min_count=2 if num_tokens < HUGE_CORPUS else 5)


def freeze(counts: TokenCounts, min_count: int = 1, max_size: int = 65536) -> Vocabulary:
    """Give every token that occurs at least ``min_count`` times an id, the most frequent first.

    Ties are broken by the token's UTF-8 bytes, so the result does not depend on the order of counting. ``max_size``
    bounds the number of rows, ``<pad>`` and ``<unk>`` included. The count of ``<unk>`` is the number of occurrences
    left out. A token that equals a reserved one gets no other id. Raises :class:`DataError` when no token is left.
    """
    table = pa.table([counts.types, counts.counts], schema=_SCHEMA)
    reserved = pc.is_in(table["token"], value_set=pa.array(RESERVED, pa.large_string()))
    table = table.filter(pc.and_not(pc.greater_equal(table["count"], min_count), reserved))
    if not len(table):
        raise DataError(
            f"none of {len(counts.types):,} distinct tokens occurs {min_count} times or more, so the vocabulary "
            "would be empty; lower vocabulary.min_count"
        )
    table = table.sort_by([("count", "descending"), ("token", "ascending")]).slice(0, max_size - len(RESERVED))
    frequencies = table["count"].to_numpy()
    num_unknown = counts.counts.sum() - frequencies.sum()
    tokens = pa.chunked_array([pa.array(RESERVED, pa.large_string()), *table["token"].chunks])
    return Vocabulary(tokens.combine_chunks(), np.concatenate([[0, num_unknown], frequencies]))


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """``tokens``: large_string [size], the row is the id; ``counts``: int64 [size], occurrences when it was frozen."""

    tokens: pa.Array
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def hash(self) -> str:
        """sha256 (hex) over every token and its count, in order."""
        digest = hashlib.sha256(b"padless vocabulary 1\0")
        tokens = self.tokens.cast(pa.large_binary())
        digest.update(pc.binary_length(tokens).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        digest.update(b"".join(tokens.to_pylist()))
        digest.update(self.counts.astype("<i8").tobytes())
        return digest.hexdigest()

    def lookup(self, types: pa.Array) -> np.ndarray:
        """The ids of ``types`` (string or large_string): int32, :data:`UNK` for what is not in the vocabulary."""
        return np.array([self._rows.get(token, UNK) for token in types.to_pylist()], np.int32)

    @cached_property
    def _rows(self) -> dict[str, int]:
        """Token → id; a text may hold the word <pad>, which is not padding."""
        return dict(zip(self.tokens.to_pylist(), range(len(self)), strict=True)) | {RESERVED[PAD]: UNK}

    def write(self, path: str | Path) -> None:
        """Write an Arrow IPC file (columns token, count) with its hash in the metadata, atomically."""
        write_batch(path, [self.tokens, pa.array(self.counts)], _SCHEMA.with_metadata({_HASH_KEY: self.hash}))

    @classmethod
    def read(cls, path: str | Path) -> Vocabulary:
        """Read a file of :meth:`write`; raises :class:`DataError` naming ``path`` when it is missing or damaged."""
        hint = "run preprocessing again"
        try:
            schema, (batch,) = record_batches(pa.BufferReader(read_bytes(path, MAX_VOCABULARY_BYTES)))
            if not schema.equals(_SCHEMA) or any(column.null_count for column in batch.columns):
                raise ValueError("its columns are not token and count")
            batch.validate(full=True)
            tokens, counts = batch.columns
        except FileNotFoundError:
            raise DataError(f"{path} is missing; put the vocabulary back, or {hint}") from None
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{path} cannot be read as a vocabulary ({one_line(error)}); {hint}") from None
        vocabulary = cls(tokens, counts.to_numpy().astype(np.int64))
        if vocabulary.hash.encode() != (schema.metadata or {}).get(_HASH_KEY):
            raise DataError(f"{path} is damaged: its contents do not match the hash it carries; {hint}")
        return vocabulary
