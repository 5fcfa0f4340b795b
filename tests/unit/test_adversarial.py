# SPDX-License-Identifier: Apache-2.0
"""Adversarial training, beside law 4's plain form of it: random directions, one backward pass, loss scaling."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from harness.batch import Batch
from harness.config import ModelConfig, OptimConfig, RunConfig
from harness.data.checks import check_learning
from harness.model.adversarial import Adversary
from harness.model.classifier import Classifier, Objective
from harness.model.dropout import Masks
from preprocessing.base.errors import ConfigError
from tests.batches import packed_batch, padded_batch

WORDS, DIM = 40, 6
LENGTHS = [9, 7, 7, 2, 1]
COUNTS = torch.arange(WORDS).double()


BATCH = padded_batch(LENGTHS, WORDS)


def make_objective(**optim: Any) -> Objective:
    torch.manual_seed(2)
    shape = ModelConfig(embedding_dim=DIM, hidden_size=5, pooling="max+mean")
    classifier = Classifier(shape, WORDS).double()
    return Objective(classifier, seed=4, adversary=Adversary(OptimConfig(**optim), COUNTS))


def gradients(objective: Objective, batch: Batch) -> dict[str, torch.Tensor]:
    """What a step learns from a batch, beside its loss."""
    objective = copy.deepcopy(objective)
    loss = objective(batch, 3)
    loss.backward()
    return {"loss": loss.detach()} | {name: held.grad for name, held in objective.named_parameters()}


def test_random_directions() -> None:
    """The same of each row in both layouts, other ones in another step, half of them up."""
    classifier = make_objective(virtual_adversarial=1.0).classifier

    def drawn(batch: Batch, step: int) -> torch.Tensor:
        return classifier.embed(batch).signs(Masks.of(1, step, batch.rows, batch.ids.device))

    real = torch.arange(LENGTHS[0])[:, None] < torch.tensor(LENGTHS)
    assert torch.equal(drawn(BATCH, 0)[real], drawn(packed_batch(BATCH), 0))
    assert not torch.equal(drawn(BATCH, 0), drawn(BATCH, 1))
    many = Masks.of(0, 0, np.arange(200), torch.device("cpu")).signs(None, torch.arange(10), 130, torch.float32)
    assert set(many.unique().tolist()) == {-1.0, 1.0}
    assert abs(many.mean().item()) < 0.01


def test_gradients_arrive_once() -> None:
    """DDP sends a gradient when it is added to a parameter: once, in the backward pass of the loss and not before."""
    objective = make_objective(adversarial=2.0, virtual_adversarial=1.0)
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

    objective = make_objective(adversarial=2.0, virtual_adversarial=1.0)
    expected = gradients(objective, BATCH)
    assert objective.adversary is not None
    objective.adversary.scaler = Scaler()  # type: ignore[assignment]
    for name, found in gradients(objective, BATCH).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-12, msg=name)


def test_a_language_model_has_no_labels() -> None:
    with pytest.raises(ConfigError, match=r"optim\.adversarial: a language model learns from all rows"):
        check_learning(RunConfig(task="language_model", optim=OptimConfig(adversarial=1.0)))


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.adversarial_weight: 2\.0 is .* 1 while optim\.adversarial is null"):
        OptimConfig(adversarial_weight=2.0)
