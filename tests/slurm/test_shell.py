# SPDX-License-Identifier: Apache-2.0
"""The shell of a job, in bash without a cluster: arguments arrive as they were typed, starts are counted, a site's file
that fails ends the job with a sentence, and what is requeued is decided. Every shell script passes shellcheck.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT

pytestmark = pytest.mark.processes

SCRIPTS = ROOT / "launch/slurm"
SITE = f"python=({sys.executable})\nmax_restarts=2\n"
HOSTILE = ("a b", "it's", 'say "x"', "$(touch here)", "`touch here`", "two\nlines", "#SBATCH", "\\", "*", "", "é")


def begin(
    folder: Path, site: str = SITE, body: str = r'printf "%s\0" "$@"', arguments: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """Run ``start.sh`` in a folder with a site's file of these lines, then ``body`` in place of a job's."""
    (folder / "my site.sh").write_text(site)
    script = f"set -e\n{(SCRIPTS / 'start.sh').read_text()}\n{body}"
    environment = {**os.environ, "SLURM_JOB_ID": "7", "PADLESS_SITE": "my site.sh", **env}
    for name in {"SLURM_RESTART_COUNT", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"} - env.keys():
        environment.pop(name, None)
    command = ["bash", "-c", script, "job", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_arguments_arrive_as_they_were_typed(tmp_path: Path) -> None:
    result = begin(tmp_path, arguments=HOSTILE)
    assert result.returncode == 0, result.stderr
    assert tuple(result.stdout.split("\0")[:-1]) == HOSTILE
    assert [path.name for path in tmp_path.iterdir()] == ["my site.sh"]


@pytest.mark.parametrize(
    ("words", "output"),
    [(("-o", "a b"), "a b"), (("-o=a",), "a"), (("d", "--run=a", "-x"), "a"), (("--run", "a"), "a"), (("d",), "")],
)
def test_the_output_of_a_command_is_read(tmp_path: Path, words: tuple[str, ...], output: str) -> None:
    body = 'output_option run "$@"; has_option device "$@" || echo open'
    assert begin(tmp_path, body=body, arguments=words).stdout == f"{output}\nopen\n"
    for device in (("--device", "cpu"), ("--device=cpu",)):
        assert begin(tmp_path, body=body, arguments=(*words, *device)).stdout == f"{output}\n"


def test_a_site_gives_what_it_exports_and_python(tmp_path: Path) -> None:
    site = 'echo "$unset_before"\nexport SITE="a b"\npython=(env -u X python3)\nfalse || true\n'
    result = begin(tmp_path, site, 'bash -c \'echo "$SITE"\'; echo "${python[@]}"')
    assert (result.returncode, result.stdout) == (0, "\na b\nenv -u X python3\n"), result.stderr


@pytest.mark.parametrize(
    ("site", "restarts", "code", "sentence"),
    [
        ("true\nmodule load cuda/99\ntouch reached\n", "0", 127, "my site.sh failed at line 2, module load cuda/99,"),
        ("set +e\nfalse\nreturn 3\n", "0", 3, "my site.sh failed with exit code 3"),
        (SITE, "3", 1, "not started, since it was restarted 3 times and max_restarts allows 2"),
    ],
)
def test_a_job_that_may_not_start_runs_nothing(
    tmp_path: Path, site: str, restarts: str, code: int, sentence: str
) -> None:
    result = begin(tmp_path, site, "touch reached", SLURM_RESTART_COUNT=restarts)
    assert (result.returncode, result.stdout) == (code, "")
    assert f"job 7: {sentence}" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "reached").exists()


CHECKED = [ROOT / ".ci" / "run", *sorted(ROOT.glob("launch/**/*.s*")), *sorted(ROOT.glob("tests/**/*.s*h"))]


@pytest.mark.parametrize("script", CHECKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_passes_shellcheck(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    result = subprocess.run(["shellcheck", "-x", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout


def call(*names: str, script: str = "train", **variables: object) -> str:
    """What functions of a job's body print."""
    text = (SCRIPTS / f"{script}.sbatch").read_text()
    functions = [re.search(rf"^{name}\(\) {{$.*?^}}$", text, re.DOTALL | re.MULTILINE) for name in names]
    lines = "\n".join(["set -euo pipefail", "decided() { :; }", *(match[0] for match in functions if match), *names])
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    command = ["bash", "-c", lines]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment).stdout


TRAINING = {"code": 1, "now_at": 0, "began_at": 0, "restarts": 0}
PREPARING = {"code": 140, "signals": 1, "began_with": 0, "restarts": 0}


@pytest.mark.parametrize(
    ("script", "facts", "reason"),
    [
        ("train", TRAINING | {"code": 0}, "done"),
        ("train", TRAINING | {"code": 3}, "a restart would not help"),
        ("train", TRAINING, ""),
        ("train", TRAINING | {"restarts": 1}, "no checkpoint is later than step 0"),
        ("train", TRAINING | {"now_at": 90, "began_at": 60, "restarts": 2}, "restarted 2 times already"),
        ("prepare", PREPARING | {"code": 1, "signals": 0}, "a line above says why"),
        ("prepare", PREPARING | {"began_with": 2}, "this start finished nothing"),
        ("prepare", PREPARING | {"began_with": 1}, ""),
    ],
)
def test_what_is_requeued(tmp_path: Path, script: str, facts: dict[str, int], reason: str) -> None:
    """A training after a new checkpoint, or once without any; a preprocessing that was stopped after it finished parts,
    of which there are two: locks and what a killed process left are none.
    """
    for name in ("d/.work/lock-0", "d/.work/a.json.tmp-n1-7", "d/.work/a.json", "d.building/.work/parts/b.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = ("why_not",) if script == "train" else ("markers", "why_not")
    output = call(*names, script=script, max_restarts=2, output=tmp_path / "d", **facts).removeprefix("2\n")
    assert reason in output
    assert bool(reason) == bool(output)


def test_a_job_of_many_runs_counts_their_steps_and_stops_the_one_that_trains(tmp_path: Path) -> None:
    for folder, steps, state in (("seed-0", (40,), "finished"), ("seed-1", (11, 22), "running")):
        for step in steps:
            (tmp_path / "run" / folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
        (tmp_path / "run" / folder / "status.json").write_text(f'{{\n  "state": "{state}"\n}}\n')
    output = call("newest_step", "stop", run=tmp_path / "run", job="job 7", signals=0, launchers="", members="")
    assert output.splitlines() == ["62", "job 7: asked to stop"]
    assert [path.parent.name for path in tmp_path.rglob("STOP")] == ["seed-1"]
