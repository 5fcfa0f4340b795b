# SPDX-License-Identifier: Apache-2.0
"""How many numbers a classifier learns, from its configuration alone: known before torch is imported."""

from __future__ import annotations

from harness.config import ModelConfig
from harness.model.registry import CELLS, POOLINGS, check_model


def num_parameters(shape: ModelConfig, vocabulary_size: int, num_classes: int) -> int:
    """Numbers that training changes: those of the network and of the wide part."""
    check_model(shape)
    directions = 2 if shape.bidirectional else 1
    gates, pooling = CELLS[shape.cell].gates, POOLINGS[shape.pooling]
    total, size = vocabulary_size * shape.embedding_dim, shape.embedding_dim
    for _ in range(shape.num_layers):
        total += directions * gates * shape.hidden_size * (size + shape.hidden_size + 2)
        size = directions * shape.hidden_size
    pooled = size * pooling.vectors
    total += pooling.parameters(size)
    outputs = 1 if num_classes == 2 else num_classes
    wide = outputs * (shape.wide + 1) if shape.wide else 0
    return total + outputs * (pooled + 1) + wide
