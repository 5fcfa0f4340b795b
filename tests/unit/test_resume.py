# SPDX-License-Identifier: Apache-2.0
"""A run goes on only with its own rows, in its own order."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.config import OptimConfig, RunConfig, to_dict
from harness.data import checks, order
from harness.training.resume import differences, find_resume_point
from harness.training.rules import resolve
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.shards import Manifest, read_manifest, write_manifest
from tests import checkpoints
from tests.bundles import write_index
from tests.datasets import rewritten, write_dataset

STEP = 7


@pytest.fixture(scope="module")
def began(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and beside it a run that was trained on it."""
    root = tmp_path_factory.mktemp("began")
    write_dataset(root / "data", {"train": 60, "validation": 20, "unlabelled": 10})
    manifest = read_manifest(root / "data")
    facts = {"text_hash": manifest.text_hash, "dataset": manifest.fingerprint, "order_version": order.VERSION}
    facts |= {"dataset_parts": checks.parts_of(read_manifest(root / "data")), "config": to_dict(config(root))}
    checkpoints.write(root / "run", STEP, {"weight": torch.zeros(1)}, **facts)
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
    manifest: Manifest = read_manifest(root / "data")
    write_manifest(root / "data", replace(manifest, **changes))


def last_row_goes(root: Path) -> None:
    shards = read_manifest(root / "data").splits["unlabelled"]
    places = {name: (lambda column: column[:-1]) for name in ("ids", "length", "label", "row")}
    assert all(info.rows > 1 for info in shards)
    rewritten(root / "data", "unlabelled", **places)


def splits_are_exchanged(root: Path) -> None:
    splits = read_manifest(root / "data").splits
    remade(root, splits={**splits, "train": splits["validation"], "validation": splits["train"]})


CHANGES = {
    "labels": lambda root: rewritten(root / "data", "train", label=lambda labels: 1 - labels),
    "texts": lambda root: rewritten(
        root / "data", "validation", ids=lambda ids: np.where(ids > 1, ids[::-1].max(), ids)
    ),
    "rows": last_row_goes,
    "splits": splits_are_exchanged,
    "shards": lambda root: remade(root, block_rows=128),
    "classes": lambda root: remade(root, labels=["bad", "good"]),
}
WHAT = {"rows": "rows", "splits": "rows", "classes": "classes"}
ANOTHER_RUN = "name another --run to train on it, or "


@pytest.mark.parametrize("part", CHANGES)
@pytest.mark.parametrize("state", ["preempted", "finished"])
def test_another_dataset_is_refused_with_a_sentence(began: Path, root: Path, part: str, state: str) -> None:
    """Before any key that follows from it, and whether the run has finished or not."""
    leave(root, state)
    CHANGES[part](root)
    keys = "more --epochs and --allow data,epochs" if state == "finished" else "--allow data"
    mend = "restore the run's own: its weights fit no other"
    mend = mend if part == "classes" else f"go on with this one with {keys}"
    said: list[str] = []
    with pytest.raises(DataError) as caught:
        find_resume_point(config(root, epochs=5), said.append, said.append)
    differ = f"its {WHAT.get(part, 'texts or labels')} differ"
    sentence = f"{root / 'data'}: not the dataset that {root / 'run'} was trained on ({began / 'data'}): {differ}"
    assert (str(caught.value), said) == (f"{sentence}; {ANOTHER_RUN}{mend}", [])
    if part != "classes":
        point = find_resume_point(config(root, epochs=5, allow="data,epochs"), said.append, said.append)
        assert (point.finished, [one.key for one in point.differences]) == (False, ["data", "run", "epochs", "allow"])
        assert "(another dataset: other rows from here on" in said[0]
        assert "wherever it lies" not in said[0]
    else:
        with pytest.raises(DataError, match="its classes differ"):
            find_resume_point(config(root, allow="data,epochs"), quiet, quiet)


@pytest.mark.parametrize("state", ["preempted", "finished"])
def test_a_dataset_that_was_moved_is_the_same(root: Path, state: str) -> None:
    leave(root, state)
    (root / "data").rename(root / "elsewhere")
    said: list[str] = []
    point = find_resume_point(replace(config(root), data=str(root / "elsewhere")), said.append, said.append)
    assert point.finished == (state == "finished")
    assert "(the dataset is the same wherever it lies)" in said[0]
    assert (
        find_resume_point(config(root), said.append, said.append).checkpoint is not None
    )  # nothing there, which others say


def test_other_words_and_runs_without_a_checkpoint(root: Path) -> None:
    write_dataset(root / "data", {"train": 70, "validation": 20, "unlabelled": 10}, seed=5)
    with pytest.raises(DataError, match=r"its vocabulary and rows differ; .* or restore the run's own: its weights"):
        find_resume_point(config(root, allow="data"), quiet, quiet)
    shutil.rmtree(root / "run" / "checkpoints")
    assert find_resume_point(config(root), quiet, quiet).checkpoint is None  # nothing was learned
    write_index(root / "run" / "bundle", dataset="another")
    with pytest.raises(DataError, match=r"its rows, labels, texts or vocabulary differ; .* with --allow data"):
        find_resume_point(config(root), quiet, quiet)
    assert find_resume_point(config(root, allow="data"), quiet, quiet).begun


def test_what_was_auto_stays_what_the_run_began_with(root: Path) -> None:
    """Where other data are allowed: epochs, rates and buckets would follow from its rows, and weights not fit."""
    recipe = RunConfig(data=str(root / "data"), run=str(root / "run"), epochs="auto", optim=OptimConfig(ema="auto"))
    assert resolve(recipe).config.epochs == 40
    allowed = resolve(replace(recipe, allow="data")).config
    assert (allowed.epochs, allowed.optim.ema) == (config(root).epochs, config(root).optim.ema)
    assert resolve(replace(recipe, allow="data", epochs=6)).config.epochs == 6
    shutil.rmtree(root / "run")
    assert resolve(replace(recipe, allow="data")).config.epochs == 40


def test_another_order_of_the_same_dataset_is_no_other_dataset(root: Path) -> None:
    assert order.VERSION == 2  # a new version wants a line in CHANGELOG.md
    text_hash, dataset = read_manifest(root / "data").text_hash, read_manifest(root / "data").fingerprint
    facts = {"text_hash": text_hash, "dataset": dataset, "config": to_dict(config(root))}
    checkpoints.write(root / "run", STEP + 1, {"weight": torch.zeros(1)}, **facts, order_version=1)
    with pytest.raises(ConfigError, match=r"order: .* version 1 of the order .*: the same dataset comes in another"):
        find_resume_point(config(root), quiet, quiet)
    assert find_resume_point(config(root, allow="order"), quiet, quiet).checkpoint is not None
    CHANGES["labels"](root)
    with pytest.raises(DataError, match="its rows, labels, texts or vocabulary differ"):
        find_resume_point(config(root), quiet, quiet)  # a checkpoint without hashes of its parts


def test_a_key_of_another_dataset_breaks_a_run() -> None:
    was, now = to_dict(RunConfig(data="a")), to_dict(RunConfig(data="b"))
    assert [str(one) for one in differences(was, now, same_data=True)] == [
        "  data: was a, now b (the dataset is the same wherever it lies)"
    ]
    assert [one.breaks for one in differences(was, was, same_data=False)] == [True]
