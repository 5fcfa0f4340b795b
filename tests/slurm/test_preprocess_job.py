# SPDX-License-Identifier: Apache-2.0
"""The preprocessing job on a real cluster of two nodes: the bytes are those of a local run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.corpora import Command, contents, reviews, write_csv

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "slurm" / "preprocess.sbatch"


def nodes() -> int:
    """Nodes of the cluster that answers here; 0 where there is none."""
    if shutil.which("sinfo") is None:
        return 0
    try:
        answer = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--format=%N"], capture_output=True, check=False, text=True, timeout=15
        )
    except subprocess.TimeoutExpired:
        return 0
    return len(set(answer.stdout.split())) if answer.returncode == 0 else 0


def test_the_job_script_is_clean_shell() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    subprocess.run(["shellcheck", str(SCRIPT)], check=True, timeout=60)


def test_what_a_user_edits_is_at_the_top_and_directives_come_first() -> None:
    lines = SCRIPT.read_text().splitlines()
    first_command = next(at for at, line in enumerate(lines) if line and not line.startswith("#"))
    assert first_command < 10
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])
    assert [line.partition("=")[0] for line in lines[first_command : first_command + 3]] == [
        "CONFIG",
        "OUTPUT",
        "PYTHON",
    ]


@pytest.mark.timeout(240)
def test_two_nodes_give_the_bytes_of_a_local_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if nodes() < 2:
        pytest.skip("needs a SLURM cluster of two nodes that answers `sinfo`")
    pytest.importorskip("distributed", reason="needs distributed (extra dask)")
    source = write_csv(tmp_path / "reviews.csv", reviews(3000, words=60))
    small = ("--shards.rows", "500", "--source.part_mb", "0.03")
    command = Command(capsys)
    assert command.build(source, tmp_path / "here", *small) == 0
    (tmp_path / "job.yaml").write_text(
        f"source: {{path: {source}}}\ntext: {{max_tokens: 64}}\nvocabulary: {{min_count: 1}}\n"
    )
    settings = {"CONFIG": str(tmp_path / "job.yaml"), "OUTPUT": str(tmp_path / "there"), "PYTHON": sys.executable}
    subprocess.run(
        ["sbatch", "--wait", "--time=5", f"--output={tmp_path}/job.log", str(SCRIPT), *small],
        cwd=ROOT,
        env={**os.environ, **settings},
        check=True,
        timeout=200,
    )
    log = (tmp_path / "job.log").read_text()
    assert contents(tmp_path / "there") == contents(tmp_path / "here"), log
    assert "error" not in log
    assert not list(ROOT.glob(".padless-dask-*"))
