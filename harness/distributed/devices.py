# SPDX-License-Identifier: Apache-2.0
"""The device that the user requested; one rule for every launcher.

==================================================================  ===================================================
request                                                             meaning
==================================================================  ===================================================
``--device cpu``                                                    the CPU, whatever else is requested
``--device cuda``                                                   GPUs
``gpu_ids`` in a configuration file of accelerate                   GPUs
``use_cpu: true`` there, or no ``gpu_ids``                          the CPU
none of these                                                       GPUs if every process of this machine gets one,
                                                                    else the CPU
==================================================================  ===================================================

If GPUs are requested and too few are visible, that is an error. Under bare ``accelerate launch``,
``ACCELERATE_USE_CPU`` decides.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from padless.core.errors import ConfigError
from padless.core.terminal import size

USE_CPU = "ACCELERATE_USE_CPU"
"""Environment variable with which accelerate keeps its ranks from using GPUs."""
OMP = "OMP_NUM_THREADS"
TRACES = ("/dev/nvidia*", "/dev/nvhost*", "/dev/nvmap", "/dev/dxg", "/dev/kfd", "/proc/driver/nvidia")
"""Of a card or its driver: NVIDIA's, the same in a Jetson, under WSL, and AMD's."""


@dataclass(frozen=True)
class Cuda:
    """What torch and the machine report on CUDA devices."""

    num_devices: int
    """Those that are visible."""
    driver: bool
    """An NVIDIA driver is loaded."""
    build: str | None
    """The CUDA version that torch was built with; None for a build without."""
    visible: str | None
    """CUDA_VISIBLE_DEVICES, if it is set."""

    def __str__(self) -> str:
        driver = "an NVIDIA driver is loaded" if self.driver else "no NVIDIA driver is loaded"
        build = "torch was built without CUDA" if self.build is None else f"torch was built with CUDA {self.build}"
        variable = "is not set" if self.visible is None else f"is {self.visible!r}"
        return f"{driver}, {build}, CUDA_VISIBLE_DEVICES {variable}"


def is_without_cuda() -> bool:
    """Whether this machine certainly has no CUDA device: known without torch, whose import takes seconds."""
    return sys.platform == "linux" and not any(map(glob, TRACES))


def check_device(wanted: str) -> None:
    """Raise ``ConfigError`` for ``cuda`` where there certainly is none. What is uncertain, ``choose`` decides."""
    if wanted == "cuda" and is_without_cuda():
        raise ConfigError("device: cuda: this machine has no CUDA device, and no driver of one; use --device cpu")


def find_cuda() -> Cuda:
    """The CUDA devices that are visible to this process."""
    import torch

    driver = Path("/proc/driver/nvidia/version").exists()
    return Cuda(torch.cuda.device_count(), driver, torch.version.cuda, os.environ.get("CUDA_VISIBLE_DEVICES"))


def find_threads() -> int | None:
    """The number of threads in ``OMP_NUM_THREADS``; None without one."""
    first = os.environ.get(OMP, "").partition(",")[0].strip()  # of a list for nested regions the one that counts
    return int(first) or None if first.isdigit() else None


def choose(wanted: str, processes: int, cuda: Cuda) -> tuple[str, str]:
    """``cpu`` or ``cuda``, and why, from the key ``device``, the visible devices, and accelerate's settings.

    ``processes`` are those of this machine. Raises ``ConfigError`` where GPUs were asked for and are too few.
    """
    if wanted == "cpu":
        return "cpu", "asked for"
    devices = f"{cuda.num_devices} CUDA device{'' if cuda.num_devices == 1 else 's'}"
    if wanted == "cuda":
        if cuda.num_devices == 0:
            raise ConfigError(f"device: cuda: no CUDA device is visible ({cuda}); use --device cpu")
        if processes > cuda.num_devices:
            raise ConfigError(
                f"num_processes: device is cuda, and {processes} processes cannot share {cuda.num_devices} of them "
                f"({cuda}); start {cuda.num_devices}, or --device cpu"
            )
        return "cuda", f"asked for; {devices} visible"
    if os.environ.get(USE_CPU, "").lower() == "true":
        return "cpu", f"as {USE_CPU} says"
    if cuda.num_devices == 0:
        return "cpu", "no CUDA device is visible"
    if processes > cuda.num_devices:
        return "cpu", f"{processes} processes and {devices}; --num_processes {cuda.num_devices} takes GPUs"
    return "cuda", f"{devices} visible"


def count_cards(wanted: str, num_here: int, num_processes: int) -> int | None:
    """How many GPUs train: one for each of the processes, of which ``num_here`` are on this machine; None on CPUs.

    Raises ``ConfigError`` as ``choose`` does.
    """
    return num_processes if choose(wanted, num_here, find_cuda())[0] == "cuda" else None


def describe_devices(kind: str) -> str:
    """The devices of this machine, for people; ``kind`` is where it trains, ``cpu`` or ``cuda``."""
    import torch

    cuda = find_cuda()
    if kind == "cpu":
        return f"no GPU is used ({cuda})"
    lines = []
    for number in range(cuda.num_devices):
        free, total = map(size, torch.cuda.mem_get_info(number))
        lines.append(f"{torch.cuda.get_device_name(number)} ({free} of {total} free)")
    return ", ".join(lines)
