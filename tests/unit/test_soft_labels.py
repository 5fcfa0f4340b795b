# SPDX-License-Identifier: Apache-2.0
"""Soft labels: a file with its own hash, a loss equal to its definition, an error message for each problem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.config import OrderConfig, RunConfig, SelfTrainingConfig
from harness.data import checks
from harness.data.soft_labels import (
    Teacher,
    check_soft_labels,
    read_soft_labels,
    targets_of,
    write_soft_labels,
)
from harness.inference.evaluation import measured
from harness.scores.calibration import Decision
from harness.training.preflight import check_soft_labels as check_resumed
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.shards import Manifest, Split, read_manifest
from tests.datasets import write_dataset

ROWS = {"train": 40, "validation": 10, "unlabelled": 30}


@pytest.fixture(scope="module", params=[2, 3])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, ROWS, num_classes=request.param)
    return root


@pytest.fixture(scope="module")
def manifest(data: Path) -> Manifest:
    return read_manifest(data)


def draw(manifest: Manifest, rows: int = ROWS["unlabelled"]) -> tuple[np.ndarray, np.ndarray]:
    """Rows in another order than the dataset has them, with probabilities."""
    random = np.random.default_rng(rows)
    return random.permutation(rows), random.dirichlet(np.ones(len(manifest.labels)), rows).astype(np.float32)


def teacher_of(manifest: Manifest) -> Teacher:
    facts = {"accuracy": 0.9, "log_loss": 0.3, "rows": 10}
    return Teacher(dataset=manifest.fingerprint, labels=manifest.labels, teacher="run x", validation=facts)


def test_what_is_written_is_read_and_finds_its_rows(data: Path, manifest: Manifest, tmp_path: Path) -> None:
    path, (rows, chances) = tmp_path / "soft.arrow", draw(manifest)
    digest = write_soft_labels(path, teacher_of(manifest), rows, chances)
    found = read_soft_labels(path)
    assert (found.sha256, found.teacher) == (digest, teacher_of(manifest))
    assert found.facts["validation"] == {"accuracy": 0.9, "log_loss": 0.3, "rows": 10}
    assert found.in_words == "of run x, accuracy 0.9000 on validation; 30 rows"
    check_soft_labels(found, data, manifest)
    split = Split(data, manifest, "unlabelled")
    of_row = dict(zip(rows.tolist(), chances.tolist(), strict=True))
    wanted = np.array([of_row[int(row)] for block in split.blocks for row in block.row], np.float32)
    targets = targets_of(found, split)
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, wanted[:, 1] if len(manifest.labels) == 2 else wanted)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("dataset", "soft labels of another dataset"),
        ("rows", "29 rows, the dataset has 30 unlabelled; make it again"),
        ("sum", r"row \d+ has \[.*\], which are no probabilities that add up to 1"),
    ],
)
def test_what_does_not_fit_the_dataset(data: Path, manifest: Manifest, tmp_path: Path, wrong: str, words: str) -> None:
    teacher, (rows, chances) = teacher_of(manifest), draw(manifest)
    if wrong == "dataset":
        teacher = replace(teacher, dataset="0" * 64)
    elif wrong == "rows":
        rows, chances = draw(manifest, 29)
    else:
        chances[3] = 0.9
    path = tmp_path / "soft.arrow"
    write_soft_labels(path, teacher, rows, chances)
    with pytest.raises(DataError, match=words) as caught:
        check_soft_labels(read_soft_labels(path), data, manifest)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_teacher_that_knows_nothing_is_refused_unless_asked_for(
    data: Path, manifest: Manifest, tmp_path: Path
) -> None:
    classes = len(manifest.labels)
    logits = np.random.default_rng(3).normal(size=(90, classes))
    validation = measured(logits if classes > 2 else logits[:, 0], np.arange(90) % classes, Decision())
    path = tmp_path / "x.arrow"
    write_soft_labels(path, replace(teacher_of(manifest), validation=validation), *draw(manifest))
    assert "no better than chance" in read_soft_labels(path).in_words
    with pytest.raises(DataError, match=r"x\.arrow: its teacher, run x, is no better than chance on validation"):
        checks.open_soft_labels(asked(data, rows=8, labels=str(path)), manifest)
    checks.open_soft_labels(asked(data, rows=8, labels=str(path), any_teacher=True), manifest)


def asked(data: Path, *, rows: int = 0, allow: str = "", **teaching: Any) -> RunConfig:
    order, own = OrderConfig(unlabelled_batch=rows), SelfTrainingConfig(**teaching)
    return RunConfig(data=str(data), order=order, self_training=own, global_batch=10, allow=allow)


def test_rows_that_nothing_is_learned_from_are_refused(data: Path, manifest: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"order\.unlabelled_batch: nothing is learned from the unlabelled"):
        checks.check_useful(asked(data, rows=8), manifest, 1)
    checks.check_useful(asked(data, rows=8, labels="mine"), manifest, 1)


def test_unlabelled_rows_must_be_there_for_every_process(data: Path, manifest: Manifest) -> None:
    for rows in (3, 4):
        with pytest.raises(ConfigError, match=r"order.unlabelled_batch: steps of 3 rows cannot be shared by 4"):
            checks.check_fit(asked(data, rows=rows), manifest, 4)
    checks.check_fit(asked(data, rows=5), manifest, 4)


def test_a_run_goes_on_with_the_soft_labels_it_began_with() -> None:
    began = SimpleNamespace(path=Path("run/checkpoints/step-7"), state={"soft_labels": {"sha256": "a" * 64}})
    config = RunConfig(data="data", run="run")
    check_resumed(began, "a" * 64, config)
    for found in ("b" * 64, None):
        with pytest.raises(ConfigError, match=r"self_training.labels: the run of run/checkpoints/step-7 began with"):
            check_resumed(began, found, config)
        check_resumed(began, found, replace(config, allow="self_training.labels"))
    with pytest.raises(ConfigError, match=r"began with none, now those of sha256 bbbbbbbbbbbb are asked for"):
        check_resumed(SimpleNamespace(path=Path("x"), state={}), "b" * 64, config)
