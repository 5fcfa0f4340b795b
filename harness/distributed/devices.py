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
import re
import sys
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from padless.core.errors import ConfigError
from padless.core.terminal import count_noun, size
from padless.core.untrusted import one_line

USE_CPU = "ACCELERATE_USE_CPU"
"""Environment variable with which accelerate keeps its ranks from using GPUs."""
OMP = "OMP_NUM_THREADS"
VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER_VERSION = Path("/proc/driver/nvidia/version")
OLDEST_DRIVERS = {"11": 450, "12": 525, "13": 580}
"""The first NVIDIA driver for each CUDA."""
TRACES = ("/dev/nvidia*", "/dev/nvhost*", "/dev/nvmap", "/dev/dxg", "/dev/kfd", "/proc/driver/nvidia")
"""Of a card or its driver: NVIDIA's, the same in a Jetson, under WSL, and AMD's."""


@dataclass(frozen=True)
class Cuda:
    """What torch and the machine report on CUDA devices."""

    num_devices: int
    """Those that this process can use."""
    driver: str | None
    """The version of the NVIDIA driver that is loaded."""
    build: str | None
    """The CUDA version that torch was built with; None for a build without."""
    visible: str | None
    """CUDA_VISIBLE_DEVICES, if it is set."""
    failure: str | None = None
    """Why torch can use no device, although the driver lists some."""

    def __str__(self) -> str:
        driver = f"the NVIDIA driver is {self.driver}" if self.driver else "no NVIDIA driver is loaded"
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
    """The CUDA devices that this process can use: CUDA counts them, since the driver's own library also lists those
    that this torch cannot use.
    """
    import torch

    count, failure = torch.cuda.device_count(), None
    if count:
        try:
            count = torch._C._cuda_getDeviceCount()
        except RuntimeError as error:
            count, failure = 0, one_line(error)
    return Cuda(count, read_driver(), torch.version.cuda, os.environ.get(VISIBLE), failure)


def read_driver() -> str | None:
    """The version of the NVIDIA driver, such as 580.65.06; None without one."""
    try:
        first_line = DRIVER_VERSION.read_text(encoding="utf-8").partition("\n")[0]
    except OSError:
        return None
    version = re.search(r"\d+(\.\d+)+", first_line)
    return version[0] if version else None


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
    if os.environ.get(USE_CPU, "").lower() == "true" and wanted != "cuda":
        return "cpu", f"as {USE_CPU} says"
    if cuda.failure is not None:
        oldest = OLDEST_DRIVERS.get((cuda.build or "").partition(".")[0], "the driver of its CUDA")
        raise ConfigError(
            f"device: {wanted}: torch can use no CUDA device ({cuda}; {cuda.failure}); install driver {oldest} or "
            "newer, or a torch that was built with an older CUDA, or train with --device cpu"
        )
    devices = f"{processes} of {count_noun(cuda.num_devices, 'CUDA device')}"
    if processes < cuda.num_devices:
        devices += f"; --num_processes {cuda.num_devices} takes all, CUDA_VISIBLE_DEVICES chooses"
    if wanted == "cuda":
        if cuda.num_devices == 0:
            raise ConfigError(f"device: cuda: no CUDA device is visible ({cuda}); use --device cpu")
        if processes > cuda.num_devices:
            raise ConfigError(
                f"num_processes: device is cuda, and {processes} processes cannot share {cuda.num_devices} of them "
                f"({cuda}); start {cuda.num_devices}, or --device cpu"
            )
        return "cuda", f"asked for; {devices}"
    if cuda.num_devices == 0:
        return "cpu", "no CUDA device is visible"
    if processes > cuda.num_devices:
        return "cpu", f"{processes} processes and {count_noun(cuda.num_devices, 'CUDA device')}"
    return "cuda", devices


def count_cards(wanted: str, num_here: int, num_processes: int) -> int | None:
    """How many GPUs train: one for each of the processes, of which ``num_here`` are on this machine; None on CPUs.

    Raises ``ConfigError`` as ``choose`` does.
    """
    return num_processes if choose(wanted, num_here, find_cuda())[0] == "cuda" else None


def describe_device(kind: str) -> str:
    """The device of this rank, for people; ``kind`` is where it trains, ``cpu`` or ``cuda``."""
    import torch

    if kind == "cpu":
        return f"no GPU is used ({find_cuda()})"
    free, total = map(size, torch.cuda.mem_get_info())
    return f"{torch.cuda.get_device_name()} ({free} of {total} free)"
