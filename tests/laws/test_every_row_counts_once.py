# SPDX-License-Identifier: Apache-2.0
"""Law 5: every row counts exactly once, per epoch of training and per evaluation, on any number of processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from harness.config import ModelConfig, RunConfig
from harness.data.order import OrderSpec, order_over
from harness.data.run_rows import hold_out, rows_of_run
from harness.data.targets import open_targets
from harness.distributed.session import open_session
from harness.inference.scoring import loader_over, score
from harness.metrics.calibration import Decision
from harness.metrics.figures import Scores, figures
from harness.metrics.metrics import set_probabilities
from harness.model.classifier import Classifier
from preprocessing.dataset.remote import open_split
from preprocessing.dataset.shards import Split, read_manifest
from tests.helpers.batches import loader_of
from tests.helpers.datasets import assign_folds, rows_by_number, shared_dataset, split_of, write_dataset
from tests.helpers.ranks import run_ranks
from tests.helpers.teachers import ORACLE, prepare_corpus, write_taught

TEST_ROWS = 203


dataset = shared_dataset({"train": 97, "validation": 40, "test": TEST_ROWS})


several_labels = shared_dataset({"train": 97, "test": TEST_ROWS}, label_sets=[[], [0, 1], [1]])


def score_on_a_rank(data: str) -> Scores | None:
    """What rank 0 has after an evaluation; None on the other ranks."""
    manifest = read_manifest(data)
    with open_session("cpu", "fp32", 60) as session:
        torch.manual_seed(3)
        outputs = 1 if manifest.label_sets is None else len(manifest.labels)
        model = Classifier(ModelConfig(embedding_dim=8, hidden_size=8), manifest.vocabulary_size, outputs)
        loader = loader_over(Split(data, manifest, "test"), session.world, 7, "padded", session.device)
        scores = score(model, loader, session.world)
        column = [] if session.world.rank == 1 else [np.array([session.world.rank, np.nan])]
        gathered = session.world.gather_on_main(column, "columns that one rank lacks")
        ranks = [rank for rank in range(session.world.world_size) if rank != 1] if session.world.is_main else []
        np.testing.assert_array_equal(np.ravel(gathered), np.ravel([[rank, np.nan] for rank in ranks]))
        return scores if session.world.is_main else None


@pytest.mark.processes
@pytest.mark.parametrize(
    ("data", "world_size", "decision"),
    [
        ("dataset", 3, Decision()),
        pytest.param("dataset", 4, Decision(), marks=pytest.mark.slow),
        ("several_labels", 2, Decision(thresholds=[0.5, 0.52])),
    ],
)
def test_evaluation_is_the_same_on_any_number_of_ranks(
    data: str, world_size: int, decision: Decision, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue(data)
    (expected,) = run_ranks(score_on_a_rank, 1, str(root))
    scores, *of_others = run_ranks(score_on_a_rank, world_size, str(root))
    assert of_others == [None] * (world_size - 1)
    row_by_number, members = rows_by_number(root, "test"), read_manifest(root).members
    assert scores.rows.tolist() == expected.rows.tolist() == sorted(row_by_number) == list(range(TEST_ROWS))
    labels = np.array([row.label for _, row in sorted(row_by_number.items())])
    for measured in (scores, expected):
        np.testing.assert_array_equal(measured.labels, labels if members is None else members[labels])
    np.testing.assert_allclose(scores.logits, expected.logits, rtol=0, atol=1e-6)
    values, values_of_one = (figures(each, read_manifest(root).labels, decision) for each in (scores, expected))
    for name in ("accuracy", "f1", "confusion", "per_class"):
        assert values[name] == values_of_one[name], name
    predicted = set_probabilities(scores.logits) >= np.array(decision.thresholds or 0.5)
    assert values["accuracy"] == pytest.approx(accuracy_score(scores.labels, predicted), abs=1e-9)


@given(st.integers(1, 6), st.integers(6, 40), st.one_of(st.none(), st.integers(1, 9)), st.booleans())
def test_ranks_together_load_every_row_once(
    dataset: Path, world_size: int, global_batch: int, micro_batch: int | None, shuffle: bool
) -> None:
    split = split_of(dataset)
    order = order_over(split, OrderSpec(seed=1, global_batch=global_batch, shuffle=shuffle))
    assume(not shuffle or order.num_rows // order.steps_per_epoch >= world_size)
    rows = []
    for rank in range(world_size):
        loader = loader_of(split, order, rank=rank, world_size=world_size, micro_batch=micro_batch)
        steps = list(loader.steps(0))
        assert len(steps) == order.steps_per_epoch
        assert sum(step.global_rows for step in steps) == 97
        rows += [row for step in steps for batch in step.micro_batches for row in batch.rows.tolist()]
    assert sorted(rows) == list(range(97))


def test_every_row_with_a_label_or_without_is_learned_once_with_what_the_teacher_says(tmp_path: Path) -> None:
    prepare_corpus(tmp_path, labelled=100, unlabelled=150)
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 250)
    config = RunConfig(data=str(tmp_path / "data"), run=str(tmp_path / "run"), teacher=ORACLE)
    write_taught(config, np.arange(1, 251), shares)
    manifest = rows_of_run(config)
    train, targets = open_split(config.data, manifest, "train"), open_targets(config, manifest.fingerprint)
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
        assert hold_out(manifest, fold, tmp_path) == view
        for name, rows in rows_by_split.items():
            shards = Split(tmp_path, view, name).shards
            blocks = [(shard.path.parent.name, block) for shard in shards for block in shard.blocks]
            rows += [(split, int(row)) for split, block in blocks for row in block.row]
    all_rows = {("train", row) for row in range(97)}
    all_rows |= {("validation", row) for row in range(40)}
    assert sorted(rows_by_split["validation"]) == sorted(all_rows)
    assert sorted(rows_by_split["train"]) == sorted([*all_rows] * (folds - 1))
    assert sorted(rows_by_split["test"]) == sorted([("test", row) for row in range(20)] * folds)
