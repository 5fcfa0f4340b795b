# SPDX-License-Identifier: Apache-2.0
"""Law 4 for a language model: one update for every (processes, micro-batches, layout), equal to one row by row.

And what a validation says of the weights: the same on any number of processes, equal to a plain loop.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.batch import StepBatch
from harness.config import LanguageModelConfig, ModelConfig, OptimConfig, RunConfig
from harness.data.checks import order_spec
from harness.data.loader import Loader
from harness.data.order import order_over
from harness.data.views import rows_of_task
from harness.inference.scoring import measure
from harness.model.dropout import Masks
from harness.model.language import LanguageModel, LanguageObjective, Targets
from harness.ranks.session import Session, open_session
from harness.training.guard import NonFiniteGuard
from harness.training.optim import learning_rate
from harness.training.throughput import Meter, StepProfiler
from harness.training.trainer import Trainer
from preprocessing.dataset.shards import Manifest, Split, read_manifest
from tests.datasets import write_dataset
from tests.ranks import run_ranks
from tests.reference import plain_language_model as plain

pytestmark = pytest.mark.processes

GLOBAL_BATCH, STEPS, VALIDATION = 12, 4, 17
ACCUMULATION = (1, 3)
LAYOUTS = ("padded", "packed")
OPTIONS = ("plain", "every option", "gru, one direction, all tokens")
WINDOW, DISTANCES, FREQUENT = 5, 2, 0.001


def make_config(options: str) -> RunConfig:
    model, optim, candidates = ModelConfig(embedding_dim=8, hidden_size=6), OptimConfig(lr=0.01), 20
    if options == "every option":
        model = ModelConfig(embedding_dim=8, hidden_size=6, dropout=0.4, word_dropout=0.3, freeze_embedding=2)
        optim = OptimConfig(lr=0.01, ema=0.8, weight_decay=0.1)
    elif options != "plain":
        model = ModelConfig(cell="gru", embedding_dim=8, hidden_size=6, bidirectional=False)
        candidates = 5000
    common = {"task": "language_model", "global_batch": GLOBAL_BATCH, "epochs": 1, "seed": 3, "precision": "fp32"}
    ahead = {"window": WINDOW, "distances": DISTANCES, "frequent": FREQUENT} if options == "every option" else {}
    language_model = LanguageModelConfig(candidates=candidates, **ahead)
    return RunConfig(**common, model=model, optim=optim, language_model=language_model)


def make_model(config: RunConfig, vocabulary_size: int) -> LanguageModel:
    torch.manual_seed(5)
    model = LanguageModel(config.model, vocabulary_size)
    model.start_bias(counts_of(vocabulary_size))
    return model.double()


def counts_of(vocabulary_size: int) -> np.ndarray:
    return np.arange(vocabulary_size)[::-1].copy()


def targets_of(config: RunConfig, vocabulary_size: int) -> Targets:
    return Targets.of(config.language_model, counts_of(vocabulary_size), torch.device("cpu"))


def opened(data: str) -> tuple[Manifest, Split]:
    manifest = rows_of_task("language_model", read_manifest(data), data)
    return manifest, Split(data, manifest, "train")


def train_case(
    session: Session, data: str, directory: Path, options: str, layout: Any, accumulation: int
) -> tuple[list[int], dict[str, np.ndarray]]:
    world, config = session.world, make_config(options)
    manifest, split = opened(data)
    loader = Loader(
        split,
        order_over(split, order_spec(config)),
        rank=world.rank,
        world_size=world.world_size,
        layout=layout,
        device=session.device,
        micro_batch=math.ceil(math.ceil(GLOBAL_BATCH / world.world_size) / accumulation),
        counts_tokens=True,
    )
    model = make_model(config, manifest.vocabulary_size)
    trainer = Trainer(
        config,
        LanguageObjective(
            model,
            candidates=config.language_model.candidates,
            seed=config.seed,
            targets=targets_of(config, manifest.vocabulary_size),
        ),
        loader,
        session.accelerator,
        world,
        guard=NonFiniteGuard(1, world, directory, split, Path(data), manifest.vocabulary_size),
        meter=Meter(predictions=model.num_directions),
        profiler=StepProfiler([], directory),
    )
    update, counts = trainer.update, []

    def counted(batch: StepBatch) -> Any:
        counts.append(len(batch.micro_batches))
        return update(batch)

    trainer.update = counted  # type: ignore[method-assign]
    trainer.fit()
    final = named(model)
    if trainer.average is not None:
        with trainer.average.swapped():
            final |= {f"average of {name}": values for name, values in named(model).items()}
    return counts, final


def named(model: LanguageModel) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def train_on_a_rank(data: str, directory: str) -> dict[tuple[str, str, int], Any]:
    with open_session("cpu", "fp32", 60) as session:
        cases = itertools.product(OPTIONS, LAYOUTS, ACCUMULATION)
        return {case: train_case(session, data, Path(directory), *case) for case in cases}


def rows_of(split: Split) -> list[tuple[list[int], np.ndarray]]:
    """Ids and source row of every row, by its place in the split."""
    return [
        (block.ids[row, : block.length[row]].tolist(), block.row[row : row + 1])
        for block in split.blocks
        for row in range(len(block.row))
    ]


def reference_weights(data: str, options: str) -> dict[str, np.ndarray]:
    """Plain PyTorch: one process, the whole global batch row by row, no padless code but model, masks and order."""
    config, (manifest, split) = make_config(options), opened(data)
    optim, size = config.optim, manifest.vocabulary_size
    order, rows = order_over(split, order_spec(config)), rows_of(split)
    model = make_model(config, size)
    average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    decayed = {"params": matrices, "weight_decay": optim.weight_decay}
    optimizer = torch.optim.AdamW([decayed, {"params": vectors, "weight_decay": 0.0}], lr=optim.lr)
    counts = plain.token_counts(counts_of(size), config.language_model.frequent)
    for step in range(STEPS):
        distances = targets_of(config, size).drawn(config.seed, step)
        candidates, corrections = list(range(1, size)), None
        if 2 * config.language_model.candidates < size - 1:
            candidates, tries = plain.draw(size, config.language_model.candidates, config.seed, step)
            corrections = plain.log_expected(size, tries)
        total, predictions = torch.zeros((), dtype=torch.float64), 0
        for row in order.batch_rows(0, step):
            ids, source = rows[row]
            masks = Masks.of(config.seed, step, source, torch.device("cpu")) if model.drops else None
            for distance in distances:
                losses = plain.row_losses(model, ids, candidates, corrections, masks, distance, counts)
                total = total + sum(losses) / len(distances)
            predictions += model.num_directions * (len(ids) - 1)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, STEPS, optim)
        optimizer.zero_grad()
        (total / predictions).backward()
        model.embedding.weight.grad[0] = 0
        if step < (config.model.freeze_embedding or 0):
            model.embedding.weight.grad = None
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(optim.ema or 0.0, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * parameter.detach()
    final = named(model)
    if optim.ema:
        final |= {f"average of {name}": values.numpy() for name, values in average.items()}
    return final


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """45 training and unlabelled rows, some of one token."""
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 25, "validation": VALIDATION, "unlabelled": 20}, longest=14, widths=(4, 8, 16))
    return str(root)


@pytest.mark.parametrize("sizes", [(1, 2), pytest.param((4,), marks=pytest.mark.slow)])
def test_same_update(data: str, tmp_path: Path, sizes: tuple[int, ...]) -> None:
    references = {options: reference_weights(data, options) for options in OPTIONS}
    for world_size in sizes:
        for results in run_ranks(train_on_a_rank, world_size, data, str(tmp_path)):
            assert len(results) == len(OPTIONS) * len(LAYOUTS) * len(ACCUMULATION)
            for (options, layout, accumulation), (counts, weights) in results.items():
                assert len(counts) == STEPS
                assert max(counts) == accumulation
                assert weights.keys() == references[options].keys()
                for name, expected in references[options].items():
                    case = f"{world_size} ranks, {options}, {layout}, {accumulation} micro-batches"
                    np.testing.assert_allclose(weights[name], expected, rtol=0, atol=1e-9, err_msg=f"{name}: {case}")


def measure_on_a_rank(data: str) -> list[dict[str, Any]]:
    """Of both layouts, of one and two directions, and of next tokens and a window."""
    results = []
    with open_session("cpu", "fp32", 60) as session:
        manifest = rows_of_task("language_model", read_manifest(data), data)
        split = Split(data, manifest, "validation")
        for options, layout in itertools.product(OPTIONS, LAYOUTS):
            model = make_model(make_config(options), manifest.vocabulary_size)
            targets = targets_of(make_config(options), manifest.vocabulary_size)
            found = measure(
                model, split, session.world, batch_rows=5, layout=layout, device=session.device, targets=targets
            )
            results.append(found.figures())
    return results


def test_perplexity_is_exact_on_any_number_of_processes(data: str) -> None:
    manifest = rows_of_task("language_model", read_manifest(data), data)
    rows = rows_of(Split(data, manifest, "validation"))
    everything = range(1, manifest.vocabulary_size)
    expected = []
    for options in OPTIONS:
        config = make_config(options)
        model = make_model(config, manifest.vocabulary_size)
        counts = plain.token_counts(counts_of(manifest.vocabulary_size), config.language_model.frequent)
        distances = range(1, config.language_model.window + 1)
        with torch.no_grad():
            costs = [
                plain.row_losses(model, ids, everything, None, None, distance, counts)
                for ids, _ in rows
                for distance in distances
            ]
        pairs = [(ids[:-distance], ids[distance:]) for ids, _ in rows for distance in distances]
        ahead, behind = (sum(counts[token] for pair in pairs for token in pair[side]) for side in (1, 0))
        sums = np.sum(costs, axis=0)
        number = sum(len(pair[0]) for pair in pairs)
        expected += [(number, sums / np.array([ahead, behind])[: len(sums)])] * len(LAYOUTS)
    for world_size in (1, 2, 3):
        for results in run_ranks(measure_on_a_rank, world_size, data):
            for figures, (number, losses) in zip(results, expected, strict=True):
                assert (figures["rows"], figures["targets"]) == (VALIDATION, number)
                assert figures["log_loss"] == pytest.approx(np.mean(losses), rel=1e-12)
                assert figures["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-12)
                both = [figures.get(f"perplexity_{name}") for name in ("forward", "backward")]
                wanted = np.exp(losses).tolist() if len(losses) == 2 else [None, None]
                assert both == [None if value is None else pytest.approx(value, rel=1e-12) for value in wanted]
