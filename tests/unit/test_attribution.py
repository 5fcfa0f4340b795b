# SPDX-License-Identifier: Apache-2.0
"""What a network does beside its layers: attributions of tokens, dropout masks, the language model apart from law 4."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from harness.batch import Batch
from harness.config import ModelConfig
from harness.model.attribution import attribute
from harness.model.classifier import Classifier
from harness.model.dropout import HEAD, LAYERS, SITE_BITS, draw_masks
from harness.model.linear_part import END
from harness.model.registry import POOLINGS
from tests.helpers.batches import CPU
from tests.helpers.bundles import own_everything

WORDS = 30
TEXTS = [np.array(ids) for ids in ([2, 3, 4, 5, 6, 7, 8, 3, 4], [9, 10, 9, 10, 9], [11], [1, 1], [28, 5])]


def make_model(num_classes: int, wide: bool = False, **changes: object) -> Classifier:
    """A random network with large weights: its gates saturate and its maxima switch on the path from the baseline."""
    torch.manual_seed(3)
    config = ModelConfig(**{"embedding_dim": 6, "hidden_size": 5, "wide": 1 << 10 if wide else 0, **changes})  # type: ignore[arg-type]
    model = Classifier(config, WORDS, 1 if num_classes == 2 else num_classes).eval()
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


def single_text(ids: np.ndarray) -> Batch:
    """A text as a batch of one row."""
    return Batch.without_labels(torch.from_numpy(ids.astype(np.int32))[None], torch.tensor([len(ids)]), CPU)


def logits_at(model: Classifier, ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of a text and of its baseline, ``[outputs]``."""
    batch = single_text(ids)
    with torch.no_grad():
        logits, vectors = model(batch), model.embedding.weight.clone()
        model.embedding.weight.zero_()
        empty = model.read(batch)
        model.embedding.weight.copy_(vectors)
        if model.wide is not None:
            empty = empty + model.wide.share * model.wide.bias
    return logits.reshape(-1), empty.reshape(-1)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_scores_add_up_to_the_logit(pooling: str) -> None:
    for num_layers, bidirectional, num_classes, wide in ((2, True, 2, True), (1, False, 3, True)):
        model = make_model(num_classes, wide, pooling=pooling, num_layers=num_layers, bidirectional=bidirectional)
        classes = [0, 1, 1, 1, 0] if num_classes == 2 else [0, 1, 2, 1, 0]
        for ids, label in zip(TEXTS, classes, strict=True):
            attribution = attribute(model, ids, label)
            sign, index = (2 * label - 1, 0) if num_classes == 2 else (1, label)
            logit, empty = (sign * float(values[index]) for values in logits_at(model, ids))
            assert attribution.scores.shape == ids.shape
            assert [attribution.logit, attribution.baseline] == pytest.approx([logit, empty], abs=1e-5)
            tolerance = {"rel": 2e-2, "abs": 5e-3} if "max" in pooling else {"rel": 1e-3, "abs": 2e-4}
            assert attribution.scores.sum() == pytest.approx(logit - empty, **tolerance)


def test_scores_of_n_grams_of_the_end_add_up_to_the_logit() -> None:
    ids, model = np.arange(50) % WORDS, make_model(2, True, wide_ngrams=3)
    own_everything(model.wide, torch.from_numpy(ids)[None])
    num_keys = model.wide.keys(torch.from_numpy(ids)[None], torch.tensor([50])).shape[1] - (END + END - 1)
    assert num_keys == 50 + 49 + 48
    (logit, empty), attribution = logits_at(model, ids), attribute(model, ids, 1)
    assert attribution.scores.sum() == pytest.approx(float(logit[0] - empty[0]), rel=2e-2, abs=5e-3)


def test_as_the_sum_of_many_steps_along_the_line() -> None:
    """Integrated gradients by their definition (Sundararajan et al., 2017), in 200 steps of equal length."""
    model, num_steps = make_model(3, pooling="last", num_layers=2), 200
    batch = single_text(TEXTS[0])
    embedded, expected = model.embed(batch).detach(), torch.zeros(len(TEXTS[0]))
    for step in range(num_steps):
        vectors = (embedded * (step + 0.5) / num_steps).requires_grad_()
        (gradient,) = torch.autograd.grad(model.read_embedded(vectors, batch)[0, 1], vectors)
        expected += (gradient * embedded).sum(-1)[:, 0] / num_steps
    attribution = attribute(model, TEXTS[0], 1)
    np.testing.assert_allclose(attribution.scores, expected.numpy(), atol=0.01 * np.abs(attribution.scores).max())


WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def finalize(value: int) -> int:
    """splitmix64's finalizer in plain integers."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & WORD
    return value ^ (value >> 31)


def output(seed: int, step: int, row: int, site: int, element: int) -> int:
    """The 64 random bits of one element of a mask, from the definition; as signed integers, the lowest are dropped."""
    run = finalize((seed + GOLDEN) & WORD)
    key = finalize((row ^ finalize(((run ^ step) + GOLDEN) & WORD)) + GOLDEN & WORD)
    bits = finalize((key + ((site << SITE_BITS) + element + 1) * GOLDEN) & WORD)
    return (bits + 2**63) & WORD


def test_masks_have_the_values_of_their_definition() -> None:
    chance = 0.3
    rows = np.array([0, 3, 22_499, 2**40 + 1])
    for seed, step in ((7, 1), (2**63 - 1, 10**7)):
        batch = Batch(torch.ones(4, 1), torch.ones(4, dtype=torch.int64), torch.zeros(4), rows)
        mask = draw_masks(seed, step, batch, {HEAD: 2, LAYERS + 1: 33}, chance, 0.0, torch.float64).keep[LAYERS + 1]
        for (index, row), feature in itertools.product(enumerate(rows.tolist()), range(33)):
            is_kept = output(seed, step, row, LAYERS + 1, feature) >= chance * 2**64
            assert mask[index, feature] == (1 / (1 - chance) if is_kept else 0)


def test_a_dropped_word_is_read_as_unknown() -> None:
    torch.manual_seed(0)
    model = Classifier(ModelConfig(embedding_dim=4, hidden_size=4, word_dropout=0.4), 20)
    ids = torch.randint(2, 20, (3, 12), dtype=torch.int32)
    rows = np.array([4, 9, 1])
    lengths, labels = torch.full((3,), 12), torch.zeros(3, dtype=torch.int64)
    batch = Batch(ids, lengths, labels, rows)
    masks = model.masks(0, 5, batch)
    replaced = ids.clone()
    for (index, row), time in itertools.product(enumerate(rows.tolist()), range(12)):
        if output(0, 5, row, 0, time) < 0.4 * 2**64:
            replaced[index, time] = 1
    assert 0 < int((replaced != ids).sum()) < ids.numel()
    assert torch.equal(model(batch, masks), model(Batch(replaced, lengths, labels, rows)))
