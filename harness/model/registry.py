# SPDX-License-Identifier: Apache-2.0
"""The registry of poolings, and the number of parameters of a network, without torch.

The launcher uses them, and a bundle is checked before its network is built. A new pooling needs a line here
and a separate file; see docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.config import CLASSIFIER, LANGUAGE_MODEL, ModelConfig, RunConfig, Task
from harness.rundir.bundle_files import BundleInfo
from padless.core.errors import require
from preprocessing.dataset.shards import Manifest

SHARED_UP_TO = 2
"""Longest n-grams of the linear part that share buckets, in words; see ``harness.model.linear_part``."""


@dataclass(frozen=True, kw_only=True)
class PoolingEntry:
    """One pooling."""

    code: str
    """``module:class`` of a ``harness.model.pooling.Pooling``."""
    vectors: int = 1
    """Size of the pooled vector, as a multiple of the outputs' size."""
    parameters: Callable[[int], int] = lambda size: 0
    """Number of its parameters, for an outputs' size."""


POOLINGS = {
    "last": PoolingEntry(code="harness.model.pooling:Last"),
    "max+mean": PoolingEntry(code="harness.model.pooling:MaximumAndMean", vectors=2),
}
GATES = 4
"""Of an LSTM."""


def check_model(config: ModelConfig) -> None:
    """Raise ``ConfigError`` for an unknown pooling; the message lists the known ones."""
    require(config.pooling in POOLINGS, "model.pooling", config.pooling, f"one of {', '.join(POOLINGS)}")


def num_outputs(labelled: Manifest | BundleInfo) -> int:
    """Logits of a row: one for two classes, of which a text has one, else one for each class."""
    num_classes = len(labelled.labels)
    return 1 if num_classes == 2 and not labelled.has_label_sets else num_classes


def num_parameters(config: ModelConfig, vocabulary_size: int, outputs: int, task: Task = CLASSIFIER) -> int:
    """Number of trained parameters, of network and linear part."""
    check_model(config)
    embedding, hidden, directions = config.embedding_dim, config.hidden_size, 2 if config.bidirectional else 1
    size = directions * hidden
    inputs = [embedding, *[size] * (config.num_layers - 1)]
    layers = [directions * GATES * hidden * (width + hidden + 2) for width in inputs]  # two matrices, two biases
    if task == LANGUAGE_MODEL:
        return vocabulary_size * (embedding + 1) + layers[0] + size * embedding
    pooling = POOLINGS[config.pooling]
    head = pooling.parameters(size) + outputs * (size * pooling.vectors + 1)
    wide = outputs * (config.wide + 1) if config.wide else 0
    return vocabulary_size * embedding + sum(layers) + head + wide


def parameters_of(config: RunConfig, manifest: Manifest) -> int:
    """Number of trained parameters of a run."""
    return num_parameters(config.model, manifest.vocabulary_size, num_outputs(manifest), config.task)
