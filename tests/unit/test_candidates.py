# SPDX-License-Identifier: Apache-2.0
"""The tokens that each right one is told from, and the softmax over them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from harness.model import softmax
from harness.model.softmax import LogUniformSampler
from tests.reference import plain_language_model as plain


def test_candidates_are_a_function_of_seed_and_step() -> None:
    first, second = LogUniformSampler(1000, 50), LogUniformSampler(1000, 50)
    second.draw(0, 1)
    for step in (0, 7, 123_456):
        one, two = first.draw(3, step), second.draw(3, step)
        assert one.ids.tolist() == two.ids.tolist()
        assert one.tries == two.tries
        assert len(set(one.ids.tolist())) == 50
        assert one.ids.min() >= 1
        assert one.ids.max() < 1000
    assert first.draw(3, 0).ids.tolist() != first.draw(3, 1).ids.tolist() != first.draw(4, 1).ids.tolist()


def test_candidates_are_those_of_the_definition() -> None:
    sampler = LogUniformSampler(300, 40)
    assert np.expm1(sampler.log_missed) == pytest.approx([-share for share in plain.shares(300)], abs=1e-15)
    assert math.fsum(plain.shares(300)) == pytest.approx(1, abs=1e-12)
    for step in range(3):
        drawn = sampler.draw(5, step)
        assert (drawn.ids.tolist(), drawn.tries) == plain.draw(300, 40, 5, step)


def test_expected_counts_are_how_often_a_token_is_a_candidate() -> None:
    sampler, draws = LogUniformSampler(60, 12), 3000
    seen, expected = np.zeros(60), np.zeros(60)
    for step in range(draws):
        drawn = sampler.draw(1, step)
        seen[drawn.ids] += 1
        expected += -np.expm1(sampler.log_missed * drawn.tries)
    noise = np.sqrt(np.maximum(expected * (1 - expected / draws), 1))
    # Stopping at the last distinct token makes the count of tries depend on the draws: a bias of less than 5 %.
    assert np.all(np.abs(seen - expected) <= 4 * noise + 0.05 * expected)
    assert seen.sum() == 12 * draws
    assert seen[0] == 0


@pytest.mark.parametrize(("candidates", "drawn"), [(24, 24), (25, 49), (5000, 49)])
def test_half_of_the_vocabulary_or_more_is_all_of_it(candidates: int, drawn: int) -> None:
    found = LogUniformSampler(50, candidates).draw(0, 0)
    assert len(found.ids) == drawn
    if drawn == 49:
        assert found.ids.tolist() == list(range(1, 50))
        assert found.tries == 0


def test_the_softmax_in_pieces_is_autograd_on_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "CPU_ELEMENTS", 30)
    torch.manual_seed(0)
    shapes = ((17, 5), (17, 5), (17,), (9, 5), (9,))
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    hits = torch.full((17,), 9)
    hits[3], hits[8] = 0, 7
    projected, vectors, bias, candidates, offsets = given
    logits = projected @ candidates.t() + offsets
    logits = logits.masked_fill(torch.arange(9) == hits[:, None], -torch.inf)
    right = (projected * vectors).sum(1) + bias
    expected = torch.logsumexp(torch.cat((logits, right[:, None]), 1), 1) - right
    wanted = torch.autograd.grad(3 * expected.sum(), given)
    total, losses = softmax.sampled_softmax(*given, hits)
    found = torch.autograd.grad(3 * total, given)
    torch.testing.assert_close(losses, expected.detach(), rtol=0, atol=1e-12)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
