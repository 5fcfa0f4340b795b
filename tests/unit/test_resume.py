# SPDX-License-Identifier: Apache-2.0
"""A run resumes only with its own rows, in its own order."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import OptimConfig, RunConfig
from harness.training.preflight import find_resume_point
from harness.training.rules import resolve
from preprocessing.base.errors import DataError
from preprocessing.dataset.shards import read_manifest, write_manifest
from tests import checkpoints
from tests.datasets import rewritten, write_dataset

STEP = 7


@pytest.fixture(scope="module")
def began(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and a run that was trained on it."""
    root = tmp_path_factory.mktemp("began")
    write_dataset(root / "data", {"train": 60, "validation": 20, "unlabelled": 10})
    checkpoints.write(root / "run", STEP, {"weight": torch.zeros(1)}, **checkpoints.facts_of(config(root)))
    return root


@pytest.fixture
def root(began: Path, tmp_path: Path) -> Path:
    shutil.copytree(began, tmp_path / "root")
    leave(tmp_path / "root", "preempted")
    return tmp_path / "root"


def leave(root: Path, state: str) -> None:
    content = f'{{"state": "{state}", "exit_code": 0, "reason": "", "step": {STEP}}}'
    (root / "run" / "status.json").write_text(content)


def config(root: Path, **values: Any) -> RunConfig:
    return RunConfig(data=str(root / "data"), run=str(root / "run"), **values)


def quiet(text: str) -> None:
    pass


def remade(root: Path, **changes: Any) -> None:
    manifest = read_manifest(root / "data")
    write_manifest(root / "data", replace(manifest, **changes))


def last_row_goes(root: Path) -> None:
    shards = read_manifest(root / "data").splits["unlabelled"]
    places = {name: (lambda column: column[:-1]) for name in ("ids", "length", "label", "row")}
    assert all(info.rows > 1 for info in shards)
    rewritten(root / "data", "unlabelled", **places)


def splits_are_exchanged(root: Path) -> None:
    splits = read_manifest(root / "data").splits
    (train,), (validation,) = splits["train"], splits["validation"]
    exchanged = {"train": [replace(validation, split="train")], "validation": [replace(train, split="validation")]}
    remade(root, splits={**splits, **exchanged})


CHANGES = {
    "labels": lambda root: rewritten(root / "data", "train", label=lambda labels: 1 - labels),
    "rows": last_row_goes,
    "splits": splits_are_exchanged,
    "classes": lambda root: remade(root, labels=["bad", "good"]),
}
WHAT = {"rows": "rows", "splits": "rows", "classes": "classes"}


@pytest.mark.parametrize(("part", "state"), list(zip(CHANGES, ("preempted", "finished") * 2, strict=True)))
def test_another_dataset_is_refused_with_a_sentence(began: Path, root: Path, part: str, state: str) -> None:
    """Before any key that depends on it, for finished and unfinished runs."""
    leave(root, state)
    CHANGES[part](root)
    keys = "more --epochs and --allow data,epochs" if state == "finished" else "--allow data"
    mend = "restore the old one: the weights fit no other"
    mend = mend if part == "classes" else f"go on with this one with {keys}"
    said = []
    with pytest.raises(DataError) as caught:
        find_resume_point(config(root, epochs=5), said.append, said.append)
    differ = f"its {WHAT.get(part, 'texts or labels')} differ; name another --run to train on it"
    refused = f"{root / 'data'}: not the dataset that {root / 'run'} was trained on: {differ}"
    assert (str(caught.value), said) == (f"{refused}, or {mend}", [])
    if part != "classes":
        point = find_resume_point(config(root, epochs=5, allow="data,epochs"), said.append, said.append)
        keys = [line.split(":")[0].strip() for line in said[0].splitlines()[1:]]
        assert (point.finished, keys) == (False, ["data", "run", "epochs", "allow"])
        assert said[0].count("(another run from here on)") == 2  # data and epochs
    else:
        with pytest.raises(DataError, match="fit no other"):
            find_resume_point(config(root, allow="data,epochs"), quiet, quiet)


@pytest.mark.parametrize("state", ["preempted", "finished"])
def test_a_dataset_that_was_moved_is_the_same(root: Path, state: str) -> None:
    leave(root, state)
    (root / "data").rename(root / "elsewhere")
    said = []
    point = find_resume_point(replace(config(root), data=str(root / "elsewhere")), said.append, said.append)
    assert point.finished == (state == "finished")
    assert "(the same run)" in said[0]


def test_what_was_auto_stays_what_the_run_began_with(root: Path) -> None:
    """If other data are allowed: else epochs, rates and buckets would follow its rows, and weights would not fit."""
    recipe = RunConfig(data=str(root / "data"), run=str(root / "run"), epochs="auto", optim=OptimConfig(ema="auto"))
    assert resolve(recipe).config.epochs == 40
    allowed = resolve(replace(recipe, allow="data")).config
    assert (allowed.epochs, allowed.optim.ema) == (config(root).epochs, config(root).optim.ema)
    assert resolve(replace(recipe, allow="data", epochs=6)).config.epochs == 6
    shutil.rmtree(root / "run")
    assert resolve(replace(recipe, allow="data")).config.epochs == 40
