# SPDX-License-Identifier: Apache-2.0
"""The language model apart from law 4: its memory, its rows, and unusable settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.config import ModelConfig, RunConfig
from harness.model import language
from harness.model.language import LanguageModel, LanguageObjective
from harness.training import preflight
from harness.training.rules import resolve
from tests.batches import padded_batch
from tests.datasets import shared_dataset

data = shared_dataset({"train": 60, "validation": 20, "test": 10, "unlabelled": 40})


class Largest(TorchDispatchMode):
    """Records the largest result tensor of any operation, without oneDNN's workspace."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        sizes = [tensor.numel() for tensor in tensors if tensor.dtype != torch.uint8]
        self.elements = max(self.elements, *sizes, 0)
        return result


def test_memory_grows_with_vocabulary_plus_tokens_and_not_times(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary, dim, candidates = 1500, 5, 150
    monkeypatch.setattr(language, "CPU_ELEMENTS", 7000)
    model = LanguageModel(ModelConfig(embedding_dim=dim, hidden_size=4), vocabulary)
    objective = LanguageObjective(model, candidates=candidates)
    batch = padded_batch([60] * 10, vocabulary)
    objective(batch, 0)
    with Largest() as training:
        objective(batch, 0).backward()
    with Largest() as validation, torch.inference_mode():
        model.row_log_losses(batch)
    assert training.elements == vocabulary * dim  # the gradient of the embedding
    assert validation.elements <= vocabulary * dim
    assert vocabulary * dim < batch.num_tokens * candidates / 10


def test_one_recipe_serves_both_tasks(data: Path) -> None:
    """A pretraining uses the first layer of a classifier's model, and keys about labels have no effect."""
    model = replace(RunConfig().model, num_layers=3, wide="auto", pooling="mean")
    config = resolve(RunConfig(task="language_model", data=str(data), run="run", model=model)).config
    assert (config.model.num_layers, config.model.wide, config.model.pooling) == (1, 0, "mean")
    weights = replace(config.optim, class_weights={"nobody": 2.0})
    assert preflight.check_data(replace(config, optim=weights), 1).rows("train") == 100
