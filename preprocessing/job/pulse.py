# SPDX-License-Identifier: Apache-2.0
"""Signs of life of local workers: one that is stopped, or all that do nothing, are noticed long before the limit.

How long is too long depends on the work: parts of one pass take about as long as each other, so what is far beyond the
slowest so far is no slow part. A worker that computes is never given up before ``executor.timeout_s``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from preprocessing.base import machine

HELD_S = 20.0
"""Shortest time for which a worker must have been stopped, seen at every look."""
HELD_FACTOR = 3
"""The same, in longest waits for a part so far."""
IDLE_S = 120.0
"""Shortest time for which no worker may have computed nor finished anything."""
IDLE_FACTOR = 20
"""The same, in longest waits for a part so far."""


class Process(Protocol):
    """A process of this machine, however it was started."""

    @property
    def pid(self) -> int | None:
        """Its number; None before it was started."""


class Pulse(Protocol):
    """What is known of workers beside the results that they send."""

    def look(self, passed_s: float, finished: bool) -> str | None:
        """Why it is of no use to wait any longer; None to wait. To be asked after each wait of ``passed_s``.

        ``finished``: some task was finished in it.
        """

    def told(self) -> str:
        """What can be said of the workers, as a phrase that ends a sentence; empty if nothing can."""


class Unknown:
    """Nothing is known: threads, or this process itself."""

    def look(self, passed_s: float, finished: bool) -> str | None:
        """Wait."""

    def told(self) -> str:
        """Nothing."""
        return ""


class LocalPulse:
    """Processes of this machine as ``/proc`` shows them. Time in which this one is stopped does not count."""

    def __init__(self, workers: Callable[[], Sequence[Process]]) -> None:
        """``workers`` gives the processes that there are."""
        self.workers = workers
        self.held_s: dict[int, float] = {}
        self.ticks: dict[int, int | None] = {}
        self.quiet_s = self.idle_s = self.longest_s = 0.0

    def look(self, passed_s: float, finished: bool) -> str | None:
        """The sentence for a worker that is stopped, or for workers that all do nothing."""
        pids = [worker.pid for worker in self.workers() if worker.pid is not None]
        self.quiet_s += passed_s
        if finished:
            self.longest_s, self.quiet_s = max(self.longest_s, self.quiet_s), 0.0
        ticks = {pid: machine.cpu_ticks(pid) for pid in pids}
        idle = bool(pids) and None not in ticks.values() and ticks == self.ticks and not finished
        self.ticks, self.idle_s = ticks, self.idle_s + passed_s if idle else 0.0
        held = [pid for pid in pids if machine.state(pid) in machine.HELD]
        self.held_s = {pid: self.held_s.get(pid, 0.0) + passed_s for pid in held}
        for pid, seconds in self.held_s.items():
            if seconds >= max(HELD_S, HELD_FACTOR * self.longest_s):
                mend = f"let it go on with kill -CONT {pid}, or end it, and run the same command to continue"
                return f"a worker, {machine.in_words(pid)}, has done nothing for {seconds:.0f} s; {mend}"
        if self.idle_s >= max(IDLE_S, IDLE_FACTOR * self.longest_s):
            why = f"no worker has computed anything for {self.idle_s:.0f} s{self.told()}"
            return f"{why}; see what they wait for, and run the same command to continue"
        return None

    def told(self) -> str:
        """Each worker and its state, where it explains something."""
        pids = [worker.pid for worker in self.workers() if worker.pid is not None]
        said = [machine.in_words(pid) for pid in pids if machine.state(pid) in machine.STATES]
        return f" ({'; '.join(said)})" if said else ""
