# SPDX-License-Identifier: Apache-2.0
"""Law 5: every row counts exactly once, per epoch of training and per evaluation, on any number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    log_loss,
    roc_auc_score,
)

from harness.config import ModelConfig, RunConfig
from harness.data.order import OrderSpec, order_over
from harness.data.run_rows import hold_out, rows_of_run
from harness.data.targets import open_targets
from harness.distributed.session import open_session
from harness.inference.scoring import loader_over, score
from harness.metrics.calibration import Decision
from harness.metrics.figures import figures
from harness.metrics.metrics import classification_metrics, probabilities
from harness.model.classifier import Classifier
from preprocessing.dataset.shards import Split, read_manifest
from preprocessing.dataset.views import open_split
from tests.helpers.batches import loader_of
from tests.helpers.datasets import assign_folds, rows_by_number, shared_dataset, split_of, write_dataset
from tests.helpers.ranks import run_ranks
from tests.helpers.teachers import ORACLE, prepare_corpus, write_taught

TEST_ROWS = 203


dataset = shared_dataset({"train": 97, "validation": 40, "test": TEST_ROWS})


def make_model(vocabulary_size: int) -> Classifier:
    torch.manual_seed(3)
    return Classifier(ModelConfig(embedding_dim=8, hidden_size=8), vocabulary_size)


def evaluate_on_a_rank(data: str) -> dict[str, Any]:
    manifest = read_manifest(data)
    split = Split(data, manifest, "test")
    with open_session("cpu", "fp32", 60) as session:
        model = make_model(manifest.vocabulary_size)
        scores = score(model, loader_over(split, session.world, 7, "padded", session.device), session.world)
        columns = [] if session.world.rank == 1 else [np.array([session.world.rank]), np.array([[0.5, np.nan]])]
        gathered = session.world.gather_on_main(columns, "columns that one rank lacks")
    if not session.world.is_main:
        return {"rows": scores.rows.tolist(), "gathered": gathered}
    assert [part[0].tolist() for part in gathered] == [[rank] for rank in range(session.world.world_size) if rank != 1]
    assert all(np.array_equal(part[1], [[0.5, np.nan]], equal_nan=True) for part in gathered)
    assert scores.rows.tolist() == list(range(TEST_ROWS))
    return {**classification_metrics(scores.logits, scores.labels), **scores.__dict__}


@pytest.fixture(scope="module")
def metrics_of_one_rank(dataset: Path) -> dict[str, Any]:
    return run_ranks(evaluate_on_a_rank, 1, str(dataset))[0]


def assert_equal_to_scikit_learn(values: dict[str, Any]) -> None:
    chances, labels = probabilities(values["logits"])[:, 1], values["labels"]
    assert len(labels) == sum(rows for _, _, rows in values["confusion"]) == TEST_ROWS
    assert values["accuracy"] == pytest.approx(accuracy_score(labels, chances >= 0.5), abs=1e-9)
    assert values["roc_auc"] == pytest.approx(roc_auc_score(labels, chances), abs=1e-9)
    assert values["log_loss"] == pytest.approx(log_loss(labels, chances), abs=1e-9)


@pytest.mark.processes
@pytest.mark.parametrize("world_size", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_evaluation_is_the_same_on_any_number_of_ranks(
    dataset: Path, metrics_of_one_rank: dict, world_size: int
) -> None:
    result, *others = run_ranks(evaluate_on_a_rank, world_size, str(dataset))
    assert others == [{"rows": [], "gathered": []}] * (world_size - 1)
    assert_equal_to_scikit_learn(result)
    np.testing.assert_allclose(result["logits"], metrics_of_one_rank["logits"], rtol=0, atol=1e-6)
    for name in ("rows", "labels"):
        np.testing.assert_array_equal(result[name], metrics_of_one_rank[name])
    for name in ("accuracy", "f1", "confusion"):
        assert result[name] == metrics_of_one_rank[name], name
    for name in ("roc_auc", "pr_auc"):  # rows of equal logits on one rank may differ in the last bit on another
        assert result[name] == pytest.approx(metrics_of_one_rank[name], abs=1e-12)
    assert result["log_loss"] == pytest.approx(metrics_of_one_rank["log_loss"], abs=1e-7)


def evaluate_sets_on_a_rank(data: str) -> dict[str, Any]:
    manifest = read_manifest(data)
    split = Split(data, manifest, "test")
    with open_session("cpu", "fp32", 60) as session:
        torch.manual_seed(3)
        model = Classifier(ModelConfig(embedding_dim=8, hidden_size=8), manifest.vocabulary_size, len(manifest.labels))
        scores = score(model, loader_over(split, session.world, 7, "padded", session.device), session.world)
    if not session.world.is_main:
        return {}
    return {**figures(scores, manifest.labels, Decision(thresholds=(0.5, 0.52))), "scores": scores}


@pytest.mark.processes
def test_several_labels_are_measured_once_on_any_number_of_ranks(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": 97, "test": TEST_ROWS}, label_sets=[[], [0, 1], [1]])
    members = np.array([[False, False], [True, True], [False, True]])
    labels = members[[row.label for _, row in sorted(rows_by_number(tmp_path, "test").items())]]
    results = [run_ranks(evaluate_sets_on_a_rank, ranks, str(tmp_path))[0] for ranks in (1, 2, 4)]
    for result in results:
        scores = result.pop("scores")
        assert scores.rows.tolist() == list(range(TEST_ROWS))
        np.testing.assert_array_equal(scores.labels, labels)
        predicted = 1 / (1 + np.exp(-scores.logits)) >= (0.5, 0.52)
        assert result["f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
        assert result["f1_micro"] == pytest.approx(f1_score(labels, predicted, average="micro"))
        assert result["accuracy"] == accuracy_score(labels, predicted)
        for name in ("f1", "f1_micro", "accuracy", "per_class", "confusion"):
            assert result[name] == results[0][name], name


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(6, 40), st.one_of(st.none(), st.integers(1, 9)), st.booleans())
def test_ranks_together_load_every_row_once(
    dataset: Path, world_size: int, global_batch: int, micro_batch: int | None, shuffle: bool
) -> None:
    split = split_of(dataset)
    order = order_over(split, OrderSpec(seed=1, global_batch=global_batch, shuffle=shuffle))
    assume(not shuffle or order.smallest_step >= world_size)
    rows = []
    for rank in range(world_size):
        loader = loader_of(split, order, rank=rank, world_size=world_size, micro_batch=micro_batch)
        steps = list(loader.steps(0))
        assert len(steps) == order.steps_per_epoch
        rows += [row for step in steps for batch in step.micro_batches for row in batch.rows.tolist()]
    assert sorted(rows) == list(range(97))


def test_every_row_with_a_label_or_without_is_learned_once_with_what_the_teacher_says(tmp_path: Path) -> None:
    prepare_corpus(tmp_path, labelled=100, unlabelled=150)
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 250)
    write_taught(tmp_path / "data", np.arange(1, 251), shares)
    config = RunConfig(data=str(tmp_path / "data"), run=str(tmp_path / "run"), teacher=ORACLE)
    manifest = rows_of_run(config)
    train, targets = open_split(config.data, manifest, "train"), open_targets(vars(config), manifest.fingerprint)
    target_by_row: dict[int, list[float]] = {}
    for rank in range(3):
        order = order_over(train, OrderSpec(seed=0, global_batch=21))
        for step in loader_of(train, order, rank=rank, world_size=3, targets=targets).steps(0):
            for batch in step.micro_batches:
                assert not target_by_row.keys() & {*batch.rows.tolist()}
                target_by_row |= dict(zip(batch.rows.tolist(), batch.targets.tolist(), strict=True))
    expected = {int(row) for name in ("train", "unlabelled") for row in rows_by_number(tmp_path / "data", name)}
    assert target_by_row.keys() == expected
    for row, target in target_by_row.items():
        np.testing.assert_allclose(target, shares[row - 1], atol=1e-3)


def test_every_row_is_held_out_by_one_fold_and_learned_by_the_others(tmp_path: Path) -> None:
    folds = 3
    write_dataset(tmp_path, {"train": 97, "validation": 40, "test": 20}, widths=(8, 16, 24, 32, 40, 48, 64))
    manifest = assign_folds(tmp_path, folds)
    rows_by_split = {"train": [], "validation": [], "test": []}
    for fold in range(folds):
        view = hold_out(manifest, fold, tmp_path)
        for name, rows in rows_by_split.items():
            shards = Split(tmp_path, view, name).shards
            blocks = [(shard.path.parent.name, block) for shard in shards for block in shard.blocks]
            rows += [(split, int(row)) for split, block in blocks for row in block.row]
    all_rows = {("train", row) for row in range(97)}
    all_rows |= {("validation", row) for row in range(40)}
    assert sorted(rows_by_split["validation"]) == sorted(all_rows)
    assert sorted(rows_by_split["train"]) == sorted([*all_rows] * (folds - 1))
    assert sorted(rows_by_split["test"]) == sorted([("test", row) for row in range(20)] * folds)
