# SPDX-License-Identifier: Apache-2.0
"""Hashes of rows, of token sequences and of texts. They decide order and splits, so they never change."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import pyarrow as pa

from preprocessing.base.arrays import segment_hashes
from preprocessing.base.randomness import splitmix64
from preprocessing.text.tokenizer import Tokens


def keyed_hash(seed: int, purpose: str, values: np.ndarray) -> np.ndarray:
    """uint64, pseudo-random: a pure function of the seed, what it is for, and each value."""
    salt = hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:8]
    return splitmix64(values.astype(np.uint64) ^ np.frombuffer(salt, "<u8")[0])


def text_hashes(tokens: Tokens) -> np.ndarray:
    """uint64 per text: equal exactly when the token sequences are (up to one chance in 2**64 per pair)."""
    return segment_hashes(type_hashes(tokens.types)[tokens.codes], tokens.offsets)


def type_hashes(types: pa.Array) -> np.ndarray:
    """uint64 per string."""
    texts = types.cast(pa.large_binary()).to_pylist()
    content = np.frombuffer(b"".join(texts), np.uint8).astype(np.uint64) + np.uint64(1)
    return segment_hashes(content, np.cumsum([0, *map(len, texts)]))


def exact_hashes(texts: pa.Array) -> np.ndarray:
    """uint64 per text: its length and CRC; tells apart texts whose tokens are the same."""
    return np.array(
        [len(text) << 32 | zlib.crc32(text) for text in texts.cast(pa.large_binary()).to_pylist()], np.uint64
    )


def content_sum(texts: pa.Array) -> int:
    """The sum of the sha256 of every text: the same however the texts are ordered or divided."""
    digests = (hashlib.sha256(text).digest() for text in texts.cast(pa.large_binary()).to_pylist())
    return sum(int.from_bytes(digest, "big") for digest in digests) % (1 << 256)
