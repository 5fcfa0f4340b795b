# SPDX-License-Identifier: Apache-2.0
"""The run directory: damage, reading back. Checkpoints: when one is due; and a run goes on from one only with its own
rows, in its own order.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import CheckpointConfig, OptimConfig, RunConfig
from harness.rundir import checkpoint, layout
from harness.rundir.json_files import read_lines
from harness.rundir.metrics_log import MetricsLog, read_log
from harness.rundir.records import read_run_config, read_status, write_config, write_environment
from harness.training.preflight import check_run
from harness.training.rules import resolve_config
from harness.training.run import Selection
from harness.training.writer import Checkpointer
from padless.core.errors import ConfigError, DataError
from tests.helpers import checkpoints
from tests.helpers.commands import read_json
from tests.helpers.datasets import rewritten, write_dataset


def test_a_checkpoint_of_another_version_is_no_damage(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, 5)
    path = checkpoint.checkpoint_path(tmp_path, 5)
    manifest = read_json(path / checkpoint.MANIFEST)
    (path / checkpoint.MANIFEST).write_text(json.dumps({**manifest, "format_version": 9}))
    with pytest.raises(DataError, match="a checkpoint of format version 9, this padless reads"):
        checkpoint.newest(tmp_path, lambda error: None)


@pytest.mark.parametrize("best", [float("nan"), float("-inf"), 0.25, None])
def test_the_best_validation_so_far_comes_back_from_a_checkpoint(tmp_path: Path, best: float | None) -> None:
    """A loss that is not a number too, which JSON does not have."""
    selection, resumed = Selection("loss", best=best, best_step=3), Selection("loss")
    saver = Checkpointer(tmp_path, CheckpointConfig(), torch.device("cpu"), lambda: None)
    saver.save(checkpoints.TENSORS, checkpoints.state_of(7) | {"selection": selection.state()}, wait=True)
    assert saver.failure is None
    resumed.load(checkpoint.verify_checkpoint(checkpoint.checkpoint_path(tmp_path, 7)).state["selection"])
    assert repr(resumed) == repr(selection)


STEP = 7


@pytest.fixture(scope="module")
def run_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and a run that was trained on it."""
    root = tmp_path_factory.mktemp("began")
    write_dataset(root / "data", {"train": 60, "validation": 20, "unlabelled": 10})
    checkpoints.write(root / "run", STEP, **checkpoints.facts_of(config(root)))
    return root


@pytest.fixture
def root(run_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(run_root, tmp_path / "root")
    write_state(tmp_path / "root", "preempted")
    return tmp_path / "root"


def write_state(root: Path, state: str) -> None:
    content = f'{{"state": "{state}", "exit_code": 0, "reason": "", "step": {STEP}}}'
    (root / "run" / "status.json").write_text(content)


def config(root: Path, **values: Any) -> RunConfig:
    return RunConfig(data=str(root / "data"), run=str(root / "run"), **values)


def ignore_message(text: str) -> None:
    pass


@pytest.mark.parametrize("state", ["preempted", "finished"])
def test_a_dataset_may_move_but_another_one_is_refused(root: Path, state: str) -> None:
    """Before any key that depends on it, for finished and unfinished runs."""
    write_state(root, state)
    moved = (root / "data").rename(root / "elsewhere")
    assert check_run(replace(config(root), data=str(moved)), ignore_message)[1] == (state == "finished")
    rewritten(moved, "train", label=lambda labels: 1 - labels)
    with pytest.raises(DataError, match=f"^{moved}: "):
        check_run(replace(config(root, epochs=5, allow=["data", "epochs"]), data=str(moved)), ignore_message)


def test_a_key_that_changes_the_result_needs_allow(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"epochs: .* --allow epochs"):
        check_run(config(root, epochs=5), ignore_message)
    assert check_run(config(root, timeout_s=5), ignore_message)[0] is not None


@pytest.mark.processes
def test_a_run_finds_its_dataset_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the command was given."""
    for name in ("at/home", "away"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "at/home")
    for name in ("data", "runs/1", "../2"):
        Path(name).mkdir(parents=True)
        write_config(RunConfig(data="data", run=name))
        write_environment(name, {})
    assert read_run_config("runs/1")["data"] == "data"
    monkeypatch.chdir(tmp_path / "away")
    for run in ("../at/2", "../at/home/runs/1"):
        assert read_run_config(run)["data"] == str(tmp_path / "at/home/data")
    Path("../at/home").rename("../at/moved")
    assert read_run_config("../at/2")["data"] == "data"


def test_what_was_auto_stays_what_the_run_began_with(root: Path) -> None:
    """If another value is allowed: else what follows from it changes too."""
    recipe = config(root, epochs="auto", patience="auto", optim=OptimConfig(ema="auto"))
    assert resolve_config(recipe).config.epochs == 40
    checkpoints.write(root / "run", STEP, **checkpoints.facts_of(config(root, patience=9)))
    resolved = [
        resolve_config(replace(recipe, allow=allowed, **changes)).config
        for allowed, changes in ((["optim.lr"], {}), (["epochs"], {"epochs": 4}))
    ]
    began = config(root)
    assert [(one.epochs, one.patience, one.optim.ema) for one in resolved] == [
        (began.epochs, 9, began.optim.ema),
        (4, 9, began.optim.ema),
    ]
    shutil.rmtree(root / "run")
    assert resolve_config(replace(recipe, allow=["optim.lr"])).config.epochs == 40


def test_a_last_line_that_was_cut_short_never_counts_and_any_other_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / layout.METRICS
    assert read_lines(path) == []
    path.write_text('{"step": 1}\n\n{"step": 2}\n{"step": 3, "lo')
    assert read_lines(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 2 "):
        read_lines(path)


@pytest.mark.parametrize("content", [b'{"state": "fini', b'{"state": "over"}', b"[]"])
def test_a_damaged_status_is_named(tmp_path: Path, content: bytes) -> None:
    assert read_status(tmp_path) == {}
    (tmp_path / layout.STATUS).write_bytes(content)
    with pytest.raises(DataError, match=r"status\.json.*; restore it, or write"):
        read_status(tmp_path)


def test_a_log_that_is_not_that_of_the_checkpoint_is_refused_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Moved away by its user, it begins anew."""
    log = MetricsLog(tmp_path, {})
    log.write("train", {"step": 1, "loss": 0.5})
    state, path = log.state(), tmp_path / layout.METRICS
    size = state["log_bytes"][layout.METRICS]
    for damaged in (path.read_bytes().replace(b"0.5", b"0.6"), b'{"kind"'):
        path.write_bytes(damaged)
        with pytest.raises(
            DataError, match=rf"metrics\.jsonl: its first {size} bytes are not those .*; restore it, or move"
        ):
            MetricsLog(tmp_path, state)
        assert path.read_bytes() == damaged
    path.rename(tmp_path / "away")
    MetricsLog(tmp_path, state).write("train", {"step": 2, "loss": 0.25})
    assert [line["step"] for line in read_log(tmp_path)] == [2]
    assert capsys.readouterr().err == f"warning: {path}: gone; it goes on without the lines up to the checkpoint\n"
