# SPDX-License-Identifier: Apache-2.0
"""Law 4: the same global batch gives the same update for every (processes, accumulation, micro-batch), tails included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.config import ModelConfig, OptimConfig, RunConfig
from harness.data.loader import Batch, Loader
from harness.data.order import Order, OrderSpec
from harness.model import Classifier, Objective, loss_per_row
from harness.optim import learning_rate
from harness.session import open_session
from harness.trainer import Trainer
from preprocessing.shards import Split, read_manifest
from tests.datasets import write_dataset
from tests.ranks import run_ranks

ROWS, GLOBAL_BATCH, STEPS = 101, 24, 10
ACCUMULATION = (1, 3)


def make_config(num_layers: int = 1) -> RunConfig:
    model = ModelConfig(embedding_dim=8, hidden_size=6, num_layers=num_layers)
    return RunConfig(global_batch=GLOBAL_BATCH, epochs=2, precision="fp32", model=model, optim=OptimConfig(lr=0.01))


def make_model(config: RunConfig, vocabulary_size: int, num_classes: int) -> Classifier:
    torch.manual_seed(5)
    return Classifier(config.model, vocabulary_size, num_classes).double()


def make_order(split: Split, config: RunConfig) -> Order:
    spec = OrderSpec(seed=config.seed, global_batch=config.global_batch)
    return Order(split.block_starts, lambda block: split.blocks[block].length, spec)


def train_on_a_rank(data: str, layout: Any) -> dict[int, tuple[list[int], dict[str, np.ndarray]]]:
    """Final weights for each number of accumulation steps, as this rank sees them, and its rows per step."""
    config = make_config()
    manifest = read_manifest(data)
    split = Split(data, manifest, "train")
    results = {}
    with open_session("cpu", "fp32", 60) as session:
        world = session.world
        for accumulation in ACCUMULATION:
            order = make_order(split, config)
            micro_batch = -(-(-(-GLOBAL_BATCH // world.world_size)) // accumulation)
            loader = Loader(
                split,
                order,
                rank=world.rank,
                world_size=world.world_size,
                layout=layout,
                device=session.device,
                micro_batch=micro_batch,
            )
            counts: list[int] = []
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
            update = trainer.update

            def counted(batch: Any, update: Any = update, counts: list[int] = counts) -> Any:
                counts.append(len(batch.micro_batches))
                return update(batch)

            trainer.update = counted  # type: ignore[method-assign]
            trainer.fit()
            weights = {name: tensor.numpy().copy() for name, tensor in objective.classifier.state_dict().items()}
            results[accumulation] = (counts, weights)
    return results


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


@pytest.fixture(scope="module", params=[2, 3], ids=["two classes", "three classes"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": ROWS, "validation": 20, "test": 20}, num_classes=request.param)
    return root


@pytest.fixture(scope="module")
def reference(dataset: Path) -> dict[str, np.ndarray]:
    return reference_weights(str(dataset))


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_same_update(dataset: Path, reference: dict[str, np.ndarray], world_size: int, layout: str) -> None:
    for results in run_ranks(train_on_a_rank, world_size, str(dataset), layout):
        for accumulation, (counts, weights) in results.items():
            assert len(counts) == STEPS
            assert max(counts) == accumulation
            for name, expected in reference.items():
                np.testing.assert_allclose(weights[name], expected, rtol=0, atol=1e-9, err_msg=name)
