# SPDX-License-Identifier: Apache-2.0
"""How far a pass has come: documents and megabytes per second, time left, workers alive; a line now and then."""

from __future__ import annotations

import sys
import time
from typing import TextIO

LINE_EVERY_S = 5.0
REDRAW_EVERY_S = 0.5


class Progress:
    """Reports one pass on stderr: redrawn in place on a terminal, else one line every few seconds."""

    def __init__(self, what: str, total: int, *, unit: str = "bytes", stream: TextIO | None = None) -> None:
        """``total`` is how many bytes, or documents, the pass will have worked through in the end."""
        self.what, self.total, self.unit = what, total, unit
        self.stream = stream or sys.stderr
        self.interactive = self.stream.isatty()
        self.started = time.monotonic()
        self.shown = self.started
        self.done = self.docs = self.skipped = 0

    def advance(self, docs: int, size: int | None = None) -> None:
        """Some more is done: documents, and their bytes where those are the unit."""
        self.docs += docs
        self.done += docs if size is None else size

    def skip(self, size: int) -> None:
        """Some of it was done before."""
        self.total -= size
        self.skipped += 1

    def tick(self, workers: int) -> None:
        """Show the state if it is time to."""
        now = time.monotonic()
        if now - self.shown >= (REDRAW_EVERY_S if self.interactive else LINE_EVERY_S):
            self.shown = now
            self.show(workers, now)

    def show(self, workers: int, now: float) -> None:
        """One line of state."""
        elapsed = max(now - self.started, 1e-9)
        left = (self.total - self.done) * elapsed / self.done if self.done else None
        eta = "?" if left is None else f"{max(left, 0):.0f} s"
        rate = f"{self.docs / elapsed:,.0f} docs/s"
        if self.unit == "bytes":
            rate += f"  {self.done / elapsed / 1e6:.1f} MB/s"
        share = min(1, self.done / max(self.total, 1))
        line = f"{self.what}: {share:4.0%}  {rate}  ETA {eta}  {workers} worker{'' if workers == 1 else 's'}"
        self.stream.write(f"\r{line}\x1b[K" if self.interactive else f"{line}\n")
        self.stream.flush()

    def close(self) -> None:
        """End the line that was being redrawn, and say what the pass took."""
        elapsed = time.monotonic() - self.started
        rate = f"{self.docs / max(elapsed, 1e-9):,.0f} docs/s"
        before = f", {self.skipped} parts were done before" if self.skipped else ""
        start = "\r\x1b[K" if self.interactive else ""
        self.stream.write(f"{start}{self.what}: done in {elapsed:.1f} s, {rate}{before}\n")
        self.stream.flush()
