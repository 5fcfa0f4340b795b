# SPDX-License-Identifier: Apache-2.0
"""What the proof ran on."""

from __future__ import annotations

import os

import torch
from torch.utils.collect_env import get_pretty_env_info

from tests.gpu.findings import Findings, Setting

SAID = ("PyTorch version", "Python version", "OS", "Model name", "GPU models and configuration", "cuDNN version")
SAID += ("CUDA used to build PyTorch", "CUDA runtime version", "Nvidia driver version")


def run(setting: Setting, findings: Findings) -> None:
    """Versions, and what the card says of itself."""
    for line in get_pretty_env_info().splitlines():
        what, _, value = line.partition(": ")
        if what in SAID:
            findings.add(what, value.strip())
    findings.add("cores for this process", len(os.sched_getaffinity(0)))
    if setting.device == "cuda":
        findings.add("cards seen", torch.cuda.device_count(), torch.cuda.device_count() >= 1)
        findings.add("bf16 natively", torch.cuda.is_bf16_supported(including_emulation=False))
