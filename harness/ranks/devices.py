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

If GPUs are requested and too few are visible, that is an error. Threads are those of the key ``threads``, else of
accelerate's option or the user's ``OMP_NUM_THREADS``, else a share of the cores. The launchers set that variable for
their ranks where the user has not, so a rank cannot tell whose number it is: ``padless train`` passes on the user's
request, and under bare ``accelerate launch`` a rank reads the command line and environment of its parent.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal

from preprocessing.base.configuration import read_config
from preprocessing.base.errors import ConfigError
from preprocessing.base.processes import available_cores

Asked = Literal["gpu", "cpu", "either"]
DEVICES, THREADS = "PADLESS_DEVICES", "PADLESS_THREADS"
"""Environment variables by which ``padless train`` passes the requested devices and threads to its ranks."""
OMP = "OMP_NUM_THREADS"


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


def look() -> Cuda:
    """The CUDA devices that this process sees."""
    import torch

    driver = Path("/proc/driver/nvidia/version").exists()
    return Cuda(torch.cuda.device_count(), driver, torch.version.cuda, os.environ.get("CUDA_VISIBLE_DEVICES"))


def given(words: Sequence[str]) -> dict[str, str]:
    """The options of accelerate in a command line, as ``--name value``, ``--name=value`` or a flag, by name."""
    found = {}
    for word, following in zip(words, [*words, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            found[name[2:].replace("-", "_")] = value if equals else following
    return found


def asked_by(words: Sequence[str]) -> Asked:
    """What accelerate's options and configuration file ask for. Raises ``ConfigError`` for a file that is no YAML."""
    options = given(words)
    if {"multi_gpu", "gpu_ids"} & options.keys():
        return "gpu"
    if "cpu" in options:
        return "cpu"
    path = Path(options["config_file"]) if "config_file" in options else default_file()
    if not path.is_file():
        return "either"
    settings = read_config(path)  # as texts
    on_cpu = str(settings.get("use_cpu")).lower() in ("true", "yes", "on")
    return "cpu" if on_cpu or settings.get("gpu_ids", "null") == "null" else "gpu"


def default_file() -> Path:
    """Where ``accelerate config`` leaves its answers."""
    from accelerate.commands.config.config_args import default_config_file

    return Path(default_config_file)


def threads_of(words: Sequence[str], environment: Mapping[str, str]) -> int | None:
    """The number of threads that the user gave a launcher, by option or ``OMP_NUM_THREADS``; None without one."""
    text = given(words).get("num_cpu_threads_per_process") or environment.get(OMP, "")
    first = text.partition(",")[0].strip()  # OpenMP's list for nested regions begins with the one that counts
    return int(first) or None if first.isdigit() else None


def tell_ranks(options: Sequence[str]) -> None:
    """Pass the devices and threads of accelerate's ``options`` and this environment to the ranks."""
    os.environ[DEVICES], os.environ[THREADS] = asked_by(options), str(threads_of(options, os.environ) or "")


def asked_here() -> tuple[Asked, int | None]:
    """The devices and the threads that were asked for when this process was started."""
    if (told := os.environ.get(DEVICES)) in ("gpu", "cpu", "either"):
        return told, threads_of((), {OMP: os.environ.get(THREADS, "")})  # type: ignore[return-value]
    launched = {"RANK", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"} & os.environ.keys()
    options, environment = parent() if launched else (None, os.environ)
    return ("either" if options is None else asked_by(options)), threads_of(options or (), environment)


def parent() -> tuple[list[str] | None, Mapping[str, str]]:
    """The options of ``accelerate launch`` in the parent's command line (None for another parent); its environment."""
    import psutil

    try:
        process = psutil.Process(os.getppid())
        words, environment = process.cmdline(), process.environ()
    except psutil.Error:
        return None, {}
    for place, word in enumerate(words):
        if word == "launch" or word.endswith("commands.launch"):
            return list(takewhile(lambda one: one != "-m", words[place + 1 :])), environment
    return None, environment


def choose(wanted: str, asked: Asked, processes: int, cuda: Cuda) -> tuple[str, str]:
    """``cpu`` or ``cuda``, and why; a pure function of the key ``device``, the request and the visible devices.

    ``processes`` are those of this machine. Raises ``ConfigError`` where GPUs were asked for and are too few.
    """
    if wanted == "cpu":
        return "cpu", "asked for"
    devices = f"{cuda.found} CUDA device{'' if cuda.found == 1 else 's'}"
    if wanted == "cuda" or asked == "gpu":
        who = "device: cuda" if wanted == "cuda" else "gpu_ids, --multi_gpu or --gpu_ids"
        if cuda.found == 0:
            raise ConfigError(f"{who} asks for GPUs, but no CUDA device is visible ({cuda}); use --device cpu")
        if processes > cuda.found:
            raise ConfigError(
                f"num_processes: {who} asks for GPUs, and {processes} processes cannot share {cuda.found} of them "
                f"({cuda}); start {cuda.found}, or --device cpu"
            )
        return "cuda", f"{who} asks for it; {devices} visible"
    if asked == "cpu":
        return "cpu", "accelerate's configuration names no gpu_ids"
    if cuda.found == 0:
        return "cpu", "no CUDA device is visible"
    if processes > cuda.found:
        return "cpu", f"{processes} processes and {devices}; --num_processes {cuda.found} takes GPUs"
    return "cuda", f"{devices} visible"


def cards(wanted: str, asked: Asked, here: int, processes: int) -> int | None:
    """How many GPUs train: one for each of ``processes``, of which ``here`` are on this machine; None on CPUs.

    Raises ``ConfigError`` as ``choose`` does.
    """
    return processes if choose(wanted, asked, here, look())[0] == "cuda" else None


def choose_threads(wanted: int | None, processes: int) -> tuple[int, str]:
    """Threads of one of the ``processes`` on this machine, and why; ``wanted`` is the key ``threads``."""
    if wanted is not None:
        return wanted, "asked for"
    if (users := asked_here()[1]) is not None:
        return users, f"as {OMP} says"
    return max(1, available_cores() // processes), "this process's share of the cores"
