# SPDX-License-Identifier: Apache-2.0
"""``harness launch`` in every precision, with rows mapped, in memory, on the device: the same rows and losses."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from harness.rundir.environment import read_environment
from tests.gpu.findings import Findings, Setting
from tests.gpu.launching import finish, in_parallel, lines_of, start_run, status_of, tail

TOLD = ("device", "precision", "recurren", "lstm")
"""How the names begin of what a start line says of device and arithmetic."""
RESIDENCIES = ("mapped", "memory", "device")


def run(setting: Setting, findings: Findings) -> None:
    """Nine short runs on a card; on a CPU in fp32 alone."""
    precisions = ("fp32",) if setting.small else ("fp32", "bf16", "fp16")
    names = [(precision, residency) for precision in precisions for residency in RESIDENCIES]
    calls = [partial(train, setting, precision, residency) for precision, residency in names]
    codes = dict(zip(names, in_parallel(calls, 2 if setting.small else 3), strict=True))
    for precision in precisions:
        runs = {residency: directory(setting, precision, residency) for residency in RESIDENCIES}
        for residency, path in runs.items():
            if codes[precision, residency]:
                said = f"exit code {codes[precision, residency]}: {tail(path.with_suffix('.log'))}"
                findings.add(f"{precision}, {residency}", said, False)
        if all(lines_of(path, "test") for path in runs.values()):
            compare(findings, precision, runs)
    if setting.small:
        findings.skip("bf16, fp16")


def directory(setting: Setting, precision: str, residency: str) -> Path:
    """The run directory."""
    return setting.scratch / f"{precision}-{residency}"


def train(setting: Setting, precision: str, residency: str) -> int:
    """One run; its exit code."""
    epochs, batch = (3, 32) if setting.small else (2, 256)
    keys = ("--precision", precision, "--residency", residency, "--epochs", epochs, "--global_batch", batch)
    easy = ("--model.pooling", "mean", "--model.embedding_std", 0.1, "--tracking.log_every", 1)
    return finish(start_run(setting.data, directory(setting, precision, residency), setting.device, *keys, *easy))


def compare(findings: Findings, precision: str, runs: dict[str, Path]) -> None:
    """Row hashes and losses of every step, and what the run says that it computed in."""
    lines = {residency: lines_of(path, "train") for residency, path in runs.items()}
    losses = {residency: np.array([line["loss"] for line in found]) for residency, found in lines.items()}
    hashes = {residency: [line["row_hash"] for line in found] for residency, found in lines.items()}
    first = RESIDENCIES[0]
    steps, same_rows = len(hashes[first]), all(found == hashes[first] for found in hashes.values())
    findings.add(f"{precision}: row hashes of {steps} steps", "equal" if same_rows else "differ", same_rows)
    if same_rows:
        worst = max(float(np.abs(found - losses[first]).max()) for found in losses.values())
        equal = all(np.array_equal(found, losses[first]) for found in losses.values())
        tolerance = 1e-3 if precision == "fp32" else 3e-2
        findings.add(
            f"{precision}: losses where rows are mapped, in memory, on the device",
            "equal to the last bit" if equal else f"differ by {worst:.1e} at most",
            worst <= tolerance,
        )
    ends = losses[first]
    learned = bool(np.isfinite(ends).all()) and ends[-5:].mean() < ends[:5].mean()
    accuracy = lines_of(runs[first], "test")[-1]["accuracy"]
    findings.add(
        f"{precision}: loss of the first and the last 5 steps, test accuracy",
        f"{ends[:5].mean():.3f}, {ends[-5:].mean():.3f}, {accuracy:.3f}",
        learned,
    )
    skipped = sum(line["skipped"] for line in lines[first])
    findings.add(
        f"{precision}: steps skipped for a gradient that is not finite", skipped, precision == "fp16" or not skipped
    )
    effective = read_environment(runs[first]).get("effective", {})
    findings.figure(f"{precision} start line", effective)
    told = [f"{name} {choice}" for name, choice in sorted(effective.items()) if name.startswith(TOLD)]
    findings.add(f"{precision}: start line", "; ".join(told))
    assert all(status_of(path)["state"] == "finished" for path in runs.values())
