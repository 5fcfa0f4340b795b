# SPDX-License-Identifier: Apache-2.0
"""Pooling over padded and packed outputs, against torch's own operations over one text at a time, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from harness.model.pooling import pool_packed, pool_padded


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
    ours = torch.cat(pool_padded(values, sizes, sizes, pooling), dim=1)
    theirs = reference(values, sizes, pooling)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad((pooled * weights).sum(), values)[0] for pooled in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6).map(lambda values: sorted(values, reverse=True)),
    levels=st.integers(1, 40),
    pooling=st.sampled_from(["max", "mean", "max+mean"]),
    seed=st.integers(0, 1000),
)
@example(lengths=[4, 4, 4], levels=1, pooling="max+mean", seed=0)  # no tail
@example(lengths=[6, 1], levels=2, pooling="max+mean", seed=1)  # a tail of one row
def test_packed(lengths: list[int], levels: int, pooling: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(lengths)
    padded = torch.randint(-levels, levels + 1, (max(lengths), len(lengths), 3), generator=generator).double()
    running = torch.arange(max(lengths))[:, None] < sizes
    tokens = padded[running].requires_grad_()
    ours = torch.cat(pool_packed(tokens, sizes, sizes, pooling), dim=1)
    leaf = padded.clone().requires_grad_()
    theirs = reference(leaf, sizes, pooling)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), tokens)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), leaf)
    torch.testing.assert_close(gradient, expected[running], rtol=0, atol=1e-12)


def test_no_atomic_addition_pools_packed_rows() -> None:
    """A scatter adds in whatever order the device comes to it: two equal runs would end elsewhere."""

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    called: set[str] = set()
    lengths = torch.tensor([7, 5, 5, 2])
    tokens = torch.randn(19, 3, requires_grad=True)
    with Recorded():
        torch.cat(pool_packed(tokens, lengths, lengths, "max+mean"), dim=1).sum().backward()
    assert {"amax", "sum", "index_select"} <= called
    assert not {name for name in called if "scatter" in name or "index_add" in name or "index_put" in name}


def test_bf16_is_summed_in_fp32() -> None:
    length = torch.tensor([1000])
    (mean,) = pool_padded(torch.full((1000, 1, 1), 1.0, dtype=torch.bfloat16), length, length, "mean")
    assert mean.dtype == torch.float32
    assert mean.item() == 1.0


def test_tokens_that_share_the_maximum_in_bf16_share_its_gradient() -> None:
    lengths = torch.tensor([5, 5, 3])
    values = torch.randint(-1, 2, (5, 3, 4), generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    (maximum,) = pool_padded(values, lengths, lengths, "max")
    (gradient,) = torch.autograd.grad(maximum.sum(), values)
    plain = values.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(reference(plain, lengths, "max").sum(), plain)
    assert ((expected > 0) & (expected < 1)).any()  # there are ties
    torch.testing.assert_close(gradient.float(), expected, rtol=1 / 128, atol=0)
