# SPDX-License-Identifier: Apache-2.0
"""Gradients of ranks: one that is not finite makes all skip the step, k in a row end the run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.config import OptimConfig, RunConfig
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
    return small(data, run, epochs=EPOCHS, global_batch=20, optim=OptimConfig(lr=0.01))


def rare_token(split: Split) -> int:
    """A token that stands in one row only."""
    rows = [set(ids.tolist()) for block in split.blocks for ids in block.ids]
    rows_by_token = Counter(token for row in rows for token in row)
    return min(token for token, num_rows in rows_by_token.items() if token > UNK and num_rows == 1)


def train_with_one_bad_row(data: str, run: str) -> tuple[int, int, np.ndarray]:
    """Steps, those that were skipped, and the weights that the bad row has no part in."""
    with open_session("cpu", "fp32", 60) as session:
        trainer = make_trainer(config_of(data, run), session)
        token, classifier = rare_token(trainer.loader.split), trainer.objective.classifier
        with torch.no_grad():
            classifier.embedding.weight[token] = torch.nan
        norms = [float(trainer.grad_norm) for _ in fit(trainer)]
        embedding = np.delete(classifier.embedding.weight.detach().numpy(), token, axis=0)
        weights = np.concatenate([embedding.ravel(), classifier.head.weight.detach().numpy().ravel()])
        return trainer.step, int((~np.isfinite(norms)).sum()), weights


def train_with_nothing_but_bad_rows(data: str, run: str) -> tuple[int, str]:
    """The step at which the training ends, and the sentence that it ends with."""
    with open_session("cpu", "fp32", 60) as session:
        trainer = make_trainer(config_of(data, run), session)
        with torch.no_grad():
            trainer.objective.classifier.head.bias.fill_(torch.nan)
        with pytest.raises(ConfigError) as refusal:
            [trainer.begin_figures()() for _ in fit(trainer)]
        return trainer.step, str(refusal.value)


dataset = shared_dataset({"train": 120, "validation": 20, "test": 20})


def test_all_ranks_skip_the_step_and_training_ends_well(dataset: Path, tmp_path: Path) -> None:
    first, second = run_ranks(train_with_one_bad_row, 2, str(dataset), str(tmp_path))
    for steps, skipped, weights in (first, second):
        assert (steps, skipped) == (EPOCHS * 6, EPOCHS)
        assert np.isfinite(weights).all()
    np.testing.assert_array_equal(first[2], second[2])


def test_a_few_in_a_row_end_the_run_with_a_sentence(dataset: Path, tmp_path: Path) -> None:
    for step, sentence in run_ranks(train_with_nothing_but_bad_rows, 2, str(dataset), str(tmp_path)):
        assert (step, sentence.startswith("optim.lr: the gradient was not finite in 3 steps in a row")) == (3, True)
