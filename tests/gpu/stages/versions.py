# SPDX-License-Identifier: Apache-2.0
"""What the proof ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata

import torch

from tests.gpu.findings import Findings, Setting

PACKAGES = ("accelerate", "numpy", "pyarrow", "safetensors", "scikit-learn", "msgspec")
CUDNN_WITH_BF16 = 91_300


def run(setting: Setting, findings: Findings) -> None:
    """Versions, and what the card says of itself."""
    findings.add("Python, torch", f"{platform.python_version()}, {torch.__version__}")
    findings.add("packages", ", ".join(f"{name} {version(name)}" for name in PACKAGES))
    findings.add("cores for this process", len(os.sched_getaffinity(0)))
    if setting.device == "cpu":
        findings.add("card, driver, CUDA, cuDNN, NCCL", "skipped: needs CUDA")
        return
    card = torch.cuda.get_device_properties(0)
    cudnn = torch.backends.cudnn.version()
    findings.add("cards seen", torch.cuda.device_count(), torch.cuda.device_count() >= 1)
    findings.add("card", f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {card.major}.{card.minor}")
    findings.add("driver", driver())
    findings.add("CUDA, NCCL", f"{torch.version.cuda}, {'.'.join(map(str, torch.cuda.nccl.version()))}")
    findings.add("cuDNN", f"{cudnn}; takes bf16 LSTMs from {CUDNN_WITH_BF16}")
    findings.add("bf16 natively", torch.cuda.is_bf16_supported(including_emulation=False))
    findings.figure("card", {"name": card.name, "cudnn": cudnn, "torch": torch.__version__})


def version(package: str) -> str:
    """An installed version, or that there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def driver() -> str:
    """The driver's version, as its own tool says it."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"
