# SPDX-License-Identifier: Apache-2.0
"""The real training step, with rows in memory, mapped and on the device; the benchmark ``train`` beside other loops."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.batch import StepBatch
from harness.config import ModelConfig, RunConfig
from harness.training.throughput import flops_per_token, measure_peak, synchronize
from harness.training.trainer import Trainer
from tests.commands import ROOT
from tests.gpu.findings import COMPARED_STEPS, Findings, Setting
from tests.gpu.timing import described, work
from tests.gpu.training import all_steps, make_trainer, session_for, train

RESIDENCIES = ("memory", "mapped", "device")
PAYS = 0.02
"""Share of a step's time that the device must save to be worth its memory."""
BENCH_LIMIT_S, TIME_LEFT_S = 100, 80
"""``bench train`` may take so long, and is begun no later than so many seconds after the stage."""
SETTLE_S = 0.3


@dataclass
class Contender:
    """A trainer and what it has done."""

    trainer: Trainer
    steps: Iterator[StepBatch]
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    wait_s: float = 0.0

    def turn(self, number: int, device: torch.device, counts: bool) -> None:
        """Some steps, timed from an idle device to an idle device.

        The loader of the one before is given time to fill its queue again, so that it does not work in this turn.
        """
        synchronize(device)
        time.sleep(SETTLE_S)
        waits: list[float] = []
        started = time.perf_counter()
        losses = train(self.trainer, self._noted(waits, counts), number)
        synchronize(device)
        self.losses += [float(loss) for loss in losses]
        if counts:
            self.seconds.append((time.perf_counter() - started) / number)
            self.wait_s += sum(waits)

    def _noted(self, waits: list[float], counts: bool) -> Iterator[StepBatch]:
        for batch in self.steps:
            waits.append(batch.wait_s)
            if counts:
                self.tokens += sum(micro.num_tokens for micro in batch.micro_batches)
            yield batch


def run(setting: Setting, findings: Findings) -> None:
    """Batches of 64 and 512 in fp32 and bf16."""
    started = time.monotonic()
    cases = [("fp32", 16)] if setting.small else [("bf16", 64), ("bf16", 512), ("fp32", 512)]
    for precision, batch in cases:
        real_step(setting, findings, precision, batch)
    for precision, batch in cases[:2]:
        if time.monotonic() - started < TIME_LEFT_S:
            bench(setting, findings, precision, batch)
        else:
            findings.add(f"bench train, {precision}, batch {batch}", "not measured: no time left")
    if setting.small:
        findings.skip("kernels a step, busy share")


def shape(setting: Setting) -> ModelConfig:
    """The model of the recipes."""
    size = 32 if setting.small else 128
    return ModelConfig(embedding_dim=size, hidden_size=size, pooling="max+mean", dropout=0.5, word_dropout=0.15)


def real_step(setting: Setting, findings: Findings, precision: str, batch: int) -> None:
    """One line for each residency, and whether the device pays."""
    rounds, number = (3, 10) if setting.small else (5, 100)
    config = RunConfig(
        data=str(setting.data),
        run=str(setting.scratch / "run"),
        device=setting.device,
        precision=precision,  # type: ignore[arg-type]
        global_batch=batch,
        epochs=50,
        model=shape(setting),
    )
    with session_for(config) as session:
        device = session.device
        contenders: dict[str, Contender] = {}
        for residency in RESIDENCIES:
            trainer = make_trainer(RunConfig(**vars(config) | {"residency": residency}), session)
            contenders[residency] = Contender(trainer, all_steps(trainer))
        for turn in range(rounds + 1):
            for contender in contenders.values():
                contender.turn(number, device, counts=turn > 0)
        peak = measure_peak(device, precision)
        for residency, contender in contenders.items():
            total = sum(contender.seconds) * number
            found = work(lambda contender=contender: train(contender.trainer, contender.steps, 1), device)
            speed = contender.tokens / total
            figures = {
                "seconds_per_step": statistics.median(contender.seconds),
                "tokens_per_s": speed,
                "data_wait": contender.wait_s / total,
                "mfu": flops_per_token(config.model) * speed / peak,
                "kernels": None if found is None else found.kernels,
                "busy": None if found is None else found.busy,
            }
            findings.figure(f"{precision} {batch} {residency}", figures)
            findings.add(
                f"step of {batch} rows, {precision}, rows {residency}",
                f"{1e3 * figures['seconds_per_step']:.2f} ms, {speed:,.0f} tokens/s, data wait "
                f"{figures['data_wait']:.1%}, {figures['mfu']:.1%} of a large matrix product, {described(found)}",
            )
        answer, equal = pays(contenders)
        if setting.small:
            answer = f"skipped: needs CUDA; {answer.rpartition('; ')[2]}"
        findings.add(f"{precision}, {batch} rows: does residency device pay", answer, equal)
        for contender in contenders.values():
            contender.steps.close()  # type: ignore[attr-defined]


def pays(contenders: dict[str, Contender]) -> tuple[str, bool]:
    """Seconds a step in memory and on the device, at equal losses; whether losses are equal is the claim."""
    memory, device = contenders["memory"], contenders["device"]
    pairs = list(zip(device.losses, memory.losses, strict=True))[:COMPARED_STEPS]
    spread = max(abs(ours - theirs) / abs(theirs) for ours, theirs in pairs)
    before, after = (statistics.median(contender.seconds) for contender in (memory, device))
    saved = 1 - after / before
    answer = "yes" if saved > PAYS else "no"
    text = f"{answer}: {1e3 * before:.2f} ms in memory, {1e3 * after:.2f} ms on the device ({saved:+.1%} saved)"
    return f"{text}; losses of the first {len(pairs)} steps differ by {spread:.0e} of themselves at most", spread < 0.02


def bench(setting: Setting, findings: Findings, precision: str, batch: int) -> None:
    """``python -m benchmarks train --json``, as a user runs it."""
    sizes = ("--model.embedding_dim", "32", "--model.hidden_size", "32") if setting.small else ()
    turns = ("--rounds", "1", "--steps", "2") if setting.small else ("--rounds", "3", "--steps", "8")
    command = [sys.executable, "-m", "benchmarks", "train", "--data", str(setting.data), "--json"]
    command += ["--precision", precision, "--batch", str(batch), *turns, *sizes]
    what = f"benchmark train, {precision}, batch {batch}"
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BENCH_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        findings.add(what, f"took longer than {BENCH_LIMIT_S} s", False)
        return
    if done.returncode:
        findings.add(what, f"exit code {done.returncode}: {done.stderr[-200:]}", False)
        return
    values: dict[str, Any] = json.loads(done.stdout)
    findings.figure(what, values)
    details = values["ours_details"]
    peers = ", ".join(f"{speed:,.0f} {name}" for name, speed in values["peers"].items())
    text = f"{values['ours']:,.0f} tokens/s, beside {peers}; data wait {details['data_wait']:.1%}, "
    findings.add(what, text + f"padding {details['padding']:.1%}, {details['mfu']:.1%} of a large matrix product")
