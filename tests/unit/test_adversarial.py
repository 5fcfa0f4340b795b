# SPDX-License-Identifier: Apache-2.0
"""Adversarial training, beside law 4's plain form of it: one backward pass, loss scaling, what is refused."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch

from harness.batch import Batch
from harness.config import ModelConfig, OptimConfig, RunConfig
from harness.data.checks import check_learning
from harness.model.classifier import Adversary, Classifier, Objective
from preprocessing.base.errors import ConfigError
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


def test_gradients_arrive_once() -> None:
    """DDP sends a gradient when it is added to a parameter: once, in the backward pass of the loss and not before."""
    objective = make_objective()
    arrived = Counter[str]()
    for name, held in objective.named_parameters():
        held.register_post_accumulate_grad_hook(lambda _, name=name: arrived.update([name]))
    loss = objective(BATCH, 3)
    assert not arrived
    loss.backward()
    assert arrived == dict.fromkeys(dict(objective.named_parameters()), 1)


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


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.adversarial: a language model learns from all rows"):
        check_learning(RunConfig(task="language_model", optim=OptimConfig(adversarial=1.0)))
