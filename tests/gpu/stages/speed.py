# SPDX-License-Identifier: Apache-2.0
"""The benchmarks ``train`` and ``recurrence``, as a user runs them: figures, no claims."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from tests.commands import ROOT
from tests.gpu.findings import Findings, Setting
from tests.gpu.launching import in_parallel

LIMIT_S = 100


def run(setting: Setting, findings: Findings) -> None:
    """Steps of 64 and 512 rows in bf16 and fp32; one layer, by hidden size and batch; on a CPU one of each, at once."""
    small, rounds = setting.small, ("--rounds", "1") if setting.small else ("--rounds", "3")
    cases = [("fp32", 16)] if small else [("bf16", 64), ("bf16", 512), ("fp32", 512)]
    sizes = ("--model.embedding_dim", "32", "--model.hidden_size", "32", "--steps", "2") if small else ("--steps", "8")
    calls = []
    for precision, batch in cases:
        keys = ("--data", str(setting.data), "--precision", precision, "--batch", str(batch))
        calls.append(partial(bench, findings, "train", (*keys, *rounds, *sizes)))
    for hidden, batch in [(16, 8)] if small else [(128, 64), (128, 512), (512, 512), (1024, 512)]:
        keys = ("--hidden_size", str(hidden), "--batch", str(batch), *rounds)
        calls.append(partial(bench, findings, "recurrence", keys))
    in_parallel(calls, 2 if small else 1)


def bench(findings: Findings, name: str, keys: Sequence[str]) -> int:
    """One line: our speed beside that of others; the exit code."""
    what, command = f"{name} {' '.join(keys)}", [sys.executable, "-m", "benchmarks", name, "--json", *keys]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        findings.add(what, f"took longer than {LIMIT_S} s", False)
        return 1
    if done.returncode:
        findings.add(what, f"exit code {done.returncode}: {done.stderr[-200:]}", False)
        return done.returncode
    values = json.loads(done.stdout)
    findings.figure(what, values)
    peers = ", ".join(f"{speed:,.0f} {peer}" for peer, speed in values["peers"].items())
    findings.add(what, f"{values['ours']:,.0f} {values['unit']}, beside {peers}")
    return 0
