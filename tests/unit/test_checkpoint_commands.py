# SPDX-License-Identifier: Apache-2.0
"""``checkpoint list | verify | diff``, and what a run's checkpoint says to the checks before a start."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.__main__ import main
from harness.config import OptimConfig, RunConfig, to_dict
from harness.data import order
from harness.rundir import checkpoint
from harness.training.validation import Selection
from preprocessing.base.errors import ConfigError
from tests import checkpoints
from tests.commands import unwrapped

STAYED = {"largest_change": 0.0, "relative_norm": 0.0}


def write(run: Path, step: int, config: RunConfig, **tensors: torch.Tensor) -> Path:
    """A small checkpoint with all that the commands read of its state."""
    trainer = {**checkpoints.state_of(step)["trainer"], "epochs_done": step // 10}
    trainer |= {"guard": {"in_a_row": 0, "total": step - 10}, "counted": [checkpoints.COUNTED] * 2}
    selection = Selection("accuracy", best=0.5, best_step=10).state()
    facts = {"trainer": trainer, "selection": selection, "config": to_dict(config), "order_version": order.VERSION}
    return checkpoints.write(run, step, tensors, **facts)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    config = RunConfig(run=str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "status.json").write_text('{"state": "failed", "step": 20}')
    write(tmp_path / "run", 10, config, weight=torch.zeros(2), gone=torch.ones(1))
    write(tmp_path / "run", 20, replace(config, optim=OptimConfig(lr=0.5)), weight=torch.tensor([3.0, -4.0]))
    return tmp_path / "run"


def test_list_shows_damage_and_verify_tells_it_by_its_exit_code(run: Path, capsys) -> None:
    assert (main(["checkpoint", "list", str(run)]), main(["checkpoint", "verify", str(run)])) == (0, 0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[-1] == "best so far"
    assert re.fullmatch(r"  20  +[\d.]+ MiB  whole       2          2  0.5000 at step 10", lines[2])
    path = run / "checkpoints" / "step-00000020" / checkpoint.MODEL
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert main(["checkpoint", "list", str(run)]) == 0
    assert f"damaged: {path}: its sha256" in unwrapped(capsys.readouterr().out)
    assert main(["checkpoint", "verify", str(run), "--json", "true"]) == 3
    shown = json.loads(capsys.readouterr().out)
    assert [one["damage"] is None for one in shown] == [True, False]
    assert f"{path}: its sha256" in shown[1]["damage"]


def test_diff_says_how_far_two_checkpoints_are_apart(run: Path, capsys) -> None:
    assert main(["checkpoint", "diff", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "  optim.lr: was 0.002, now 0.5 (another run from here on)\n  step: was 10, now 20\n" in shown
    assert main(["checkpoint", "diff", str(run), "10", "20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["key"], one["was"], one["now"]) for one in found["config"]] == [("optim.lr", 0.002, 0.5)]
    assert found["state"] == {"step": [10, 20], "epochs_done": [1, 2], "skipped_total": [0, 10]}
    moved = {name: change for name, change in found["tensors"].items() if change != STAYED}
    gone = dict.fromkeys(f"{prefix}gone" for prefix in ("", "exp_avg.", "exp_avg_sq.", "step."))
    assert moved == gone | {"weight": {"largest_change": 4.0, "relative_norm": 5.0}}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("10", "30"), "30: {run} has no checkpoint of this step; it has 10, 20"),
        (("10",), "python -m harness checkpoint diff: needs two checkpoints; {run} has 2: 10, 20"),
    ],
)
def test_mistakes_of_diff(run: Path, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main(["checkpoint", "diff", str(run), *words])
    assert str(caught.value) == sentence.format(run=run)
