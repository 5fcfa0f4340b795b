# SPDX-License-Identifier: Apache-2.0
"""How a rank stops: on request, when another rank is gone, and how it reports the reason.

**On request**: a signal (``padless.core.signals``), the stop file, or the end of ``max_time``. The training loop
acts on it at a step that all ranks agree on (``training.run``).

**Watchdog** (``HEARTBEAT``): under NCCL a collective only enqueues kernels, and torch's own watchdog aborts the process
without a sentence. So a thread watches what the main thread waits for. After the time limit, or soon after a stop
signal, it prints why, writes it to ``status.json``, and ends the process.

**Errors** (``run_rank``): the launcher kills all ranks when the first one fails. When the ranks have agreed on an
error, the first rank of each machine reports it and the others leave with exit code 0. The reason also goes to a file
of the launcher's (``write_reason``).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from padless.core import atomic, cli
from padless.core.errors import UserError
from padless.core.signals import STOP, end_process

POLL_S = 0.5
MARGIN_S = 10.0
"""A collective with its own time limit has this much longer to raise before the watchdog ends the process."""
STOP_LIMIT_S = 45.0
"""Longest wait for another rank after this one was asked to stop."""
REASONS = "PADLESS_REASONS"
"""Environment variable: the file, on this machine, in which the launcher looks for the reasons why ranks ended."""
GRACE_S = 5.0
"""How long other ranks wait for rank 0 to report an error before ranks can communicate."""


class Heartbeat:
    """What this rank waits for, and the watchdog's thread. There is one, ``HEARTBEAT``, for the one main thread."""

    def __init__(self) -> None:
        self.step = 0
        """The optimizer step that messages name."""
        self.waits: list[tuple[str, float]] = []
        """What is waited for, and since when (monotonic seconds); inner waits last."""
        self.last_words: Callable[[str], object] | None = None
        """Takes the reason before the process ends, as the writer of ``status.json`` does."""
        self.limit_s: float | None = None
        self.has_lost_peer: Callable[[], bool] = bool
        """Whether the last message between ranks has failed, although the main thread may wait for the device."""

    @contextmanager
    def watch_wait(self, awaited: str) -> Iterator[None]:
        """Record what the block waits for; blocks may be nested."""
        self.waits.append((awaited, time.monotonic()))
        try:
            yield
        finally:
            self.waits.pop()

    def start(self, limit_s: float) -> None:
        """Start the watchdog; a wait of more than ``limit_s`` and a margin ends the process. Safe to call twice."""
        if self.limit_s is None:
            threading.Thread(target=self._watch, name="padless-heartbeat", daemon=True).start()
        self.limit_s = limit_s

    def find_problem(self, now_s: float) -> str | None:
        """Why this rank cannot go on; None while it can. ``now_s`` in monotonic seconds."""
        rank, limit_s = f"rank {os.environ.get('RANK', '0')}", (self.limit_s or 0.0) + MARGIN_S
        for awaited, since_s in self.waits[-1:]:
            cause = f"for {awaited}: another rank has ended or does not respond"
            if now_s - since_s > MARGIN_S and self.has_lost_peer():
                return f"{rank} at step {self.step} waited {now_s - since_s:.0f} s {cause}"
            if STOP.must_save and now_s - max(since_s, STOP.received_at) > STOP_LIMIT_S:
                return f"{rank} had a stop request at step {self.step} and waited {STOP_LIMIT_S:.0f} s {cause}"
            if now_s - since_s > limit_s:
                return f"{rank} at step {self.step} waited {now_s - since_s:.0f} s {cause}"
        return None

    def _watch(self) -> None:
        while (problem := self.find_problem(time.monotonic())) is None:
            time.sleep(POLL_S)
        write_reason(problem, follows=True)
        if self.last_words is not None:
            with contextlib.suppress(Exception):  # whatever it is, leaving comes first
                self.last_words(problem)
        end_process(1, problem)


HEARTBEAT = Heartbeat()


class Preempted(Exception):  # noqa: N818 - it is no error
    """All ranks leave at a common step, after a checkpoint."""


class AlreadyFinished(UserError):  # noqa: N818 - it is no error
    """The run has nothing left to do, so all ranks leave."""


class StopWatch:
    """Whether this rank must stop, and why. Only rank 0 checks the stop file and the clock."""

    def __init__(self, path: Path, max_time_s: float | None, *, is_main: bool) -> None:
        """``path`` is the stop file; one that is older than this process is removed.

        ``max_time_s`` counts from here.
        """
        import psutil

        self.path, self.is_main, self.max_time_s = path, is_main, max_time_s or float("inf")
        self.began = time.monotonic()
        self.next_look_s = 0.0
        self.stop_reason: str | None = None
        with contextlib.suppress(OSError):
            if is_main and path.stat().st_mtime < psutil.Process().create_time():
                path.unlink()

    def reason(self) -> str | None:
        """One phrase, the first reason, or None to go on; looks at the file at most twice a second."""
        if self.stop_reason is None and STOP.signal is not None:
            self.stop_reason = f"{STOP.name} received"
        if self.stop_reason is None and self.is_main:
            elapsed_s = time.monotonic() - self.began
            if elapsed_s >= self.max_time_s:
                self.stop_reason = f"max_time of {self.max_time_s:g} s reached"
            elif elapsed_s >= self.next_look_s:
                self.next_look_s = elapsed_s + POLL_S
                self.stop_reason = f"{self.path} is there" if self.path.exists() else None
        return self.stop_reason

    def clear(self) -> None:
        """Remove the stop file once it was obeyed, so that the next start does not stop at once."""
        if self.is_main:
            self.path.unlink(missing_ok=True)


def write_reason(sentence: str, code: int = 1, *, follows: bool = False) -> None:
    """Append the reason why this rank ends to the file of its launcher, if there is one.

    ``follows``: only because another rank is gone or silent.
    """
    line = {
        "rank": int(os.environ.get("RANK", "0")),
        "sentence": sentence,
        "code": code,
        "follows": follows,
    }
    if path := os.environ.get(REASONS):
        with contextlib.suppress(OSError):  # a full disk must not change how a rank ends
            atomic.append_line(path, json.dumps(line))


def read_reasons(path: str | Path) -> list[dict[str, Any]]:
    """What ranks wrote with ``write_reason``, first the earliest."""
    if not os.path.exists(path):
        return []
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def run_rank(main: Callable[[list[str]], int]) -> int:
    """Run a rank's ``main`` and return its exit code; user errors become one line on stderr, a bug its traceback.

    It raises nothing, so that the caller can end the process: at a normal interpreter exit a process group would wait
    for other ranks.
    """
    rank = int(os.environ.get("RANK", "0"))
    is_first_here = int(os.environ.get("LOCAL_RANK", rank)) == 0

    def run_quietly(argv: list[str]) -> int:
        try:
            return main(argv)
        except UserError as error:
            is_agreed = getattr(error, "agreed", False)
            if is_agreed and not is_first_here:
                return 0
            write_reason(str(error), error.exit_code, follows=getattr(error, "follows", False))
            if rank != 0 and not is_agreed:  # rank 0 reports the same, and the launcher ends the others
                time.sleep(GRACE_S)
            raise
        except Exception as error:
            write_reason(f"rank {rank}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            raise

    try:
        return cli.run(run_quietly, sys.argv[1:])
    except Exception:
        traceback.print_exc()
        return 1
