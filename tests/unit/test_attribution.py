# SPDX-License-Identifier: Apache-2.0
"""Attributions of tokens: they add up for every network, are right where one word decides, and equal captum's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from harness.config import ModelConfig
from harness.model.attribution import attributions, batch_of
from harness.model.classifier import Classifier
from harness.model.registry import CELLS, POOLINGS

WORDS = 30
TEXTS = [np.array(ids) for ids in ([2, 3, 4, 5, 6, 7, 8, 3, 4], [9, 10, 9, 10, 9], [11], [1, 1], [28, 5])]


def make_model(num_classes: int, wide: bool = False, **changes: object) -> Classifier:
    """A random network with large weights: its gates saturate and its maxima switch on the path from the baseline."""
    torch.manual_seed(3)
    config = ModelConfig(**{"embedding_dim": 6, "hidden_size": 5, "wide": 1 << 10 if wide else 0, **changes})  # type: ignore[arg-type]
    model = Classifier(config, WORDS, num_classes).eval()
    with torch.no_grad():
        model.embedding.weight *= 3
        for weight in (*model.recurrent.parameters(), *model.head.parameters()):
            weight.mul_(2)
    if model.wide is not None:
        model.wide.table.normal_()
        model.wide.weights.uniform_(0, 3)
        model.wide.bias.fill_(0.3)
        model.wide.share.fill_(0.7)
    return model


def logits_at(model: Classifier, ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of a text and of its baseline, ``[outputs]``."""
    batch = batch_of([ids], torch.device("cpu"))
    with torch.no_grad():
        logits, vectors = model(batch), model.embedding.weight.clone()
        model.embedding.weight.zero_()
        empty = model.read(batch)
        model.embedding.weight.copy_(vectors)
        if model.wide is not None:
            empty = empty + model.wide.share * model.wide.bias
    return logits.reshape(-1), empty.reshape(-1)


@pytest.mark.parametrize(("pooling", "cell"), [*zip(POOLINGS, itertools.cycle(CELLS), strict=False)])
def test_scores_add_up_to_the_logit(pooling: str, cell: str) -> None:
    for num_layers, bidirectional, num_classes, wide in ((2, True, 2, True), (1, False, 3, True)):
        model = make_model(
            num_classes, wide, cell=cell, pooling=pooling, num_layers=num_layers, bidirectional=bidirectional
        )
        classes = [0, 1, 1, 1, 0] if num_classes == 2 else [0, 1, 2, 1, 0]
        for one, ids, label in zip(attributions(model, TEXTS, classes), TEXTS, classes, strict=True):
            logit, empty = (
                float((2 * label - 1) * values[0] if num_classes == 2 else values[label])
                for values in logits_at(model, ids)
            )
            assert one.scores.shape == ids.shape
            assert (one.logit, one.baseline) == (pytest.approx(logit, abs=1e-5), pytest.approx(empty, abs=1e-5))
            assert one.scores.sum() == pytest.approx(logit - empty, rel=1e-3, abs=2e-5)


def test_as_captum_computes_it() -> None:
    captum = pytest.importorskip("captum.attr", reason="needs captum, to compare with")
    model = make_model(3, pooling="mean", num_layers=2)
    batch = batch_of(TEXTS[:1], torch.device("cpu"))
    embedded = model.embed(batch)

    def logits(vectors: torch.Tensor) -> torch.Tensor:  # captum lays all steps side by side as rows
        many = batch_of([TEXTS[0]] * len(vectors), torch.device("cpu"))
        return model.read_embedded(type(embedded)(vectors.transpose(0, 1), None), many)

    vectors = embedded.vectors.transpose(0, 1).detach()
    theirs = captum.IntegratedGradients(logits).attribute(vectors, torch.zeros_like(vectors), target=1, n_steps=200)
    (ours,) = attributions(model, TEXTS[:1], [1])
    scale = np.abs(ours.scores).max()
    np.testing.assert_allclose(ours.scores, theirs.sum(-1)[0].detach().numpy(), atol=0.01 * scale)
