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


def test_a_job_of_many_runs_counts_their_steps_and_stops_the_one_that_trains(tmp_path: Path) -> None:
    for folder, steps, state in (("seed-0", (40,), "finished"), ("seed-1", (11, 22), "running")):
        for step in steps:
            (tmp_path / "run" / folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
        (tmp_path / "run" / folder / "status.json").write_text(f'{{\n  "state": "{state}"\n}}\n')
    text = (HERE / "train.sh").read_text()
    of_name = r"^{}\(\) {{$.*?^}}$"
    functions = [re.search(of_name.format(name), text, re.DOTALL | re.MULTILINE) for name in ("newest_step", "stop")]
    script = "\n".join(["set -euo pipefail", *(found[0] for found in functions if found), "newest_step", "stop"])
    given = {**os.environ, "run": str(tmp_path / "run"), "job": "job 7", "signals": "0", "launchers": ""}
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True, env=given)
    assert result.stdout.splitlines() == ["62", "job 7: asked to stop"]
    assert [path.parent.name for path in tmp_path.rglob("STOP")] == ["seed-1"]
