# SPDX-License-Identifier: Apache-2.0
"""Initial state of a run: pretrained weights, word vectors, soft labels of unlabelled rows.

Only rank 0 reads weights and vectors; DDP sends its weights to the other ranks. A resumed run loads its checkpoint
instead.

Learning word vectors takes minutes, and no rank may wait that long in a collective (law 7). So rank 0 starts a
subprocess, ``padless vectors``, and the ranks synchronise every second until it ends. A stop request to
any rank also stops the subprocess.
"""

from __future__ import annotations

import signal
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
from preprocessing.base.errors import ERRORS
from preprocessing.base.processes import Child
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.terminal import tell
from preprocessing.dataset.shards import VOCABULARY, Manifest, Split
from preprocessing.dataset.vectors import find_kept, folder_of
from preprocessing.text.vocabulary import Vocabulary

VECTORS, STARTED_FROM, SOFT_LABELS = "vectors", "started_from", "soft_labels"
"""Keys of the facts in checkpoints and bundles."""
LOOK_EVERY_S = 1.0
HELD_S = 20.0
"""A learning process that was suspended (SIGSTOP) for this long is killed."""


@dataclass
class Beginning:
    """Initial state of a run; ``vectors`` and ``weights`` only on rank 0 of a new run."""

    vectors: StartVectors | None = None
    weights: StartWeights | None = None
    targets: np.ndarray | None = None
    """Soft labels of the unlabelled rows, in the format of ``Loader``."""
    facts: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    """Facts for checkpoints and the bundle; those of weights on every rank."""
    choices: dict[str, Choice] = field(default_factory=dict)
    """For the settings printed at the start."""
    interrupted: bool = False
    """A rank received a stop request while vectors were learned; true on every rank: do not train or save."""

    def put_into(self, network: AnyNetwork, std: float) -> None:
        """Load vectors, then weights, into a network; for a token in both, the weights win. ``std``:
        ``model.embedding_std``.
        """
        if self.vectors is not None:
            self.vectors.put_into(network.embedding, std)
        if self.weights is not None:
            self.weights.put_into(network)

    def note(self, name: str, key: str, facts: dict[str, Any] | None, how: str) -> None:
        """Store ``facts`` under ``key``, and a line for the start with ``how`` they were obtained."""
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
    """The initial state of a run; with the ``state`` of its checkpoint, only the facts and the soft labels.

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
    """Put the word vectors of a new run into ``found`` on rank 0: kept from before, read from a file, or learned now.

    Also note there why there are none, or that a rank received a stop request.
    """
    source, learning = config.init.vectors, None
    if source == "none":
        return
    with world.together("looking for word vectors"):
        if world.is_main and source == "own":
            found.vectors = kept_vectors(config, manifest)
            if found.vectors is None and config.dry_run:
                found.choices["vectors"] = Choice(
                    "random", "a dry run learns none; the run itself does before its first step"
                )
            elif found.vectors is None:
                learning = learn(config)
    found.interrupted = wait_for(learning, world)
    if found.interrupted:
        return
    with world.together("reading word vectors"):
        if learning is not None:
            if code := learning.returncode:
                raise ERRORS.get(code, RankError)(f"init.vectors: exit code {code}; the output above gives the reason")
            found.vectors = kept_vectors(config, manifest)
        elif world.is_main and is_own(source):
            found.vectors = from_kept(check_own(source, manifest, config.model.embedding_dim), vocabulary_of(config))
        elif world.is_main and source != "own":
            print(f"vectors    reading {source}", flush=True)
            found.vectors = from_file(source, vocabulary_of(config), config.model.embedding_dim)


def kept_vectors(config: RunConfig, manifest: Manifest) -> StartVectors | None:
    """Vectors learned earlier from the dataset's texts, kept beside the dataset or in the run directory."""
    for folder in (folder_of(config.data), Path(config.run, layout.VECTORS)):
        kept = find_kept(folder, manifest.fingerprint, config.model.embedding_dim)
        if kept is not None:
            return from_kept(kept, vocabulary_of(config))
    return None


def learn(config: RunConfig) -> Child:
    """``padless vectors`` as a subprocess, with the same stdout and stderr."""
    output = layout.kept_in(config.data, config.run, layout.VECTORS)
    dim = str(config.model.embedding_dim)
    return Child("-m", "preprocessing", "vectors", config.data, "--dim", dim, "--output", str(output))


def wait_for(learning: Child | None, world: World) -> bool:
    """Synchronise the ranks until the subprocess ends; returns whether a rank received a stop request before that.

    Kills it if it was suspended for ``HELD_S``.
    """
    running, held_s = False, 0.0
    try:
        while True:
            if learning is not None:
                running = learning.running(LOOK_EVERY_S)
                held_s = held_s + LOOK_EVERY_S if processes.held(learning.pid) else 0.0
                if held_s >= HELD_S:
                    tell(f"init.vectors: the process that learns them was suspended for {HELD_S:.0f} s; run it again")
                    learning.kill()
            failed = learning is not None and bool(learning.returncode)  # Ctrl-C reaches it too
            mine = np.array([running, failed, stopping.received() is not None]).astype(np.int64)
            busy, broken, stop = np.atleast_1d(world.gather_numbers(mine, "word vectors that are learned").any(axis=0))
            if stop and (busy or broken):
                return True
            if not busy:
                return False
    finally:  # also when another rank is lost
        if learning is not None:
            learning.stop(signal.SIGINT, signal.SIGKILL)
