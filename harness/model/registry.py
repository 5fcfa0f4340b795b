# SPDX-License-Identifier: Apache-2.0
"""The registry of poolings, and the name and shape of every tensor of a network, without torch.

``plan`` and the launcher use them to check the name and count parameters, and a bundle's file is checked against the
shapes before a network is built. A new pooling needs a line here and a separate file; see docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from harness.config import CLASSIFIER, LANGUAGE_MODEL, ModelConfig, RunConfig, Task
from preprocessing.base.errors import require
from preprocessing.dataset.shards import Manifest

Shapes = dict[str, tuple[int, ...]]
"""Name -> shape of each tensor."""
SHARED_UP_TO = 2
"""Longest n-grams of the wide part that share buckets, in words; see ``harness.model.wide``."""
OWNERS = "wide.owners"
"""The only integer tensor."""
NOT_LEARNED = ("wide.weights", "wide.share", OWNERS)
"""Tensors that training steps do not change."""


@dataclass(frozen=True, kw_only=True)
class PoolingEntry:
    """One pooling."""

    code: str
    """``module:class`` of a ``harness.model.pooling.Pooling``."""
    vectors: int = 1
    """Size of the pooled vector, as a multiple of the outputs' size."""
    shapes: Callable[[int], Shapes] = lambda size: {}
    """Shapes of its parameters, for an outputs' size."""


POOLINGS = {
    "last": PoolingEntry(code="harness.model.pooling:Last"),
    "max": PoolingEntry(code="harness.model.pooling:Maximum"),
    "mean": PoolingEntry(code="harness.model.pooling:Mean"),
    "max+mean": PoolingEntry(code="harness.model.pooling:MaximumAndMean", vectors=2),
}
GATES = 4
"""Of an LSTM."""


def check_model(config: ModelConfig) -> None:
    """Raise ``ConfigError`` for an unknown pooling; the message lists the known ones."""
    require(config.pooling in POOLINGS, "model.pooling", config.pooling, f"one of {', '.join(POOLINGS)}")


def network_shapes(config: ModelConfig, vocabulary_size: int, num_classes: int, task: Task = CLASSIFIER) -> Shapes:
    """Shape of every tensor of a task's network, buffers included, by its name in the ``state_dict``."""
    check_model(config)
    embedding, hidden = config.embedding_dim, config.hidden_size
    directions = 2 if config.bidirectional else 1
    size = directions * hidden
    shapes: Shapes = {"embedding.weight": (vocabulary_size, embedding)}
    for number in range(1 if task == LANGUAGE_MODEL else config.num_layers):
        shapes |= layer_shapes(config, number, size if number else embedding)
    if task == LANGUAGE_MODEL:
        shapes |= {f"language_model.projection.{number}.weight": (embedding, hidden) for number in range(directions)}
        return shapes | {"language_model.bias": (vocabulary_size,)}
    pooling = POOLINGS[config.pooling]
    outputs = 1 if num_classes == 2 else num_classes
    shapes |= {f"pooling.{name}": shape for name, shape in pooling.shapes(size).items()}
    shapes |= {"head.weight": (outputs, size * pooling.vectors), "head.bias": (outputs,)}
    if config.wide:
        shapes |= {"wide.table": (config.wide, outputs), "wide.bias": (outputs,)}
        shapes |= {"wide.weights": (config.wide,), "wide.share": ()}
        shapes |= {OWNERS: (config.wide,)} if config.wide_ngrams > SHARED_UP_TO else {}
    return shapes


def layer_shapes(config: ModelConfig, number: int, inputs: int) -> Shapes:
    rows, hidden = GATES * config.hidden_size, config.hidden_size
    shapes = {"weight_ih": (rows, inputs), "weight_hh": (rows, hidden), "bias_ih": (rows,), "bias_hh": (rows,)}
    return {
        f"recurrent.layers.{number}.{name}_l0{direction}": shape
        for direction in ("", "_reverse")[: 2 if config.bidirectional else 1]
        for name, shape in shapes.items()
    }


def num_parameters(config: ModelConfig, vocabulary_size: int, num_classes: int, task: Task = CLASSIFIER) -> int:
    """Number of trained parameters, of network and wide part."""
    shapes = network_shapes(config, vocabulary_size, num_classes, task)
    return sum(prod(shape) for name, shape in shapes.items() if name not in NOT_LEARNED)


def parameters_of(config: RunConfig, manifest: Manifest) -> int:
    """Number of trained parameters of a run."""
    return num_parameters(config.model, manifest.vocabulary_size, len(manifest.labels), config.task)
