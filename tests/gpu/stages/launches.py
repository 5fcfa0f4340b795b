# SPDX-License-Identifier: Apache-2.0
"""``harness launch`` in every precision, with rows mapped, in memory, on the device: the same rows and losses.

Once more with packed rows, a wide part and five classes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from harness.ranks.precision import runnable
from harness.rundir.records import read_environment
from preprocessing.dataset.shards import read_manifest
from tests.gpu.corpus import write_corpus
from tests.gpu.findings import COMPARED_STEPS, Findings, Setting
from tests.gpu.launching import finish, in_parallel, lines_of, start_run, status_of, tail

TOLD = ("device", "precision", "recurren", "lstm")
"""How the names begin of what a start line says of device and arithmetic."""
RESIDENCIES = ("mapped", "memory", "device")
CLASSES = ("very bad", "bad", "fair", "good", "very good")
WIDE = ("--model.wide", 1 << 16, "--model.wide_ngrams", 3, "--model.wide_tail", 20, "--recurrence", "packed")
PLAIN, ALL = "plain", "packed, wide, 5 classes"
KINDS = {PLAIN: (), ALL: WIDE}
Name = tuple[str, str, str]
"""Precision, kind, residency."""


def run(setting: Setting, findings: Findings) -> None:
    """Fifteen short runs on a card; on a CPU in fp32 alone."""
    manifest = read_manifest(setting.data)
    write_corpus(setting.scratch / "classes", {name: manifest.rows(name) for name in manifest.splits}, labels=CLASSES)
    precisions = ("fp32",) if setting.small else tuple(runnable(setting.device))
    names = [(precision, kind, where) for precision in precisions for kind in KINDS for where in homes(setting, kind)]
    found = in_parallel([partial(train, setting, name) for name in names], 2 if setting.small else 4)
    codes = dict(zip(names, found, strict=True))
    for precision, kind in dict.fromkeys((precision, kind) for precision, kind, _ in names):
        runs = {where: directory(setting, (precision, kind, where)) for where in homes(setting, kind)}
        for where, path in runs.items():
            if code := codes[precision, kind, where]:
                findings.add(f"{precision}, {kind}, {where}", f"exit code {code}: {tail(log_of(path))}", False)
        if all(lines_of(path, "test") for path in runs.values()):
            compare(findings, f"{precision}, {kind}", runs)
    for precision in {"fp32", "bf16", "fp16"} - set(precisions):
        findings.add(precision, f"skipped: {'needs CUDA' if setting.small else 'this card cannot compute in it'}")


def homes(setting: Setting, kind: str) -> tuple[str, ...]:
    """Where rows live; to save time, not everywhere."""
    return RESIDENCIES[::2] if setting.small or kind == ALL else RESIDENCIES


def directory(setting: Setting, name: Name) -> Path:
    """The run directory."""
    precision, kind, where = name
    return setting.scratch / f"{precision}-{list(KINDS).index(kind)}-{where}"


def log_of(run: Path) -> Path:
    """What a run said."""
    return run.with_suffix(".log")


def train(setting: Setting, name: Name) -> int:
    """One run; its exit code."""
    precision, kind, where = name
    epochs, batch = (3, 32) if setting.small else (2, 256)
    keys = ("--precision", precision, "--residency", where, "--epochs", epochs, "--global_batch", batch)
    easy = ("--model.pooling", "mean", "--model.embedding_std", 0.1, "--tracking.log_every", 1, *KINDS[kind])
    data = setting.scratch / "classes" if kind == ALL else setting.data
    return finish(start_run(data, directory(setting, name), setting.device, *keys, *easy))


def compare(findings: Findings, precision: str, runs: dict[str, Path]) -> None:
    """Row hashes of every step, losses of the first, and what the run says that it computed in."""
    lines = {residency: lines_of(path, "train") for residency, path in runs.items()}
    losses = {residency: np.array([line["loss"] for line in found]) for residency, found in lines.items()}
    hashes = {residency: [line["row_hash"] for line in found] for residency, found in lines.items()}
    first = next(iter(runs))
    steps, same_rows = len(hashes[first]), all(found == hashes[first] for found in hashes.values())
    findings.add(f"{precision}: row hashes of {steps} steps", "equal" if same_rows else "differ", same_rows)
    if same_rows:
        early = {where: found[:COMPARED_STEPS] for where, found in losses.items()}
        worst = max(float(np.abs(found - early[first]).max()) for found in early.values())
        equal = all(np.array_equal(found, losses[first]) for found in losses.values())
        tolerance = 1e-3 if precision.startswith("fp32") else 3e-2
        findings.add(
            f"{precision}: losses where rows are {', '.join(runs)}",
            "equal to the last bit" if equal else f"differ by {worst:.1e} at most in {len(early[first])} steps",
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
        f"{precision}: steps skipped for a gradient that is not finite",
        skipped,
        precision.startswith("fp16") or not skipped,
    )
    effective = read_environment(runs[first]).get("effective", {})
    findings.figure(f"{precision} start line", effective)
    told = [f"{name} {choice}" for name, choice in sorted(effective.items()) if name.startswith(TOLD)]
    findings.add(f"{precision}: start line", "; ".join(told))
    assert all(status_of(path)["state"] == "finished" for path in runs.values())
