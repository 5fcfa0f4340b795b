# SPDX-License-Identifier: Apache-2.0
"""Progress: a line every few seconds where the output is no terminal, redrawn in place where it is one."""

from __future__ import annotations

import io

import pytest

from preprocessing.base import screen
from preprocessing.base.screen import Screen
from preprocessing.job import engine
from preprocessing.job.engine import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    for module in (engine, screen):
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_lines(clock: list[float]) -> None:
    stream = io.StringIO()
    shown = Progress("tokenize", 40_000_000, screen=Screen(stream=stream))
    for _ in range(10):
        clock[0] += 1
        shown.advance(500, 2_000_000)
        shown.tick(2)
    shown.close()
    assert stream.getvalue().splitlines() == [
        "tokenize:  25%  500 docs/s  2.0 MB/s  ETA 15s  2 workers",
        "tokenize:  50%  500 docs/s  2.0 MB/s  ETA 10s  2 workers",
        "tokenize: done in 10.0 s, 500 docs/s",
    ]


def test_on_a_terminal_a_bar_is_drawn_and_goes_at_the_end(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "LINES": "20", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    shown = Progress("encode", 100, unit="documents", screen=Screen(stream=stream))
    clock[0] += 1
    shown.tick(1)
    clock[0] += 1
    shown.advance(50, 50)
    shown.tick(1)
    shown.close()
    frames = [frame for frame in stream.getvalue().split("\r") if "encode  " in frame]
    assert "0 docs/s, ETA ?, 1 worker" in frames[0]
    assert "25 docs/s, ETA 2s, 1 worker" in frames[1]
    assert frames[1].count("━") + frames[1].count("╸") == 15
    assert stream.getvalue().endswith("encode: done in 2.0 s, 25 docs/s\n")


def test_a_quiet_job_prints_nothing(clock: list[float]) -> None:
    stream = io.StringIO()
    shown = Progress("encode", 100, screen=Screen(stream=stream, quiet=True))
    clock[0] += 10
    shown.advance(50, 50)
    shown.tick(1)
    shown.close()
    assert stream.getvalue() == ""
