# SPDX-License-Identifier: Apache-2.0
"""The devices and the threads that the user requested; one rule for every launcher.

==================================================================  ===================================================
request                                                             meaning
==================================================================  ===================================================
``--device cpu``                                                    the CPU, whatever else is requested
``--device cuda``                                                   GPUs
``--multi_gpu`` or ``--gpu_ids`` for accelerate, or ``gpu_ids`` in  GPUs
its configuration file
``--cpu``, ``use_cpu: true``, or a configuration file without       the CPU
``gpu_ids``
none of these                                                       GPUs if every process of this machine gets one,
                                                                    else the CPU
==================================================================  ===================================================

If GPUs are requested and too few are visible, that is an error. ``padless train`` reads the options of accelerate, and
gives its ranks the keys ``device`` and ``threads``. Under bare ``accelerate launch``, ``ACCELERATE_USE_CPU`` and
torch's own reading of ``OMP_NUM_THREADS`` decide.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, Literal

from preprocessing.base.errors import ConfigError

USE_CPU = "ACCELERATE_USE_CPU"
"""Environment variable by which accelerate tells its ranks to leave GPUs alone."""
OMP = "OMP_NUM_THREADS"
TRACES = ("/dev/nvidia*", "/dev/nvhost*", "/dev/nvmap", "/dev/dxg", "/dev/kfd", "/proc/driver/nvidia")
"""Of a card or its driver: NVIDIA's, the same in a Jetson, under WSL, and AMD's."""
CHOSEN = "PADLESS_PROCESSES"
"""Environment variable: why so many processes of one thread train on the cores of a machine, where padless chose that
number."""


@dataclass(frozen=True)
class Cuda:
    """What torch and the machine report on CUDA devices."""

    found: int
    """Devices that are visible."""
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


def look() -> Cuda:
    """The CUDA devices that this process sees."""
    import torch

    driver = Path("/proc/driver/nvidia/version").exists()
    return Cuda(torch.cuda.device_count(), driver, torch.version.cuda, os.environ.get("CUDA_VISIBLE_DEVICES"))


def asked_by(arguments: Namespace, settings: Any) -> Literal["cpu", "cuda"] | None:
    """The device that accelerate's options and the ``settings`` of its configuration file, if there is one, ask for."""
    if arguments.multi_gpu or arguments.gpu_ids:
        return "cuda"
    if arguments.cpu:
        return "cpu"
    if settings is None:
        return None
    return "cpu" if settings.use_cpu or settings.gpu_ids is None else "cuda"


def threads_of(arguments: Namespace) -> int | None:
    """The number of threads that the user gave, by accelerate's option or ``OMP_NUM_THREADS``; None without one."""
    text = str(arguments.num_cpu_threads_per_process or os.environ.get(OMP, ""))
    first = text.partition(",")[0].strip()  # OpenMP's list for nested regions begins with the one that counts
    return int(first) or None if first.isdigit() else None


def choose(wanted: str, processes: int, cuda: Cuda) -> tuple[str, str]:
    """``cpu`` or ``cuda``, and why, from the key ``device``, the visible devices, and what accelerate told this rank.

    ``processes`` are those of this machine. Raises ``ConfigError`` where GPUs were asked for and are too few.
    """
    if wanted == "cpu":
        return "cpu", "asked for"
    devices = f"{cuda.found} CUDA device{'' if cuda.found == 1 else 's'}"
    if wanted == "cuda":
        if cuda.found == 0:
            raise ConfigError(f"device: cuda: no CUDA device is visible ({cuda}); use --device cpu")
        if processes > cuda.found:
            raise ConfigError(
                f"num_processes: device is cuda, and {processes} processes cannot share {cuda.found} of them ({cuda}); "
                f"start {cuda.found}, or --device cpu"
            )
        return "cuda", f"asked for; {devices} visible"
    if os.environ.get(USE_CPU, "").lower() == "true":
        return "cpu", f"as {USE_CPU} says"
    if cuda.found == 0:
        return "cpu", "no CUDA device is visible"
    if processes > cuda.found:
        return "cpu", f"{processes} processes and {devices}; --num_processes {cuda.found} takes GPUs"
    return "cuda", f"{devices} visible"


def cards(wanted: str, here: int, processes: int) -> int | None:
    """How many GPUs train: one for each of ``processes``, of which ``here`` are on this machine; None on CPUs.

    Raises ``ConfigError`` as ``choose`` does.
    """
    return processes if choose(wanted, here, look())[0] == "cuda" else None
