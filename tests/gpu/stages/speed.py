# SPDX-License-Identifier: Apache-2.0
"""The benchmarks ``train`` and ``recurrence``, as a user runs them: figures, no claims."""

from __future__ import annotations

import json

from tests.commands import run_module
from tests.gpu.findings import Findings, Setting

TRAIN, LAYER = "train --data {data}", "recurrence --hidden_size"
CASES = (
    f"{TRAIN} --steps 8 --precision bf16 --batch 64",
    f"{TRAIN} --steps 8 --precision bf16 --batch 512",
    f"{TRAIN} --steps 8 --precision fp32 --batch 512",
    *(f"{LAYER} 128 --batch 64", f"{LAYER} 128 --batch 512", f"{LAYER} 1024 --batch 512"),
)
SMALL = f"{TRAIN} --steps 2 --batch 16 --model.embedding_dim 32 --model.hidden_size 32", f"{LAYER} 16 --batch 8"


def run(setting: Setting, findings: Findings) -> None:
    """A line for each case: our speed beside that of others."""
    for case in SMALL if setting.small else CASES:
        words = [*case.format(data=setting.data).split(), "--json", "--rounds", "1" if setting.small else "3"]
        done = run_module("benchmarks", *words)
        if done.returncode:
            findings.add(case, done.stderr[-200:], False)
            continue
        values = json.loads(done.stdout)
        findings.figure(case, values)
        peers = ", ".join(f"{speed:,.0f} {peer}" for peer, speed in values["peers"].items())
        findings.add(case, f"{values['ours']:,.0f} {values['unit']}, beside {peers}")
