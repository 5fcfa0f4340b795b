# SPDX-License-Identifier: Apache-2.0
"""How far a pass has come: documents and megabytes per second, time left, workers alive; a line now and then."""

from __future__ import annotations

import time

from preprocessing.base.printable import duration
from preprocessing.base.screen import Screen

LINE_EVERY_S = 5.0


class Progress:
    """Reports one pass on stderr: a bar on a terminal, else one line every few seconds."""

    def __init__(self, what: str, total: int, *, unit: str = "bytes", screen: Screen | None = None) -> None:
        """``total`` is how many bytes, or documents, the pass will have worked through in the end."""
        self.what, self.total, self.unit = what, total, unit
        self.screen = screen or Screen(errors=True)
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
        if self.screen.is_live:
            self.screen.live(self.what, self.share, self.state(workers, now).replace("  ", ", "))
        elif now - self.shown >= LINE_EVERY_S:
            self.shown = now
            self.screen.write([f"{self.what}: {self.share:4.0%}  {self.state(workers, now)}"])

    @property
    def share(self) -> float:
        """Of the whole, from 0 to 1."""
        return min(1.0, self.done / max(self.total, 1))

    def state(self, workers: int, now: float) -> str:
        """How fast, how long still, how many at work."""
        elapsed = max(now - self.started, 1e-9)
        left = (self.total - self.done) * elapsed / self.done if self.done else None
        eta = "?" if left is None else duration(max(left, 0))
        rate = f"{self.docs / elapsed:,.0f} docs/s"
        if self.unit == "bytes":
            rate += f"  {self.done / elapsed / 1e6:.1f} MB/s"
        return f"{rate}  ETA {eta}  {workers} worker{'' if workers == 1 else 's'}"

    def close(self) -> None:
        """Wipe the bar away, and say what the pass took."""
        self.screen.end()
        elapsed = time.monotonic() - self.started
        rate = f"{self.docs / max(elapsed, 1e-9):,.0f} docs/s"
        before = f", {self.skipped} parts were done before" if self.skipped else ""
        self.screen.write([f"{self.what}: done in {elapsed:.1f} s, {rate}{before}"])
