# SPDX-License-Identifier: Apache-2.0
"""The device a rank trains on, and the arithmetic that will really run there, each with its reason."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch

from harness.config import Precision
from harness.ranks import devices
from harness.ranks.distributed import launched_local_world_size
from preprocessing.base.errors import ConfigError

Arithmetic = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Choice:
    """A setting that was decided, and why; the start-up lines print both."""

    value: str
    reason: str

    def __str__(self) -> str:
        """``bf16: the CPU has avx512_bf16``."""
        return f"{self.value}: {self.reason}"


def choose_device(wanted: str) -> Choice:
    """``cpu`` or ``cuda`` on this machine. Raises ``ConfigError`` as ``devices.choose`` does."""
    return Choice(*devices.choose(wanted, devices.asked_here(), launched_local_world_size(), devices.see()))


def choose_precision(wanted: Precision, device_type: str) -> Choice:
    """What training computes in. Raises ``ConfigError`` naming what the device can run, if it cannot run ``wanted``."""
    able = runnable(device_type)
    if wanted == "auto":
        launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if launcher in ("bf16", "fp16"):
            wanted, reason = ("bf16" if launcher == "bf16" else "fp16"), "accelerate launch asked for it"
        elif able.get("bf16") == "native":
            return Choice("bf16", f"the {'GPU' if device_type == 'cuda' else 'CPU'} computes it natively")
        else:
            return Choice("fp32", f"this {device_type} device has no native bf16")
    else:
        reason = "asked for"
    if wanted not in able:
        raise ConfigError(f"precision: {wanted} cannot run on {device_type} here; it can run {', '.join(able)}")
    return Choice(wanted, reason if able[wanted] == "native" else f"{reason}; emulated on this device, so slow")


def runnable(device_type: str) -> dict[str, str]:
    """Which arithmetics run on this kind of device, and whether natively or emulated."""
    able = {"fp32": "native"}
    if device_type == "cuda":
        able["fp16"] = "native"
        if torch.cuda.is_bf16_supported(including_emulation=False):
            able["bf16"] = "native"
        return able
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        able["bf16"] = "native" if torch.cpu._is_avx512_bf16_supported() else "emulated"
    return able


def configure_threads(device_type: str) -> int:
    """Share this machine's cores among its processes (CPU training), and return the number of threads in use."""
    if device_type == "cpu":
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // launched_local_world_size()))
    return torch.get_num_threads()


def full_fp32() -> None:
    """fp32 means fp32: no TF32 in matrix products or cuDNN, so that evaluation repeats anywhere to 1e-5."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
