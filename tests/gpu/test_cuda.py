# SPDX-License-Identifier: Apache-2.0
"""Model and loader on a card: cuDNN gives what a CPU gives on both paths, and copies arrive whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.batch import Layout
from harness.config import ModelConfig
from harness.data.loader import Loader
from harness.data.order import OrderSpec, order_over
from harness.model.classifier import Classifier, loss_per_row
from harness.model.dropout import HEAD, Masks
from preprocessing.dataset.shards import Split, read_manifest
from tests.gpu.device import TORCH_DEVICE, on_device

pytestmark = on_device
CPU = torch.device("cpu")


def make_loader(dataset: Path, layout: Layout, device: torch.device) -> Loader:
    split = Split(dataset, read_manifest(dataset), "train")
    order = order_over(split, OrderSpec(seed=0, global_batch=32))
    return Loader(split, order, rank=0, world_size=1, layout=layout, device=device)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("pooling", ["last", "max", "mean", "max+mean"])
def test_both_paths_on_cuda_equal_the_cpu(dataset: Path, layout: Layout, pooling: str) -> None:
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    config = ModelConfig(embedding_dim=16, hidden_size=16, num_layers=2, pooling=pooling, dropout=0.3, word_dropout=0.2)
    model = Classifier(config, read_manifest(dataset).vocabulary_size)
    expected, actual = {}, {}
    gradients = []
    for path, device, found in (("padded", CPU, expected), (layout, TORCH_DEVICE, actual)):
        model = model.to(device)
        model.recurrent.flatten_parameters()
        model.zero_grad()
        for step in make_loader(dataset, path, device).steps(0):
            for batch in step.micro_batches:
                logits = model(batch, Masks.of(0, step.step, batch.rows, batch.ids.device))
                loss_per_row(logits, batch.labels).sum().backward()
                found.update(zip(batch.rows.tolist(), logits.detach().cpu().tolist(), strict=True))
        gradients.append([parameter.grad.cpu().clone() for parameter in model.parameters()])
    assert sorted(expected) == sorted(actual)
    for row, logit in expected.items():
        assert actual[row] == pytest.approx(logit, abs=1e-5)
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_masks_are_the_same_on_every_device() -> None:
    rows = np.arange(1000)
    here, there = (Masks.of(2, 3, rows, device) for device in (CPU, TORCH_DEVICE))
    for chance in (0.1, 0.5):
        drawn = there.features(HEAD, 300, chance, torch.float32)
        assert torch.equal(drawn.cpu(), here.features(HEAD, 300, chance, torch.float32))
        time = torch.arange(400)
        assert torch.equal(there.tokens(None, time.to(TORCH_DEVICE), chance).cpu(), here.tokens(None, time, chance))


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_every_row_arrives_whole_with_ids_beyond_int16(reviews: Path, layout: Layout) -> None:
    arrived, largest = [], []
    for device in (CPU, TORCH_DEVICE):
        rows = {}
        for step in make_loader(reviews, layout, device).steps(0):
            for batch in step.micro_batches:
                ids = batch.widened().cpu()
                largest.append(int(ids.max()))
                rows[tuple(batch.rows.tolist())] = (ids.tolist(), batch.labels.cpu().tolist(), batch.lengths.tolist())
        arrived.append(rows)
    assert arrived[0] == arrived[1]
    assert sum(map(len, arrived[1])) == 384
    assert min(largest) > 32_768
