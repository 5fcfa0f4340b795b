# SPDX-License-Identifier: Apache-2.0
"""Pooling over padded outputs, against torch's own operations over one text at a time; values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model.pooling import pool_packed, pool_padded
from harness.model.recurrent import packed_rows


def reference(outputs: torch.Tensor, lengths: torch.Tensor, pooling: str) -> torch.Tensor:
    """``[rows, parts * features]``, a text at a time."""
    texts = [outputs[:length, row] for row, length in enumerate(lengths.tolist())]
    parts = {"max": [text.amax(0) for text in texts], "mean": [text.mean(0) for text in texts]}
    return torch.cat([torch.stack(parts[name]) for name in pooling.split("+")], dim=1)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    levels=st.integers(1, 40),  # few levels: many tokens share the maximum
    pooling=st.sampled_from(["max", "mean", "max+mean"]),
    seed=st.integers(0, 1000),
)
def test_padded(lengths: list[int], levels: int, pooling: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (max(lengths) + seed % 2, len(lengths), 3)
    values = torch.randint(-levels, levels + 1, shape, generator=generator).double().requires_grad_()
    sizes = torch.tensor(lengths)
    ours = torch.cat(pool_padded(values, sizes, pooling), dim=1)
    theirs = reference(values, sizes, pooling)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((pooled * weights).sum(), values)[0] for pooled in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("pooling", ["max", "mean", "max+mean"])
def test_packed(pooling: str) -> None:
    lengths, sizes = torch.tensor([4, 2, 1]), torch.tensor([3, 2, 1, 1])
    padded = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = torch.cat([padded[step, :size] for step, size in enumerate(sizes.tolist())])
    pooled = pool_packed(tokens, packed_rows(sizes, len(tokens), tokens.device), lengths, pooling)
    torch.testing.assert_close(torch.cat(pooled, dim=1), reference(padded, lengths, pooling), rtol=0, atol=1e-12)


def test_bf16_is_summed_in_fp32() -> None:
    (mean,) = pool_padded(torch.full((1000, 1, 1), 1.0, dtype=torch.bfloat16), torch.tensor([1000]), "mean")
    assert mean.dtype == torch.float32
    assert mean.item() == 1.0


def test_tokens_that_share_the_maximum_in_bf16_share_its_gradient() -> None:
    lengths = torch.tensor([5, 5, 3])
    values = torch.randint(-1, 2, (5, 3, 4), generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    (maximum,) = pool_padded(values, lengths, "max")
    (gradient,) = torch.autograd.grad(maximum.sum(), values)
    plain = values.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(reference(plain, lengths, "max").sum(), plain)
    assert ((expected > 0) & (expected < 1)).any()  # there are ties
    torch.testing.assert_close(gradient.float(), expected, rtol=1 / 128, atol=0)
