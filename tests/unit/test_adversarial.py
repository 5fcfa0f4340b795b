# SPDX-License-Identifier: Apache-2.0
"""Adversarial training with loss scaling; law 4's test compares it with a plain implementation."""

from __future__ import annotations

import copy

import torch

from harness.config import ModelConfig
from harness.model.classifier import Adversary, Classifier, Objective
from tests.batches import padded_batch


def gradients(objective: Objective) -> dict[str, torch.Tensor]:
    """The loss of a batch, and its gradients."""
    objective = copy.deepcopy(objective)
    loss = objective(padded_batch([9, 7, 7, 2, 1], 40), 3)
    loss.backward()
    return {"loss": loss.detach()} | {name: held.grad for name, held in objective.named_parameters()}


def test_loss_scaling_changes_nothing_else() -> None:
    """The scaled gradients are unscaled at once, whatever the rows and their number."""

    class Scaler:
        """Replaces ``GradScaler``, which needs CUDA."""

        def scale(self, loss: torch.Tensor) -> torch.Tensor:
            return loss * 65536.0

    torch.manual_seed(2)
    shape = ModelConfig(embedding_dim=6, hidden_size=5, pooling="max+mean")
    objective = Objective(Classifier(shape, 40).double(), seed=4, adversary=Adversary(2.0, torch.arange(40).double()))
    expected = gradients(objective)
    assert objective.adversary is not None
    objective.adversary.scaler = Scaler()  # type: ignore[assignment]
    for name, found in gradients(objective).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-12, msg=name)
