# SPDX-License-Identifier: Apache-2.0
"""Law 4: the same global batch gives the same update for every (processes, accumulation, micro-batch), dropout too.

A language model's update: tests/distributed/test_one_update_of_a_pretraining.py.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.batch import Batch, StepBatch
from harness.config import ModelConfig, OptimConfig, RunConfig
from harness.data.loader import Loader
from harness.data.order import Order, OrderSpec
from harness.model.classifier import Classifier, Objective
from harness.model.dropout import Masks
from harness.model.wide import WidePart
from harness.ranks.session import Session, open_session
from harness.training.guard import NonFiniteGuard
from harness.training.optim import learning_rate
from harness.training.profiling import StepProfiler
from harness.training.throughput import Meter
from harness.training.trainer import Trainer
from harness.training.wide import count_features
from preprocessing.dataset.shards import Split, read_manifest
from tests.datasets import write_dataset
from tests.ranks import run_ranks

pytestmark = pytest.mark.processes

ROWS, GLOBAL_BATCH, STEPS = 101, 24, 5
ACCUMULATION = (1, 3)
LAYOUTS = ("padded", "packed")
OPTIONS = ("plain", "every option", "gru")
Case = tuple[int, str, str, int]
"""Dataset, options, layout, micro-batches a step."""


def make_config(options: str, labels: list[str]) -> RunConfig:
    if options == "plain":
        model, optim = ModelConfig(embedding_dim=8, hidden_size=6), OptimConfig(lr=0.01)
    elif options == "gru":
        model = ModelConfig(cell="gru", embedding_dim=8, hidden_size=6, num_layers=2, pooling="last", dropout=0.4)
        optim = OptimConfig(lr=0.01)
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
    return RunConfig(global_batch=GLOBAL_BATCH, epochs=1, seed=3, precision="fp32", model=model, optim=optim)


def make_model(config: RunConfig, vocabulary_size: int, num_classes: int) -> Classifier:
    torch.manual_seed(5)
    return Classifier(config.model, vocabulary_size, num_classes).double()


def make_order(split: Split, config: RunConfig) -> Order:
    spec = OrderSpec(seed=config.seed, global_batch=config.global_batch)
    return Order(split.block_starts, lambda block: split.blocks[block].length, spec)


def train_on_a_rank(datasets: list[str], directory: str) -> dict[Case, tuple[list[int], dict[str, np.ndarray]]]:
    """For every case: micro-batches of each step on this rank, and the final weights with their average."""
    results = {}
    with open_session("cpu", "fp32", 60) as session:
        for place, data in enumerate(datasets):
            for case in itertools.product(OPTIONS, LAYOUTS, ACCUMULATION):
                results[(place, *case)] = train_case(session, data, Path(directory), *case)
    return results


def train_case(
    session: Session, data: str, directory: Path, options: str, layout: Any, accumulation: int
) -> tuple[list[int], dict[str, np.ndarray]]:
    world = session.world
    manifest = read_manifest(data)
    config = make_config(options, manifest.labels)
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
    weights = torch.tensor([config.optim.class_weights.get(label, 1.0) for label in manifest.labels])
    objective = Objective(
        make_model(config, manifest.vocabulary_size, len(manifest.labels)),
        seed=config.seed,
        label_smoothing=config.optim.label_smoothing,
        class_weights=weights if config.optim.class_weights else None,
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
        count_features(objective.classifier.wide, split, len(manifest.labels), world)
    update, counts = trainer.update, []

    def counted(batch: StepBatch) -> Any:
        counts.append(len(batch.micro_batches))
        return update(batch)

    trainer.update = counted  # type: ignore[method-assign]
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
    split = Split(data, manifest, "train")
    order = make_order(split, config)
    model = make_model(config, manifest.vocabulary_size, len(manifest.labels))
    average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    decayed = {"params": matrices, "weight_decay": optim.weight_decay}
    optimizer = torch.optim.AdamW([decayed, {"params": vectors, "weight_decay": 0.0}], lr=optim.lr)
    wide = None if model.wide is None else PlainWide(model.wide, split, len(manifest.labels))
    rows_of = [(block, row) for block in split.blocks for row in range(len(block.row))]
    for step in range(STEPS):
        epoch, place = divmod(step, order.steps_per_epoch)
        picked = [rows_of[row] for row in order.batch_rows(epoch, place)]
        total = torch.zeros((), dtype=torch.float64)
        for block, row in picked:
            length, label, source = int(block.length[row]), int(block.label[row]), block.row[row : row + 1]
            ids = torch.from_numpy(block.ids[row, :length].astype(np.int32))[None]
            masks = Masks.of(config.seed, step, source, ids.device) if model.drops else None
            logits = model.read(Batch(ids, torch.tensor([length]), torch.tensor([label]), source), masks)
            weight = optim.class_weights.get(manifest.labels[label], 1.0)
            if wide is not None:
                wide.learn(block.ids[row, :length].tolist(), label, weight, optim.label_smoothing)
            total = total + weight * plain_loss(logits[0], label, optim.label_smoothing)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, STEPS, optim)
        optimizer.zero_grad()
        (total / len(picked)).backward()
        if step < (config.model.freeze_embedding or 0):
            model.embedding.weight.grad = None
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if wide is not None:
            wide.step(optim.wide_lr * (1 - step / STEPS) / len(picked))
        decay = min(optim.ema or 0.0, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * parameter.detach()
    final = named(model)
    if optim.ema:
        final |= {f"average of {name}": values.numpy() for name, values in average.items()}
    return final


class PlainWide:
    """The wide part from its definition: TF-IDF row by row in dictionaries, gradient descent feature by feature."""

    def __init__(self, wide: WidePart, split: Split, num_classes: int) -> None:
        self.wide = wide
        rows = 0
        seen: Counter[tuple[int, int]] = Counter()
        for block in split.blocks:
            for ids, length, label in zip(block.ids, block.length, block.label, strict=True):
                seen.update((bucket, int(label)) for bucket in set(self.buckets(ids[:length].tolist())))
                rows += 1
        total = Counter[int]()
        for (bucket, _), many in seen.items():
            total[bucket] += many
        kept = [bucket for bucket, many in total.items() if many > 1]
        for bucket in kept:
            wide.weights[bucket] = 1 + math.log((1 + rows) / (1 + total[bucket]))
        tells = dict.fromkeys(kept, 0.0)
        for label in range(num_classes):
            inside = sum(1 + seen[bucket, label] for bucket in kept)
            outside = sum(1 + total[bucket] - seen[bucket, label] for bucket in kept)
            for bucket in kept:
                own, rest = 1 + seen[bucket, label], 1 + total[bucket] - seen[bucket, label]
                tells[bucket] = max(tells[bucket], abs(math.log(own / inside * outside / rest)))
        for bucket in kept:
            wide.weights[bucket] *= math.sqrt(0.05 + tells[bucket])
        self.change = torch.zeros_like(wide.table)
        self.bias_change = torch.zeros_like(wide.bias)

    def buckets(self, ids: list[int]) -> list[int]:
        """Words first, then pairs; ``bucket_of`` is the one thing that is not told again here."""
        words = [one * 0x1E3779B1 for one in ids]
        pairs = [one * 0x05EBCA6B + two * 0x42B2AE35 + 0x1E3779B1 for one, two in itertools.pairwise(ids)]
        return [int(self.wide.bucket_of(torch.tensor(key % 2**32))) for key in words + pairs]

    def learn(self, ids: list[int], label: int, weight: float, smoothing: float) -> None:
        features = {bucket: 1 + math.log(many) for bucket, many in Counter(self.buckets(ids)).items()}
        features = {bucket: value * float(self.wide.weights[bucket]) for bucket, value in features.items()}
        length = math.sqrt(sum(value**2 for value in features.values())) or 1.0
        logits = self.wide.bias.clone()
        for bucket, value in features.items():
            logits += value / length * self.wide.table[bucket]
        logits.requires_grad_()
        loss = weight * plain_loss(logits[0] if len(logits) == 1 else logits, label, smoothing)
        (error,) = torch.autograd.grad(loss, logits)
        for bucket, value in features.items():
            self.change[bucket] += value / length * error
        self.bias_change += 0.1 * error

    def step(self, rate: float) -> None:
        self.wide.table -= rate * self.change
        self.wide.bias -= rate * self.bias_change
        self.change.zero_()
        self.bias_change.zero_()


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
        write_dataset(root, {"train": ROWS, "validation": 20, "test": 20}, num_classes=num_classes, longest=30)
    return [str(root) for root in roots]


@pytest.fixture(scope="module")
def references(datasets: list[str]) -> dict[tuple[int, str], dict[str, np.ndarray]]:
    cases = itertools.product(range(len(datasets)), OPTIONS)
    return {(place, options): reference_weights(datasets[place], options) for place, options in cases}


def test_same_update(datasets: list[str], references: dict, tmp_path: Path) -> None:
    for world_size in (1, 2, 4):
        for results in run_ranks(train_on_a_rank, world_size, datasets, str(tmp_path)):
            assert len(results) == len(datasets) * len(OPTIONS) * len(LAYOUTS) * len(ACCUMULATION)
            for (place, options, layout, accumulation), (counts, weights) in results.items():
                assert len(counts) == STEPS
                assert max(counts) == accumulation
                assert weights.keys() == references[place, options].keys()
                for name, expected in references[place, options].items():
                    case = f"{world_size} ranks, dataset {place}, {options}, {layout}, {accumulation} micro-batches"
                    np.testing.assert_allclose(weights[name], expected, rtol=0, atol=1e-9, err_msg=f"{name}: {case}")
