# SPDX-License-Identifier: Apache-2.0
"""Gradients of ranks: one that is not finite makes all skip the step, k in a row end the run."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.config import OptimConfig, RunConfig, TrackingConfig
from harness.distributed.session import open_session
from padless.core.errors import ConfigError
from preprocessing.dataset.shards import Split
from preprocessing.text.vocabulary import UNK
from tests.helpers.datasets import shared_dataset
from tests.helpers.ranks import run_ranks
from tests.helpers.runs import small
from tests.helpers.trainers import fit, make_trainer

pytestmark = pytest.mark.processes

EPOCHS = 2


def config_of(data: str, run: str) -> RunConfig:
    keys = {"optim": OptimConfig(lr=0.01), "tracking": TrackingConfig(log_every=1)}
    return small(data, run, epochs=EPOCHS, global_batch=20, **keys)


def rare_token(split: Split) -> int:
    """A token that stands in one row only."""
    times = Counter(token for block in split.blocks for ids in block.ids for token in set(ids.tolist()))
    return min(token for token, rows in times.items() if token > UNK and rows == 1)


def train_with_one_bad_row(data: str, run: str) -> dict[str, Any]:
    with open_session("cpu", "fp32", 60) as session:
        trainer = make_trainer(config_of(data, run), session)
        token = rare_token(trainer.loader.split)
        embedding = trainer.objective.classifier.embedding.weight
        with torch.no_grad():
            embedding[token] = torch.nan
        norms = [float(trainer.grad_norm) for _ in fit(trainer)]
        other_weights = torch.cat((embedding[:token].reshape(-1), embedding[token + 1 :].reshape(-1)))
        head = trainer.objective.classifier.head.weight
        return {
            "steps": trainer.step,
            "skipped": sum(not math.isfinite(norm) for norm in norms),
            "finite": bool(torch.isfinite(other_weights).all() and torch.isfinite(head).all()),
            "head": head.detach().numpy().copy(),
        }


def train_with_nothing_but_bad_rows(data: str, run: str) -> str:
    with open_session("cpu", "fp32", 60) as session:
        trainer = make_trainer(config_of(data, run), session)
        with torch.no_grad():
            trainer.objective.classifier.head.bias.fill_(torch.nan)
        try:
            for _ in fit(trainer):
                trainer.read_figures()
        except ConfigError as error:
            return f"{trainer.step} {error}"
    return "ended well"


dataset = shared_dataset({"train": 120, "validation": 20, "test": 20})


def test_all_ranks_skip_the_step_and_training_ends_well(dataset: Path, tmp_path: Path) -> None:
    results = run_ranks(train_with_one_bad_row, 2, str(dataset), str(tmp_path))
    for result in results:
        assert result["steps"] == EPOCHS * 6
        assert result["skipped"] == EPOCHS
        assert result["finite"]
        np.testing.assert_array_equal(result["head"], results[0]["head"])


def test_a_few_in_a_row_end_the_run_with_a_sentence(dataset: Path, tmp_path: Path) -> None:
    for ending in run_ranks(train_with_nothing_but_bad_rows, 2, str(dataset), str(tmp_path)):
        assert ending.startswith(
            "3 optim.lr: the gradient was not finite in 3 steps in a row, up to step 3; lower optim.lr"
        )
