# SPDX-License-Identifier: Apache-2.0
"""A run that is stopped by SIGUSR2 and goes on, beside two that are left alone: which of them end bit-identical."""

from __future__ import annotations

import json
import signal
import subprocess
from functools import partial
from pathlib import Path

from harness.rundir.records import read_status
from tests.commands import came_true, logged, read_metrics
from tests.gpu.findings import Findings, Setting
from tests.gpu.launching import finish, in_parallel, start_run, tail
from tests.runs import steps_done

LINES, LOSS_LIMIT = 12, 1e-2
"""Lines of a log, of four steps each, whose losses are compared on CUDA, and their largest difference there."""
WEIGHTS = ("model.safetensors", "optimizer.safetensors")


def run(setting: Setting, findings: Findings) -> None:
    """Runs of one configuration, at once; on a CPU none but the one that is stopped and one that is not."""
    names = ("first", "stopped") if setting.small else ("first", "stopped", "second")
    runs = {name: setting.scratch / name for name in names}
    stopped = partial(interrupted, setting, runs["stopped"], findings)
    codes = in_parallel([stopped if name == "stopped" else partial(whole, setting, runs[name]) for name in names], 3)
    for (name, path), code in zip(runs.items(), codes, strict=True):
        if code:
            findings.add(f"{name} run", f"exit code {code}: {tail(path.with_suffix('.log'))}", False)
    if any(codes):
        return
    for name in names[1:]:
        same, text, off = beside(runs["first"], runs[name])
        findings.add(f"{name} run beside one left alone", text, same if setting.small else off <= LOSS_LIMIT)
    hashes = {name: read_metrics(path, "train")[-1]["row_hash"] for name, path in runs.items()}
    equal = len(set(hashes.values())) == 1
    findings.add("row hashes at the end of all", "equal" if equal else str(hashes), equal)


def start(setting: Setting, run: Path) -> subprocess.Popen[bytes]:
    """Some seconds of training."""
    epochs, batch = (3, 32) if setting.small else (3, 64)
    keys = ("--precision", "fp32", "--epochs", epochs, "--global_batch", batch, "--optim.ema", 0.99)
    return start_run(setting.data, run, setting.device, *keys, "--tracking.log_every", 4)


def whole(setting: Setting, run: Path) -> int:
    """A run that is left alone; its exit code."""
    return finish(start(setting, run), 110)


def interrupted(setting: Setting, run: Path, findings: Findings) -> int:
    """SIGUSR2 to the launcher after a third of the first epoch, then the same command again; the last exit code."""
    process = start(setting, run)
    came_true(lambda: process.poll() is not None or steps_done(run) >= 20, 90)
    process.send_signal(signal.SIGUSR2)
    code = finish(process, 60)
    status = read_status(run) or {}
    step = status.get("step")
    findings.add("SIGUSR2", f"exit code {code}, {status.get('state')} at step {step}", code == 85)
    code = finish(start(setting, run), 110)
    environment = json.loads((run / "environment.json").read_text())
    told = str(environment["effective"].get("resume"))
    findings.add("started again", f"exit code {code}, resume {told}", code == 0 and told.startswith(f"step {step:,}"))
    return code


def beside(one: Path, other: Path) -> tuple[bool, str, float]:
    """Whether weights, moments and metrics are the same bytes; what differs, in words; and by how much the losses of
    the first lines do, some of them after the stop.
    """
    same = [name for name in WEIGHTS if last_checkpoint(one, name) == last_checkpoint(other, name)]
    losses = [logged(path, "loss") for path in (one, other)]
    worst = max(abs(ours - theirs) for ours, theirs in zip(*losses, strict=True))
    early = max(abs(ours - theirs) for ours, theirs in list(zip(*losses, strict=True))[:LINES])
    if len(same) == len(WEIGHTS) and worst == 0:
        return True, "bit-identical: losses, weights, moments, average", early
    text = f"not bit-identical: losses differ by {early:.1e} in {LINES} lines, {worst:.1e} in all"
    return False, f"{text}; equal files: {', '.join(same) or 'none'}", early


def last_checkpoint(run: Path, name: str) -> bytes:
    """A file of the newest checkpoint."""
    return (max((run / "checkpoints").iterdir()) / name).read_bytes()
