# SPDX-License-Identifier: Apache-2.0
"""``pytest`` for each file of ``tests/gpu``, with its own small configuration, so that no plugin is needed."""

from __future__ import annotations

import time

from tests.commands import ROOT
from tests.gpu.findings import Findings, Setting
from tests.gpu.launching import finish, start

LIMIT_S, FILE_LIMIT_S = 185, 110
CONFIGURATION = """\
[pytest]
pythonpath = {root}
addopts = -q -rfE -p no:cacheprovider
markers =
    processes: starts processes
    slow: takes long on a CPU
"""


def run(setting: Setting, findings: Findings) -> None:
    """All but the fused kernel, whose fault would be theirs."""
    run_tests(setting, findings, "not fused")


def run_tests(setting: Setting, findings: Findings, wanted: str) -> None:
    """Tests whose names are ``wanted``, an expression of pytest's ``-k``: a line for each file, and for each test that
    does not pass; a file that takes too long costs its own lines.
    """
    (setting.scratch / "pytest.ini").write_text(CONFIGURATION.format(root=ROOT))
    deadline = time.monotonic() + LIMIT_S
    for file in sorted((ROOT / "tests/gpu").glob("test_*.py")):
        log, limit_s = setting.scratch / f"{file.stem}.log", min(FILE_LIMIT_S, deadline - time.monotonic())
        command = ["pytest", "-c", setting.scratch / "pytest.ini", "--rootdir", ROOT]
        command += [f"--basetemp={setting.scratch / file.stem}", "-k", wanted, file]
        code = finish(start(command, log, PADLESS_TEST_DEVICE=setting.device), max(1.0, limit_s))
        said = log.read_text(errors="replace").splitlines() or ["nothing"]
        for line in said:
            if line.startswith(("FAILED ", "ERROR ")):
                findings.add(line.partition("::")[2][:200], "does not pass", False)
        findings.add(file.name, f"exit code {code}: {said[-1]}", code == 0)
