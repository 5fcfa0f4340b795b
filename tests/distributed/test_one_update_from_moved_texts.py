# SPDX-License-Identifier: Apache-2.0
"""Law 4 for adversarial and virtual adversarial training: however a global batch is split, it is learned as by rows."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.batch import Batch, StepBatch
from harness.config import ModelConfig, OptimConfig, OrderConfig, RunConfig
from harness.data.checks import order_spec, unlabelled_spec
from harness.data.loader import Loader
from harness.data.order import Order, order_over
from harness.model.adversarial import Adversary
from harness.model.classifier import Classifier, Objective
from harness.model.dropout import Masks
from harness.ranks.session import Session, open_session
from harness.training.guard import NonFiniteGuard
from harness.training.optim import learning_rate
from harness.training.throughput import Meter, StepProfiler
from harness.training.trainer import Trainer
from preprocessing.dataset.shards import VOCABULARY, Split, read_manifest
from preprocessing.text.vocabulary import Vocabulary
from tests.datasets import write_dataset
from tests.ranks import run_ranks
from tests.reference.adversarial import moved_losses

pytestmark = pytest.mark.processes

ROWS = {"train": 33, "validation": 20, "unlabelled": 21}
GLOBAL_BATCH, UNLABELLED_BATCH, STEPS = 17, 11, 2
ACCUMULATION = (1, 3)
LAYOUTS = ("padded", "packed")
OPTIONS: dict[str, dict[str, Any]] = {
    "adversarial": {"adversarial": 3.0},
    "virtual": {"virtual_adversarial": 2.0},
    "virtual, unlabelled too": {"virtual_adversarial": 2.0},
    "both": {"adversarial": 3.0, "adversarial_weight": 0.7, "virtual_adversarial": 2.0}
    | {"virtual_adversarial_weight": 1.5, "label_smoothing": 0.1, "class_weights": {"negative": 2.5}},
}
Case = tuple[str, str, int]
"""Options, layout, micro-batches a step."""


def make_config(data: str, options: str) -> RunConfig:
    """Dropout, word dropout, and a frozen embedding in one case."""
    shape: dict[str, Any] = {"embedding_dim": 8, "hidden_size": 6, "dropout": 0.3, "word_dropout": 0.2}
    if options == "both":
        shape |= {"num_layers": 2, "pooling": "max+mean", "freeze_embedding": 1}
    streams = "unlabelled" in options or options == "both"
    return RunConfig(
        data=data,
        global_batch=GLOBAL_BATCH,
        epochs=1,
        seed=3,
        precision="fp32",
        model=ModelConfig(**shape),
        optim=OptimConfig(lr=0.01, **OPTIONS[options]),
        order=OrderConfig(unlabelled_batch=UNLABELLED_BATCH if streams else 0),
    )


def classes_of(data: str, options: str) -> int:
    """What the network tells apart: one more than there are, and so several logits, in one case."""
    return 3 if options == "virtual" else len(read_manifest(data).labels)


def make_model(config: RunConfig, vocabulary_size: int, num_classes: int) -> Classifier:
    torch.manual_seed(5)
    return Classifier(config.model, vocabulary_size, num_classes).double()


def orders(config: RunConfig, split: Split, rows: Split) -> dict[str, Order]:
    found = {"train": order_over(split, order_spec(config))}
    if config.order.unlabelled_batch:
        found["unlabelled"] = order_over(rows, unlabelled_spec(config))
    return found


def train_on_a_rank(data: str, directory: str) -> dict[Case, tuple[list[int], dict[str, np.ndarray]]]:
    """For every case: micro-batches of each step on this rank, and the final weights."""
    with open_session("cpu", "fp32", 60) as session:
        cases = itertools.product(OPTIONS, LAYOUTS, ACCUMULATION)
        return {case: train_case(session, data, Path(directory), *case) for case in cases}


def train_case(
    session: Session, data: str, directory: Path, options: str, layout: Any, accumulation: int
) -> tuple[list[int], dict[str, np.ndarray]]:
    world, manifest, config = session.world, read_manifest(data), make_config(data, options)
    split, rows = Split(data, manifest, "train"), Split(data, manifest, "unlabelled")
    common: dict[str, Any] = {
        "rank": world.rank,
        "world_size": world.world_size,
        "layout": layout,
        "device": session.device,
        "micro_batch": math.ceil(math.ceil(GLOBAL_BATCH / world.world_size) / accumulation),
    }
    order = orders(config, split, rows)
    loader = Loader(split, order["train"], **common)
    if "unlabelled" in order:
        loader = Loader(split, order["train"], unlabelled=Loader(rows, order["unlabelled"], **common), **common)
    frequencies = Vocabulary.read(Path(data, VOCABULARY)).counts
    factors = [config.optim.class_weights.get(label, 1.0) for label in manifest.labels]
    objective = Objective(
        make_model(config, manifest.vocabulary_size, classes_of(data, options)),
        seed=config.seed,
        label_smoothing=config.optim.label_smoothing,
        class_weights=torch.tensor(factors) if config.optim.class_weights else None,
        adversary=Adversary(config.optim, torch.from_numpy(frequencies).to(torch.float64)),
    )
    trainer = Trainer(
        config,
        objective,
        loader,
        session.accelerator,
        world,
        guard=NonFiniteGuard(1, world, directory, split, Path(data), len(manifest.labels), rows),
        meter=Meter(),
        profiler=StepProfiler([], directory),
    )
    update, counts = trainer.update, []

    def observed(batch: StepBatch) -> Any:
        counts.append(len(batch.micro_batches))
        assert bool(batch.unlabelled) == ("unlabelled" in order)
        return update(batch)

    trainer.update = observed  # type: ignore[method-assign]
    trainer.fit()
    return counts, named(objective.classifier)


def named(model: Classifier) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def reference_weights(data: str, options: str) -> dict[str, np.ndarray]:
    """Plain PyTorch: one process, the whole global batch row by row, no padless code but model, order and masks."""
    manifest, config = read_manifest(data), make_config(data, options)
    splits = {name: Split(data, manifest, name) for name in ("train", "unlabelled")}
    model = make_model(config, manifest.vocabulary_size, classes_of(data, options))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.optim.lr)
    counts = Vocabulary.read(Path(data, VOCABULARY)).counts
    factors = [config.optim.class_weights.get(label, 1.0) for label in manifest.labels]
    for step in range(STEPS):
        total = torch.zeros((), dtype=torch.float64)
        for name, order in orders(config, splits["train"], splits["unlabelled"]).items():
            picked = order.batch_rows(*divmod(step, order.steps_per_epoch))
            for number in map(int, picked):
                row, label = row_of(splits[name], number)
                keys = Masks.of(config.seed, step, row.rows, torch.device("cpu"))
                labelled = name == "train"
                loss_of = partial(plain_loss, label, factors[label], config.optim.label_smoothing) if labelled else None
                loss = moved_losses(model, row, keys, keys, config.optim, counts, loss_of)
                if loss_of is not None:
                    loss = loss + loss_of(model.read(row, keys)[0])
                total = total + loss / len(picked)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, STEPS, config.optim)
        optimizer.zero_grad()
        total.backward()
        if model.holds_embedding(step):
            model.embedding.weight.grad = None
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return named(model)


def row_of(split: Split, number: int) -> tuple[Batch, int]:
    """A row by its place in the split, as a batch of its own, and its label."""
    block = int(np.searchsorted(split.block_starts, number, side="right")) - 1
    held, place = split.blocks[block], number - int(split.block_starts[block])
    length, label = int(held.length[place]), int(held.label[place])
    ids = torch.from_numpy(held.ids[place, :length].astype(np.int32))[None]
    return Batch(ids, torch.tensor([length]), torch.tensor([label]), held.row[place : place + 1]), label


def plain_loss(label: int, factor: float, smoothing: float, logits: torch.Tensor) -> torch.Tensor:
    """Smoothed cross-entropy from its definition."""
    scores = torch.stack((torch.zeros_like(logits), logits)) if logits.dim() == 0 else logits
    targets = torch.full_like(scores, smoothing / len(scores))
    targets[label] += 1 - smoothing
    return -factor * (targets * torch.log_softmax(scores, 0)).sum()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, ROWS, longest=20)
    return str(root)


@pytest.fixture(scope="module")
def references(data: str) -> dict[str, dict[str, np.ndarray]]:
    return {options: reference_weights(data, options) for options in OPTIONS}


@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_same_update(world_size: int, data: str, references: dict, tmp_path: Path) -> None:
    for results in run_ranks(train_on_a_rank, world_size, data, str(tmp_path)):
        assert len(results) == len(OPTIONS) * len(LAYOUTS) * len(ACCUMULATION)
        for (options, layout, accumulation), (counts, weights) in results.items():
            assert len(counts) == STEPS
            assert max(counts) == accumulation
            for name, expected in references[options].items():
                case = f"{name}: {world_size} ranks, {options}, {layout}, {accumulation} micro-batches"
                np.testing.assert_allclose(weights[name], expected, rtol=0, atol=1e-9, err_msg=case)


def test_moves_matter(references: dict) -> None:
    """The cases differ, so each of the losses is learned from."""
    heads = [weights["head.bias"].ravel()[0] for weights in references.values()]
    assert len(set(heads)) == len(OPTIONS)
