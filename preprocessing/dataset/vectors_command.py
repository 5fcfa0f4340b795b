# SPDX-License-Identifier: Apache-2.0
"""``python -m preprocessing vectors DATASET``: learn word vectors of its own texts, and keep them beside its shards."""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from preprocessing.base import atomic, storage
from preprocessing.base.errors import ConfigError, UserError, check_processes, require
from preprocessing.base.machine import locked
from preprocessing.base.printable import duration
from preprocessing.base.split_names import TEST, VALIDATION
from preprocessing.corpus import addresses
from preprocessing.dataset import word2vec
from preprocessing.dataset.shards import Manifest, Split, read_manifest
from preprocessing.dataset.vectors import (
    LEARN_FROM,
    MOST_DIM,
    KeptVectors,
    VectorSettings,
    array_of,
    folder_of,
    read_kept,
    write_kept,
)

SMALL_TOKENS = 20_000_000
EPOCHS_SMALL, EPOCHS_LARGE = 10, 5
"""Epochs for up to ``SMALL_TOKENS`` tokens, and beyond: what is seen more often needs fewer repetitions."""
REPEATABLE_WORK = 100_000_000
"""Up to so many tokens times epochs, minutes of one core, one thread learns, and the same seed gives the same bytes."""
FIRST_WORD = 2
"""Ids below it, <pad> and <unk>, are no words."""
MOST_WORDS, MOST_EPOCHS = 1024, 10_000
"""Beyond what anybody learns."""
WORDS_PER_S = 500_000
"""About what one thread learns from in a second, at 128 numbers and 10 negatives."""
WORTH_SAYING_S = 2.0
"""Progress is said while so much time is left."""
LOCK = ".lock"
LOCK_TIMEOUT_S = 3600.0
MISSING = "gensim is not installed: pip install 'padless[vectors]'"


@dataclass(frozen=True, kw_only=True)
class VectorsConfig:
    """Learn word vectors of a dataset's own texts (word2vec, CBOW), for trainings to start from: init.vectors auto.

    They are kept in DATASET/vectors, where every run on the dataset finds them.
    """

    dim: int = 128
    """Numbers of a vector; a training takes those of its model.embedding_dim."""
    window: int = 8
    """Words to the left and to the right that predict a word."""
    negative: int = 10
    """Random words that each word is told apart from."""
    epochs: int | None = None
    """How often the texts are read; null: 10 times up to 20 million tokens, 5 times beyond."""
    seed: int = 0
    """Decides first values and random words."""
    splits: list[str] = field(default_factory=lambda: list(LEARN_FROM))
    """Splits to learn from, as far as the dataset has them: train and unlabelled; never validation or test."""
    threads: int | None = None
    """1: the same seed gives the same file. More are faster, and values differ a little from time to time. null: 1 for
    up to 100 million tokens times epochs, else one per core."""
    output: str | None = None
    """Directory to keep them in, for a dataset that cannot be written to; null: DATASET/vectors."""
    json: bool = False
    """Print what is known of them as one JSON object."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, most in (("dim", MOST_DIM), ("window", MOST_WORDS), ("negative", MOST_WORDS)):
            require(1 <= getattr(self, name) <= most, name, getattr(self, name), f"from 1 to {most:,}")
        fits = self.epochs is None or 1 <= self.epochs <= MOST_EPOCHS
        require(fits, "epochs", self.epochs, f"from 1 to {MOST_EPOCHS:,}, or null")
        check_processes("threads", self.threads)
        require(0 <= self.seed < 2**32, "seed", self.seed, "a whole number from 0 to 2**32 - 1")
        require(self.output != "", "output", self.output, "a directory's name, or null")
        require(bool(self.splits), "splits", self.splits, "at least one split")
        for name in (VALIDATION, TEST):
            if name in self.splits:
                raise ConfigError(f"splits: {name} is what trainings are measured on; nothing is learned from it")


def main(config: VectorsConfig, words: list[str]) -> None:
    """Learn the vectors of a dataset unless they are there already; says where they are."""
    (data,) = words
    if addresses.is_remote(data):
        raise ConfigError(f"{data}: vectors are kept beside the shards; name a local dataset directory")
    say = (lambda text: None) if config.json else (lambda text: print(text, flush=True))
    kept, found = keep_vectors(data, config, say)
    info = kept.info
    coverage = float(kept.read()[FIRST_WORD:].any(axis=1).mean())
    if config.json:
        print(json.dumps({"path": str(kept.path), **asdict(info), "coverage": round(coverage, 6)}, indent=2))
        return
    again = "the same seed gives the same file" if info.threads == 1 else f"{info.threads} threads: not repeatable"
    say(f"vectors    {info.words:,} words, {info.settings} ({again})")
    say(f"coverage   {coverage:.2%} of the vocabulary; learned from {' and '.join(info.settings.splits)}")
    say(f"{'found' if found else 'written'} in {kept.path} ({duration(info.seconds)}); init.vectors own takes them")


def keep_vectors(data: str | Path, config: VectorsConfig, say: Callable[[str], None]) -> tuple[KeptVectors, bool]:
    """The vectors that ``config`` asks for, learned and written if need be; whether they were there.

    Raises ``ConfigError`` where gensim is missing, ``DataError`` for a damaged dataset, ``StorageError`` where they
    cannot be kept, ``UserError`` if another process learns them for too long.
    """
    manifest = read_manifest(data)
    splits = [Split(data, manifest, name).check() for name in present(config.splits, manifest, data)]
    settings = resolve(config, splits)
    folder = folder_of(data) if config.output is None else Path(config.output)
    array = array_of(folder, manifest.fingerprint, settings)
    if (kept := usable(array, config)) is not None:
        return kept, True
    version = gensim_version()
    with storing(folder), alone(folder, say):
        if (kept := usable(array, config)) is not None:  # another process learned them in the meantime
            return kept, True
        threads = config.threads or threads_for(tokens_of(splits) * settings.epochs)
        return learn(array, manifest, splits, settings, threads, version, say), False


def learn(
    array: Path,
    manifest: Manifest,
    splits: list[Split],
    settings: VectorSettings,
    threads: int,
    version: str,
    say: Callable[[str], None],
) -> KeptVectors:
    """Learn, and write the array with its index."""
    began = time.monotonic()
    lines = array.with_name(f"corpus{atomic.TEMPORARY_MARK}{os.uname().nodename}-{os.getpid()}")
    try:
        corpus = word2vec.write_corpus(lines, splits, manifest.vocabulary_size, settings.seed)
        expected = corpus.tokens * settings.epochs / WORDS_PER_S / threads
        expected *= (settings.dim * (settings.negative + 1)) / (128 * 11)
        names = " and ".join(split.name for split in splits)
        say(
            f"learning   vectors of {corpus.tokens:,} tokens of {names}: {settings}; "
            f"{threads} thread{'s' if threads > 1 else ''}, about {duration(expected)}"
        )

        def told(epoch: int, took: float) -> None:
            left = took / epoch * (settings.epochs - epoch)
            if left > WORTH_SAYING_S:
                say(f"  epoch {epoch} of {settings.epochs} after {duration(took)}, about {duration(left)} left")

        vectors = word2vec.learn(corpus, settings, threads, told)
    finally:
        lines.unlink(missing_ok=True)
    return write_kept(
        array,
        vectors,
        dataset=manifest.fingerprint,
        vocabulary=manifest.vocabulary_hash,
        settings=settings,
        threads=threads,
        rows=corpus.rows,
        tokens=corpus.tokens,
        words=int((corpus.counts > 0).sum()),
        seconds=round(time.monotonic() - began, 3),
        versions={"gensim": version, "numpy": importlib.metadata.version("numpy")},
        made=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
    )


def present(names: list[str], manifest: Manifest, data: str | Path) -> list[str]:
    """Those of the splits that the dataset has. Raises ``ConfigError`` if it has none of them."""
    found = [name for name in dict.fromkeys(names) if manifest.splits.get(name)]
    if not found:
        has = ", ".join(sorted(name for name, shards in manifest.splits.items() if shards))
        raise ConfigError(f"splits: {data} has none of {', '.join(names)}; it has {has}")
    return found


def resolve(config: VectorsConfig, splits: list[Split]) -> VectorSettings:
    """The settings with the number of epochs that the rule gives."""
    epochs = config.epochs or (EPOCHS_SMALL if tokens_of(splits) <= SMALL_TOKENS else EPOCHS_LARGE)
    names = [split.name for split in splits]
    return VectorSettings(
        dim=config.dim, window=config.window, negative=config.negative, epochs=epochs, seed=config.seed, splits=names
    )


def tokens_of(splits: list[Split]) -> int:
    """Tokens of all rows."""
    return sum(shard.info.tokens for split in splits for shard in split.shards)


def threads_for(work: int) -> int:
    """One thread for ``work`` tokens times epochs where that takes minutes, else one per core that this process has."""
    return 1 if work <= REPEATABLE_WORK else len(os.sched_getaffinity(0))


def usable(array: Path, config: VectorsConfig) -> KeptVectors | None:
    """The vectors that are there, if they are what was asked for; those of several threads are not when one was."""
    kept = read_kept(array)
    if kept is None or (config.threads == 1 and kept.info.threads != 1):
        return None
    kept.read()
    return kept


@contextmanager
def alone(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Learn for this folder as the only process; says so if it must wait for another one."""
    busy = UserError(f"{folder}: another process has been learning vectors for an hour; is it alive? ({folder / LOCK})")
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder / LOCK, 0, busy))
        except UserError:
            say(f"waiting    for another process that learns vectors for {folder}")
            held.enter_context(locked(folder / LOCK, LOCK_TIMEOUT_S, busy))
        yield


def gensim_version() -> str:
    """Version of the library that learns. Raises ``ConfigError`` if it is not installed."""
    try:
        return importlib.metadata.version("gensim")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(f"vectors: {MISSING}") from None


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Turn a failure to write below ``folder`` into a ``StorageError``."""
    with storage.storing(folder, otherwise="name another directory with --output"):
        yield
