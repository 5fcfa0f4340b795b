# SPDX-License-Identifier: Apache-2.0
"""Adversarial training, beside law 4's plain form of it: what loss scaling does to it."""

from __future__ import annotations

import copy

import torch

from harness.batch import Batch
from harness.config import ModelConfig
from harness.model.classifier import Adversary, Classifier, Objective
from tests.batches import padded_batch

WORDS, DIM = 40, 6
LENGTHS = [9, 7, 7, 2, 1]
COUNTS = torch.arange(WORDS).double()


BATCH = padded_batch(LENGTHS, WORDS)


def make_objective() -> Objective:
    torch.manual_seed(2)
    shape = ModelConfig(embedding_dim=DIM, hidden_size=5, pooling="max+mean")
    classifier = Classifier(shape, WORDS).double()
    return Objective(classifier, seed=4, adversary=Adversary(2.0, COUNTS))


def gradients(objective: Objective, batch: Batch) -> dict[str, torch.Tensor]:
    """What a step learns from a batch, beside its loss."""
    objective = copy.deepcopy(objective)
    loss = objective(batch, 3)
    loss.backward()
    return {"loss": loss.detach()} | {name: held.grad for name, held in objective.named_parameters()}


def test_loss_scaling_changes_nothing_else() -> None:
    """Gradients are scaled on their way back and unscaled at once, rows and their number whatever they are."""

    class Scaler:
        """In the place of ``GradScaler``, which wants CUDA."""

        def scale(self, loss: torch.Tensor) -> torch.Tensor:
            return loss * 65536.0

    objective = make_objective()
    expected = gradients(objective, BATCH)
    assert objective.adversary is not None
    objective.adversary.scaler = Scaler()  # type: ignore[assignment]
    for name, found in gradients(objective, BATCH).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-12, msg=name)
