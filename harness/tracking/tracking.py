# SPDX-License-Identifier: Apache-2.0
"""The trackers of a run, as the trainer sees them: processes that can neither stop nor slow it (law 8).

Each tracker lives in a process of its own (``observer.py``), which follows ``metrics.jsonl``. The trainer writes to
its pipe without waiting what is in no file. A tracker that sleeps, raises or dies costs one warning, and at the end a
bounded wait.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TextIO

from harness.config import RunConfig, to_dict
from harness.rundir.layout import tracker_log
from harness.tracking.journal import Journal
from harness.tracking.trackers import active_trackers
from preprocessing.base.errors import DataError

State = Literal["finished", "preempted", "failed"]

FINISH_S, SHORT_FINISH_S = 30.0, 15.0
"""How long the end of a run waits for its trackers; the short time when it did not finish, or a tracker never began."""
KILL_AFTER_S = 3.0
"""An observer ends itself when its time is up. If it does not, it is killed after this much more."""
KILLED_S = 1.0
"""How long to wait for the kernel to have ended a killed process."""
LAUNCHED = ("ACCELERATE_", "FSDP_", "GROUP_", "LOCAL_", "MASTER_", "PET_", "ROLE_", "TORCHELASTIC_")
"""Variables that would make the observer a rank of this run."""
RANKED = {"RANK", "WORLD_SIZE", "NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_ASYNC_ERROR_HANDLING"}


class Trackers:
    """Every tracker of a run. On ranks other than 0 there are none, and the calls do nothing."""

    def __init__(self, config: RunConfig, run: Path, *, active: bool, facts: Mapping[str, Any]) -> None:
        """Start one observer for each tracker of ``config``, and go on without waiting for any.

        ``metrics.jsonl`` must have been cut back to where the run goes on. ``facts`` is what is known of the run beside
        its configuration; ``facts["dataset"]`` is the fingerprint.
        """
        settings = config.tracking
        start = {
            "project": settings.project,
            "name": settings.name or run.resolve().name,
            "tags": list(settings.tags),
            "log_bundle": settings.log_bundle,
            "config": to_dict(config),
            "facts": dict(facts),
            "pid": os.getpid(),
            "finish_s": FINISH_S,
        }
        self.observers = [Observer(name, run, start) for name in (active_trackers(settings) if active else [])]

    def listen(self) -> None:
        """Print what the trackers have said by now."""
        for observer in self.observers:
            observer.listen()

    def alert(self, title: str, text: str) -> None:
        """Tell people, where a tracker can."""
        for observer in self.observers:
            observer.send({"do": "alert", "title": title, "text": text})

    def summarize(self, name: str, values: Mapping[str, Any]) -> None:
        """Tell figures that belong to no step, such as those of a baseline; ``name`` comes before each of them."""
        for observer in self.observers:
            observer.send({"do": "summarize", "name": name, "values": dict(values)})

    def close(self, state: State, reason: str = "") -> None:
        """Finish the trackers, for at most ``FINISH_S`` and ``KILL_AFTER_S``; none is left running.

        ``reason`` is the sentence shown for a state other than finished.
        """
        began = time.monotonic()
        for observer in self.observers:
            observer.ask_to_close(state, reason)
        for observer in self.observers:
            observer.wait(began)
        self.observers = []


class Observer:
    """One tracker's process, seen from the loop. Nothing here waits before ``wait``, and nothing raises."""

    def __init__(self, name: str, run: Path, start: dict[str, Any]) -> None:
        """Start the process that owns the tracker ``name``; it finds ``start`` in the tracker's journal."""
        self.name, self.run, self.log = name, run, tracker_log(run, name)
        self.heard = b""
        self.started = self.warned = self.closing = False
        self.limit_s = FINISH_S
        self.process: subprocess.Popen[bytes] | None = None
        try:
            Journal(run, name).note(start=start)
            self._spawn(run)
        except OSError as error:
            self.warn(f"could not be started ({error.strerror})")
        except DataError as error:
            self.warn(f"could not be started ({error})")

    def _spawn(self, run: Path) -> None:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "harness.tracking.observer", self.name, str(run.absolute())],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=observer_environment(os.environ),
                start_new_session=True,  # a signal for the trainer's process group is not meant for it
            )
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)
        self.process = process

    def send(self, message: dict[str, Any]) -> None:
        """Put a line into the pipe. A process that has read none of the last 64 KiB gets no more, and is stopped."""
        self.listen()
        if self.process is None:
            return
        assert self.process.stdin is not None
        try:
            os.write(self.process.stdin.fileno(), json.dumps(message, default=float).encode() + b"\n")
        except BlockingIOError:
            return
        except OSError:  # it has ended; what it had to say is still in the other pipe
            self.listen()
            self._lost()

    def listen(self) -> None:
        """Repeat what the observer has said by now."""
        if self.process is None:
            return
        assert self.process.stdout is not None
        try:
            while chunk := os.read(self.process.stdout.fileno(), 1 << 16):
                self.heard += chunk
                *lines, self.heard = self.heard.split(b"\n")
                for line in lines:
                    self._repeat(json.loads(line))
        except BlockingIOError:
            return
        self._lost()

    def _repeat(self, reply: dict[str, str]) -> None:
        self.started |= "started" in reply
        if "say" in reply:
            tell(f"{self.name:<10} {reply['say']}", sys.stdout)
        if "warn" in reply:
            self.warn(reply["warn"])

    def _lost(self) -> None:
        """The process has closed its side: it is done, or it died."""
        if self.process is None:
            return
        if not self.closing:
            self.warn(f"stopped; {self.log} says why")
        self._reap(KILL_AFTER_S if self.closing else 0.0)

    def warn(self, what: str) -> None:
        """Print one line, the first time only: the rest follows from it, and stands in the log."""
        if not self.warned:
            rest = f"; python -m harness wandb-sync {self.run} sends what is missing" if self.name == "wandb" else ""
            tell(f"warning: {self.name} {what}; training is not affected{rest}", sys.stderr)
        self.warned = True

    def ask_to_close(self, state: State, reason: str) -> None:
        """Say how the run ended and in which time the tracker has to finish."""
        self.listen()
        self.closing = True
        self.limit_s = FINISH_S if state == "finished" and self.started else SHORT_FINISH_S
        self.send({"do": "close", "state": state, "reason": reason, "limit_s": self.limit_s})

    def wait(self, began: float) -> None:
        """Wait until the process has ended, then make sure that it and its children have."""
        deadline = began + self.limit_s + KILL_AFTER_S
        while self.process is not None and (left := deadline - time.monotonic()) > 0:
            assert self.process.stdout is not None
            select.select([self.process.stdout], [], [], left)
            self.listen()
        if self.process is not None:
            self.warn(f"did not finish within {self.limit_s:.0f} s and was stopped")
            self._reap(0.0)

    def _reap(self, patience_s: float) -> None:
        """Wait so long for the process to be gone, then kill it with its children."""
        process, self.process = self.process, None
        assert process is not None
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            kill_tree(process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel is left behind
                process.wait(KILLED_S)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def tell(line: str, stream: TextIO) -> None:
    """Print a line; a terminal that has gone away is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=stream, flush=True)


def kill_tree(pid: int, *, spare_root: bool = False) -> None:
    """SIGKILL a process and all it has started, whatever their sessions; ``spare_root`` leaves the process itself."""
    import psutil

    try:
        root = psutil.Process(pid)
        doomed = root.children(recursive=True) + ([] if spare_root else [root])
    except psutil.NoSuchProcess:
        return
    for process in doomed:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def observer_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without what makes a process a rank: an observer never meets the process group."""
    return {
        key: value
        for key, value in environment.items()
        if key not in RANKED and not any(key.startswith(prefix) for prefix in LAUNCHED)
    } | {"OMP_NUM_THREADS": "1"}
