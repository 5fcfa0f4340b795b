# SPDX-License-Identifier: Apache-2.0
"""Dropout masks: values equal to the definition, the right rate. Adversarial training with loss scaling."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import torch

from harness.batch import Batch
from harness.config import ModelConfig
from harness.model.classifier import Adversary, Classifier, Objective
from harness.model.dropout import HEAD, LAYERS, SITE_BITS, masks_of
from tests.batches import padded_batch

WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def finalized(value: int) -> int:
    """splitmix64's finalizer in plain integers."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & WORD
    return value ^ (value >> 31)


def output(seed: int, step: int, row: int, site: int, place: int) -> int:
    """The 64 random bits of one element of a mask, from the definition; as signed integers, the lowest are dropped."""
    run = finalized((seed + GOLDEN) & WORD)
    key = finalized((row ^ finalized(((run ^ step) + GOLDEN) & WORD)) + GOLDEN & WORD)
    bits = finalized((key + ((site << SITE_BITS) + place + 1) * GOLDEN) & WORD)
    return (bits + 2**63) & WORD


def test_masks_have_the_values_of_their_definition() -> None:
    chance = 0.3
    rows = np.array([0, 3, 22_499, 2**40 + 1])
    for seed, step in ((7, 1), (2**63 - 1, 10**7)):
        batch = Batch(torch.ones(4, 1), torch.ones(4, dtype=torch.int64), torch.zeros(4), rows)
        mask = masks_of(seed, step, batch, {HEAD: 2, LAYERS + 1: 33}, chance, 0.0, torch.float64).keep[LAYERS + 1]
        for (place, row), feature in itertools.product(enumerate(rows.tolist()), range(33)):
            stays = output(seed, step, row, LAYERS + 1, feature) >= chance * 2**64
            assert mask[place, feature] == (1 / (1 - chance) if stays else 0)


def test_a_dropped_word_is_read_as_unknown() -> None:
    torch.manual_seed(0)
    model = Classifier(ModelConfig(embedding_dim=4, hidden_size=4, word_dropout=0.4), 20)
    ids = torch.randint(2, 20, (3, 12), dtype=torch.int32)
    rows = np.array([4, 9, 1])
    lengths, labels = torch.full((3,), 12), torch.zeros(3, dtype=torch.int64)
    batch = Batch(ids, lengths, labels, rows)
    masks = model.masks(0, 5, batch)
    replaced = ids.clone()
    for place, row in enumerate(rows.tolist()):
        for time in range(12):
            if output(0, 5, row, 0, time) < 0.4 * 2**64:
                replaced[place, time] = 1
    assert 0 < int((replaced != ids).sum()) < ids.numel()
    assert torch.equal(model(batch, masks), model(Batch(replaced, lengths, labels, rows)))


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
    objective.adversary.scaler = Scaler()  # type: ignore[assignment]
    for name, found in gradients(objective).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-12, msg=name)
