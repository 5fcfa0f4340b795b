# SPDX-License-Identifier: Apache-2.0
"""The first two minutes: is each path of the recurrent layers right, does it train, how fast is it, and what runs."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch.profiler import ProfilerActivity, profile

from harness.config import OptimConfig
from harness.ranks.precision import choose_precision
from harness.training.throughput import synchronize
from harness.training.trainer import Trainer
from preprocessing.base.errors import ConfigError
from tests.gpu.findings import Findings, Setting
from tests.gpu.stages import gradients
from tests.trainers import all_steps, make_trainer, session_for, train

PATHS = ("packed", "padded")
"""Those of cuDNN; the stage ``fused`` is last and alone, so that its fault leaves the answers on these."""
STEPS, PROFILED, SHOWN = 60, 3, 5
"""Steps that are trained, and again that are timed; that the profiler watches; kernels that are named."""
FALLS_TO = 0.9
"""The mean loss of the last steps is at most this share of that of the first ones."""
STARTS = ("cudaLaunch", "cuLaunch")
"""How the profiler names a launch of a kernel."""
ASKED = "clocks.sm,clocks.max.sm,power.draw,temperature.gpu"


def run(setting: Setting, findings: Findings) -> None:
    """In the precision that ``auto`` chooses, with 128 units."""
    judge_paths(setting, findings, PATHS, choose_precision("auto", setting.device).value, 128)


def judge_paths(setting: Setting, findings: Findings, paths: Sequence[str], precision: str, units: int) -> None:
    """Every path with the same weights and rows; fp64 on the CPU is computed once."""
    rows, size = (16, 32) if setting.small else (64, units)
    base = gradients.configuration(setting, precision, rows, size)
    model = replace(base.model, embedding_std=0.1)
    base = replace(
        base,
        model=model,
        epochs=100,
        optim=OptimConfig(lr=0.02 if setting.small else 0.01, warmup=0.0, decay="none", ema=0.99),
    )
    exact: gradients.Gradients = {}
    for path in paths:
        try:
            with session_for(base) as session:
                trainer = make_trainer(replace(base, recurrence=path), session)
                judge(setting, findings, f"{path}, {precision}", trainer, exact)
        except ConfigError as error:
            findings.add(path, f"cannot run: {error}", None if setting.small else False)


def judge(setting: Setting, findings: Findings, name: str, trainer: Trainer, exact: gradients.Gradients) -> None:
    """Right, trains, how fast, which kernels."""
    step = gradients.typical_step(trainer)
    exact.update(exact or gradients.in_fp64(trainer, step))
    found = gradients.in_this_precision(trainer, step)
    precision = name.rpartition(" ")[2]
    gradients.compare(findings, f"{name}: gradients beside fp64", precision, found, exact)
    trainer.optimizer.zero_grad(set_to_none=True)
    steps, rows, number = all_steps(trainer), trainer.config.global_batch, 25 if setting.small else STEPS
    losses = [float(loss) / rows for loss in train(trainer, steps, number)]
    first, last = float(np.mean(losses[:5])), float(np.mean(losses[-5:]))
    findings.add(f"{name}: trains", f"loss {first:.3f}, after {number} steps {last:.3f}", last <= FALLS_TO * first)
    trainer.meter.counted.tokens = 0
    synchronize(trainer.device)
    started = time.perf_counter()
    number = 5 if setting.small else STEPS
    train(trainer, steps, number)
    synchronize(trainer.device)
    seconds, tokens = time.perf_counter() - started, trainer.meter.counted.tokens
    text = f"{tokens / seconds:,.0f} real tokens/s, {1e3 * seconds / number:.1f} ms a step of {rows} rows"
    findings.add(f"{name}: speed", f"{text}{clocks(setting)}")
    findings.figure(name, {"tokens_per_s": tokens / seconds, "step_s": seconds / number})
    watched(setting, findings, name, trainer)


def watched(setting: Setting, findings: Findings, name: str, trainer: Trainer) -> None:
    """What the profiler sees of a few steps: launches, and the kernels that take most time."""
    kinds = [ProfilerActivity.CPU, *([] if setting.small else [ProfilerActivity.CUDA])]
    with profile(activities=kinds) as seen:
        train(trainer, all_steps(trainer), PROFILED)
        synchronize(trainer.device)
    averages = seen.key_averages()
    if setting.small:
        times = {one.key: one.self_cpu_time_total for one in averages}
        findings.add(f"{name}: launches a step", "skipped: needs CUDA")
    else:
        times = {one.key: one.self_device_time_total for one in averages if one.self_device_time_total}
        launches = sum(one.count for one in averages if one.key.startswith(STARTS)) / PROFILED
        findings.add(f"{name}: launches a step", f"{launches:.0f}")
    total, longest = sum(times.values()), sorted(times, key=lambda key: -times[key])[:SHOWN]
    shares = ", ".join(f"{key[:60]} {times[key] / total:.0%}" for key in longest)
    findings.add(f"{name}: where the time goes", shares)


def clocks(setting: Setting) -> str:
    """The clocks of the first card right after work, where its driver tells them."""
    if setting.small or shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader", "--id=0"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    return f"; clock, highest clock, power, temperature: {said}"
