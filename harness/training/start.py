# SPDX-License-Identifier: Apache-2.0
"""What a run begins with, beside the seed: other weights, word vectors, soft labels of unlabelled rows.

Rank 0 alone reads weights and vectors; the other ranks get all weights from it when the model is wrapped. A run that
goes on has them in its checkpoint, and reads neither again.

Learning word vectors takes minutes, which no rank may spend in a collective (law 7). So a process of its own learns,
``python -m preprocessing vectors``, and the ranks meet every second until it has ended. It is told to stop when a rank
is.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import RunConfig
from harness.data.checks import open_soft_labels
from harness.data.soft_labels import targets_of
from harness.model.networks import AnyNetwork
from harness.model.starts import (
    WIDE,
    StartVectors,
    StartWeights,
    check_own,
    coverage,
    describe_weights,
    find_donor,
    from_file,
    from_kept,
    is_own,
    weights_of,
)
from harness.ranks import stopping
from harness.ranks.distributed import RankError, World
from harness.ranks.precision import Choice
from harness.rundir import layout
from preprocessing.base import processes
from preprocessing.base.errors import ConfigError, DataError, StorageError, UserError
from preprocessing.base.split_names import UNLABELLED
from preprocessing.dataset.shards import VOCABULARY, Manifest, Split
from preprocessing.dataset.vectors import find_kept, folder_of
from preprocessing.text.vocabulary import Vocabulary

VECTORS, STARTED_FROM, SOFT_LABELS = "vectors", "started_from", "soft_labels"
"""What checkpoints and bundles call the facts."""
LOOK_EVERY_S = 1.0
HELD_S = 20.0
"""For how long the learning process must have been stopped (SIGSTOP) to be given up."""
STOP_S = 5.0
"""Longest wait for the learning process to clean up."""
ERRORS: dict[int, type[UserError]] = {error.exit_code: error for error in (ConfigError, DataError, StorageError)}


@dataclass
class Beginning:
    """What a run begins with; vectors and weights on rank 0 alone, and not where a run goes on."""

    vectors: StartVectors | None = None
    weights: StartWeights | None = None
    targets: np.ndarray | None = None
    """Soft labels of the unlabelled rows, as a ``Loader`` takes them."""
    facts: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    """What checkpoints and the bundle remember of it; of weights, on every rank."""
    choices: dict[str, Choice] = field(default_factory=dict)
    """For the first lines of the run."""
    interrupted: bool = False
    """Some rank was told to stop while vectors were learned: on every rank, nothing may be trained or saved."""

    @property
    def has_wide(self) -> bool:
        """Whether the wide part is that of the weights, and so has weighed its features already."""
        return WIDE in (self.facts.get(STARTED_FROM) or {}).get("taken", ())

    def put_into(self, network: AnyNetwork, std: float) -> None:
        """Give a network, whose weights were drawn from the seed, what it begins with; tokens of the weights have
        theirs and no vectors. ``std``: ``model.embedding_std``.
        """
        if self.vectors is not None:
            self.vectors.put_into(network.embedding, std)
        if self.weights is not None:
            self.weights.put_into(network)

    def note(self, name: str, key: str, facts: dict[str, Any] | None, how: str) -> None:
        """Remember ``facts`` under ``key``, and say ``how`` it came to them, where there are any."""
        if facts is not None or key == VECTORS:
            self.facts[key] = facts
        if facts is not None:
            self.choices[name] = Choice(facts["source"], f"{how}; {coverage(facts)}")


def begin(
    config: RunConfig,
    manifest: Manifest,
    splits: Mapping[str, Split],
    world: World,
    state: Mapping[str, Any] | None = None,
) -> Beginning:
    """What a run begins with, or, given the ``state`` of its checkpoint, began with.

    Every rank calls it; raises the same ``UserError`` on all.
    """
    found = Beginning()
    with world.together("reading soft labels"):
        soft = open_soft_labels(config, manifest)
        if soft is not None:
            found.targets = targets_of(soft, splits[UNLABELLED])
            found.facts[SOFT_LABELS] = soft.facts
            found.choices["soft labels"] = Choice(str(soft.path), soft.in_words)
    if state is not None:
        found.note("weights", STARTED_FROM, state.get(STARTED_FROM), "the run began with them")
        found.note("vectors", VECTORS, state.get(VECTORS), "the run began with them")
        return found
    with world.together("reading the weights to start from"):
        if world.is_main and config.init.weights:
            donor = find_donor(config.init.weights, config.model)
            found.weights = weights_of(donor, config.model, vocabulary_of(config), manifest)
    known = world.from_main(None if found.weights is None else found.weights.facts, "the weights to start from")
    found.note("weights", STARTED_FROM, known, describe_weights(known) if known else "")
    find_vectors(config, manifest, world, found)
    facts = None if found.vectors is None else found.vectors.facts
    found.note("vectors", VECTORS, facts, facts["format"] if facts else "")
    return found


def vocabulary_of(config: RunConfig) -> Vocabulary:
    return Vocabulary.read(Path(config.data, VOCABULARY))


def find_vectors(config: RunConfig, manifest: Manifest, world: World, found: Beginning) -> None:
    """Put word vectors for a run that begins into ``found``, on rank 0: those that are there, read or learned.

    Why there are none, or that some rank was told to stop, is noted there too.
    """
    source, learning = config.init.vectors, None
    if source == "none":
        return
    with world.together("looking for word vectors"):
        if world.is_main and source == "own":
            found.vectors = kept_vectors(config, manifest)
            if found.vectors is None and config.dry_run:
                why = "a dry run learns none; the run itself does before its first step"
                found.choices["vectors"] = Choice("random", why)
            elif found.vectors is None and importlib.util.find_spec("gensim") is None:
                why = "gensim, which learns vectors of the texts, is not installed: pip install 'padless[vectors]'"
                found.choices["vectors"] = Choice("random", why)
            elif found.vectors is None:
                folder = folder_of(config.data)
                writable = os.access(folder if folder.exists() else config.data, os.W_OK)
                output = None if writable else Path(config.run, layout.VECTORS)
                learning = Learning(config.data, config.model.embedding_dim, output)
    found.interrupted = wait_for(learning, world)
    if found.interrupted:
        return
    with world.together("reading word vectors"):
        if learning is not None:
            learning.end()
            found.vectors = kept_vectors(config, manifest)
        elif world.is_main and is_own(source):
            found.vectors = from_kept(check_own(source, manifest, config.model.embedding_dim), vocabulary_of(config))
        elif world.is_main and source != "own":
            print(f"vectors    reading {source}", flush=True)
            found.vectors = from_file(source, vocabulary_of(config), config.model.embedding_dim)


def kept_vectors(config: RunConfig, manifest: Manifest) -> StartVectors | None:
    """Those that were learned from the dataset's texts before, beside the dataset or in the run directory."""
    for folder in (folder_of(config.data), Path(config.run, layout.VECTORS)):
        kept = find_kept(folder, manifest.fingerprint, config.model.embedding_dim)
        if kept is not None:
            return from_kept(kept, vocabulary_of(config))
    return None


class Learning:
    """``python -m preprocessing vectors`` beside this process; what it prints is seen at once."""

    def __init__(self, data: str, dim: int, output: Path | None) -> None:
        """It begins; ``output``: where the dataset cannot be written to, the folder that vectors are kept in."""
        command = [sys.executable, "-m", "preprocessing", "vectors", data, "--dim", str(dim)]
        command += [] if output is None else ["--output", str(output)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.held_s = 0.0

    def running(self, wait_s: float) -> bool:
        """Whether it still learns after at most ``wait_s`` seconds. One that is stopped is ended after a while."""
        try:
            self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.held_s = self.held_s + wait_s if processes.held(self.process.pid) else 0.0
            if self.held_s >= HELD_S:
                self.process.kill()
            return True
        return False

    def stop(self) -> None:
        """End it if it still learns; it removes what it has not finished."""
        if self.running(0):
            self.process.send_signal(signal.SIGINT)
            if self.running(STOP_S):
                self.process.kill()
                self.running(STOP_S)  # one that hangs in the kernel is left behind

    def end(self) -> None:
        """It has ended. Raises an error with its exit code if it could not do it."""
        code = self.process.returncode
        if code:
            stopped = f"its process was stopped for {self.held_s:.0f} s; run it again"
            reason = stopped if self.held_s >= HELD_S else f"exit code {code}; what it printed says why"
            raise ERRORS.get(code, RankError)(f"init.vectors: learning word vectors: {reason}")


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
