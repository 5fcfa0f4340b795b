# SPDX-License-Identifier: Apache-2.0
"""Text for a terminal: lines wrapped at words, tables that drop columns, colour and a live line in a terminal only."""

from __future__ import annotations

import io
import time

import pytest

from preprocessing.base import terminal as screens
from preprocessing.base.terminal import WIPE, Column, Live, Screen, cells, table, wrapped


def test_a_sentence_is_cut_at_words_and_goes_on_below_itself() -> None:
    text = "accuracy on test: network 0.5000, linear model 0.4000"
    assert wrapped(text, 30) == ["accuracy on test: network", "  0.5000, linear model 0.4000"]
    assert wrapped("'a  b' and 'c ' are alike", 17) == ["'a  b' and 'c '", "  are alike"]
    assert wrapped("see /a/long/path/to/a/file now", 12) == ["see", "  /a/long/path/to/a/file", "  now"]


COLUMNS = (
    Column("name", right=False, shrinks=True),
    Column("loss"),
    Column("rate", weight=1),
    Column("wait", weight=2),
)
ROWS = [
    {"name": "the first of all", "loss": "0.25", "rate": "1e-3", "wait": "0.5%"},
    {"name": "b", "loss": "10.5", "rate": "1e-4", "wait": "12.5%"},
]


def test_columns_give_way_in_order_of_importance() -> None:
    assert table(COLUMNS, ROWS, 80) == [
        "name              loss  rate   wait",
        "the first of all  0.25  1e-3   0.5%",
        "b                 10.5  1e-4  12.5%",
    ]
    assert table(COLUMNS, ROWS, 32)[1] == "the first of…  0.25  1e-3   0.5%"
    assert table(COLUMNS, ROWS, 10)[1] == "the first o…  0.25"


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "60", "LINES": "20"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


LONG = "one sentence of many words that do not stand on a line of sixty columns, and neither on one of eighty"


def test_a_file_gets_plain_lines_of_eighty_columns_and_a_terminal_colour_and_its_width(terminal: Terminal) -> None:
    for stream in (file := io.StringIO(), terminal):
        screen = Screen(stream=stream)
        screen.say(LONG, "warn")
        screen.fact("data", "[red]as it is[/red] :smile: 12")
    first, second, third = file.getvalue().splitlines()
    assert 70 < len(first) <= 80
    assert f"{first} {second.strip()}" == LONG
    assert third == "data       [red]as it is[/red] :smile: 12"
    lines = terminal.getvalue().split("\n")[:-1]
    assert lines[0].startswith(f"{WIPE}\x1b[33mone sentence")
    assert all(cells(line) <= 60 + len(f"{WIPE}\x1b[33m\x1b[0m") for line in lines)
    assert lines[-1] == f"{WIPE}\x1b[1mdata\x1b[0m{third[4:]}"


def test_the_live_line_moves_by_itself_below_what_is_printed_and_goes_at_the_end(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screens, "REDRAW_EVERY_S", 0.01)
    screen, done = Screen(stream=terminal), [1]
    live = Live(lambda: (done[0] / 4, [f"step {done[0]}/4", f"{4 - done[0]}s left"]), screen)
    for done[0] in (1, 2):
        while f"step {done[0]}/4" not in terminal.getvalue():
            time.sleep(0.01)
    live.close()
    screen.say("the end")
    assert f"step 1/4  {'#' * 8}{'-' * 22}  3s left{WIPE}" in terminal.getvalue()
    assert terminal.getvalue().endswith(f"2s left{WIPE}{WIPE}the end\n")


def test_a_file_gets_a_line_of_progress_in_ten_seconds_if_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    now, done, file = [100.0], [0.0], io.StringIO()
    monkeypatch.setattr(screens, "REDRAW_EVERY_S", 1000.0)
    monkeypatch.setattr(screens.time, "monotonic", lambda: now[0])
    live = Live(lambda: (done[0], ["tokenize", "2 workers"]), Screen(stream=file))
    for at, share in ((105, 0.1), (110, 0.2), (115, 0.3), (121, 0.3), (140, 0.3)):
        now[0], done[0] = at, share
        live.show()
    live.close()
    assert file.getvalue() == "tokenize  20%  2 workers\ntokenize  30%  2 workers\n"
