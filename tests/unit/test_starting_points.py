# SPDX-License-Identifier: Apache-2.0
"""``checkpoint RUN``: checkpoints that a run can resume from, and whether they are valid."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

from harness.__main__ import main
from harness.rundir import checkpoint
from harness.training.run import Selection
from tests import checkpoints
from tests.commands import unwrapped


def test_every_checkpoint_is_listed_and_damage_is_an_exit_code(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "status.json").write_text('{"state": "failed", "step": 20}')
    selection = Selection("accuracy", best=0.5, best_step=10).state()
    for step in (10, 20):
        trainer = {**checkpoints.state_of(step)["trainer"], "epochs_done": step // 10}
        checkpoints.write(run, step, {"weight": torch.zeros(2)}, trainer=trainer, selection=selection)
    assert main(["checkpoint", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"step 20    \d+ kB, whole, 2 epochs; best so far: accuracy 0.5000 at step 10", lines[1])
    path = run / "checkpoints" / "step-00000020" / checkpoint.MODEL
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert main(["checkpoint", str(run)]) == 3
    assert f"damaged: {path}: its sha256" in unwrapped(capsys.readouterr().out)
    assert main(["checkpoint", str(run), "--json", "true"]) == 3
    shown = json.loads(capsys.readouterr().out)
    assert [one["damage"] is None for one in shown] == [True, False]
    assert f"{path}: its sha256" in shown[1]["damage"]
