# SPDX-License-Identifier: Apache-2.0
"""Law 4: the same global batch gives the same update for every (processes, accumulation, layout), dropout too.

Every rank has the linear part that one process learns. A language model's update:
tests/distributed/test_one_update_of_a_pretraining.py.
"""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.batch import Batch
from harness.config import ModelConfig, OptimConfig, RunConfig
from harness.data.order import order_over
from harness.data.run_rows import order_spec
from harness.data.targets import open_targets
from harness.model.classifier import Classifier
from harness.training.linear_fit import fit_wide
from preprocessing.dataset.shards import VOCABULARY, Split, read_manifest
from preprocessing.text.vocabulary import Vocabulary
from tests.helpers.batches import rows_of_step
from tests.helpers.datasets import texts_in, write_dataset
from tests.helpers.teachers import write_taught
from tests.helpers.trainers import Case, Weights, build_fp64_network, check_splits, train_plainly, updates_of

pytestmark = pytest.mark.processes

GLOBAL_BATCH, STEPS = 13, 3
ROWS = {"train": 38, "validation": 20}
SMALL = {"embedding_dim": 8, "hidden_size": 6}
DEEP = {**SMALL, "num_layers": 2, "pooling": "max+mean", "dropout": 0.4, "word_dropout": 0.2}
WIDE = {"wide": 512, "wide_ngrams": 3}
SMOOTHED = {"label_smoothing": 0.1, "class_weights": {"negative": 2.5, "class0": 2.5}}
LABEL_SETS: list[list[int]] = [[], [0, 1], [1]]
OPTIONS: dict[str, tuple[int | str, dict[str, Any], dict[str, Any]]] = {
    "plain": (2, SMALL, {}),
    "every option": (3, {**DEEP, "wide": 512}, {"ema": 0.8, "weight_decay": 0.1, **SMOOTHED}),
    "last": (3, {**SMALL, "num_layers": 2, "pooling": "last", "dropout": 0.4}, {}),
    "triples": (2, {**SMALL, **WIDE, "dropout": 0.3, "word_dropout": 0.1, "freeze_embedding": "always"}, SMOOTHED),
    "taught, two classes": (2, {**DEEP, "wide": 512}, SMOOTHED),
    "taught": (3, {**SMALL, "wide": 512, "dropout": 0.4}, SMOOTHED),
    "several labels": ("sets", {**DEEP, "wide": 512}, SMOOTHED),
}
"""Number of classes, or several labels to a text; model, optimizer."""
TAUGHT = {2: "taught, two classes", 3: "taught"}
CASES: list[Case] = list(itertools.product(OPTIONS, ("padded", "packed"), (1, 3)))


def make_config(root: str, options: str) -> RunConfig:
    classes, model, optim = OPTIONS[options]
    data = Path(root, f"data-{classes}")
    weights = {name: by for name, by in optim.get("class_weights", {}).items() if name in read_manifest(data).labels}
    return RunConfig(
        data=str(data),
        run=str(Path(root, f"run-{classes}")),
        global_batch=GLOBAL_BATCH,
        epochs=1,
        seed=3,
        teacher="oracle" if options.startswith("taught") else None,
        precision="fp32",
        model=ModelConfig(**model),
        optim=OptimConfig(lr=0.01, **{**optim, "class_weights": weights}),
    )


def train_on_a_rank(root: str, cases: list[Case]) -> dict[Case, tuple[list[int], Weights]]:
    return updates_of(cases, partial(make_config, root))


def reference_weights(root: str, options: str) -> Weights:
    """Plain PyTorch: one process, the whole global batch row by row, no padless code but model, order and masks."""
    config = make_config(root, options)
    manifest, optim = read_manifest(config.data), config.optim
    split = Split(config.data, manifest, "train")
    order = order_over(split, order_spec(config))
    model = build_fp64_network(config, manifest)
    assert isinstance(model, Classifier)
    vocabulary = Vocabulary.read(Path(config.data, VOCABULARY))
    factors = np.array([optim.class_weights.get(label, 1.0) for label in manifest.labels])
    taught = open_targets(config, manifest.fingerprint)
    if model.wide is not None:
        fit_wide(model.wide, split, factors, ["", "", *vocabulary.tokens.to_pylist()[2:]], taught)

    def target_of(label: int, row: np.ndarray) -> np.ndarray:
        """The target of each class, smoothed: the label, or what a teacher says."""
        smoothing = optim.label_smoothing
        shares = np.eye(len(factors))[label] if taught is None else taught.look_up(row)[0].astype(float)
        return (shares @ factors) * (smoothing / len(factors) + (1 - smoothing) * shares)

    def loss_of(step: int) -> torch.Tensor:
        picked, total = rows_of_step(order, *divmod(step, order.steps_per_epoch)), torch.zeros((), dtype=torch.float64)
        for number in picked.tolist():
            ids, label, row = row_of(split, number)
            batch = Batch(torch.tensor([ids], dtype=torch.int32), torch.tensor([len(ids)]), torch.tensor([label]), row)
            masks = model.masks(config.seed, step, batch)
            logits = model.read(batch, masks)[0]
            if manifest.label_sets is None:
                loss = cross_entropy(target_of(label, row), logits)
            else:
                loss = loss_of_set(manifest.label_sets[label], logits, factors, optim.label_smoothing)
            total = total + loss / len(picked)
        return total

    return train_plainly(config, model, STEPS, loss_of)


def row_of(split: Split, number: int) -> tuple[list[int], int, np.ndarray]:
    """Ids, label and source row ``[1]`` of a row of a split."""
    label, rows = int(split.column("label")[number]), split.column("row")
    return texts_in(split)[number].tolist(), label, rows[number : number + 1]


def cross_entropy(targets: np.ndarray, logits: torch.Tensor) -> torch.Tensor:
    scores = torch.stack((torch.zeros_like(logits), logits)) if logits.dim() == 0 else logits
    return -(torch.from_numpy(targets) * torch.log_softmax(scores, 0)).sum()


def loss_of_set(classes: list[int], logits: torch.Tensor, factors: np.ndarray, smoothing: float) -> torch.Tensor:
    """The binary cross-entropies of all classes, one by one."""
    total = torch.zeros((), dtype=torch.float64)
    for number, logit in enumerate(logits):
        target = (1 - smoothing) * (number in classes) + smoothing / 2
        yes, no = torch.sigmoid(logit).log(), torch.sigmoid(-logit).log()
        total = total - factors[number] * target * yes - (1 - target) * no
    return total


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset with two classes, one with three, one with several labels to a text."""
    root = tmp_path_factory.mktemp("data")
    for classes in (2, 3):
        data = root / f"data-{classes}"
        write_dataset(data, ROWS, num_classes=classes, longest=14)
        shares = np.random.default_rng(classes).dirichlet(np.ones(classes), ROWS["train"])
        write_taught(make_config(str(root), TAUGHT[classes]), np.arange(ROWS["train"]), shares)
    write_dataset(root / "data-sets", ROWS, longest=14, label_sets=LABEL_SETS)
    return str(root)


@pytest.fixture(scope="module")
def references(root: str) -> dict[str, Weights]:
    return {options: reference_weights(root, options) for options in OPTIONS}


@pytest.mark.parametrize("is_thorough", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_same_update(root: str, references: dict[str, Weights], is_thorough: bool) -> None:
    check_splits(train_on_a_rank, root, CASES, references, STEPS, is_thorough)
