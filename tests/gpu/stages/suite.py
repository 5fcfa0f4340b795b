# SPDX-License-Identifier: Apache-2.0
"""``pytest tests/gpu``, with its own small configuration, so that no plugin is needed."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

from tests.commands import ROOT
from tests.gpu.findings import Findings, Setting

LIMIT_S = 190
CONFIGURATION = (
    "[pytest]\npythonpath = {root}\naddopts = -q -ra -p no:cacheprovider\nmarkers = processes: starts processes\n"
)


def run(setting: Setting, findings: Findings) -> None:
    """How many tests pass; the name and the reason of each that does not."""
    configuration, results = setting.scratch / "pytest.ini", setting.scratch / "results.xml"
    configuration.write_text(CONFIGURATION.format(root=ROOT))
    command = [sys.executable, "-m", "pytest", "-c", str(configuration), "--rootdir", str(ROOT)]
    command += [f"--junitxml={results}", f"--basetemp={setting.scratch / 'tmp'}", str(ROOT / "tests/gpu")]
    env = {**os.environ, "PADLESS_TEST_DEVICE": setting.device, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, timeout=LIMIT_S, check=False)
    if not results.is_file():
        findings.add("pytest", f"ended with {done.returncode} and no results", False)
        return
    cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    outcomes = dict.fromkeys(("passed", "failure", "error", "skipped"), 0)
    for case in cases:
        outcome = next((name for name in ("failure", "error", "skipped") if case.find(name) is not None), "passed")
        outcomes[outcome] += 1
        if outcome in ("failure", "error"):
            reason = (case.find(outcome).get("message") or "")[:200]  # type: ignore[union-attr]
            findings.add(f"{case.get('name')}", reason, False)
    slowest = max(cases, key=lambda case: float(case.get("time", 0)), default=None)
    findings.figure("seconds", {str(case.get("name")): float(case.get("time", 0)) for case in cases})
    text = ", ".join(f"{number} {name}" for name, number in outcomes.items())
    if slowest is not None:
        text += f"; the slowest took {float(slowest.get('time', 0)):.0f} s ({slowest.get('name')})"
    findings.add("tests", text, done.returncode == 0)
