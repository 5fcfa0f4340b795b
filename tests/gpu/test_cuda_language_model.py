# SPDX-License-Identifier: Apache-2.0
"""The language model on a card: losses and gradients are those of a CPU, in both layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.batch import Layout
from harness.config import ModelConfig
from harness.model.language import LanguageModel, LanguageObjective
from preprocessing.dataset.shards import read_manifest
from tests.gpu.device import TORCH_DEVICE, on_device
from tests.gpu.test_cuda import CPU, make_loader

pytestmark = on_device


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_losses_and_gradients_equal_the_cpu(dataset: Path, layout: Layout) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    shape = ModelConfig(embedding_dim=16, hidden_size=16, dropout=0.3, word_dropout=0.2)
    found = []
    for path, device in (("padded", CPU), (layout, TORCH_DEVICE)):
        torch.manual_seed(0)
        model = LanguageModel(shape, read_manifest(dataset).vocabulary_size).to(device)
        model.recurrent.flatten_parameters()
        objective = LanguageObjective(model, candidates=30).to(device)
        losses, exact = [], []
        for step in make_loader(dataset, path, device).steps(0):
            for batch in step.micro_batches:
                loss = objective(batch, step.step)
                loss.backward()
                losses.append(loss.item())
                with torch.inference_mode():
                    exact.append(model.row_log_losses(batch)[0].sum().item())
        found.append((losses, exact, [parameter.grad.cpu() for parameter in model.parameters()]))
    (losses, exact, gradients), (ours, our_exact, our_gradients) = found
    assert ours == pytest.approx(losses, rel=1e-5)
    assert our_exact == pytest.approx(exact, rel=1e-5)
    for expected, own in zip(gradients, our_gradients, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-3)
