# SPDX-License-Identifier: Apache-2.0
"""Networks and the loader on a card give what they give on a CPU, on both recurrent paths; copies arrive whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.batch import Batch, Layout, Masks
from harness.config import ModelConfig
from harness.data.loader import Loader
from harness.data.order import OrderSpec, order_over
from harness.model.classifier import Classifier, Objective
from harness.model.dropout import EMBEDDING, HEAD, masks_of
from harness.model.language import LanguageModel, LanguageObjective
from harness.model.wide import WidePart
from harness.ranks.distributed import World
from harness.ranks.precision import layout_of, set_tf32
from harness.training.wide import Source, learn
from preprocessing.dataset.shards import read_manifest
from tests.batches import CPU, loader_of
from tests.datasets import split_of
from tests.gpu.device import ON_CUDA, REVIEWS, TORCH_DEVICE, on_device

pytestmark = on_device
PLACES = ("row", "time", "place", "starts", "grid")


def make_loader(dataset: Path, layout: Layout, device: torch.device, masks: Any = None) -> Loader:
    split = split_of(dataset)
    order = order_over(split, OrderSpec(seed=0, global_batch=32))
    return loader_of(split, order, layout=layout, device=device, masks=masks)


@pytest.mark.parametrize("path", ["fused", "packed", "padded"])
@pytest.mark.parametrize("task", ["last", "max+mean", "language_model"])
def test_all_paths_on_cuda_equal_the_cpu(dataset: Path, path: str, task: str) -> None:
    if path == "fused" and not ON_CUDA:
        pytest.skip("tests/unit/test_fused.py interprets the kernel on a CPU")
    set_tf32(False)
    size, dropped = read_manifest(dataset).vocabulary_size, {"dropout": 0.3, "word_dropout": 0.2}
    losses, gradients = [], []
    for one, device in (("padded", CPU), (path, TORCH_DEVICE)):
        torch.manual_seed(0)
        objective: Objective | LanguageObjective
        if task == "language_model":
            model = LanguageModel(ModelConfig(embedding_dim=16, hidden_size=16, **dropped), size)
            objective = LanguageObjective(model.to(device), candidates=30).to(device)
        else:
            shape = ModelConfig(embedding_dim=16, hidden_size=16, num_layers=2, pooling=task, **dropped)
            objective = Objective(Classifier(shape, size).to(device))
        objective.classifier.recurrent.flatten_parameters()
        objective.classifier.recurrent.fused = one == "fused"
        found = []
        for step in make_loader(dataset, layout_of(one), device).steps(0):
            for batch in step.micro_batches:
                loss = objective(batch, step.step)
                loss.backward()
                found.append(loss.item())
        losses.append(found)
        gradients.append([parameter.grad.cpu() for parameter in objective.parameters()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_every_row_arrives_whole_with_ids_beyond_int16(reviews: Path, layout: Layout) -> None:
    """So do its dropout masks and its places in a packed batch."""
    arrived, largest = [], []

    def masks(step: int, batch: Batch) -> Masks:
        return masks_of(2, step, batch, {EMBEDDING: 3, HEAD: 5}, 0.3, 0.1)

    for device in (CPU, TORCH_DEVICE):
        rows = {}
        for step in make_loader(reviews, layout, device, masks).steps(0):
            for batch in step.micro_batches:
                ids = batch.widened().cpu()
                largest.append(int(ids.max()))
                sent = [batch.labels, batch.masks.unknown, *batch.masks.keep.values()]
                sent += [] if batch.index is None else [getattr(batch.index, name) for name in PLACES]
                rows[tuple(batch.rows.tolist())] = (ids.tolist(), batch.lengths.tolist(), *(x.tolist() for x in sent))
        arrived.append(rows)
    assert arrived[0] == arrived[1]
    assert sum(map(len, arrived[1])) == REVIEWS
    assert min(largest) > 32_768


@pytest.mark.parametrize(("layout", "longest"), [("padded", 2), ("packed", 3)])
def test_the_linear_part_says_on_cuda_what_it_says_on_a_cpu(dataset: Path, layout: Layout, longest: int) -> None:
    manifest, said = read_manifest(dataset), []
    source, tokens = Source(split_of(dataset), 2), [""] * manifest.vocabulary_size
    for device in (CPU, TORCH_DEVICE):
        wide = WidePart(1 << 12, 1, longest).to(device)
        learn(wide, [source], np.ones(2), tokens, World())
        assert float(wide.table.abs().max()) > 0.1
        said.append(
            [
                wide(batch).cpu()
                for step in make_loader(dataset, layout, device).steps(0)
                for batch in step.micro_batches
            ]
        )
    for theirs, ours in zip(*said, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
