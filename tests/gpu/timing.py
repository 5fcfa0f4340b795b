# SPDX-License-Identifier: Apache-2.0
"""How long something takes on a device, how many kernels it starts and how much of the time one of them runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from harness.training.throughput import synchronize


@dataclass(frozen=True)
class Work:
    """What the device did while something ran."""

    kernels: int
    """Kernels and copies."""
    busy: float
    """Share of the time, from the first kernel's start to the last one's end, in which at least one ran."""


def seconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Mean seconds of a call, by CUDA events around all of them on a card."""
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - started) / repeats
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(repeats):
        call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3 / repeats


def work(call: Callable[[], object], device: torch.device) -> Work | None:
    """Watch one call with torch.profiler; None on a CPU."""
    if device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        synchronize(device)
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not getattr(event, "is_user_annotation", False)
    ]
    return Work(len(spans), covered(spans))


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Share of the time from the first start to the last end that lies in at least one span; 0 without any."""
    ordered = sorted(spans)
    if not ordered:
        return 0.0
    total, begin, end = 0.0, *ordered[0]
    for start, stop in ordered[1:]:
        if start > end:
            total, begin = total + end - begin, start
        end = max(end, stop)
    total += end - begin
    return total / max(end - ordered[0][0], 1e-9)


def described(found: Work | None) -> str:
    """``1,234 kernels a step, busy 97 %``."""
    return "no kernels to count" if found is None else f"{found.kernels:,} kernels a step, busy {found.busy:.0%}"
