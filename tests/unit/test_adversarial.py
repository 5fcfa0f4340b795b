# SPDX-License-Identifier: Apache-2.0
"""Adversarial and virtual adversarial training: which way a text is moved, how far, and what is learned from it."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from harness.batch import Batch
from harness.config import ModelConfig, OptimConfig, RunConfig
from harness.data.checks import check_learning
from harness.model.adversarial import Adversary, Passes, Reading, divergence, probabilities
from harness.model.classifier import Classifier, Objective
from harness.model.dropout import Masks
from harness.model.embedding import Embedded
from preprocessing.base.errors import ConfigError
from preprocessing.base.split_names import NO_LABEL

WORDS, DIM = 40, 6
LENGTHS = [9, 7, 7, 2, 1]
COUNTS = torch.arange(WORDS).double()


def make_batches(num_classes: int = 2) -> dict[str, Batch]:
    """The same five rows, padded and packed."""
    random = np.random.default_rng(1)
    lengths = torch.tensor(LENGTHS)
    padded = torch.zeros(len(LENGTHS), LENGTHS[0], dtype=torch.int32)
    for row, length in enumerate(LENGTHS):
        padded[row, :length] = torch.from_numpy(random.integers(2, WORDS, length))
    labels = torch.from_numpy(random.integers(0, num_classes, len(LENGTHS)))
    rows = np.arange(len(LENGTHS)) + 70
    real = torch.arange(LENGTHS[0])[:, None] < lengths
    return {
        "padded": Batch(padded, lengths, labels, rows),
        "packed": Batch(padded.t()[real], lengths, labels, rows, batch_sizes=real.sum(1)),
    }


def make_objective(num_classes: int = 2, dropout: float = 0.0, **optim: Any) -> Objective:
    torch.manual_seed(2)
    shape = ModelConfig(embedding_dim=DIM, hidden_size=5, pooling="max+mean", dropout=dropout, word_dropout=dropout)
    classifier = Classifier(shape, WORDS, num_classes).double()
    return Objective(classifier, seed=4, adversary=Adversary(OptimConfig(**optim), COUNTS))


def reading_of(objective: Objective, batch: Batch) -> Reading:
    classifier = objective.classifier
    embedded = classifier.embed(batch)

    def logits_of(vectors: torch.Tensor) -> torch.Tensor:
        return classifier.read_embedded(Embedded(vectors, batch.lengths, LENGTHS[0], embedded.index), batch)

    return Reading(
        embedded=embedded,
        logits_of=logits_of,
        parameters=list(classifier.above_embedding()),
        embedding=classifier.embedding.weight,
        keys=Masks.of(4, 3, batch.rows, batch.ids.device),
        coarse=False,
    )


def gradients(objective: Objective, batch: Batch) -> dict[str, torch.Tensor]:
    """What a step learns from a batch, beside its loss."""
    objective = copy.deepcopy(objective)
    loss = objective(batch, 3)
    loss.backward()
    return {"loss": loss.detach()} | {name: held.grad for name, held in objective.named_parameters()}


def of_each_row(vectors: torch.Tensor, batch: Batch) -> list[torch.Tensor]:
    """The numbers of each row, whatever the layout."""
    if batch.batch_sizes is None:
        return [vectors[:length, row] for row, length in enumerate(LENGTHS)]
    steps = vectors.split(batch.batch_sizes.tolist())
    return [torch.stack([step[row] for step in steps[:length]]) for row, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_move_has_the_radius(layout: str) -> None:
    """Over all tokens and features of a row; nothing moves in the padding."""
    batch = make_batches()[layout]
    embedded = make_objective(adversarial=1.0).classifier.embed(batch)
    for size in (1e-30, 1.0, 1e30):
        real = embedded.signs(Masks.of(0, 0, batch.rows, batch.ids.device))
        given = torch.randn_like(embedded.vectors) * real.abs() * size
        moved = embedded.normalised(given)
        for row, before in zip(of_each_row(moved, batch), of_each_row(given, batch), strict=True):
            torch.testing.assert_close(row, before / before.norm(), rtol=1e-12, atol=0)
        assert moved.square().sum().item() == pytest.approx(len(LENGTHS), rel=1e-12)


def test_random_directions() -> None:
    """The same of each row in both layouts, other ones in another step, half of them up."""
    batches = make_batches()
    classifier = make_objective(virtual_adversarial=1.0).classifier
    signs = {
        (layout, step): of_each_row(
            classifier.embed(batch).signs(Masks.of(1, step, batch.rows, batch.ids.device)), batch
        )
        for layout, batch in batches.items()
        for step in (0, 1)
    }
    for row in range(len(LENGTHS)):
        assert torch.equal(signs["padded", 0][row], signs["packed", 0][row])
        assert not torch.equal(signs["padded", 0][row], signs["padded", 1][row])
    many = Masks.of(0, 0, np.arange(200), torch.device("cpu")).signs(None, torch.arange(10), 130, torch.float32)
    assert set(many.unique().tolist()) == {-1.0, 1.0}
    assert abs(many.mean().item()) < 0.01


def test_the_adversary_raises_the_loss() -> None:
    """To first order by radius times the norm of the gradient, and more than a random direction."""
    objective = make_objective(adversarial=1.0)
    batch = make_batches()["padded"]
    reading = reading_of(objective, batch)
    passes = Passes(reading, None)
    before = objective.losses(reading.logits_of(passes.vectors), batch)
    gradient = passes.learn(before)
    direction = reading.embedded.normalised(gradient)
    norms = torch.stack([row.norm() for row in of_each_row(gradient, batch)])
    tiny = 1e-5
    with torch.no_grad():
        up, down = (
            objective.losses(reading.logits_of(passes.vectors + sign * tiny * direction), batch) for sign in (1, -1)
        )
    torch.testing.assert_close((up - down) / (2 * tiny), norms, rtol=1e-7, atol=0)
    random = reading.embedded.normalised(reading.embedded.signs(reading.keys))
    with torch.no_grad():
        aside = objective.losses(reading.logits_of(passes.vectors + tiny * random), batch)
    assert (up > aside).all()


def test_the_virtual_adversary_changes_the_prediction() -> None:
    """More than a random move does; and the gradient of the divergence is what the power iteration takes it for."""
    objective = make_objective(3, virtual_adversarial=1.0)
    batch = make_batches(3)["padded"]
    reading = reading_of(objective, batch)
    passes = Passes(reading, None)
    with torch.no_grad():
        clean = reading.logits_of(passes.vectors)
    adversary = objective.adversary
    assert adversary is not None
    move = adversary.virtual_direction(passes, clean, torch.ones((), dtype=torch.float64))
    random = reading.embedded.normalised(reading.embedded.signs(reading.keys))
    with torch.no_grad():
        most, aside = (divergence(clean, reading.logits_of(passes.vectors + part)) for part in (move, random))
    assert (most > aside).all()
    said = (clean + 0.3).requires_grad_()
    (gradient,) = torch.autograd.grad(divergence(clean, said).sum(), said)
    torch.testing.assert_close(gradient, probabilities(said.detach()) - probabilities(clean))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_packed_is_padded(num_classes: int) -> None:
    """Loss and every gradient, with dropout."""
    objective = make_objective(num_classes, 0.3, adversarial=2.0, virtual_adversarial=2.0)
    padded, packed = (gradients(objective, batch) for batch in make_batches(num_classes).values())
    for name, expected in padded.items():
        torch.testing.assert_close(packed[name], expected, rtol=0, atol=1e-11, msg=name)


def test_gradients_arrive_once() -> None:
    """DDP sends a gradient when it is added to a parameter: once, in the backward pass of the loss and not before."""
    objective = make_objective(adversarial=2.0, virtual_adversarial=1.0)
    arrived = Counter[str]()
    for name, held in objective.named_parameters():
        held.register_post_accumulate_grad_hook(lambda _, name=name: arrived.update([name]))
    loss = objective(make_batches()["padded"], 3)
    assert not arrived
    loss.backward()
    assert arrived == dict.fromkeys(dict(objective.named_parameters()), 1)


def test_rows_without_labels_are_moved_against_the_prediction() -> None:
    """Their loss is the virtual one of the same rows with labels; an adversary that needs labels leaves them alone."""
    batch = make_batches()["padded"]
    bare = replace(batch, labels=torch.full_like(batch.labels, NO_LABEL), labelled=False)
    both, labels = make_objective(adversarial=2.0, virtual_adversarial=1.0), make_objective(adversarial=2.0)
    virtual = gradients(both, bare)
    for name, found in gradients(both, batch).items():
        torch.testing.assert_close(found - gradients(labels, batch)[name], virtual[name], rtol=0, atol=1e-11, msg=name)
    assert virtual["loss"] > 0
    assert gradients(labels, bare)["loss"] == 0


def test_loss_scaling_changes_nothing_else() -> None:
    """Gradients are scaled on their way back and unscaled at once, rows and their number whatever they are."""

    class Scaler:
        """In the place of ``GradScaler``, which wants CUDA."""

        def scale(self, loss: torch.Tensor) -> torch.Tensor:
            return loss * 65536.0

    objective = make_objective(adversarial=2.0, virtual_adversarial=1.0)
    batch = make_batches()["padded"]
    expected = gradients(objective, batch)
    assert objective.adversary is not None
    objective.adversary.scaler = Scaler()  # type: ignore[assignment]
    for name, found in gradients(objective, batch).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-12, msg=name)


def test_a_language_model_has_no_labels() -> None:
    with pytest.raises(ConfigError, match=r"optim\.adversarial: a language model learns from all rows"):
        check_learning(RunConfig(task="language_model", optim=OptimConfig(adversarial=1.0)))


@pytest.mark.parametrize(
    ("optim", "sentence"),
    [
        ({"adversarial": math.nan}, r"optim\.adversarial: nan is out of range: expected a length above 0"),
        ({"adversarial_weight": 2.0}, r"optim\.adversarial_weight: 2\.0 is .* and 1 while optim\.adversarial is null"),
    ],
)
def test_what_makes_no_sense_is_refused(optim: dict[str, float], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        RunConfig(optim=OptimConfig(**optim))  # type: ignore[arg-type]
