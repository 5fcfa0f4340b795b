# SPDX-License-Identifier: Apache-2.0
"""Law 4 for a language model: one update for every (processes, micro-batches, layout), equal to one row by row.

And what a validation says of the weights: the same on any number of processes, equal to a plain loop.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from harness.batch import Batch
from harness.config import LanguageModelConfig, ModelConfig, OptimConfig, RunConfig
from harness.data.order import order_over
from harness.data.run_rows import order_spec, rows_of_task
from harness.distributed.session import open_session
from harness.inference.scoring import loader_over, measure_language_model
from harness.model import language
from harness.model.language import WINDOW, LanguageModel
from harness.training.assembly import vocabulary_of
from preprocessing.dataset.shards import Manifest, Split
from tests.helpers.batches import rows_of_step
from tests.helpers.datasets import texts_in, write_dataset
from tests.helpers.ranks import run_ranks
from tests.helpers.trainers import Case, Weights, build_fp64_network, check_splits, train_plainly, updates_of
from tests.reference import plain_language_model as plain

pytestmark = pytest.mark.processes

GLOBAL_BATCH, STEPS, VALIDATION = 12, 2, 17
OPTIONS = ("every option", "one direction, all tokens")
CASES = list(itertools.product(OPTIONS, ("padded", "packed"), (1, 3)))


def make_config(data: str, options: str) -> RunConfig:
    if options == "every option":
        model = ModelConfig(embedding_dim=8, hidden_size=6, dropout=0.4, word_dropout=0.3)
        optim = OptimConfig(lr=0.01, ema=0.8, weight_decay=0.1)
        language_model = LanguageModelConfig(candidates=20)
    else:
        model = ModelConfig(embedding_dim=8, hidden_size=6, bidirectional=False)
        optim, language_model = OptimConfig(lr=0.01), LanguageModelConfig(candidates=5000)
    common = {"task": "language_model", "epochs": 1, "seed": 3, "precision": "fp32"}
    parts = {"model": model, "optim": optim, "language_model": language_model}
    return RunConfig(data=data, run=f"{data}-run", global_batch=GLOBAL_BATCH, **common, **parts)


def network_of(config: RunConfig) -> tuple[LanguageModel, Manifest]:
    manifest = rows_of_task(config)
    model = build_fp64_network(config, manifest)
    assert isinstance(model, LanguageModel)
    return model, manifest


def rows_of(config: RunConfig, manifest: Manifest, name: str) -> tuple[Split, list[tuple[list[int], np.ndarray]]]:
    """Ids and source row of every row, by its place in the split."""
    split = Split(config.data, manifest, name)
    rows = zip(texts_in(split), split.column("row")[:, None], strict=True)
    return split, [(ids.tolist(), row) for ids, row in rows]


def train_on_a_rank(data: str, cases: list[Case]) -> dict[Case, tuple[list[int], Weights]]:
    language.CPU_ELEMENTS = 300  # so that the logits of these few tokens are computed in pieces too
    return updates_of(cases, partial(make_config, data))


def reference_weights(data: str, options: str) -> Weights:
    """Plain PyTorch: one process, the whole global batch row by row, no padless code but model, masks and order."""
    config = make_config(data, options)
    model, manifest = network_of(config)
    split, rows = rows_of(config, manifest, "train")
    order, size = order_over(split, order_spec(config)), manifest.vocabulary_size
    counts = plain.token_counts(vocabulary_of(config).counts)

    def loss_of(step: int) -> torch.Tensor:
        distances = range(1, WINDOW + 1)
        candidates, corrections = list(range(1, size)), None
        if 2 * config.language_model.candidates < size - 1:
            candidates, tries = plain.draw(size, config.language_model.candidates, config.seed, step)
            corrections = plain.log_expected(size, tries)
        total, predictions = torch.zeros((), dtype=torch.float64), 0
        for row in rows_of_step(order, 0, step):
            ids, source = rows[row]
            row_alone = Batch(torch.tensor([ids]), torch.tensor([len(ids)]), torch.zeros(1), source)
            masks = model.masks(config.seed, step, row_alone)
            for distance in distances:
                losses = plain.row_losses(model, ids, candidates, corrections, masks, distance, counts)
                total = total + sum(losses) / len(distances)
            predictions += model.predictions * (len(ids) - 1)
        return total / predictions

    return train_plainly(config, model, STEPS, loss_of)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """22 training and unlabelled rows, some of one token."""
    root = tmp_path_factory.mktemp("data") / "data"
    write_dataset(root, {"train": 14, "validation": VALIDATION, "unlabelled": 8}, longest=14, widths=(4, 8, 16))
    return str(root)


@pytest.mark.parametrize("is_thorough", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_same_update(data: str, is_thorough: bool) -> None:
    references = {options: reference_weights(data, options) for options in OPTIONS}
    check_splits(train_on_a_rank, data, CASES, references, STEPS, is_thorough)


def measure_on_a_rank(data: str) -> list[dict[str, Any]]:
    results = []
    layouts = ["padded", "packed"]
    language.CPU_ELEMENTS = 300
    with open_session("cpu", "fp32", 60) as session:
        for options, layout in zip(OPTIONS, layouts, strict=True):
            model, manifest = network_of(make_config(data, options))
            loader = loader_over(Split(data, manifest, "validation"), session.world, 5, layout, session.device)
            results.append(measure_language_model(model, loader, session.world))
    return results


def test_perplexity_is_exact_on_any_number_of_processes(data: str) -> None:
    """Of both layouts, of one and two directions."""
    expected = []
    for options in OPTIONS:
        config = make_config(data, options)
        model, manifest = network_of(config)
        _, rows = rows_of(config, manifest, "validation")
        counts = plain.token_counts(vocabulary_of(config).counts)
        everything, distances = range(1, manifest.vocabulary_size), range(1, WINDOW + 1)
        pairs = [(ids, distance) for ids, _ in rows for distance in distances]
        with torch.no_grad():
            costs = [plain.row_losses(model, ids, everything, None, None, distance, counts) for ids, distance in pairs]
        forward_count = sum(counts[token] for ids, distance in pairs for token in ids[distance:])
        backward_count = sum(counts[token] for ids, distance in pairs for token in ids[:-distance])
        sums, number = np.sum(costs, axis=0), sum(len(ids[distance:]) for ids, distance in pairs)
        expected.append((number, sums / np.array([forward_count, backward_count])[: len(sums)]))
    for world_size in (1, 2):
        results, *others = run_ranks(measure_on_a_rank, world_size, data)
        assert others == [[{}] * len(OPTIONS)] * (world_size - 1)
        for figures, (number, losses) in zip(results, expected, strict=True):
            assert (figures["rows"], figures["targets"]) == (VALIDATION, number)
            assert figures["log_loss"] == pytest.approx(np.mean(losses), rel=1e-12)
            assert figures["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-12)
