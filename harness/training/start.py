# SPDX-License-Identifier: Apache-2.0
"""What the weights of a run are before its first step, beside the seed: other weights, word vectors, their scale.

Rank 0 alone reads; the other ranks get all weights from it when the model is wrapped. A run that goes on has it all in
its checkpoint, and reads nothing again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.config import RunConfig
from harness.model.donor import WIDE, StartWeights, describe_weights, find_donor, weights_of
from harness.model.networks import AnyNetwork
from harness.model.vector_files import coverage
from harness.ranks.distributed import World
from harness.ranks.precision import Choice
from harness.training import vectors
from harness.training.vectors import start_vectors
from preprocessing.dataset.shards import VOCABULARY, Manifest
from preprocessing.text.vocabulary import Vocabulary

VECTORS, STARTED_FROM = "vectors", "started_from"
"""What the state of a checkpoint calls the facts."""


@dataclass(frozen=True)
class Beginning:
    """What the weights begin with; on ranks other than 0, and of a run that goes on, only what is known of it."""

    vectors: vectors.Start = field(default_factory=vectors.Start)
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
        return Beginning(vectors.resumed(state.get(VECTORS)), facts=state.get(STARTED_FROM))
    weights = None
    with world.together("reading the weights to start from"):
        if world.is_main and config.init.weights:
            vocabulary = Vocabulary.read(Path(config.data, VOCABULARY))
            weights = weights_of(find_donor(config.init.weights, config.model), config.model, vocabulary, manifest)
    facts = world.from_main(None if weights is None else weights.facts, "the weights to start from")
    return Beginning(start_vectors(config, manifest, world), weights, facts)
