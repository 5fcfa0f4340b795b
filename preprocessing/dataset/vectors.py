# SPDX-License-Identifier: Apache-2.0
"""``DATASET/vectors/``: word vectors learned from a dataset's own texts, for every run on it.

::

    vectors/svd-128-<key>.npy    float32 ``[vocabulary, dim]``, a row for each id; zeros for an id without a vector
    vectors/svd-128-<key>.json   written last: settings, fingerprint of the dataset, sha256 of the array

The key is a hash of fingerprint and settings, so vectors of different settings have different files (law 2).

``padless vectors DATASET`` counts which words occur near which (the most frequent words as neighbours), takes positive
pointwise mutual information of the counts, and its truncated singular value decomposition (Levy, Goldberg and Dagan,
2015). The words are worked on ``WORDS_AT_ONCE`` at a time, so memory is bounded; the directions found for the most
frequent ones serve all. The same dataset and settings give the same vectors.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from msgspec import Meta
from threadpoolctl import threadpool_limits

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import DataError, UserError
from preprocessing.base.processes import locked
from preprocessing.base.randomness import permutation
from preprocessing.base.schema import Count, Name, Positive, Sha256, typed
from preprocessing.base.split_names import TRAIN, UNLABELLED
from preprocessing.base.terminal import duration
from preprocessing.base.untrusted import read_bytes, read_json
from preprocessing.dataset.index import Lazy
from preprocessing.dataset.shards import Block
from preprocessing.dataset.views import folder_for, open_split, read_data

FORMAT: Final = "padless-vectors"
FORMAT_VERSION: Final = 2
FOLDER = "vectors"
MOST_DIM = 1 << 20
"""Most dimensions of a vector."""
LEARN_FROM = (TRAIN, UNLABELLED)
"""The splits to learn from, if the dataset has them; never validation or test."""
REMAKE = "delete it, and `padless vectors` makes it again"
FIRST_WORD = 2
"""The first id after <pad> and <unk>."""
Words = Annotated[int, Meta(ge=1, le=1024)]
Dim = Annotated[int, Meta(ge=1, le=MOST_DIM)]
MOST_TOKENS = 30_000_000
"""Of more tokens, blocks chosen at random are read: about a minute of one core, as other ranks wait for it."""
TOKENS_PER_S = 600_000
"""Approximate speed of one thread."""
CONTEXTS = 4096
"""How many of the most frequent words are counted as neighbours."""
WORDS_AT_ONCE = 1 << 15
"""Words whose counts are in memory at a time: 512 MiB with ``CONTEXTS``."""
SMOOTHING = 0.75
"""Power of the neighbours' shares: without it the rarest neighbours have the largest associations."""
OVERSAMPLING, ITERATIONS = 30, 3
"""Of the randomized decomposition (Halko, Martinsson and Tropp, 2011)."""
LOCK, LOCK_TIMEOUT_S = ".lock", 3600.0
SAMPLE = 0x73766473
"""Makes random choices differ from others of the project."""
Say = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class VectorSettings:
    """All that decides vectors, besides the dataset."""

    dim: Dim = 128
    window: Positive = 8
    splits: list[str] = field(default_factory=lambda: list(LEARN_FROM))

    def key(self, fingerprint: str) -> str:
        """Twelve hex digits that identify these settings and the dataset."""
        content = {"format": FORMAT, "version": FORMAT_VERSION, "dataset": fingerprint, **asdict(self)}
        return hashlib.sha256(atomic.canonical_json(content)).hexdigest()[:12]

    def __str__(self) -> str:
        """``128 numbers, window 8``."""
        return f"{self.dim} numbers, window {self.window}"


@dataclass(frozen=True, kw_only=True)
class VectorsInfo:
    """``svd-….json``."""

    dataset: str
    """Fingerprint of the dataset."""
    settings: VectorSettings
    rows: Count
    tokens: Count
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
    format: Literal["padless-vectors"] = FORMAT
    format_version: Literal[2] = FORMAT_VERSION


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
    return folder / f"svd-{settings.dim}-{settings.key(fingerprint)}.npy"


def index_of(array: Path) -> Path:
    """The JSON file beside an array."""
    return array.with_suffix(".json")


def read_kept(array: str | Path) -> KeptVectors | None:
    """The vectors in this file with their index; None without one. Raises ``DataError`` for a damaged index."""
    path = index_of(Path(array))
    if not path.exists():
        return None
    return KeptVectors(path.with_suffix(".npy"), typed(VectorsInfo, read_json(path, REMAKE), str(path), REMAKE))


def find_kept(folder: Path, fingerprint: str, dim: int) -> KeptVectors | None:
    """The newest vectors of ``dim`` dimensions for the dataset with this fingerprint; None if there are none.

    Raises ``DataError`` for a damaged index.
    """
    known = [read_kept(path) for path in sorted(folder.glob(f"svd-{dim}-*.json"))]
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
    """Learn word vectors from a dataset's own texts, from the words near each: init.vectors auto starts with them.

    They are kept in DATASET/vectors, for every run on the dataset.
    """

    dim: Dim = 128
    """Dimensions of a vector; a training uses vectors with its model.embedding_dim."""
    window: Words = 8
    """Words to the left and to the right that count as near; the nearer ones count more."""
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
    kept, found = keep_vectors(data, config, partial(print, flush=True))
    info = kept.info
    coverage = float(kept.read()[FIRST_WORD:].any(axis=1).mean())
    print(f"vectors    {info.words:,} words, {info.settings}")
    print(f"coverage   {coverage:.2%} of the vocabulary; learned from {' and '.join(info.settings.splits)}")
    print(f"{'found' if found else 'written'} in {kept.path} ({duration(info.seconds)}); init.vectors own takes them")


def keep_vectors(data: str | Path, config: VectorsConfig, say: Say) -> tuple[KeptVectors, bool]:
    """The vectors of ``config``, learned and written if missing; and whether they existed.

    Raises ``DataError`` for a damaged dataset, ``StorageError`` if they cannot be written, ``UserError`` if another
    process has not learned them in time.
    """
    folder, manifest = folder_for(config.output, data, FOLDER), read_data(data)
    names = [name for name in LEARN_FROM if name == TRAIN or manifest.splits.get(name)]
    splits = [open_split(data, manifest, name).check() for name in names]
    settings = VectorSettings(dim=config.dim, window=config.window, splits=names)
    array = array_of(folder, manifest.fingerprint, settings)
    if (kept := usable(array)) is not None:
        return kept, True
    busy = UserError(f"{folder}: another process has learned vectors for an hour; does it still run? ({folder / LOCK})")
    with (
        atomic.storing(folder, otherwise="name another directory with --output"),
        locked(folder / LOCK, LOCK_TIMEOUT_S, busy),
    ):
        if (kept := usable(array)) is not None:  # another process learned them in the meantime
            return kept, True
        began = time.monotonic()
        every = [(split, number) for split in splits for number in range(len(split.blocks))]
        blocks = sample(Lazy(len(every), lambda place: every[place][0].blocks[every[place][1]]))
        tokens, rows = sum(int(block.length.sum()) for block in blocks), sum(len(block.row) for block in blocks)
        passes = -(-manifest.vocabulary_size // WORDS_AT_ONCE)
        about = duration(passes * tokens / TOKENS_PER_S)
        say(f"learning   vectors of {tokens:,} tokens of {' and '.join(names)}: {settings}; about {about}")
        with threadpool_limits(1):  # the same bytes on any number of cores
            vectors = learn(blocks, manifest.vocabulary_size, settings)
        kept = write_kept(
            array,
            vectors,
            dataset=manifest.fingerprint,
            vocabulary=manifest.vocabulary_hash,
            settings=settings,
            rows=rows,
            tokens=tokens,
            words=int(vectors.any(axis=1).sum()),
            seconds=round(time.monotonic() - began, 3),
            versions={"numpy": importlib.metadata.version("numpy")},
            made=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        )
        return kept, False


def usable(array: Path) -> KeptVectors | None:
    """Existing vectors, whose bytes are whole; None if there are none."""
    kept = read_kept(array)
    if kept is not None:
        kept.read()
    return kept


def sample(blocks: Sequence[Block]) -> list[Block]:
    """The blocks to learn from: all, or random ones with ``MOST_TOKENS`` tokens."""
    chosen, tokens = [], 0
    for number in permutation(len(blocks), SAMPLE):
        if tokens < MOST_TOKENS:
            chosen.append(int(number))
            tokens += int(blocks[number].length.sum())
    return [blocks[number] for number in sorted(chosen)]


def learn(blocks: Sequence[Block], vocabulary_size: int, settings: VectorSettings) -> np.ndarray:
    """float32 ``[vocabulary, dim]``: a vector for each id that has a neighbour, zeros for the others; only zeros if all
    would be the same.
    """
    vectors = np.zeros((vocabulary_size, settings.dim), np.float32)
    directions = shares = None
    for first in range(0, vocabulary_size, WORDS_AT_ONCE):
        words = range(first, min(first + WORDS_AT_ONCE, vocabulary_size))
        counts = neighbours(blocks, words, min(CONTEXTS, vocabulary_size), settings.window)
        if shares is None:  # the ids are in order of frequency, so these words are most of the text
            shares = counts.sum(axis=0) ** SMOOTHING
            shares /= max(shares.sum(), 1.0)
        associations = associate(counts, shares)
        if directions is None:
            directions = principal_directions(associations, settings.dim)
        vectors[words.start : words.stop, : directions.shape[1]] = associations @ directions
    known = vectors[vectors.any(axis=1)]
    return vectors if known.size and np.ptp(known) > 0 else np.zeros_like(vectors)


def neighbours(blocks: Sequence[Block], words: range, contexts: int, window: int) -> np.ndarray:
    """float32 ``[words, contexts]``: how often each of ``words`` has each context near it, a pair d words apart counted
    1 / d times.
    """
    counts = np.zeros(len(words) * contexts, np.float32)
    for block in blocks:
        ids = np.pad(block.ids.astype(np.int64), ((0, 0), (0, window)))  # <pad> between texts
        place, length = np.arange(ids.shape[1]), block.length[:, None]
        ids[place >= length] = 0
        stream = ids[place < length + window]
        for distance in range(1, window + 1):
            before, after = stream[:-distance], stream[distance:]
            for word, context in ((before, after), (after, before)):
                near = (word >= max(words.start, 1)) & (word < words.stop) & (context > 0) & (context < contexts)
                np.add.at(counts, (word[near] - words.start) * contexts + context[near], np.float32(1 / distance))
    return counts.reshape(len(words), contexts)


def associate(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Positive pointwise mutual information of ``counts`` [words, contexts], in place: log of how many times as often a
    context is near a word as near any word, 0 where that is less than once. ``shares`` [contexts]: of any word.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, len(counts), 1024):  # small enough for the cache
            part = counts[start : start + 1024]
            part /= part.sum(axis=1, keepdims=True) * shares
            np.log(part, out=part)
            np.fmax(part, 0, out=part)
    return counts


def principal_directions(associations: np.ndarray, dim: int) -> np.ndarray:
    """float32 ``[contexts, dim or contexts]``: maps associations to the left singular vectors of the largest singular
    values, each times the root of its value.
    """
    contexts = associations.shape[1]
    random = np.random.default_rng(SAMPLE).standard_normal((contexts, min(dim + OVERSAMPLING, contexts)), np.float32)
    basis = np.linalg.qr(random)[0]
    for _ in range(ITERATIONS):
        basis = np.linalg.qr(associations.T @ (associations @ basis))[0]
    _, values, right = np.linalg.svd(np.linalg.qr(associations @ basis, mode="r"), full_matrices=False)
    kept = np.flatnonzero(values[:dim] > values[0] * 1e-6) if values[0] > 0 else np.arange(0)
    return (basis @ right[kept].T / np.sqrt(values[kept])).astype(np.float32)
