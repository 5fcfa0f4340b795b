# SPDX-License-Identifier: Apache-2.0
"""Files of word vectors as others publish them: word2vec's text and binary, GloVe's text, fastText's ``.vec``; gzipped
ones too.

A text file has a word and its numbers on each line. word2vec and fastText put a line with the number of words and of
numbers before them, GloVe does not. Files may be larger than memory: lines pass by one after the other, and only rows
of the vocabulary are kept. A line that is not needed is only counted through. No torch here: the launcher asks for the
dimension before any process starts.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.untrusted import one_line, open_regular
from preprocessing.dataset.shards import Manifest
from preprocessing.dataset.vectors import MOST_DIM, KeptVectors, read_kept
from preprocessing.text.vocabulary import RESERVED, Vocabulary

READ_BYTES = 1 << 20
SAMPLE_BYTES = 1 << 12
"""Longer than any first word."""
DIGITS = frozenset(b"0123456789.+-eE \t\rnaifNAIF")
"""Bytes that the numbers of a text file are written with."""
MOST_DIGITS = 16
"""Of a number of words, or of numbers of each."""
NUMBER_BYTES = 64
"""Longer than a number in a text file is spelt, with the space before it."""

OTHERS = {
    b"PK\x03\x04": "a zip archive: unpack it, and name the file of vectors inside",
    b"\xba\x16\x4f\x2f": "a model of fastText, which no other program reads: name its .vec file",
    b"\x80": "a pickle, such as gensim's own format: save the vectors with save_word2vec_format",
}
"""First bytes of files that people have beside the vectors -> what to do."""


@dataclass(frozen=True)
class Head:
    """What the first bytes of a file say."""

    format: str
    """``word2vec text`` (fastText's too), ``word2vec binary`` or ``GloVe``."""
    words: int | None
    """How many words it says to have; None if it does not say it."""
    dim: int
    bytes: int
    """Length of the line before the words; 0 if there is none."""


@dataclass(frozen=True)
class Found:
    """The rows of a file that a vocabulary asked for."""

    head: Head
    vectors: np.ndarray
    """float32 ``[vocabulary, dim]``; zeros for an id that the file has no vector for."""
    has: np.ndarray
    """bool ``[vocabulary]``: whether the file has a vector for the id."""
    words: int
    """Words of the file."""
    sha256: str
    """Of the file's bytes as they lie on the disk."""


def read_head(path: str | Path) -> Head:
    """Format and dimension of a file. Raises ``ConfigError`` if it is not there, ``DataError`` for no such file."""
    with opened(path) as file:
        line = file.readline(READ_BYTES)
        fields = line.split()
        for start, hint in OTHERS.items():
            if line.startswith(start):
                raise DataError(f"{path}: {hint}")
        if not fields or not line.endswith(b"\n"):
            raise DataError(f"{path}: its first line is no word with numbers; name a file of word vectors")
        if len(fields) == 2 and all(field.isdigit() for field in fields):
            words, dim = (int(field) if len(field) < MOST_DIGITS else MOST_DIM + 1 for field in fields)
            if not words or not 0 < dim <= MOST_DIM:
                promised = " words of ".join(field[:MOST_DIGITS].decode() for field in fields)
                raise DataError(f"{path}: line 1 promises {promised} numbers; name a file of word vectors")
            numbers = file.read(SAMPLE_BYTES + 4 * dim).partition(b" ")[2][: 4 * dim].partition(b"\n")[0]
            binary = Path(path).suffix == ".bin" or not numbers or not set(numbers) <= DIGITS
            return Head("word2vec binary" if binary else "word2vec text", words, dim, len(line))
    if not 2 <= len(fields) <= MOST_DIM + 1 or not is_number(fields[-1]):
        raise DataError(f"{path}: line 1 is no word followed by numbers; name a file of word vectors")
    return Head("GloVe", None, len(fields) - 1, 0)


def check_dim(path: str | Path, head: Head, dim: int) -> None:
    """Raise ``ConfigError`` for vectors that do not fit the model."""
    if head.dim != dim:
        raise ConfigError(
            f"init.vectors: {path} has vectors of {head.dim} numbers, the model's embedding_dim is {dim}; set "
            f"model.embedding_dim to {head.dim}, or name a file with vectors of {dim}"
        )


def check_named(path: str, manifest: Manifest, dim: int) -> None:
    """Look at the head of a named file. Raises ``ConfigError`` or ``DataError`` for what no run could start from."""
    if is_own(path):
        check_own(path, manifest, dim)
    else:
        check_dim(path, read_head(path), dim)


def is_own(path: str) -> bool:
    """Whether a file is named that ``python -m preprocessing vectors`` wrote."""
    return Path(path).suffix == ".npy"


def check_own(path: str, manifest: Manifest, dim: int) -> KeptVectors:
    """What is known of such a file. Raises ``ConfigError``, or ``DataError`` if its ids are not those of the dataset:
    it was learned from another one, and that one has another vocabulary.
    """
    kept = read_kept(path)
    if kept is None or not kept.path.exists():
        raise ConfigError(f"init.vectors: {path}: holds no vectors as `python -m preprocessing vectors` keeps them")
    if kept.info.dataset != manifest.fingerprint and kept.info.vocabulary != manifest.vocabulary_hash:
        raise DataError(
            f"{path}: learned from another dataset (fingerprint {kept.info.dataset[:12]}), whose ids are others; learn "
            "those of this one with `python -m preprocessing vectors`"
        )
    check_dim(path, Head("own texts", kept.info.words, kept.info.settings.dim, 0), dim)
    return kept


def read_vectors(path: str | Path, ids: Mapping[bytes, int], size: int, dim: int) -> Found:
    """The vectors of the words in ``ids`` (UTF-8 -> id below ``size``); of a word that comes twice, the first.

    Memory grows with ``size``, not with the file. Raises ``ConfigError`` for another dimension than ``dim``,
    ``DataError`` that names file and line for what cannot be read.
    """
    path, head = Path(path), read_head(path)
    check_dim(path, head, dim)
    vectors, has, words = np.zeros((size, dim), np.float32), np.zeros(size, bool), 0
    with opened(path) as file:
        file.read(head.bytes)
        rows = binary_rows if head.format == "word2vec binary" else text_rows
        for place, word, row in rows(file, path, head, ids):
            words += 1
            if row is None or has[number := ids[word]]:
                continue
            if not np.isfinite(row).all():
                raise DataError(f"{path}: {place} ({spelt(word)}) holds a number that is not finite")
            vectors[number], has[number] = row, True
    if head.words is not None and words < head.words:
        promised = f"of the {head.words:,} that its first line promises"
        raise DataError(f"{path}: ends after word {words:,} {promised}: cut short; fetch it again")
    return Found(head, vectors, has, words, atomic.sha256_file(path))


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """A file's content, unpacked if it is gzipped. Failures to read become sentences."""
    try:
        raw = open_regular(path)
    except (DataError, OSError) as error:
        gone = isinstance(error, FileNotFoundError)
        why = f"{path}: there is no such file; name another, own, auto or none" if gone else unreadable(path, error)
        raise ConfigError(f"init.vectors: {why}") from None
    try:
        with raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            unpacked = cast(io.RawIOBase, gzip.GzipFile(fileobj=raw))
            yield io.BufferedReader(unpacked, READ_BYTES) if zipped else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: damaged or cut short inside its gzip stream ({one_line(error)}); fetch it again"
        ) from None
    except OSError as error:
        raise ConfigError(f"init.vectors: {unreadable(path, error)}") from None


def unreadable(path: str | Path, error: Exception) -> str:
    return f"{path}: not readable ({error.strerror or error})" if isinstance(error, OSError) else str(error)


def text_rows(
    file: BinaryIO, path: Path, head: Head, ids: Mapping[bytes, int]
) -> Iterator[tuple[str, bytes, np.ndarray | None]]:
    """(place, word, numbers) of each line, the numbers of a word outside ``ids`` left out. Raises ``DataError``."""
    dim, most = head.dim, SAMPLE_BYTES + NUMBER_BYTES * head.dim
    for number, raw in enumerate(iter(partial(file.readline, most), b""), 2 if head.bytes else 1):
        if len(raw) == most:
            raise DataError(f"{path}: line {number:,} has no end within {most:,} bytes: {excerpt(raw)}")
        line = raw.strip(b" \r\n")
        if not line:
            continue
        place = f"line {number:,}"
        if line.count(b" ") == dim:
            word, _, numbers = line.partition(b" ")
            fields = numbers.split(b" ") if word in ids else []
        else:
            word, fields = unusual(line, dim)
            if not fields:
                raise DataError(f"{path}: {place} has {len(line.split()) - 1} numbers, expected {dim}: {excerpt(line)}")
        if word not in ids:
            yield place, word, None
            continue
        try:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
                row = np.array(fields, dtype=np.float32)
        except ValueError:
            raise DataError(f"{path}: {place} holds something that is no number: {excerpt(line)}") from None
        yield place, word, row


def unusual(line: bytes, dim: int) -> tuple[bytes, list[bytes]]:
    """Word and numbers of a line with other spaces than one before each number: tabs, or one of GloVe's words that have
    spaces inside. No numbers if the line is broken.
    """
    parts = line.split()
    word, fields = parts[:-dim], parts[-dim:]
    broken = not word or not all(map(is_number, fields)) or (len(word) > 1 and is_number(word[-1]))
    return b" ".join(word), [] if broken else fields


def binary_rows(
    file: BinaryIO, path: Path, head: Head, ids: Mapping[bytes, int]
) -> Iterator[tuple[str, bytes, np.ndarray | None]]:
    """(place, word, numbers) of each word of word2vec's binary format. Raises ``DataError``."""
    size = 4 * head.dim
    assert head.words is not None
    held, at = b"", 0
    for number in range(1, head.words + 1):
        while (end := held.find(b" ", at, at + SAMPLE_BYTES)) < 0 or len(held) < end + 1 + size:
            if end < 0 and len(held) - at >= SAMPLE_BYTES:
                raise DataError(f"{path}: word {number:,} has no end: damaged, or not word2vec's binary format")
            more = file.read(READ_BYTES)
            if not more:
                promised = f"of the {head.words:,} that its first line promises"
                raise DataError(f"{path}: ends inside word {number:,} {promised}: cut short; fetch it again")
            held, at = held[at:] + more, 0
        word = held[at:end].lstrip(b"\n")
        yield f"word {number:,}", word, np.frombuffer(held, "<f4", head.dim, end + 1) if word in ids else None
        at = end + 1 + size


def is_number(field: bytes) -> bool:
    """Whether a field is spelt as a number."""
    try:
        float(field)
    except ValueError:
        return False
    return True


def spelt(word: bytes) -> str:
    """A word for a sentence."""
    return repr(word.decode("utf-8", "replace"))


def excerpt(line: bytes) -> str:
    """The beginning of a line for a sentence."""
    return repr(line[:60].decode("utf-8", "replace"))


def coverage_of(has: np.ndarray, vocabulary: Vocabulary) -> dict[str, Any]:
    """How many words of a vocabulary, and which share of its training tokens, ids bool ``[vocabulary]`` are."""
    counts = vocabulary.counts
    return {
        "words": int(has[len(RESERVED) :].sum()),
        "vocabulary": len(vocabulary) - len(RESERVED),
        "tokens": round(float(counts[has].sum() / max(counts.sum(), 1)), 6),
    }


def coverage(facts: dict[str, Any]) -> str:
    """How much of a vocabulary and its training rows the vectors with these facts cover, and which they are."""
    covered = f"{facts['words']:,} of {facts['vocabulary']:,} words, {facts['tokens']:.1%} of the tokens"
    return f"{covered}; sha256 {facts['sha256'][:12]}"
