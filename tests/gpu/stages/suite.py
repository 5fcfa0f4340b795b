# SPDX-License-Identifier: Apache-2.0
"""``pytest`` for each file of ``tests/gpu``, with its own small configuration, so that no plugin is needed."""

from __future__ import annotations

import signal
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from tests.commands import ROOT
from tests.gpu.findings import Findings, Setting
from tests.gpu.launching import finish, start, tail

LIMIT_S, FILE_LIMIT_S = 185, 110
LAST = "test_cuda_commands"
"""The file that takes longest."""
CONFIGURATION = """\
[pytest]
pythonpath = {root}
addopts = -q -ra -p no:cacheprovider
markers =
    processes: starts processes
    slow: takes long on a CPU
"""
FAILED = ("failure", "error")


def run(setting: Setting, findings: Findings) -> None:
    """A line for each file, and for each test that does not pass; a file that takes too long costs its own lines."""
    (setting.scratch / "pytest.ini").write_text(CONFIGURATION.format(root=ROOT))
    deadline = time.monotonic() + LIMIT_S
    files = sorted((ROOT / "tests/gpu").glob("test_*.py"), key=lambda path: (path.stem == LAST, path.stem))
    for file in files:
        one_file(setting, findings, file, min(FILE_LIMIT_S, deadline - time.monotonic()))


def one_file(setting: Setting, findings: Findings, file: Path, limit_s: float) -> None:
    """How many tests of it pass; the name and the reason of each that does not."""
    if limit_s < 1:
        findings.add(file.name, "not run: no time left", False)
        return
    results, log = setting.scratch / f"{file.stem}.xml", setting.scratch / f"{file.stem}.log"
    command = ["pytest", "-c", setting.scratch / "pytest.ini", "--rootdir", ROOT, f"--junitxml={results}"]
    command += [f"--basetemp={setting.scratch / file.stem}", file]
    code = finish(start(command, log, PADLESS_TEST_DEVICE=setting.device), limit_s)
    if not results.is_file():
        reason = f"its limit of {limit_s:.0f} s" if code == -signal.SIGKILL else f"exit code {code}, {tail(log)}"
        findings.add(file.name, f"no results: {reason}", False)
        return
    cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    outcomes: Counter[str] = Counter()
    for case in cases:
        outcome = next((name for name in (*FAILED, "skipped") if case.find(name) is not None), "passed")
        outcomes[outcome] += 1
        if outcome in FAILED:
            reason = (case.find(outcome).get("message") or "")[:200]  # type: ignore[union-attr]
            findings.add(f"{case.get('name')}", reason, False)
    seconds = {str(case.get("name")): float(case.get("time", 0)) for case in cases}
    findings.figure(file.stem, seconds)
    text = ", ".join(f"{number} {name}" for name, number in sorted(outcomes.items()))
    findings.add(file.name, f"{text}; {sum(seconds.values()):.0f} s", code == 0)
