# SPDX-License-Identifier: Apache-2.0
"""Law 4: the same global batch gives the same update for every (processes, accumulation, micro-batch), dropout too.

So it does with unlabelled rows and their soft labels beside the labelled ones. A language model's update:
tests/distributed/test_one_update_of_a_pretraining.py.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.batch import Batch, StepBatch
from harness.config import ModelConfig, OptimConfig, OrderConfig, RunConfig, SelfTrainingConfig
from harness.data.loader import Loader
from harness.data.order import Order, OrderSpec, stream_seed
from harness.model.classifier import Classifier, Objective
from harness.model.dropout import Masks
from harness.model.wide import Weighing
from harness.ranks.session import Session, open_session
from harness.training.guard import NonFiniteGuard
from harness.training.optim import learning_rate
from harness.training.throughput import Meter, StepProfiler
from harness.training.trainer import Trainer
from harness.training.wide import count_features
from preprocessing.base.split_names import NO_LABEL
from preprocessing.dataset.shards import Split, read_manifest
from tests.datasets import write_dataset
from tests.ranks import run_ranks
from tests.reference.plain_wide import PlainWide, draw_soft_labels, row_of

pytestmark = pytest.mark.processes

ROWS, GLOBAL_BATCH, STEPS = 62, 21, 3
UNLABELLED_ROWS, UNLABELLED_BATCH = 33, 17
"""Two steps a pass, so that the last of three steps begins another pass."""
ACCUMULATION = (1, 3)
LAYOUTS = ("padded", "packed")
OPTIONS = ("plain", "every option", "gru", "soft labels")
Case = tuple[int, str, str, int]
"""Dataset, options, layout, micro-batches a step."""
CASES: list[Case] = list(itertools.product(range(2), OPTIONS, LAYOUTS, ACCUMULATION))


def some_of_them(world_size: int) -> list[Case]:
    """Half of the cases, other ones for 1 rank than for 2; for 4 those with two classes among the half of 2 ranks.

    Any values of three of the four meet for 1 and 2 ranks, of two of the other three for 4.
    """
    return [
        (place, options, layout, accumulation)
        for place, options, layout, accumulation in CASES
        if (place + OPTIONS.index(options) + LAYOUTS.index(layout) + ACCUMULATION.index(accumulation) + world_size) % 2
        and (world_size < 4 or place == 0)
    ]


def make_config(options: str, labels: list[str]) -> RunConfig:
    if options == "plain":
        model, optim = ModelConfig(embedding_dim=8, hidden_size=6), OptimConfig(lr=0.01)
    elif options == "gru":
        model = ModelConfig(cell="gru", embedding_dim=8, hidden_size=6, num_layers=2, pooling="last", dropout=0.4)
        optim = OptimConfig(lr=0.01)
    elif options == "soft labels":
        wide: dict[str, Any] = {"wide": 512, "wide_ngrams": 3, "wide_tail": 5, "wide_tf": "binary"}
        model = ModelConfig(embedding_dim=8, hidden_size=6, pooling="max+mean", dropout=0.3, word_dropout=0.1, **wide)
        linear = {"wide_smoothing": 0.3, "wide_warmup": 0.3, "wide_ratio": 0.8, "wide_min_rows": 3}
        optim = OptimConfig(lr=0.01, label_smoothing=0.1, class_weights={labels[0]: 2.5}, **linear)
        taught = SelfTrainingConfig(labels="drawn", weight=0.7)
    else:
        model = ModelConfig(
            embedding_dim=8,
            hidden_size=6,
            num_layers=2,
            pooling="max+mean",
            dropout=0.4,
            word_dropout=0.2,
            freeze_embedding=2,
            wide=512,
        )
        optim = OptimConfig(lr=0.01, ema=0.8, label_smoothing=0.1, class_weights={labels[0]: 2.5}, weight_decay=0.1)
    common: dict[str, Any] = {"global_batch": GLOBAL_BATCH, "epochs": 1, "seed": 3, "precision": "fp32"}
    if options == "soft labels":
        common |= {"order": OrderConfig(unlabelled_batch=UNLABELLED_BATCH), "self_training": taught}
    return RunConfig(model=model, optim=optim, **common)


def make_model(config: RunConfig, vocabulary_size: int, num_classes: int) -> Classifier:
    torch.manual_seed(5)
    return Classifier(config.model, vocabulary_size, num_classes).double()


def make_order(split: Split, config: RunConfig) -> Order:
    spec = OrderSpec(seed=config.seed, global_batch=config.global_batch)
    return Order(split.block_starts, lambda block: split.blocks[block].length, spec)


def make_unlabelled_order(split: Split, config: RunConfig) -> Order:
    spec = OrderSpec(seed=stream_seed(config.seed), global_batch=UNLABELLED_BATCH)
    return Order(split.block_starts, lambda block: split.blocks[block].length, spec)


def as_targets(chances: np.ndarray) -> np.ndarray:
    return (chances[:, 1] if chances.shape[1] == 2 else chances).astype(np.float32)


def train_on_a_rank(
    datasets: list[str], directory: str, cases: list[Case]
) -> dict[Case, tuple[list[int], dict[str, np.ndarray]]]:
    """For every case: micro-batches of each step on this rank, and the final weights with their average."""
    with open_session("cpu", "fp32", 60) as session:
        return {case: train_case(session, datasets[case[0]], Path(directory), *case[1:]) for case in cases}


def train_case(
    session: Session, data: str, directory: Path, options: str, layout: Any, accumulation: int
) -> tuple[list[int], dict[str, np.ndarray]]:
    world = session.world
    manifest = read_manifest(data)
    config = make_config(options, manifest.labels)
    split, rows = Split(data, manifest, "train"), Split(data, manifest, "unlabelled")
    teaches = config.self_training.is_on
    targets = {one.name: as_targets(draw_soft_labels(one, len(manifest.labels))) for one in (split, rows)}
    common: dict[str, Any] = {
        "rank": world.rank,
        "world_size": world.world_size,
        "layout": layout,
        "device": session.device,
        "micro_batch": math.ceil(math.ceil(GLOBAL_BATCH / world.world_size) / accumulation),
    }
    loader = Loader(split, make_order(split, config), **common)
    if teaches:
        beside = Loader(rows, make_unlabelled_order(rows, config), targets=targets["unlabelled"], **common)
        loader = Loader(split, make_order(split, config), unlabelled=beside, targets=targets["train"], **common)
    weights = torch.tensor([config.optim.class_weights.get(label, 1.0) for label in manifest.labels])
    objective = Objective(
        make_model(config, manifest.vocabulary_size, len(manifest.labels)),
        seed=config.seed,
        label_smoothing=config.optim.label_smoothing,
        wide_smoothing=config.optim.wide_smoothing,
        class_weights=weights if config.optim.class_weights else None,
        soft_weight=config.self_training.weight,
    )
    trainer = Trainer(
        config,
        objective,
        loader,
        session.accelerator,
        world,
        guard=NonFiniteGuard(1, world, directory, split, Path(data), len(manifest.labels)),
        meter=Meter(),
        profiler=StepProfiler([], directory),
    )
    if objective.classifier.wide is not None:
        counted = rows if teaches else None
        weighing = Weighing(config.optim.wide_min_rows, config.optim.wide_ratio)
        count_features(objective.classifier.wide, split, len(manifest.labels), world, counted, weighing)
    update, counts = trainer.update, []

    def observed(batch: StepBatch) -> Any:
        counts.append(len(batch.micro_batches))
        assert (1 if teaches else 0) <= len(batch.unlabelled) <= (accumulation if teaches else 0)
        return update(batch)

    trainer.update = observed  # type: ignore[method-assign]
    trainer.fit()
    final = named(objective.classifier)
    if trainer.average is not None:
        with trainer.average.swapped():
            held = named(objective.classifier)
            final |= {f"average of {name}": held[name] for name, _ in objective.classifier.named_parameters()}
    return counts, final


def named(model: Classifier) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def reference_weights(data: str, options: str) -> dict[str, np.ndarray]:
    """Plain PyTorch: one process, the whole global batch row by row, no padless code but model and order."""
    manifest = read_manifest(data)
    config = make_config(options, manifest.labels)
    optim = config.optim
    split, beside = Split(data, manifest, "train"), Split(data, manifest, "unlabelled")
    order, other_order = make_order(split, config), make_unlabelled_order(beside, config)
    teaching, num_classes = config.self_training, len(manifest.labels)
    model = make_model(config, manifest.vocabulary_size, num_classes)
    average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    decayed = {"params": matrices, "weight_decay": optim.weight_decay}
    optimizer = torch.optim.AdamW([decayed, {"params": vectors, "weight_decay": 0.0}], lr=optim.lr)
    weights = [optim.class_weights.get(label, 1.0) for label in manifest.labels]
    wide = None if model.wide is None else PlainWide(model.wide, split, num_classes, beside if teaching.is_on else None)
    if wide is not None:
        wide.count(min_rows=optim.wide_min_rows, power=optim.wide_ratio)
    chances = {one.name: draw_soft_labels(one, num_classes) for one in (split, beside)}
    for step in range(STEPS):
        epoch, place = divmod(step, order.steps_per_epoch)
        picked = [(split, int(row)) for row in order.batch_rows(epoch, place)]
        if teaching.is_on:
            picked += [(beside, int(row)) for row in other_order.batch_rows(*divmod(step, other_order.steps_per_epoch))]
        counts = Counter(source.name for source, _ in picked)
        total = torch.zeros((), dtype=torch.float64)
        for source, number in picked:
            ids, label, name = row_of(source, number)
            masks = Masks.of(config.seed, step, name, torch.device("cpu")) if model.drops else None
            batch = Batch(torch.tensor([ids], dtype=torch.int32), torch.tensor([len(ids)]), torch.tensor([label]), name)
            soft = chances[source.name][number] if teaching.is_on else None
            loss_of = partial(row_loss, config, weights, label, soft)
            if wide is not None:
                wide.learn(ids, partial(loss_of, smoothing=optim.wide_smoothing), counts[source.name])
            total = total + loss_of(model.read(batch, masks)[0]) / counts[source.name]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, STEPS, optim)
        optimizer.zero_grad()
        total.backward()
        if step < (config.model.freeze_embedding or 0):
            model.embedding.weight.grad = None
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if wide is not None:
            climbed = min(1.0, (step + 1) / (optim.wide_warmup * STEPS)) if optim.wide_warmup else 1.0
            wide.step(optim.wide_lr * (1 - step / STEPS) * climbed)
        decay = min(optim.ema or 0.0, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * parameter.detach()
    final = named(model)
    if optim.ema:
        final |= {f"average of {name}": values.numpy() for name, values in average.items()}
    return final


def row_loss(
    config: RunConfig,
    weights: list[float],
    label: int,
    soft: np.ndarray | None,
    logits: torch.Tensor,
    smoothing: float | None = None,
) -> torch.Tensor:
    """The loss of one row from its definition. ``label`` is -1 where there is none, ``soft`` has a chance for each
    class.
    """
    smoothing = config.optim.label_smoothing if smoothing is None else smoothing
    teaching = config.self_training
    taught = torch.zeros((), dtype=torch.float64)
    for number, chance in enumerate(() if soft is None else soft):
        taught = taught + chance * weights[number] * plain_loss(logits, number, 0.0)
    if label == NO_LABEL:
        return teaching.weight * taught
    return weights[label] * plain_loss(logits, label, smoothing)


def plain_loss(logits: torch.Tensor, label: int, smoothing: float) -> torch.Tensor:
    """Smoothed cross-entropy from its definition."""
    scores = torch.stack((torch.zeros_like(logits), logits)) if logits.dim() == 0 else logits
    targets = torch.full_like(scores, smoothing / len(scores))
    targets[label] += 1 - smoothing
    return -(targets * torch.log_softmax(scores, 0)).sum()


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """One with two classes, one with three."""
    roots = [tmp_path_factory.mktemp("data") for _ in range(2)]
    for num_classes, root in enumerate(roots, start=2):
        rows = {"train": ROWS, "validation": 20, "test": 20, "unlabelled": UNLABELLED_ROWS}
        write_dataset(root, rows, num_classes=num_classes, longest=30)
    return [str(root) for root in roots]


@pytest.fixture(scope="module")
def references(datasets: list[str]) -> dict[tuple[int, str], dict[str, np.ndarray]]:
    cases = itertools.product(range(len(datasets)), OPTIONS)
    return {(place, options): reference_weights(datasets[place], options) for place, options in cases}


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_same_update(datasets: list[str], references: dict, tmp_path: Path, whole: bool) -> None:
    for world_size, number in ((1, 16), (2, 16), (4, 8)):
        cases = CASES if whole else some_of_them(world_size)
        assert len(cases) == (32 if whole else number)
        for results in run_ranks(train_on_a_rank, world_size, datasets, str(tmp_path), cases):
            assert list(results) == cases
            for (place, options, layout, accumulation), (counts, weights) in results.items():
                assert len(counts) == STEPS
                assert max(counts) == accumulation
                assert weights.keys() == references[place, options].keys()
                for name, expected in references[place, options].items():
                    case = f"{world_size} ranks, dataset {place}, {options}, {layout}, {accumulation} micro-batches"
                    np.testing.assert_allclose(weights[name], expected, rtol=0, atol=1e-9, err_msg=f"{name}: {case}")
