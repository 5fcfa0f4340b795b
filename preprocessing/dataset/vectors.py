# SPDX-License-Identifier: Apache-2.0
"""``DATASET/vectors/``: word vectors learned from a dataset's own texts, for every run on it.

::

    vectors/cbow-128-<key>.npy    float32 ``[vocabulary, dim]``, a row for each id; zeros for an id without a vector
    vectors/cbow-128-<key>.json   written last: settings, fingerprint of the dataset, sha256 of the array

The key is a hash of fingerprint and settings, so vectors of different settings have different files (law 2).

``padless vectors DATASET`` learns them with gensim's word2vec (CBOW with negative samples; Mikolov et al.,
2013). gensim is fastest when its threads read a text file, so the ids of the shards are written to one: a line for each
text, a word of fixed width for each id, from a lookup table. gensim gets the dataset's vocabulary and the counts of the
ids, and does not count words itself.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.processes import available_cores, locked
from preprocessing.base.randomness import permutation
from preprocessing.base.schema import Count, Name, Positive, Processes, Sha256, typed
from preprocessing.base.split_names import TRAIN, UNLABELLED
from preprocessing.base.terminal import duration
from preprocessing.base.untrusted import read_bytes, read_json, shown
from preprocessing.corpus import addresses
from preprocessing.dataset.shards import Manifest, Split, read_manifest

FORMAT, FORMAT_VERSION = "padless-vectors", 1
FOLDER = "vectors"
MOST_DIM = 1 << 20
"""Most dimensions of a vector."""
LEARN_FROM = (TRAIN, UNLABELLED)
"""The splits to learn from, if the dataset has them; never validation or test."""
REMAKE = "delete it, and `padless vectors` makes it again"
SMALL_TOKENS = 20_000_000
EPOCHS_SMALL, EPOCHS_LARGE = 10, 5
"""Epochs for up to ``SMALL_TOKENS`` tokens, and for more, which need fewer repetitions."""
REPEATABLE_WORK = 100_000_000
"""Up to so many tokens times epochs (minutes of one core) one thread learns, so a seed always gives the same bytes."""
FIRST_WORD = 2
"""The first id after <pad> and <unk>."""
Words = Annotated[int, Meta(ge=1, le=1024)]
WORDS_PER_S = 500_000
"""Approximate speed of one thread, at 128 dimensions and 10 negatives."""
LOCK, LINES, LOCK_TIMEOUT_S = ".lock", "corpus.lines", 3600.0
PIECE_ROWS = 1024
"""Rows that stay together; pieces are permuted, so that long texts do not all come last."""
SHUFFLE = 0x77326376
"""Makes the permutation differ from others of the same seed."""
DIGIT_BITS, FIRST_DIGIT = 6, ord("0")
"""A word is its id in base 64, with the bytes from ``0`` to ``o`` as digits."""
Say = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class VectorSettings:
    """All that decides vectors, besides the dataset."""

    dim: Annotated[int, Meta(ge=1, le=MOST_DIM)] = 128
    window: Positive = 8
    negative: Count = 10
    epochs: Positive
    seed: int = 0
    splits: list[str] = field(default_factory=lambda: list(LEARN_FROM))

    def key(self, fingerprint: str) -> str:
        """Twelve hex digits that identify these settings and the dataset."""
        content = {"format": FORMAT, "version": FORMAT_VERSION, "dataset": fingerprint, **asdict(self)}
        return hashlib.sha256(atomic.canonical_json(content)).hexdigest()[:12]

    def __str__(self) -> str:
        """``128 numbers, window 8, 10 negatives, 10 epochs, seed 0``."""
        words = f"{self.dim} numbers, window {self.window}, {self.negative} negatives"
        return f"{words}, {self.epochs} epochs, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class VectorsInfo:
    """``cbow-….json``."""

    dataset: str
    """Fingerprint of the dataset."""
    settings: VectorSettings
    threads: Positive
    """1: the same seed gives the same bytes. More threads overwrite each other's updates in varying order."""
    rows: Count
    tokens: Count
    """Tokens of one epoch."""
    words: Count
    """Ids that have a vector."""
    seconds: Annotated[float, Meta(ge=0)]
    versions: dict[str, str]
    made: str
    """When, ISO 8601, UTC."""
    file: str
    sha256: Sha256
    bytes: Count
    vocabulary: str = ""
    """Hash of the vocabulary: another dataset with the same one can use them too. Empty: unknown."""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class KeptVectors:
    """Vectors on disk, with their index."""

    path: Path
    """File of the array."""
    info: VectorsInfo

    def read(self) -> np.ndarray:
        """float32 ``[vocabulary, dim]``. Raises ``DataError`` if the bytes do not match the index."""
        try:
            data = read_bytes(self.path, self.info.bytes)
        except OSError as error:
            raise DataError(f"{self.path}: not readable ({error.strerror}); {REMAKE}") from None
        if hashlib.sha256(data).hexdigest() != self.info.sha256:
            raise DataError(f"{self.path}: its sha256 is not the one in {index_of(self.path).name}; {REMAKE}")
        dim, start = self.info.settings.dim, 10 + int.from_bytes(data[8:10], "little")
        shape = (max(0, len(data) - start) // (4 * dim), dim)
        head = io.BytesIO()  # a header is a Python dict as text: compared with the expected bytes, never parsed
        np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
        if data[:start] != head.getvalue() or len(data) != start + 4 * dim * shape[0]:
            raise DataError(f"{self.path}: holds no vectors of {dim} numbers; {REMAKE}")
        vectors = np.frombuffer(data, "<f4", offset=start).reshape(shape).copy()
        if not np.isfinite(vectors).all():
            raise DataError(f"{self.path}: holds a number that is not finite; {REMAKE}")
        return vectors


def folder_of(data: str | Path) -> Path:
    """The folder with the vectors of a dataset."""
    return Path(data, FOLDER)


def array_of(folder: Path, fingerprint: str, settings: VectorSettings) -> Path:
    """The file of vectors with these settings."""
    return folder / f"cbow-{settings.dim}-{settings.key(fingerprint)}.npy"


def index_of(array: Path) -> Path:
    """The JSON file beside an array."""
    return array.with_suffix(".json")


def read_kept(array: str | Path) -> KeptVectors | None:
    """The vectors in this file with their index; None without one. Raises ``DataError`` for a damaged index."""
    path = index_of(Path(array))
    if not path.exists():
        return None
    content = read_json(path, REMAKE)
    head = (content.get("format"), content.get("format_version")) if isinstance(content, dict) else None
    if head != (FORMAT, FORMAT_VERSION):
        raise DataError(f"{path}: written by another version of padless; {REMAKE}")
    info: VectorsInfo = typed(VectorsInfo, content, str(path), REMAKE)
    if info.file != path.with_suffix(".npy").name:
        raise DataError(f"{path}: names {shown(info.file)}, which is not its own array; {REMAKE}")
    return KeptVectors(path.with_name(info.file), info)


def find_kept(folder: Path, fingerprint: str, dim: int) -> KeptVectors | None:
    """The newest vectors of ``dim`` dimensions for the dataset with this fingerprint; None if there are none.

    Raises ``DataError`` for a damaged index.
    """
    known = [read_kept(path) for path in sorted(folder.glob(f"cbow-{dim}-*.json"))]
    fitting = [one for one in known if one is not None and one.info.dataset == fingerprint]
    return max(fitting, key=lambda one: one.info.made, default=None)


def write_kept(array: Path, vectors: np.ndarray, **facts: Any) -> KeptVectors:
    """Write vectors, then their index with these ``facts``."""
    with atomic.replacing(array) as temporary:
        with open(temporary, "wb") as file:
            arrays.save(file, np.ascontiguousarray(vectors, np.float32))
        digest, size = atomic.sha256_file(temporary), temporary.stat().st_size
        index_of(array).unlink(missing_ok=True)  # an index never describes another array
    info = VectorsInfo(**facts, file=array.name, sha256=digest, bytes=size)
    atomic.write_json(index_of(array), asdict(info))
    return KeptVectors(array, info)


@dataclass(frozen=True, kw_only=True)
class VectorsConfig:
    """Learn word vectors from a dataset's own texts (word2vec, CBOW), as initial weights: init.vectors auto.

    They are kept in DATASET/vectors, for every run on the dataset.
    """

    dim: Annotated[int, Meta(ge=1, le=MOST_DIM)] = 128
    """Dimensions of a vector; a training uses vectors with its model.embedding_dim."""
    window: Words = 8
    """Words to the left and to the right that predict a word."""
    negative: Words = 10
    """Negative samples for each word."""
    epochs: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """Passes over the texts; null: 10 for up to 20 million tokens, 5 for more."""
    seed: Annotated[int, Meta(ge=0, lt=1 << 32)] = 0
    """Decides initial values and negative samples."""
    threads: Processes | None = None
    """1: the same seed gives the same file. More are faster, but values differ slightly each time. null: 1 for up to
    100 million tokens times epochs, else one per core."""
    output: Name | None = None
    """Directory for the vectors, if the dataset is read-only; null: DATASET/vectors."""


@dataclass(frozen=True, kw_only=True)
class OfDataset(VectorsConfig):
    __doc__ = VectorsConfig.__doc__

    SUBJECT = ("data",)
    data: str
    """Dataset directory."""


def main(config: OfDataset) -> None:
    """Learn the vectors of a dataset unless they exist; prints their path."""
    data = config.data
    if addresses.is_remote(data):
        raise ConfigError(f"{data}: vectors are kept beside the shards; name a local dataset directory")
    kept, found = keep_vectors(data, config, partial(print, flush=True))
    info = kept.info
    coverage = float(kept.read()[FIRST_WORD:].any(axis=1).mean())
    again = "the same seed gives the same file" if info.threads == 1 else f"{info.threads} threads: not repeatable"
    print(f"vectors    {info.words:,} words, {info.settings} ({again})")
    print(f"coverage   {coverage:.2%} of the vocabulary; learned from {' and '.join(info.settings.splits)}")
    print(f"{'found' if found else 'written'} in {kept.path} ({duration(info.seconds)}); init.vectors own takes them")


def keep_vectors(data: str | Path, config: VectorsConfig, say: Say) -> tuple[KeptVectors, bool]:
    """The vectors of ``config``, learned and written if missing; and whether they existed.

    Raises ``ConfigError`` if gensim is missing, ``DataError`` for a damaged dataset, ``StorageError`` if they cannot be
    written, ``UserError`` if another process has not learned them in time.
    """
    manifest = read_manifest(data)
    splits = [Split(data, manifest, name).check() for name in LEARN_FROM if name == TRAIN or manifest.splits.get(name)]
    tokens = sum(shard.info.tokens for split in splits for shard in split.shards)
    settings = VectorSettings(
        dim=config.dim,
        window=config.window,
        negative=config.negative,
        seed=config.seed,
        epochs=config.epochs or (EPOCHS_SMALL if tokens <= SMALL_TOKENS else EPOCHS_LARGE),
        splits=[split.name for split in splits],
    )
    folder = folder_of(data) if config.output is None else Path(config.output)
    array = array_of(folder, manifest.fingerprint, settings)
    if (kept := usable(array, config)) is not None:
        return kept, True
    if importlib.util.find_spec("gensim") is None:
        raise ConfigError("vectors: gensim is not installed: pip install 'padless[vectors]'")
    busy = UserError(f"{folder}: another process has learned vectors for an hour; does it still run? ({folder / LOCK})")
    with (
        atomic.storing(folder, otherwise="name another directory with --output"),
        locked(folder / LOCK, LOCK_TIMEOUT_S, busy),
    ):
        if (kept := usable(array, config)) is not None:  # another process learned them in the meantime
            return kept, True
        most = 1 if tokens * settings.epochs <= REPEATABLE_WORK else available_cores()
        return learn_and_write(array, manifest, splits, settings, config.threads or most, say), False


def usable(array: Path, config: VectorsConfig) -> KeptVectors | None:
    """Existing vectors; None if there are none, or if ``config`` wants one thread and several were used."""
    kept = read_kept(array)
    if kept is None or (config.threads == 1 and kept.info.threads != 1):
        return None
    kept.read()
    return kept


def learn_and_write(
    array: Path, manifest: Manifest, splits: list[Split], settings: VectorSettings, threads: int, say: Say
) -> KeptVectors:
    """Learn, and write the array with its index."""
    began, lines = time.monotonic(), array.with_name(LINES)
    try:
        counts = write_corpus(lines, splits, manifest.vocabulary_size, settings.seed)
        tokens, rows = int(counts.sum()), sum(map(len, splits))
        work = tokens * settings.epochs * settings.dim * (settings.negative + 1) / (128 * 11)
        about, names = duration(work / WORDS_PER_S / threads), " and ".join(settings.splits)
        say(f"learning   vectors of {tokens:,} tokens of {names}: {settings}; threads: {threads}, about {about}")
        vectors = learn(lines, counts, rows, settings, threads)
    finally:
        lines.unlink(missing_ok=True)
    return write_kept(
        array,
        vectors,
        dataset=manifest.fingerprint,
        vocabulary=manifest.vocabulary_hash,
        settings=settings,
        threads=threads,
        rows=rows,
        tokens=tokens,
        words=int((counts > 0).sum()),
        seconds=round(time.monotonic() - began, 3),
        versions={name: importlib.metadata.version(name) for name in ("gensim", "numpy")},
        made=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
    )


def word_table(vocabulary_size: int) -> np.ndarray:
    """The word of each id with a space after it, as one number ``[vocabulary]``: three digits in uint32, seven in
    uint64 for a large vocabulary.
    """
    digits = 3 if vocabulary_size <= 1 << (3 * DIGIT_BITS) else 7
    ids = np.arange(vocabulary_size, dtype=np.uint64)
    table = np.empty((vocabulary_size, digits + 1), np.uint8)
    for place in range(digits):
        table[:, place] = ((ids >> np.uint64(DIGIT_BITS * place)) & np.uint64(63)) + np.uint64(FIRST_DIGIT)
    table[:, digits] = ord(" ")
    return table.view(np.uint32 if digits == 3 else np.uint64).reshape(-1)


def write_corpus(path: Path, splits: Sequence[Split], vocabulary_size: int, seed: int) -> np.ndarray:
    """Write the rows of ``splits`` to ``path``, one line a row, in pieces permuted by ``seed``.

    Returns int64 ``[vocabulary]``: the count of each id.
    """
    table, counts = word_table(vocabulary_size), np.zeros(vocabulary_size, np.int64)
    blocks = [block for split in splits for block in split.blocks]
    pieces = [(block, start) for block in blocks for start in range(0, len(block.row), PIECE_ROWS)]
    with open(path, "wb") as file:
        for number in permutation(len(pieces), seed, SHUFFLE):
            block, start = pieces[number]
            ids, length = block.ids[start : start + PIECE_ROWS], block.length[start : start + PIECE_ROWS]
            tokens = ids[np.arange(ids.shape[1]) < length[:, None]]
            counts += np.bincount(tokens, minlength=vocabulary_size)
            words = table[tokens]
            words.view(np.uint8).reshape(len(words), -1)[np.cumsum(length) - 1, -1] = ord("\n")
            file.write(words.tobytes())
    return counts


def learn(lines: Path, counts: np.ndarray, rows: int, settings: VectorSettings, threads: int) -> np.ndarray:
    """float32 ``[vocabulary, dim]``: a vector for each id that occurs in the ``rows`` lines, zeros for the others.

    With one thread the same lines, settings and seed give the same numbers.
    """
    from gensim.models import Word2Vec

    seen = np.flatnonzero(counts)
    words = word_table(len(counts))[seen].tobytes().decode("ascii").split()
    model = Word2Vec(
        vector_size=settings.dim,
        window=settings.window,
        negative=settings.negative,
        sg=0,
        min_count=1,
        sorted_vocab=0,
        workers=threads,
        seed=settings.seed,
    )
    model.build_vocab_from_freq(dict(zip(words, counts[seen].tolist(), strict=True)), corpus_count=rows)
    model.train(corpus_file=str(lines), total_words=int(counts.sum()), total_examples=rows, epochs=settings.epochs)
    assert model.wv.index_to_key == words, "gensim has sorted the vocabulary again"
    vectors = np.zeros((len(counts), settings.dim), np.float32)
    vectors[seen] = model.wv.vectors
    return vectors
