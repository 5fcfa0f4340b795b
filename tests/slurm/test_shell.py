# SPDX-License-Identifier: Apache-2.0
"""Every shell script passes shellcheck."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.slurm.script import HERE
from tests.commands import ROOT

pytestmark = pytest.mark.processes

SCRIPTS = [ROOT / ".ci" / "run", *sorted(ROOT.glob("launch/**/*.s*")), *sorted(ROOT.glob("tests/**/*.s*h"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_passes_shellcheck(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    result = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout


def functions(*names: str) -> list[str]:
    """The text of functions of ``train.sh``."""
    text = (HERE / "train.sh").read_text()
    found = [re.search(rf"^{name}\(\) {{$.*?^}}$", text, re.DOTALL | re.MULTILINE) for name in names]
    return [one[0] for one in found if one]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"code": 0}, "done"),
        ({"code": 3}, "a restart would not help"),
        ({}, ""),
        ({"restarts": 1}, "no checkpoint is later than step 0"),
        ({"now_at": 60}, ""),
        ({"now_at": 60, "began_at": 60}, "no checkpoint is later than step 60"),
        ({"now_at": 90, "began_at": 60, "restarts": 1}, ""),
        ({"max_restarts": 0}, "restarted 0 times already"),
        ({"now_at": 90, "began_at": 60, "restarts": 2}, "restarted 2 times already"),
    ],
)
def test_a_training_that_loses_a_rank_before_its_first_checkpoint_is_requeued_once(
    facts: dict[str, int], said: str
) -> None:
    given = {"code": 1, "now_at": 0, "began_at": 0, "restarts": 0, "max_restarts": 2, **facts}
    script = "\n".join(["set -euo pipefail", "decided() { :; }", *functions("why_not"), "why_not"])
    environment = {**os.environ, **{name: str(value) for name, value in given.items()}}
    result = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert said in result.stdout
    assert bool(said) == bool(result.stdout)


def test_a_job_of_many_runs_counts_their_steps_and_stops_the_one_that_trains(tmp_path: Path) -> None:
    for folder, steps, state in (("seed-0", (40,), "finished"), ("seed-1", (11, 22), "running")):
        for step in steps:
            (tmp_path / "run" / folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
        (tmp_path / "run" / folder / "status.json").write_text(f'{{\n  "state": "{state}"\n}}\n')
    script = "\n".join(["set -euo pipefail", *functions("newest_step", "stop"), "newest_step", "stop"])
    given = {**os.environ, "run": str(tmp_path / "run"), "job": "job 7", "signals": "0", "launchers": ""}
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True, env=given)
    assert result.stdout.splitlines() == ["62", "job 7: asked to stop"]
    assert [path.parent.name for path in tmp_path.rglob("STOP")] == ["seed-1"]
