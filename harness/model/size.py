# SPDX-License-Identifier: Apache-2.0
"""How many numbers a network learns, from its configuration alone: known before torch is imported."""

from __future__ import annotations

from harness.config import ModelConfig, RunConfig
from harness.model.registry import CELLS, POOLINGS, check_model
from harness.settings.task import LANGUAGE_MODEL
from preprocessing.dataset.shards import Manifest


def num_parameters(shape: ModelConfig, vocabulary_size: int, num_classes: int) -> int:
    """Numbers that training changes: those of the network and of the wide part."""
    check_model(shape)
    directions = 2 if shape.bidirectional else 1
    gates, pooling = CELLS[shape.cell].gates, POOLINGS[shape.pooling]
    size = directions * shape.hidden_size
    inputs = shape.embedding_dim + (shape.num_layers - 1) * size  # those of all layers together
    total = vocabulary_size * shape.embedding_dim
    total += directions * gates * shape.hidden_size * (inputs + shape.num_layers * (shape.hidden_size + 2))
    pooled = size * pooling.vectors
    total += pooling.parameters(size)
    outputs = 1 if num_classes == 2 else num_classes
    wide = outputs * (shape.wide + 1) if shape.wide else 0
    return total + outputs * (pooled + 1) + wide


def language_model_parameters(shape: ModelConfig, vocabulary_size: int) -> int:
    """Numbers that a pretraining changes: embedding, first recurrent layer, projections, a bias for each token."""
    check_model(shape)
    directions = 2 if shape.bidirectional else 1
    size, hidden = shape.embedding_dim, shape.hidden_size
    layer = CELLS[shape.cell].gates * hidden * (size + hidden + 2)
    return vocabulary_size * (size + 1) + directions * (layer + size * hidden)


def parameters_of(config: RunConfig, manifest: Manifest) -> int:
    """Numbers that a run learns, whatever its task."""
    if config.task == LANGUAGE_MODEL:
        return language_model_parameters(config.model, manifest.vocabulary_size)
    return num_parameters(config.model, manifest.vocabulary_size, len(manifest.labels))
