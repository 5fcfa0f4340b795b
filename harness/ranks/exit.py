# SPDX-License-Identifier: Apache-2.0
"""How a rank leaves, so that an error is said once and by a rank that is still alive to say it.

The launcher kills all ranks when the first one fails. When the ranks have agreed on an error, rank 0 reports it and the
others leave with exit code 0. Before ranks can talk to each other, the others wait a moment for rank 0 to report it.

Under ``accelerate launch`` or ``torchrun`` themselves the launcher would then add forty lines of its own traceback,
which hide the sentence. Where the error is a refusal, with an exit code that says so, rank 0 ends the launcher instead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from harness.ranks import preemption
from harness.ranks.last_words import leave_words
from harness.rundir.records import LAUNCH_ID
from preprocessing.base import answering
from preprocessing.base.errors import UserError

GRACE_S = 5.0
REFUSALS = {2, 3, 4}
"""Exit codes of a configuration, data or a directory that is wrong: all is said, and no program to be looked into."""
LAUNCHERS = ("accelerate", "accelerate-launch", "torchrun")
"""Programs, and below them modules such as ``accelerate.commands.launch``, that print a traceback for a rank."""
TORCHS = ".distributed.run"
"""The end of the name of torch's own, as a module."""
OTHERS_S = 5.0
"""How long the other ranks have to leave when rank 0 has refused."""
LAST_SIGNAL = signal.SIGUSR1
"""Ends a launcher without a word; it has handlers for the signals that mean that a job is to stop."""


def leave(code: int) -> NoReturn:
    """End this process with ``code`` at once, with everything said.

    The static destructors of C++ libraries race with their own threads in a process that had a process group: one rank
    in ten was ended by SIGABRT after all its work was done, and the launcher took that for a failure.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a log on a full disk
            stream.flush()
    os._exit(code)


def run_rank(main: Callable[[list[str]], int]) -> int:
    """Run a rank's ``main`` and return its exit code; user errors become one line on stderr, a bug its traceback.

    Nothing is raised, so that whoever calls this can ``leave``: at the end of an interpreter a process group would wait
    for other ranks.
    """
    rank = int(os.environ.get("RANK", "0"))
    speaks = int(os.environ.get("LOCAL_RANK", rank)) == 0

    def quiet(argv: list[str]) -> int:
        """``main``, but only the first rank of each machine speaks of an error that all ranks have."""
        try:
            return main(argv)
        except UserError as error:
            agreed = getattr(error, "agreed", False)
            if speaks or not agreed:
                leave_words(str(error), follows=getattr(error, "follows", False))
            if rank == 0 or (speaks and agreed):
                raise
            if agreed:
                return 0
            deadline = time.monotonic() + GRACE_S
            while time.monotonic() < deadline:
                if preemption.received() is not None:  # rank 0 has spoken, and the launcher ends the others
                    return error.exit_code
                time.sleep(0.05)
            raise
        except Exception as error:
            leave_words(f"rank {rank}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            raise

    try:
        code = answering.run(quiet, sys.argv[1:])
    except Exception:
        traceback.print_exc()
        code = 1
    if code in REFUSALS and rank == 0:
        dismiss_launcher()
    return code


def dismiss_launcher() -> None:
    """End a bare launcher, and the other ranks as it would; a launcher of padless, or of several machines, stays."""
    if LAUNCH_ID in os.environ or os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        return
    import psutil

    with contextlib.suppress(psutil.Error):
        launcher = psutil.Process(os.getppid())
        if is_bare_launcher(launcher.cmdline()):
            others = [rank for rank in launcher.children() if rank.pid != os.getpid()]
            launcher.send_signal(LAST_SIGNAL)  # first: it would speak of a rank that ends
            for rank in others:
                with contextlib.suppress(psutil.Error):
                    rank.terminate()
            for rank in psutil.wait_procs(others, timeout=OTHERS_S)[1]:
                rank.kill()  # it waits for ranks that never come, where no signal is heard


def is_bare_launcher(words: Sequence[str]) -> bool:
    """Whether a command line is that of accelerate's launcher or torch's, and no other program."""
    for word in words[:5]:
        if word.rpartition("/")[2] in LAUNCHERS or word.startswith("accelerate.commands.") or word.endswith(TORCHS):
            return True
    return False
