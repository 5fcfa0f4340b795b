# SPDX-License-Identifier: Apache-2.0
"""The wide part on a card: features and logits are a CPU's, and its step gives the same bits twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.batch import Layout
from harness.model.wide import TableGradient, WidePart
from harness.ranks.distributed import World
from harness.training.wide import WideDescent, count_features
from preprocessing.dataset.shards import Split, read_manifest
from tests.gpu.device import TORCH_DEVICE, on_device
from tests.gpu.test_cuda import CPU, make_loader

pytestmark = on_device


def trained(dataset: Path, layout: Layout, device: torch.device, longest: int, tail: int) -> WidePart:
    """After an epoch of errors that are a function of the label and the logits."""
    wide = WidePart(1 << 12, 1, longest, tail).to(device)
    count_features(wide, Split(dataset, read_manifest(dataset), "train"), 2, World())
    descent = WideDescent(wide, World())
    for step in make_loader(dataset, layout, device).steps(0):
        touched = []
        for batch in step.micro_batches:
            bucket, value = wide.features(batch)
            error = torch.sigmoid(wide.logits(bucket, value)) - batch.labels[:, None]
            touched.append(TableGradient(bucket, value, error))
        descent.step(touched, step, 20.0, torch.zeros((), device=device))
    return wide


@pytest.mark.parametrize(
    ("layout", "longest", "tail"), [("packed", 2, 0), ("padded", 2, 0), ("padded", 4, 0), ("packed", 3, 5)]
)
def test_the_wide_part_learns_on_cuda_what_it_learns_on_a_cpu(
    dataset: Path, layout: Layout, longest: int, tail: int
) -> None:
    expected, first, second = (trained(dataset, layout, device, longest, tail) for device in (CPU, *2 * [TORCH_DEVICE]))
    assert float(expected.table.abs().max()) > 0.1
    torch.testing.assert_close(first.table.cpu(), expected.table, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.weights.cpu(), expected.weights, rtol=1e-6, atol=1e-6)
    assert torch.equal(first.table, second.table)
    assert torch.equal(first.bias, second.bias)
