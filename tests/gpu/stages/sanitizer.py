# SPDX-License-Identifier: Apache-2.0
"""``compute-sanitizer``, where it is installed, over two small steps of each path: memory errors, races."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from tests.commands import ROOT
from tests.gpu.findings import Findings, Setting
from tests.gpu.launching import tail

TOOLS = ("memcheck", "racecheck")
LIMIT_S, FOUND = 90, 9
"""Longest run, of two in a stage; exit code for an error that the tool has found."""


def run(setting: Setting, findings: Findings) -> None:
    """A line for each tool; a path that cannot run on this machine is left out."""
    program = shutil.which("compute-sanitizer")
    if setting.small or program is None:
        findings.add("compute-sanitizer", f"skipped: {'needs CUDA' if setting.small else 'it is not installed'}")
        return
    for tool in TOOLS:
        log = setting.scratch / f"{tool}.log"
        ours = [sys.executable, "-m", "tests.gpu.stages.sanitizer", str(setting.data), str(setting.scratch)]
        with log.open("wb") as file:
            command = [program, "--tool", tool, "--error-exitcode", str(FOUND)]
            command += ["--report-api-errors", "no"] if tool == "memcheck" else []  # torch asks what may fail
            env = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else errors are inside of torch's segments
            pipes = {"stdout": file, "stderr": file}
            try:
                done = subprocess.run([*command, *ours], cwd=ROOT, env=env, timeout=LIMIT_S, check=False, **pipes)
            except subprocess.TimeoutExpired:
                findings.add(tool, f"took longer than {LIMIT_S} s")
                continue
        findings.add(tool, f"exit code {done.returncode}: {tail(log, 100)}", done.returncode == 0)


def main(data: str, scratch: str) -> None:
    """What is watched: both passes of small steps."""
    from tests.gpu.stages import first, gradients
    from tests.trainers import all_steps, make_trainer, session_for, train

    setting = Setting(Path(scratch), Path(scratch), Path(data), "cuda")
    for path in (*first.PATHS, "fused"):
        config = replace(gradients.configuration(setting, "fp32", 8, 32), recurrence=path)
        with session_for(config) as session:
            trainer = make_trainer(config, session)
            train(trainer, all_steps(trainer), 2)


if __name__ == "__main__":
    main(*sys.argv[1:])
