# SPDX-License-Identifier: Apache-2.0
"""Law 4: the same global batch gives the same update for every (processes, accumulation, micro-batch)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from harness.config import ModelConfig, OptimConfig, RunConfig
from harness.data.loader import Batch, Loader, StepBatch
from harness.data.order import Order, OrderSpec
from harness.model import Classifier, Objective, loss_per_row
from harness.optim import learning_rate
from harness.session import Session, open_session
from harness.trainer import Trainer
from preprocessing.shards import Split, read_manifest
from tests.datasets import write_dataset
from tests.ranks import run_ranks

ROWS, GLOBAL_BATCH, STEPS = 101, 24, 10
ACCUMULATION = (1, 3)
LAYOUTS = ("padded", "packed")
Case = tuple[int, str, int]
"""Dataset, layout, micro-batches a step."""


def make_config(num_layers: int = 1) -> RunConfig:
    model = ModelConfig(embedding_dim=8, hidden_size=6, num_layers=num_layers)
    return RunConfig(global_batch=GLOBAL_BATCH, epochs=2, precision="fp32", model=model, optim=OptimConfig(lr=0.01))


def make_model(config: RunConfig, vocabulary_size: int, num_classes: int) -> Classifier:
    torch.manual_seed(5)
    return Classifier(config.model, vocabulary_size, num_classes).double()


def make_order(split: Split, config: RunConfig) -> Order:
    spec = OrderSpec(seed=config.seed, global_batch=config.global_batch)
    return Order(split.block_starts, lambda block: split.blocks[block].length, spec)


def train_on_a_rank(datasets: list[str]) -> dict[Case, tuple[list[int], dict[str, np.ndarray]]]:
    """For every case: micro-batches of each step on this rank, and the final weights."""
    results = {}
    with open_session("cpu", "fp32", 60) as session:
        for place, data in enumerate(datasets):
            for layout, accumulation in itertools.product(LAYOUTS, ACCUMULATION):
                results[place, layout, accumulation] = train_case(session, data, layout, accumulation)
    return results


def train_case(session: Session, data: str, layout: Any, accumulation: int) -> tuple[list[int], dict[str, np.ndarray]]:
    config, world = make_config(), session.world
    manifest = read_manifest(data)
    split = Split(data, manifest, "train")
    loader = Loader(
        split,
        make_order(split, config),
        rank=world.rank,
        world_size=world.world_size,
        layout=layout,
        device=session.device,
        micro_batch=math.ceil(math.ceil(GLOBAL_BATCH / world.world_size) / accumulation),
    )
    objective = Objective(make_model(config, manifest.vocabulary_size, len(manifest.labels)))
    trainer = Trainer(
        config,
        objective,
        loader,
        session.accelerator,
        world,
        validate=lambda epoch, step: None,
        report=lambda figures: None,
    )
    update, counts = trainer.update, []

    def counted(batch: StepBatch) -> Any:
        counts.append(len(batch.micro_batches))
        return update(batch)

    trainer.update = counted  # type: ignore[method-assign]
    trainer.fit()
    return counts, {name: tensor.numpy().copy() for name, tensor in objective.classifier.state_dict().items()}


def reference_weights(data: str) -> dict[str, np.ndarray]:
    """Plain PyTorch: one process, the whole global batch at once, Adam, no padless code but model and order."""
    config = make_config()
    manifest = read_manifest(data)
    split = Split(data, manifest, "train")
    order = make_order(split, config)
    model = make_model(config, manifest.vocabulary_size, len(manifest.labels))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rows_of = [(block, row) for block in split.blocks for row in range(len(block.row))]
    for step in range(STEPS):
        epoch, place = divmod(step, order.steps_per_epoch)
        picked = [rows_of[row] for row in order.batch_rows(epoch, place)]
        total = torch.zeros((), dtype=torch.float64)
        for block, row in picked:
            length = int(block.length[row])
            ids = torch.from_numpy(block.ids[row, :length].astype(np.int32))[None]
            label = torch.tensor([int(block.label[row])])
            total = total + loss_per_row(model(Batch(ids, torch.tensor([length]), label, np.zeros(1))), label).sum()
        optimizer.param_groups[0]["lr"] = learning_rate(step, STEPS, config.optim)
        optimizer.zero_grad()
        (total / len(picked)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """One with two classes, one with three."""
    roots = [tmp_path_factory.mktemp("data") for _ in range(2)]
    for num_classes, root in enumerate(roots, start=2):
        write_dataset(root, {"train": ROWS, "validation": 20, "test": 20}, num_classes=num_classes)
    return [str(root) for root in roots]


@pytest.fixture(scope="module")
def references(datasets: list[str]) -> list[dict[str, np.ndarray]]:
    return [reference_weights(data) for data in datasets]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_same_update(datasets: list[str], references: list[dict[str, np.ndarray]], world_size: int) -> None:
    for results in run_ranks(train_on_a_rank, world_size, datasets):
        assert len(results) == len(datasets) * len(LAYOUTS) * len(ACCUMULATION)
        for (place, layout, accumulation), (counts, weights) in results.items():
            assert len(counts) == STEPS
            assert max(counts) == accumulation
            for name, expected in references[place].items():
                message = f"{name}, dataset {place}, {layout}, {accumulation} micro-batches"
                np.testing.assert_allclose(weights[name], expected, rtol=0, atol=1e-9, err_msg=message)
