# SPDX-License-Identifier: Apache-2.0
"""Initial state of a run: pretrained weights, word vectors, soft labels of unlabelled rows.

Only rank 0 reads weights and vectors; DDP sends its weights to the other ranks. A resumed run loads its checkpoint
instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
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
from harness.ranks.distributed import World
from harness.ranks.precision import Choice
from harness.rundir import layout
from preprocessing.base.split_names import UNLABELLED
from preprocessing.dataset.shards import VOCABULARY, Manifest, Split
from preprocessing.dataset.vectors import VectorsConfig, find_kept, folder_of, keep_vectors
from preprocessing.dataset.views import home_of
from preprocessing.text.vocabulary import Vocabulary

VECTORS, STARTED_FROM, SOFT_LABELS = "vectors", "started_from", "soft_labels"
"""Keys of the facts in checkpoints and bundles."""


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
    with world.together("word vectors"):
        if world.is_main:
            find_vectors(config, manifest, found)
    facts = None if found.vectors is None else found.vectors.facts
    found.note("vectors", VECTORS, facts, facts["format"] if facts else "")
    return found


def vocabulary_of(config: RunConfig) -> Vocabulary:
    return Vocabulary.read(home_of(config.data) / VOCABULARY)


def find_vectors(config: RunConfig, manifest: Manifest, found: Beginning) -> None:
    """Put the word vectors of a new run into ``found``: kept from before, read from a file, or learned now. Also note
    there why there are none.
    """
    source, dim = config.init.vectors, config.model.embedding_dim
    say = (lambda text: None) if config.quiet else partial(print, flush=True)
    if source == "own":
        found.vectors = kept_vectors(config, manifest)
        if found.vectors is None and not config.dry_run:
            place = str(layout.kept_in(config.data, config.run, layout.VECTORS))
            keep_vectors(config.data, VectorsConfig(dim=dim, output=place), say)
            found.vectors = kept_vectors(config, manifest)
        if found.vectors is None:
            why = "a dry run learns none; the run itself does before its first step"
            found.choices["vectors"] = Choice(
                "random", why if config.dry_run else "words have no neighbours that differ"
            )
    elif is_own(source):
        found.vectors = from_kept(check_own(source, manifest, dim), vocabulary_of(config))
    elif source != "none":
        say(f"vectors    reading {source}")
        found.vectors = from_file(source, vocabulary_of(config), dim)


def kept_vectors(config: RunConfig, manifest: Manifest) -> StartVectors | None:
    """Vectors learned earlier from the dataset's texts, kept beside the dataset or in the run directory."""
    for folder in (folder_of(config.data), Path(config.run, layout.VECTORS)):
        kept = find_kept(folder, manifest.fingerprint, config.model.embedding_dim)
        if kept is not None and kept.info.words:
            return from_kept(kept, vocabulary_of(config))
    return None
