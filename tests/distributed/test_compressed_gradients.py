# SPDX-License-Identifier: Apache-2.0
"""``optim.gradient_compression`` on CPUs: how far the gradients that ranks sum as bf16 are from those summed whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.ranks.distributed import sum_in_bf16
from harness.ranks.session import open_session
from tests.ranks import run_ranks

pytestmark = pytest.mark.processes


def gradients_of(compressed: bool) -> tuple[np.ndarray, np.ndarray]:
    """This rank's own gradient, and what all ranks have after the sum."""
    with open_session("cpu", "fp32", 60) as session:
        rank = session.world.rank
        torch.manual_seed(0)
        network = torch.nn.Linear(200, 30, bias=False)
        whole = torch.nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)
        if compressed:
            whole.register_comm_hook(None, sum_in_bf16)
        torch.manual_seed(1 + rank)
        inputs = torch.randn(16, 200) * 10.0 ** torch.randint(-6, 3, (200,))
        own = torch.autograd.grad(network(inputs).square().sum(), network.weight)[0]
        whole(inputs).square().sum().backward()
        assert network.weight.grad is not None
        return own.numpy(), network.weight.grad.numpy().copy()


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_error_is_bounded_in_every_number(processes: int) -> None:
    plain = run_ranks(gradients_of, processes, False, timeout_s=60)
    sent = run_ranks(gradients_of, processes, True, timeout_s=60)
    exact = np.mean([own.astype(float) for own, _ in plain], axis=0)
    magnitudes = np.mean([np.abs(own.astype(float)) for own, _ in plain], axis=0)
    assert all(np.array_equal(one, sent[0][1]) for _, one in sent), "all ranks take the same step"
    error = np.abs(sent[0][1] - exact)
    assert (error <= processes / 256 * magnitudes).all()
    assert (error > 1e-4 * magnitudes).mean() > 0.5, "they were not sent whole"
    for _, one in plain:
        np.testing.assert_allclose(one, exact, rtol=1e-4, atol=1e-6 * np.abs(exact).max())
