# SPDX-License-Identifier: Apache-2.0
"""``optim.gradient_compression``: how far the gradients that ranks sum as bf16 are from those that they sum whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.ranks.distributed import sum_in_bf16
from harness.ranks.session import open_session
from tests.ranks import run_ranks

pytestmark = pytest.mark.processes


def gradients() -> tuple[np.ndarray, np.ndarray]:
    """A rank's own gradient, and that of all ranks."""
    with open_session("cpu", "fp32", 60) as session:
        torch.manual_seed(0)
        network = torch.nn.Linear(200, 30, bias=False)
        whole = torch.nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)
        whole.register_comm_hook(None, sum_in_bf16)
        torch.manual_seed(1 + session.world.rank)
        inputs = torch.randn(16, 200) * 10.0 ** torch.randint(-6, 3, (200,))
        own = torch.autograd.grad(network(inputs).square().sum(), network.weight)[0]
        whole(inputs).square().sum().backward()
        return own.numpy().astype(float), network.weight.grad.numpy().copy()


def test_the_error_is_bounded_in_every_number() -> None:
    owns, sent = zip(*run_ranks(gradients, 2, timeout_s=60), strict=True)
    assert np.array_equal(*sent), "all ranks take the same step"
    error, magnitudes = np.abs(sent[0] - np.mean(owns, axis=0)), np.mean(np.abs(owns), axis=0)
    assert (error <= 2 / 256 * magnitudes).all()
    assert (error > 1e-4 * magnitudes).mean() > 0.5, "they were not sent whole"
