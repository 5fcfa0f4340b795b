# SPDX-License-Identifier: Apache-2.0
"""Initial weights of a model that are not random: word vectors, or the weights of another model.

Supported files of vectors: word2vec text, GloVe text, fastText ``.vec``; also gzipped. They have a word and its numbers
on each line; word2vec and fastText files begin with a line with the number of words and the dimension. Files are read
line by line, and only rows of the vocabulary are kept. All vectors together are scaled to the standard deviation
``model.embedding_std``, the same as for random ones: the scale matters more than any other setting, and libraries
produce very different ones.

Of a run or bundle the embedding is used, by token, and the recurrent layers that both models have. All other weights
are initialised as usual.

The launcher checks both before any process starts, so torch is imported only to build weights.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow.compute as pc

from harness.config import ModelConfig
from harness.rundir.bundle_files import INDEX, BundleInfo, bundle_directory, read_info, read_vocabulary
from harness.rundir.layout import describe_missing_bundle
from padless.core import atomic
from padless.core.errors import ConfigError, DataError
from padless.core.untrusted import one_line, open_regular
from preprocessing.dataset.shards import Split
from preprocessing.dataset.vectors import WINDOW, learn_vectors, sample
from preprocessing.text.vocabulary import PAD, RESERVED, Vocabulary

if TYPE_CHECKING:
    import torch
    from torch import nn

READ_BYTES = 1 << 20
"""Bytes read at once; no line is longer."""
HEADER = re.compile(rb"([1-9]\d{0,14})\s+([1-9]\d{0,14})\s*")
"""A first line with the number of words and the dimension, as word2vec and fastText write it."""
LARGEST = 1e6
"""Maximum number in a vector; learned vectors have numbers of about 1."""
SHAPE = ("embedding_dim", "hidden_size", "bidirectional")
"""Model keys that define the names and shapes of embedding and recurrent layers."""
EMBEDDING = "embedding.weight"


@dataclass(frozen=True)
class Start:
    """What a model begins with in place of random weights, and its origin."""

    weights: dict[str, torch.Tensor]
    """By name in the new model; all but the embedding."""
    embedding: torch.Tensor
    """``[found, dim]``: vectors of some tokens."""
    ids: np.ndarray
    """int64 ``[found]``: ids of these tokens in the new vocabulary."""
    facts: dict[str, Any]
    """For run, checkpoints, bundle and report: source, what it is, sha256, coverage."""

    def put_into(self, network: nn.Module) -> None:
        """Copy everything into a network."""
        weights = network.state_dict()  # detached tensors, so writing needs no no_grad
        weights[EMBEDDING][self.ids] = self.embedding.to(weights[EMBEDDING])
        for name, values in self.weights.items():
            weights[name].copy_(values)


@contextmanager
def open_lines(path: str | Path) -> Iterator[Iterator[bytes]]:
    """The lines of a file, unpacked if it is gzipped. Raises ``ConfigError`` if it is missing, ``DataError`` if it
    cannot be read.
    """
    try:
        with open_regular(path) as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file = io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw) if zipped else raw), READ_BYTES)
            yield iter(partial(file.readline, READ_BYTES), b"")
    except FileNotFoundError:
        raise ConfigError(f"init.vectors: {path}: there is no such file; name another, own, auto or none") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read, or is cut short ({one_line(error)}); fetch it again") from None


def read_head(path: str | Path, dim: int) -> int:
    """Number of words according to the first line; 0 without a header, as in files of GloVe. Raises ``ConfigError`` if
    the file is missing or has vectors of another size than ``dim``, ``DataError`` for other formats.
    """
    with open_lines(path) as lines:
        first = next(lines, b"")
        header = HEADER.fullmatch(first)
        fields = (next(lines, b"") if header else first).split()
    try:
        float(fields[-1])
    except (IndexError, ValueError):
        raise DataError(
            f"{path}: line {2 if header else 1} is no word with numbers; name a text file of word vectors: of fastText "
            "the .vec, of word2vec one that gensim saved with binary=False"
        ) from None
    num_words, dim_of_file = map(int, header.groups()) if header else (0, len(fields) - 1)
    if dim_of_file != dim:
        raise ConfigError(
            f"init.vectors: {path} has vectors of {dim_of_file} numbers, the model's embedding_dim is {dim}; set "
            f"model.embedding_dim to {dim_of_file}, or name a file with vectors of {dim}"
        )
    return num_words


def learn_start(
    splits: Sequence[Split], vocabulary: Vocabulary, dim: int, report: Callable[[str], object]
) -> Start | None:
    """Vectors learned from the texts of ``splits``; None if no word has a neighbour that sets it apart."""
    blocks = sample(splits)
    tokens = sum(int(block.length.sum()) for block in blocks)
    report(f"learning   vectors of {tokens:,} tokens of {' and '.join(split.name for split in splits)}")
    learned = learn_vectors(blocks, len(vocabulary), dim)
    if not learned.any():
        report("vectors    are random: all words have the same neighbours")
        return None
    facts = {"source": "own texts", "what": f"window {WINDOW}", "sha256": hashlib.sha256(learned).hexdigest()}
    return start_with(learned, facts, vocabulary)


def start_with(vectors: np.ndarray, facts: dict[str, Any], vocabulary: Vocabulary) -> Start:
    """The rows of ``vectors``, float32 ``[vocabulary, dim]``, that are not zeros; the others keep their initial one."""
    import torch

    ids = np.flatnonzero(vectors.any(axis=1))
    return Start({}, torch.from_numpy(vectors[ids]), ids, facts | coverage_of(ids, vocabulary))


def read_start(path: str | Path, vocabulary: Vocabulary, dim: int) -> Start:
    """Read the vectors of a vocabulary's words from a file; for a word that occurs twice, the first.

    Memory grows with the vocabulary, not with the file. Raises ``ConfigError`` for another dimension than ``dim``,
    ``DataError`` for what cannot be read.
    """
    promised_words = read_head(path, dim)
    wanted = {token.encode(): number for number, token in enumerate(vocabulary.tokens.to_pylist()) if number != PAD}
    vectors, words = np.zeros((len(vocabulary), dim), np.float32), 0
    with open_lines(path) as lines:
        numbered_lines = enumerate(lines, 1)
        if promised_words:
            next(numbered_lines)
        for word, row in read_word_rows(numbered_lines, path, dim, wanted):
            words += 1
            if row is not None:
                vectors[wanted.pop(word)] = row
    if words < promised_words:
        promised = f"ends after word {words:,} of the {promised_words:,} that its first line promises"
        raise DataError(f"{path}: {promised}: cut short; fetch it again")
    if not vectors.any():
        raise DataError(
            f"{path}: none of its {words:,} words is in the dataset's vocabulary; is it of another language, or are "
            "its words spelt differently (case, accents)?"
        )
    if not np.abs(vectors).max() <= LARGEST:
        raise DataError(f"{path}: holds numbers that are not finite, or beyond {LARGEST:g}: damaged; fetch it again")
    facts = {"source": str(path), "what": "word vectors", "sha256": atomic.sha256_file(path), "file_words": words}
    return start_with(vectors, facts, vocabulary)


def read_word_rows(
    numbered_lines: Iterator[tuple[int, bytes]], path: str | Path, dim: int, wanted: Collection[bytes]
) -> Iterator[tuple[bytes, np.ndarray | None]]:
    """The word of each line, and its numbers if it is one of those that are looked for. Raises ``DataError``."""
    for number, line in numbered_lines:
        word, row = next(iter(line.split(None, 1)), b""), None
        if word in wanted:  # else skip the rest of the line
            word, *fields = line.rsplit(None, dim)  # GloVe has words with spaces inside
            try:
                with np.errstate(over="ignore"):  # overflow becomes infinite, which is refused later
                    row = np.array(fields, np.float32).reshape(dim) if word in wanted else None
            except ValueError:
                text = line.strip()[:60].decode("utf-8", "replace")
                raise DataError(f"{path}: line {number:,} is no word with {dim} numbers: {text!r}") from None
        if word:
            yield word, row


def coverage_of(ids: np.ndarray, vocabulary: Vocabulary) -> dict[str, Any]:
    """Number of words, and share of training tokens, that ``ids`` int64 ``[found]`` cover."""
    counts = vocabulary.counts
    return {
        "words": int((ids >= len(RESERVED)).sum()),
        "vocabulary": len(vocabulary) - len(RESERVED),
        "tokens": round(float(counts[ids].sum() / max(counts.sum(), 1)), 6),
    }


def find_donor(source: str, wanted: ModelConfig) -> tuple[Path, BundleInfo]:
    """The bundle that ``init.weights`` names for a model like ``wanted``, and its index.

    Raises ``ConfigError`` if it is missing or has another shape, ``DataError`` if it is damaged.
    """
    directory = bundle_directory(source)
    if not (directory / INDEX).is_file():
        raise ConfigError(f"init.weights: {source}: {describe_missing_bundle(directory)}")
    info = read_info(directory)
    unequal_keys = [key for key in SHAPE if getattr(info.model, key) != getattr(wanted, key)]
    if unequal_keys:
        changes = [f"model.{key} to {getattr(info.model, key)} (now {getattr(wanted, key)})" for key in unequal_keys]
        raise ConfigError(f"init.weights: {source} has layers of another shape; set {' and '.join(changes)}")
    return directory, info


def read_donor_weights(directory: Path, info: BundleInfo, model: ModelConfig, vocabulary: Vocabulary) -> Start:
    """Embedding and recurrent layers of the bundle that ``find_donor`` gives for a ``model``, for its dataset. Raises
    ``DataError`` if it is damaged, or if the vocabularies have no token in common.
    """
    from harness.model.networks import read_network

    weights, donors_vocabulary = read_network(directory, info).state_dict(), read_vocabulary(directory, info)
    # <unk> counts as a common token, <pad> does not.
    matches = pc.fill_null(pc.index_in(vocabulary.tokens, value_set=donors_vocabulary.tokens), PAD)
    places = matches.to_numpy(zero_copy_only=False).astype(np.int64)
    ids = np.flatnonzero(places != PAD)
    covered = coverage_of(ids, vocabulary)
    if not covered["words"]:
        raise DataError(
            f"{directory}: none of the {len(donors_vocabulary) - len(RESERVED):,} tokens of its vocabulary is in "
            "the dataset's; is it of another language, or preprocessed in another way (case, lemmas)?"
        )
    layers = tuple(f"recurrent.layers.{number}." for number in range(model.num_layers))
    fitting = {name: values for name, values in weights.items() if name.startswith(layers)}
    description = f"embedding and recurrent layers of a {info.task.replace('_', ' ')}"
    facts = {"source": str(directory), "what": description, "sha256": info.weights_sha256, **covered}
    return Start(fitting, weights[EMBEDDING][places[ids]], ids, facts)
