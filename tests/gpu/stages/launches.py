# SPDX-License-Identifier: Apache-2.0
"""``harness train`` in every precision, once more packed, wide and with five classes; ``evaluate``, ``doctor``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from harness.ranks.precision import runnable
from harness.rundir.records import read_environment
from preprocessing.dataset.shards import read_manifest
from tests.commands import read_metrics, run_module, succeed
from tests.gpu.corpus import write_corpus
from tests.gpu.findings import COMPARED_STEPS, Findings, Setting
from tests.gpu.launching import finish, in_parallel, start_run, tail

TOLD = ("device", "precision", "recurren", "lstm")
"""How the names begin of what a start line says of device and arithmetic."""
CLASSES = ("very bad", "bad", "fair", "good", "very good")
WIDE = ("--model.wide", 1 << 16, "--model.wide_ngrams", 3, "--recurrence", "packed")
KINDS = {"plain": (), "packed, wide, 5 classes": WIDE}
TOLERANCE = 3e-2


def run(setting: Setting, findings: Findings) -> None:
    """Two short runs for each precision; on a CPU in fp32 alone."""
    manifest = read_manifest(setting.data)
    write_corpus(setting.scratch / "classes", {name: manifest.rows(name) for name in manifest.splits}, labels=CLASSES)
    precisions = ("fp32",) if setting.small else tuple(runnable(setting.device))
    names = [(precision, kind) for kind in KINDS for precision in precisions]
    codes = in_parallel([partial(train, setting, *name) for name in names], 2 if setting.small else 4)
    for (precision, kind), code in zip(names, codes, strict=True):
        path = directory(setting, precision, kind)
        if code:
            findings.add(f"{precision}, {kind}", f"exit code {code}: {tail(path.with_suffix('.log'))}", False)
        else:
            judge(findings, f"{precision}, {kind}", path, directory(setting, precisions[0], kind))
    if not any(codes):
        judge_commands(setting, findings, directory(setting, precisions[0], "plain"))
    for precision in {"fp32", "tf32", "bf16", "fp16"} - set(precisions):
        findings.add(precision, f"skipped: {'needs CUDA' if setting.small else 'this card cannot compute in it'}")


def directory(setting: Setting, precision: str, kind: str) -> Path:
    """The run directory."""
    return setting.scratch / f"{precision}-{list(KINDS).index(kind)}"


def train(setting: Setting, precision: str, kind: str) -> int:
    """One run; its exit code."""
    epochs, batch = (3, 32) if setting.small else (2, 256)
    keys = ("--precision", precision, "--epochs", epochs, "--global_batch", batch, "--tracking.log_every", 1)
    easy = ("--model.pooling", "mean", "--model.embedding_std", 0.1, *KINDS[kind])
    data = setting.scratch / "classes" if KINDS[kind] else setting.data
    return finish(start_run(data, directory(setting, precision, kind), setting.device, *keys, *easy))


def judge(findings: Findings, name: str, path: Path, beside: Path) -> None:
    """Rows and first losses beside those of another precision, a loss that falls, and what it says it computed in."""
    ours, theirs = read_metrics(path, "train"), read_metrics(beside, "train")
    same = [line["row_hash"] for line in ours] == [line["row_hash"] for line in theirs]
    findings.add(f"{name}: row hashes of {len(ours)} steps", "equal" if same else "differ", same)
    losses, others = (np.array([line["loss"] for line in lines]) for lines in (ours, theirs))
    worst = float(np.abs(losses - others)[:COMPARED_STEPS].max())
    findings.add(f"{name}: losses beside {beside.name}", f"differ by {worst:.1e} at most", worst <= TOLERANCE)
    learned = bool(np.isfinite(losses).all()) and losses[-5:].mean() < losses[:5].mean()
    accuracy = read_metrics(path, "test")[-1]["accuracy"]
    text = f"{losses[:5].mean():.3f}, {losses[-5:].mean():.3f}, {accuracy:.3f}"
    findings.add(f"{name}: loss of the first and the last 5 steps, test accuracy", text, learned)
    skipped = sum(line["skipped"] for line in ours)
    findings.add(f"{name}: steps skipped", skipped, name.startswith("fp16") or not skipped)
    effective = read_environment(path).get("effective", {})
    told = [f"{key} {choice}" for key, choice in sorted(effective.items()) if key.startswith(TOLD)]
    findings.add(f"{name}: start line", "; ".join(told))


def judge_commands(setting: Setting, findings: Findings, run: Path) -> None:
    """``evaluate`` beside that of a CPU, and ``doctor``."""
    devices = list(dict.fromkeys((setting.device, "cpu")))
    keys = ("--data", setting.data, "--run", setting.scratch / "none", "--device", setting.device)
    calls = [partial(evaluate, setting, run, device) for device in devices]
    *_, code = in_parallel([*calls, lambda: run_module("harness", "doctor", *keys).returncode], 2)
    findings.add("doctor", f"exit code {code}", code == 0)
    paths = [setting.scratch / f"evaluated-{device}" / "test-predictions.parquet" for device in devices]
    found = [pd.read_parquet(path).select_dtypes("number") for path in (run / paths[0].name, *paths)]
    for name, ours in zip(("the run's own", *devices[:-1]), found, strict=False):
        worst = float((ours - found[-1]).abs().max().max())
        findings.add(f"evaluate: predictions of a CPU beside {name}", f"differ by {worst:.1e} at most", worst <= 1e-4)


def evaluate(setting: Setting, run: Path, device: str) -> int:
    """``evaluate`` on a device; its exit code."""
    keys = (
        "--run",
        run,
        "--data",
        setting.data,
        "--device",
        device,
        "--output",
        setting.scratch / f"evaluated-{device}",
    )
    return succeed(run_module("harness.evaluate", *keys)).returncode
