# SPDX-License-Identifier: Apache-2.0
"""Progress: a line every few seconds where the output is no terminal, redrawn in place where it is one."""

from __future__ import annotations

import io

import pytest

from preprocessing.job import progress
from preprocessing.job.progress import Progress


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines(clock: list[float]) -> None:
    stream = io.StringIO()
    shown = Progress("tokenize", 40_000_000, stream=stream)
    for _ in range(10):
        clock[0] += 1
        shown.advance(500, 2_000_000)
        shown.tick(2)
    shown.close()
    assert stream.getvalue().splitlines() == [
        "tokenize:  25%  500 docs/s  2.0 MB/s  ETA 15 s  2 workers",
        "tokenize:  50%  500 docs/s  2.0 MB/s  ETA 10 s  2 workers",
        "tokenize: done in 10.0 s, 500 docs/s",
    ]


def test_on_a_terminal_one_line_is_redrawn(clock: list[float]) -> None:
    stream = Screen()
    shown = Progress("encode", 100, unit="documents", stream=stream)
    clock[0] += 1
    shown.tick(1)
    clock[0] += 1
    shown.advance(50)
    shown.tick(1)
    shown.close()
    lines = stream.getvalue().split("\r")
    assert lines[1] == "encode:   0%  0 docs/s  ETA ?  1 worker\x1b[K"
    assert lines[2] == "encode:  50%  25 docs/s  ETA 2 s  1 worker\x1b[K"
    assert stream.getvalue().endswith("encode: done in 2.0 s, 25 docs/s\n")
