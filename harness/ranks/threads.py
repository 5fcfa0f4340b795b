# SPDX-License-Identifier: Apache-2.0
"""How many threads a process computes with on a CPU, and who said so.

The launchers set ``OMP_NUM_THREADS`` for their ranks where the user has not, so a rank cannot tell from its own
environment whose number it is. ``harness launch`` tells its ranks; under bare ``accelerate launch`` a rank looks at
what the launcher, its parent, was started with.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

VARIABLE = "OMP_NUM_THREADS"
TOLD = "PADLESS_THREADS"
"""Environment variable by which ``harness launch`` tells its ranks the user's number; empty if there is none."""
OPTION = "num_cpu_threads_per_process"
"""The option of ``accelerate launch`` for the same."""


def choose(asked: int | None, users: int | None, cores: int, processes: int) -> tuple[int, str]:
    """Threads of one of the ``processes`` on a machine with so many ``cores``, and why; a pure function.

    ``asked`` is the key ``threads``, ``users`` what the user's environment or accelerate's options say.
    """
    if asked is not None:
        return asked, "asked for"
    if users is not None:
        return users, f"as {VARIABLE} says"
    return max(1, cores // processes), "this process's share of the cores"


def choose_here(asked: int | None, processes: int) -> tuple[int, str]:
    """``choose`` for this process, on the cores that it may use."""
    return choose(asked, said_here(), len(os.sched_getaffinity(0)), processes)


def said_here() -> int | None:
    """The user's number as this process knows it; None if the user gave none."""
    if TOLD in os.environ:
        return number(os.environ[TOLD])
    if not {"LOCAL_RANK", "RANK", "ACCELERATE_MIXED_PRECISION"} & os.environ.keys():
        return number(os.environ.get(VARIABLE))  # no launcher
    words, environment = parent()
    return said_to(words, environment)


def said_to(words: list[str], environment: Mapping[str, str]) -> int | None:
    """The user's number in a launcher's command line and the environment that it was started in."""
    options = [word.replace("-", "_").removeprefix("__") for word in words]
    given = [word.partition("=")[2] for word in options if word.startswith(f"{OPTION}=")]
    given += [value for name, value in zip(options, words[1:], strict=False) if name == OPTION]
    return number(given[-1]) if given else number(environment.get(VARIABLE))


def parent() -> tuple[list[str], dict[str, str]]:
    """Command line of the parent process, and the environment that it was started in; nothing if it cannot be read."""
    import psutil

    try:
        process = psutil.Process(os.getppid())
        return process.cmdline(), process.environ()
    except psutil.Error:
        return [], {}


def tell(option: int | None) -> None:
    """Tell the ranks that are about to be started what the user said: by accelerate's ``option``, or in this
    environment.
    """
    users = option if option is not None else number(os.environ.get(VARIABLE))
    os.environ[TOLD] = "" if users is None else str(users)


def number(text: str | None) -> int | None:
    """A number of threads; OpenMP's list for nested regions begins with the one that counts. None for anything else."""
    first = (text or "").partition(",")[0].strip()
    return int(first) if first.isdigit() and int(first) >= 1 else None
