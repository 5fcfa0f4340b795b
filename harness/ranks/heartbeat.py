# SPDX-License-Identifier: Apache-2.0
"""What this rank waits for, and a thread that ends it when a wait takes too long.

Python's handlers do not run while the main thread is inside a collective, and under NCCL the collective itself says
nothing: kernels are only enqueued, and torch's watchdog aborts the process without a sentence. So a thread of our own
looks at what is being waited for. It speaks, leaves its reason in ``status.json`` and ends the process: after the time
limit, or soon after a stop signal, when a peer is gone, stopped or silent; and as soon as the process group says that a
collective is broken, before torch's watchdog aborts the process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.ranks.last_words import leave_words

LOOK_EVERY_S = 0.5
MARGIN_S = 10.0
"""A collective that has a time limit of its own gets so much longer to raise before the thread ends the process."""
STOP_LIMIT_S = 45.0
"""Longest wait for another rank after this one was asked to stop."""

OF_ANOTHER = ("TIMEOUT", "REMOTE_ERROR")
"""Errors of a process group that another rank is the cause of; COMM_ERROR may also be a fault of this rank's device."""

Wait = tuple[str, float]
"""What is waited for, and since when (monotonic seconds)."""


class Heartbeat:
    """The waits of one process. There is one, ``HEARTBEAT``, since a process has one main thread."""

    def __init__(self) -> None:
        """Nothing is waited for, and nobody looks."""
        self.step = 0
        """The optimizer step that the sentence names."""
        self.waits: list[Wait] = []
        self.stopped_at: float | None = None
        self.in_loop = False
        """Training has begun: before it, building may take its time even after a stop signal."""
        self.last_words: Callable[[str], object] | None = None
        """Takes the reason before the process ends, as the writer of ``status.json`` does."""
        self.group_error: Callable[[], str | None] | None = None
        """Asks the process group for its error, by torch's name; None where there is none."""
        self._limit_s: float | None = None

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Say what the block waits for; blocks may lie inside one another."""
        self.waits.append((what, time.monotonic()))
        try:
            yield
        finally:
            self.waits.pop()

    def stop_asked(self) -> None:
        """A stop signal came: from now on no wait may be long."""
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()

    def start(self, limit_s: float) -> None:
        """Look from now on; a wait of more than ``limit_s`` and a margin ends the process. Safe to call twice."""
        begun, self._limit_s = self._limit_s is not None, limit_s
        if not begun:
            threading.Thread(target=self._watch, name="padless-heartbeat", daemon=True).start()

    def overdue(self, now: float) -> str | None:
        """The sentence for a wait that takes too long; None while none does."""
        waits, rank = self.waits[-1:], os.environ.get("RANK", "0")
        if not waits or self._limit_s is None:
            return None
        what, since = waits[0]
        if self.in_loop and self.stopped_at is not None and now - max(since, self.stopped_at) > STOP_LIMIT_S:
            return (
                f"rank {rank} was told to stop at step {self.step} and waited {STOP_LIMIT_S:.0f} s for {what}: another "
                f"rank is gone or stands still"
            )
        if now - since > self._limit_s + MARGIN_S:
            waited = f"rank {rank} at step {self.step} waited {now - since:.0f} s for {what}"
            return f"{waited}: another rank is gone or stands still"
        return None

    def broken(self) -> tuple[str, bool] | None:
        """The sentence for a process group that has an error, and whether another rank is the cause; None without."""
        error = None if self.group_error is None else self.group_error()
        if error is None:
            return None
        waited = "".join(f" waited for {what}" for what, _ in self.waits[-1:])
        follows = error in OF_ANOTHER
        cause = "another rank is gone or has failed" if follows else "another rank is gone, or the device here failed"
        rank = os.environ.get("RANK", "0")
        return f"rank {rank} at step {self.step}{waited}: {cause} (the process group says {error})", follows

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_S)
            sentence = self.overdue(time.monotonic())
            if sentence is not None:
                self.give_up(sentence, follows=True)
            found = self.broken()
            if found is not None:
                self.give_up(found[0], follows=found[1])

    def give_up(self, sentence: str, *, follows: bool) -> None:
        """Say why, and end this process with 1; ``follows``: only because another rank is gone or silent."""
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        leave_words(sentence, follows=follows)
        if self.last_words is not None:
            with contextlib.suppress(Exception):  # whatever it is, leaving comes first
                self.last_words(sentence)
        os._exit(1)


HEARTBEAT = Heartbeat()
