# SPDX-License-Identifier: Apache-2.0
"""What the weights of a run are before its first step, beside the seed: other weights, word vectors, their scale.

Rank 0 alone reads; the other ranks get all weights from it when the model is wrapped. A run that goes on has it all in
its checkpoint, and reads nothing again.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import RunConfig
from harness.data.checks import open_soft_labels
from harness.data.soft_labels import targets_of
from harness.model.donor import WIDE, StartWeights, describe_weights, find_donor, weights_of
from harness.model.embedding import StartVectors, from_file, from_kept
from harness.model.networks import AnyNetwork
from harness.model.vector_files import check_own, coverage, is_own
from harness.ranks import stopping
from harness.ranks.distributed import RankError, World
from harness.ranks.precision import Choice
from harness.rundir import layout
from preprocessing.base.errors import ConfigError, DataError, StorageError, UserError
from preprocessing.base.split_names import UNLABELLED
from preprocessing.dataset.shards import VOCABULARY, Manifest, Split
from preprocessing.dataset.vectors import find_kept, folder_of
from preprocessing.job.executors import LocalPulse
from preprocessing.text.vocabulary import Vocabulary

VECTORS, STARTED_FROM = "vectors", "started_from"
"""What the state of a checkpoint calls the facts."""


@dataclass(frozen=True)
class Start:
    """What the embedding starts from; everything is None where it is random, and on ranks other than 0."""

    vectors: StartVectors | None = None
    facts: dict[str, Any] | None = None
    """What is remembered of the vectors, also by a run that goes on."""
    choice: Choice | None = None
    """For the first lines of the run."""
    interrupted: bool = False
    """Some rank was told to stop while the vectors were learned: on every rank, nothing may be trained or saved."""


@dataclass(frozen=True)
class Beginning:
    """What the weights begin with; on ranks other than 0, and of a run that goes on, only what is known of it."""

    vectors: Start = field(default_factory=Start)
    weights: StartWeights | None = None
    facts: dict[str, Any] | None = None
    """Of the weights, on every rank; None where there were none."""

    @property
    def has_wide(self) -> bool:
        """Whether the wide part is that of the weights, and so has weighed its features already."""
        return self.facts is not None and WIDE in self.facts["taken"]

    @property
    def remembered(self) -> dict[str, dict[str, Any] | None]:
        """What checkpoints hold of it."""
        return {VECTORS: self.vectors.facts} | ({} if self.facts is None else {STARTED_FROM: self.facts})

    def choices(self) -> Iterator[tuple[str, Choice]]:
        """For the first lines of the run."""
        if self.facts is not None:
            said = f"{describe_weights(self.facts)}; {coverage(self.facts)}"
            said = said if self.weights is not None else f"the run began with them; {said}"
            yield "weights", Choice(self.facts["source"], said)
        if self.vectors.choice is not None:
            yield "vectors", self.vectors.choice

    def put_into(self, classifier: AnyNetwork, std: float) -> None:
        """Give a model, whose weights were drawn from the seed, what it begins with; tokens of the weights have theirs
        and no vectors. ``std``: ``model.embedding_std``.
        """
        if self.vectors.vectors is not None:
            self.vectors.vectors.put_into(classifier.embedding, std)
        if self.weights is not None:
            self.weights.put_into(classifier)


def begin(config: RunConfig, manifest: Manifest, world: World, state: Mapping[str, Any] | None) -> Beginning:
    """What a run begins with, or, given the ``state`` of its checkpoint, began with.

    Every rank calls it; raises the same ``UserError`` on all.
    """
    if state is not None:
        return Beginning(resumed(state.get(VECTORS)), facts=state.get(STARTED_FROM))
    weights = None
    with world.together("reading the weights to start from"):
        if world.is_main and config.init.weights:
            vocabulary = Vocabulary.read(Path(config.data, VOCABULARY))
            weights = weights_of(find_donor(config.init.weights, config.model), config.model, vocabulary, manifest)
    facts = world.from_main(None if weights is None else weights.facts, "the weights to start from")
    return Beginning(start_vectors(config, manifest, world), weights, facts)


LOOK_EVERY_S = 1.0
STOP_S = 5.0
"""Longest wait for the learning process to clean up."""
ERRORS: dict[int, type[UserError]] = {error.exit_code: error for error in (ConfigError, DataError, StorageError)}


class Learning:
    """``python -m preprocessing vectors`` beside this process; what it prints is seen at once."""

    def __init__(self, data: str, dim: int, output: Path | None) -> None:
        """It begins."""
        command = [sys.executable, "-m", "preprocessing", "vectors", data, "--dim", str(dim)]
        command += [] if output is None else ["--output", str(output)]
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=self.errors)
        self.pulse = LocalPulse(lambda: [self.process])
        self.trouble: str | None = None

    def running(self, wait_s: float) -> bool:
        """Whether it still learns after at most ``wait_s`` seconds. One that is stopped is ended after a while."""
        try:
            self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.trouble = self.trouble or self.pulse.look(wait_s, finished=False)
            if self.trouble is not None:
                self.process.kill()
            return True
        return False

    def stop(self) -> None:
        """End it if it still learns; it removes what it has not finished."""
        if not self.running(0):
            return
        self.process.send_signal(signal.SIGINT)
        if self.running(STOP_S):
            self.process.kill()
            self.running(STOP_S)  # one that hangs in the kernel is left behind

    def end(self) -> None:
        """It has ended. Raises its ``UserError`` if it could not do it."""
        with self.errors:
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace").strip()
        if self.trouble is not None:
            raise RankError(f"learning word vectors: {self.trouble}")
        if self.process.returncode:
            last = said.splitlines()[-1].removeprefix("error: ") if said else f"exit code {self.process.returncode}"
            raise ERRORS.get(self.process.returncode, RankError)(last)
        if said:
            print(said, file=sys.stderr, flush=True)


def start_vectors(config: RunConfig, manifest: Manifest, world: World) -> Start:
    """Vectors for a run that begins. Every rank calls it; raises the same ``UserError`` on all."""
    source, start, learning = config.init.vectors, Start(), None
    if source == "none":
        return start
    with world.together("looking for word vectors"):
        if world.is_main and source == "own":
            start = found_beside(config, manifest)
            if start.choice is None:
                learning = Learning(config.data, config.model.embedding_dim, fallback(config))
    interrupted = wait_for(learning, world)
    with world.together("reading word vectors"):
        if learning is not None and not interrupted:
            learning.end()
            start = found_beside(config, manifest)
        elif world.is_main and source != "own":
            start = read_named(config, manifest)
    return Start(interrupted=True) if interrupted else start


def wait_for(learning: Learning | None, world: World) -> bool:
    """Meet until nothing is learned any more; whether some rank was told to stop before that."""
    try:
        while True:
            running = learning is not None and learning.running(LOOK_EVERY_S)
            failed = learning is not None and bool(learning.process.returncode)  # by Ctrl-C, which reaches it too
            mine = np.array([running, failed, stopping.received() is not None]).astype(np.int64)
            busy, broken, stop = np.atleast_1d(world.gather_numbers(mine, "word vectors that are learned").any(axis=0))
            if stop and (busy or broken):
                return True
            if not busy:
                return False
    finally:  # also when a peer is gone
        if learning is not None:
            learning.stop()


def found_beside(config: RunConfig, manifest: Manifest) -> Start:
    """Vectors that are kept beside the dataset, or in the run directory; or why there are none. Raises ``DataError``.

    Without vectors and without a reason they are to be learned.
    """
    dim = config.model.embedding_dim
    for folder in (folder_of(config.data), Path(config.run, layout.VECTORS)):
        kept = find_kept(folder, manifest.fingerprint, dim)
        if kept is not None:
            vectors = from_kept(kept, Vocabulary.read(Path(config.data, VOCABULARY)))
            return started(vectors, str(kept.info.settings))
    if importlib.util.find_spec("gensim") is None:
        reason = "gensim, which learns vectors of the texts, is not installed: pip install 'padless[vectors]'"
        return Start(choice=Choice("random", reason))
    if config.dry_run:
        return Start(choice=Choice("random", "a dry run learns none; the run itself does before its first step"))
    return Start()


def read_named(config: RunConfig, manifest: Manifest) -> Start:
    """The vectors of a file. Raises ``ConfigError`` or ``DataError``."""
    path, vocabulary = config.init.vectors, Vocabulary.read(Path(config.data, VOCABULARY))
    if is_own(path):
        vectors = from_kept(check_own(path, manifest, config.model.embedding_dim), vocabulary)
    else:
        print(f"vectors    reading {path}", flush=True)
        vectors = from_file(path, vocabulary, config.model.embedding_dim)
    return started(vectors, vectors.facts["format"])


def started(vectors: StartVectors, what: str) -> Start:
    """A start from these vectors."""
    return Start(vectors, vectors.facts, Choice(vectors.facts["source"], f"{what}; {coverage(vectors.facts)}"))


def fallback(config: RunConfig) -> Path | None:
    """Where vectors are kept if not beside the dataset: the run directory, when the dataset cannot be written to."""
    folder = folder_of(config.data)
    there = folder if folder.exists() else Path(config.data)
    return None if os.access(there, os.W_OK) else Path(config.run, layout.VECTORS)


def resumed(facts: dict[str, Any] | None) -> Start:
    """What a run that goes on remembers; the vectors are in its weights and are not read again."""
    if facts is None:
        return Start()
    return Start(facts=facts, choice=Choice(facts["source"], f"the run began with them; {coverage(facts)}"))


SOFT_LABELS = "soft_labels"


@dataclass(frozen=True)
class Teaching:
    """Soft labels by split, as a ``Loader`` takes them; everything is None or empty where there are none."""

    targets: Mapping[str, np.ndarray]
    facts: dict[str, Any] | None = None
    """What is remembered of them in checkpoints and in the bundle."""
    choice: Choice | None = None
    """For the first lines of the run."""

    @property
    def remembered(self) -> dict[str, dict[str, Any] | None]:
        """What checkpoints and the bundle hold of it."""
        return {} if self.facts is None else {SOFT_LABELS: self.facts}

    def choices(self) -> Iterator[tuple[str, Choice]]:
        """For the first lines of the run."""
        if self.choice is not None:
            yield "soft labels", self.choice

    def counted_beside(self, splits: Mapping[str, Split]) -> Split | None:
        """The unlabelled rows that the wide part counts its features on too: where it learns from them."""
        return splits[UNLABELLED] if UNLABELLED in self.targets else None


def read_teaching(config: RunConfig, manifest: Manifest, splits: Mapping[str, Split]) -> Teaching:
    """Read the soft labels that ``config`` asks for; every rank does. Raises ``ConfigError`` or ``DataError``."""
    found = open_soft_labels(config, manifest)
    if found is None:
        return Teaching({})
    targets = targets_of(found, splits[UNLABELLED])
    return Teaching({UNLABELLED: targets}, found.facts, Choice(str(found.path), found.in_words))
