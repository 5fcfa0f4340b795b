# SPDX-License-Identifier: Apache-2.0
"""Initial weights of a model that are not random: word vectors, or the weights of another model.

Supported files of vectors: word2vec text and binary, GloVe text, fastText ``.vec``; also gzipped. A text file has a
word and its numbers on each line; word2vec and fastText files begin with a line with the number of words and the
dimension. Files are read line by line, and only rows of the vocabulary are kept. All vectors together are scaled to the
standard deviation ``model.embedding_std``, the same as for random ones: the scale matters more than any other setting,
and libraries produce very different ones.

Weights of a run or bundle are used as far as they fit: embedding rows by token; other parts if they mean the same in
both models. All other weights are initialised as usual.

The launcher checks both before any process starts, so torch is imported only to build weights.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow.compute as pc

from harness.config import CLASSIFIER, ModelConfig
from harness.rundir.bundle_files import INDEX, BundleInfo, bundle_directory, read_info, read_vocabulary
from harness.rundir.layout import instead
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.terminal import duration
from preprocessing.base.untrusted import one_line, open_regular
from preprocessing.dataset.shards import Manifest, Split
from preprocessing.dataset.vectors import WINDOW, learn, sample, seconds
from preprocessing.text.vocabulary import PAD, RESERVED, Vocabulary

if TYPE_CHECKING:
    import torch
    from torch import nn

READ_BYTES = 1 << 20
LONGEST_WORD = 1 << 12
"""Maximum bytes of a word."""
NUMBER_BYTES = 64
"""Upper bound for the bytes of a number in a text file, with the space before it."""
PROMISE = re.compile(rb"(\d{1,15})\s+(\d{1,15})\s*")
"""A first line with the number of words and the dimension."""
DIGITS = frozenset(b"0123456789.+-eE \t\rnaifNAIF")
"""Bytes that occur in the numbers of a text file."""
MOST_DIM = 1 << 20
"""Most dimensions of a vector."""
LARGEST = 1e6
"""Maximum number in a vector; learned vectors have numbers of about 1."""
SHAPE = ("cell", "embedding_dim", "hidden_size", "bidirectional")
"""Model keys that define the names and shapes of embedding and recurrent layers."""
HEAD_KEYS = ("num_layers", "pooling")
EMBEDDING = "embedding.weight"


@dataclass(frozen=True)
class Head:
    """Information from the first bytes of a file."""

    format: str
    """``word2vec text`` (fastText's too), ``word2vec binary`` or ``GloVe``."""
    words: int | None
    """Number of words according to the first line; None if it has no such line."""
    dim: int
    bytes: int
    """Length of the line before the words; 0 if there is none."""


@dataclass(frozen=True)
class StartVectors:
    """Vectors for the ids of a vocabulary, and their origin."""

    vectors: np.ndarray
    """float32 ``[vocabulary, dim]``; zeros for an id without a vector."""
    has: np.ndarray
    """bool ``[vocabulary]``: ids with a vector; the others keep their initial one."""
    facts: dict[str, Any]
    """For run, checkpoints, bundle and report: source, sha256, coverage."""

    def put_into(self, embedding: nn.Embedding, std: float) -> None:
        """Replace the rows that have a vector; scale all vectors to the standard deviation ``std``."""
        import torch

        weight, ids = embedding.weight.detach(), np.flatnonzero(self.has)
        found = torch.from_numpy(self.vectors[ids])
        scaled = found * (std / found.std(correction=0))
        weight[torch.from_numpy(ids).to(weight.device)] = scaled.to(weight)


@contextmanager
def opened(path: str | Path) -> Iterator[io.BufferedReader]:
    """Open a file, unpacked if it is gzipped. Read errors become ``ConfigError`` or ``DataError``."""
    try:
        try:
            raw = open_regular(path)
        except DataError as error:
            raise ConfigError(f"init.vectors: {error}") from None
        with raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            yield io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw) if zipped else raw), READ_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"init.vectors: {path}: there is no such file; name another, own, auto or none") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        cut = f"damaged or cut short inside its gzip stream ({one_line(error)}); fetch it again"
        raise DataError(f"{path}: {cut}") from None
    except OSError as error:
        raise ConfigError(f"init.vectors: {path}: not readable ({error.strerror or error})") from None


def read_head(path: str | Path) -> Head:
    """Format and dimension of a file. Raises ``ConfigError`` if it is missing, ``DataError`` for other formats."""
    with opened(path) as file:
        line = file.readline(READ_BYTES)
        if promise := PROMISE.fullmatch(line):
            words, dim = map(int, promise.groups())
            if not words or not 0 < dim <= MOST_DIM:
                promised = f"line 1 promises {words} words of {dim} numbers"
                raise DataError(f"{path}: {promised}; name a file of word vectors")
            numbers = file.read(LONGEST_WORD + 4 * dim).partition(b" ")[2][: 4 * dim].partition(b"\n")[0]
            binary = Path(path).suffix == ".bin" or not numbers or not set(numbers) <= DIGITS
            return Head("word2vec binary" if binary else "word2vec text", words, dim, len(line))
    fields = line.split()
    if not line.endswith(b"\n") or not 2 <= len(fields) <= MOST_DIM + 1 or not is_number(fields[-1]):
        raise DataError(f"{path}: line 1 is no word with numbers; name a file of word vectors (of fastText the .vec)")
    return Head("GloVe", None, len(fields) - 1, 0)


def check_dim(path: str | Path, found: int, dim: int) -> None:
    """Raise ``ConfigError`` for vectors that do not fit the model."""
    if found != dim:
        raise ConfigError(
            f"init.vectors: {path} has vectors of {found} numbers, the model's embedding_dim is {dim}; set "
            f"model.embedding_dim to {found}, or name a file with vectors of {dim}"
        )


def from_texts(
    splits: Sequence[Split], vocabulary: Vocabulary, dim: int, say: Callable[[str], object]
) -> StartVectors | None:
    """Vectors learned from the texts of ``splits``; None if no word has a neighbour that tells it from others."""
    blocks = sample(splits)
    tokens = sum(int(block.length.sum()) for block in blocks)
    names, about = " and ".join(split.name for split in splits), duration(seconds(blocks, len(vocabulary)))
    say(f"learning   vectors of {tokens:,} tokens of {names}; about {about}")
    learned = learn(blocks, len(vocabulary), dim)
    if not learned.any():
        return None
    facts = {"source": "own texts", "format": f"window {WINDOW}", "sha256": hashlib.sha256(learned).hexdigest()}
    return described(learned, np.asarray(learned.any(axis=1)), vocabulary, facts)


def from_file(path: str | Path, vocabulary: Vocabulary, dim: int) -> StartVectors:
    """Read the vectors of a vocabulary's words from a file; for a word that occurs twice, the first.

    Memory grows with the vocabulary, not with the file. Raises ``ConfigError`` for another dimension than ``dim``,
    ``DataError`` with file and line for what cannot be read.
    """
    head = read_head(path)
    check_dim(path, head.dim, dim)
    ids = {token.encode(): number for number, token in enumerate(vocabulary.tokens.to_pylist()) if number != PAD}
    vectors, has, words = np.zeros((len(vocabulary), dim), np.float32), np.zeros(len(vocabulary), bool), 0
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
        raise DataError(f"{path}: ends after word {words:,} {cut_short(head)}")
    if not has.any():
        raise DataError(
            f"{path}: none of its {words:,} words is in the dataset's vocabulary; is it of another language, or are "
            "its words spelt differently (case, accents)?"
        )
    facts = {"source": str(path), "format": head.format, "sha256": atomic.sha256_file(path), "file_words": words}
    return described(vectors, has, vocabulary, facts)


Row = tuple[str, bytes, np.ndarray | None]
"""Position of a word in the file, the word, and its numbers if the vocabulary has it."""


def text_rows(file: io.BufferedReader, path: str | Path, head: Head, ids: Mapping[bytes, int]) -> Iterator[Row]:
    """The word of each line. Raises ``DataError``."""
    most = LONGEST_WORD + NUMBER_BYTES * head.dim
    for number, line in enumerate(iter(partial(file.readline, most), b""), 2 if head.bytes else 1):
        place, row = f"line {number:,}", None
        if len(line) == most:
            raise DataError(f"{path}: {place} has no end within {most:,} bytes: {spelt(line)}")
        word = next(iter(line.split(None, 1)), b"")
        if word in ids:  # else skip the rest of the line
            word, *fields = line.rsplit(None, head.dim)
            beyond = word.rsplit(None, 1)[1:]  # GloVe has words with spaces inside
            wrong = len(fields) < head.dim or any(map(is_number, beyond))
            try:
                with np.errstate(over="ignore"):  # overflow becomes infinite, which is refused later
                    row = np.array(fields, dtype=np.float32) if word in ids else None
            except ValueError:
                wrong = True
            if wrong:
                raise DataError(f"{path}: {place} is no word with {head.dim} numbers: {spelt(line.strip())}")
        if word:
            yield place, word, row


def binary_rows(file: io.BufferedReader, path: str | Path, head: Head, ids: Mapping[bytes, int]) -> Iterator[Row]:
    """Each word of word2vec's binary format. Raises ``DataError``."""
    for number in range(1, (head.words or 0) + 1):
        word = b"".join(islice(iter(partial(file.read, 1), b" "), LONGEST_WORD)).lstrip(b"\n")
        numbers = file.read(4 * head.dim)
        if len(word) >= LONGEST_WORD - 1:
            raise DataError(f"{path}: word {number:,} has no end: damaged, or not word2vec's binary format")
        if len(numbers) < 4 * head.dim:
            raise DataError(f"{path}: ends inside word {number:,} {cut_short(head)}")
        yield f"word {number:,}", word, np.frombuffer(numbers, "<f4") if word in ids else None


def is_number(field: bytes) -> bool:
    """Whether a field is written as a number."""
    try:
        float(field)
    except ValueError:
        return False
    return True


def spelt(text: bytes) -> str:
    """A word, or the beginning of a line, for a message."""
    return repr(text[:60].decode("utf-8", "replace"))


def cut_short(head: Head) -> str:
    return f"of the {head.words:,} that its first line promises: cut short; fetch it again"


def described(vectors: np.ndarray, has: np.ndarray, vocabulary: Vocabulary, facts: dict[str, Any]) -> StartVectors:
    """Vectors with their coverage of a vocabulary; ``<pad>`` has none.

    Raises ``DataError`` if they are all equal, or too large to compute with.
    """
    has[PAD] = False
    largest = float(np.abs(vectors).max(initial=0))
    if largest > LARGEST:
        raise DataError(f"{facts['source']}: holds {largest:g}, and no vector has a number beyond {LARGEST:g}: damaged")
    if not has.any() or not vectors[has].std() > 0:
        raise DataError(f"{facts['source']}: its vectors are all the same number; name another file")
    return StartVectors(vectors, has, {**facts, **coverage_of(has, vocabulary)})


def coverage_of(has: np.ndarray, vocabulary: Vocabulary) -> dict[str, Any]:
    """Number of words, and share of training tokens, that the ids ``has``, bool ``[vocabulary]``, cover."""
    counts = vocabulary.counts
    return {
        "words": int(has[len(RESERVED) :].sum()),
        "vocabulary": len(vocabulary) - len(RESERVED),
        "tokens": round(float(counts[has].sum() / max(counts.sum(), 1)), 6),
    }


def coverage(facts: dict[str, Any]) -> str:
    """Coverage of the vocabulary and sha256, as a readable line."""
    covered = f"{facts['words']:,} of {facts['vocabulary']:,} words, {facts['tokens']:.1%} of the tokens"
    return f"{covered}; sha256 {facts['sha256'][:12]}"


@dataclass(frozen=True)
class Donor:
    """A bundle whose weights initialise another model."""

    directory: Path
    info: BundleInfo
    vocabulary: Vocabulary


def find_donor(named: str, wanted: ModelConfig) -> Donor:
    """The bundle that ``init.weights`` names for a model like ``wanted``; its weights are not read yet.

    Raises ``ConfigError`` if it is missing or has another shape, ``DataError`` if it is damaged.
    """
    directory = bundle_directory(named)
    if not (directory / INDEX).is_file():
        raise ConfigError(f"init.weights: {named}: {instead(directory)}")
    info = read_info(directory)
    others = [key for key in SHAPE if getattr(info.model, key) != getattr(wanted, key)]
    if others:
        keys = " and ".join(f"model.{key} to {getattr(info.model, key)} (now {getattr(wanted, key)})" for key in others)
        raise ConfigError(f"init.weights: {named} has layers of another shape; set {keys}")
    return Donor(directory, info, read_vocabulary(directory, info))


@dataclass(frozen=True)
class StartWeights:
    """Weights of another model that fit a model, and their origin."""

    weights: dict[str, torch.Tensor]
    """By name in the new model; all but the embedding."""
    embedding: torch.Tensor
    """``[other vocabulary, dim]``: embedding of the other model."""
    ids: np.ndarray
    """int64 ``[found]``: ids, in the new vocabulary, of tokens that both vocabularies have."""
    rows: np.ndarray
    """int64 ``[found]``: rows of these tokens in ``embedding``."""
    facts: dict[str, Any]
    """For run, checkpoints, bundle and report: source, hashes, coverage, parts that were used and parts that were not.
    """

    def put_into(self, network: nn.Module) -> None:
        """Copy the weights into a network; the vectors keep their scale, since the layers were trained with it."""
        own = network.state_dict()  # detached tensors, so writing needs no no_grad
        own[EMBEDDING][self.ids] = self.embedding[self.rows].to(own[EMBEDDING])
        for name, values in self.weights.items():
            own[name].copy_(values)


def weights_of(donor: Donor, model: ModelConfig, vocabulary: Vocabulary, manifest: Manifest) -> StartWeights:
    """The weights of a bundle for a ``model`` on a dataset. Raises ``DataError`` if they are damaged, or if the
    vocabularies have no token in common.

    ``donor``: result of ``find_donor`` for this model, so the layers have the same shape.
    """
    from harness.model.networks import read_tensors

    info, weights = donor.info, read_tensors(donor.directory, donor.info)
    # <unk> counts as a common token, <pad> does not.
    found = pc.fill_null(pc.index_in(vocabulary.tokens, value_set=donor.vocabulary.tokens), PAD)
    places = found.to_numpy(zero_copy_only=False).astype(np.int64)
    has = places != PAD
    if not has[len(RESERVED) :].any():
        raise DataError(
            f"{donor.directory}: none of the {len(donor.vocabulary) - len(RESERVED):,} tokens of its vocabulary is in "
            "the dataset's; is it of another language, or preprocessed in another way (case, lemmas)?"
        )
    ids, rows = np.flatnonzero(has), places[has]
    why = reasons(donor, model, manifest)
    facts = {
        "source": str(donor.directory),
        "task": info.task,
        "sha256": info.weights_sha256,
        "vocabulary_hash": info.vocabulary_hash,
        "dataset": info.dataset,
        "step": info.step,
        **coverage_of(has, vocabulary),
        "taken": ["embedding", *(part for part, reason in why.items() if not reason)],
        "as_usual": {part: reason for part, reason in why.items() if reason},
    }
    fitting = {name: values for name, values in weights.items() if why.get(part_of(name)) == ""}
    return StartWeights(fitting, weights[EMBEDDING], ids, rows, facts)


def part_of(name: str) -> str:
    """The part of a model that a tensor belongs to."""
    first, _, rest = name.partition(".")
    if first == "recurrent":
        return f"recurrent layer {int(rest.split('.')[1]) + 1}"
    return first if first == "embedding" else "head"


def reasons(donor: Donor, model: ModelConfig, manifest: Manifest) -> dict[str, str]:
    """For each part of a model except the embedding, why it is not used; "" if it is."""
    info, absent = donor.info, "there is none"
    is_classifier = info.task == CLASSIFIER
    layers = donor.info.model.num_layers if is_classifier else 1
    found = {f"recurrent layer {layer + 1}": "" if layer < layers else absent for layer in range(model.num_layers)}
    values = [(key, getattr(donor.info.model, key), getattr(model, key)) for key in HEAD_KEYS]
    others = ", ".join(f"model.{key} {theirs}" for key, theirs, ours in values if theirs != ours)
    others = others or ("" if info.labels == manifest.labels else "other classes")
    return found | {"head": others if is_classifier else absent}


def describe_weights(facts: dict[str, Any]) -> str:
    """The kind of the other model and the parts that were used, for the settings printed at the start."""
    what = "a language model" if facts["task"] != CLASSIFIER else "a classifier"
    names = ", ".join(facts["taken"])
    usual = "; ".join(f"{name}: {why}" for name, why in facts["as_usual"].items())
    return f"{names} of {what}" + (f"; as usual start {usual}" if usual else "")
