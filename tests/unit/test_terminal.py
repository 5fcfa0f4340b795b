# SPDX-License-Identifier: Apache-2.0
"""Text for a terminal: lines wrapped at words, tables whose columns give way, colour and a live line where one is."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.base import screen as screens
from preprocessing.base.screen import TIE, Column, Screen, cells, fact, fitted, shortened, table, wrapped


def test_a_sentence_is_cut_at_words_and_goes_on_below_itself() -> None:
    text = "accuracy on test: network 0.5000, linear model 0.4000"
    assert wrapped(text, 30) == ["accuracy on test: network", "  0.5000, linear model 0.4000"]
    assert wrapped("short", 30) == ["short"]
    assert wrapped("'a  b' and 'c ' are alike", 17) == ["'a  b' and 'c '", "  are alike"]
    assert wrapped("  two:  blanks\nof each line", 40) == ["  two:  blanks", "of each line"]
    assert wrapped("  indented lines stay so", 16) == ["  indented lines", "    stay so"]
    assert wrapped(f"a number{TIE}7 stays", 9) == ["a", "  number 7", "  stays"]
    assert wrapped("see /a/long/path/to/a/file now", 12) == ["see", "  /a/long/path/to/a/file", "  now"]


def test_a_fact_has_its_name_in_front() -> None:
    assert fact("data", "one two three four", 24) == ["data       one two three", "           four"]
    assert fact("imbalanced classes", "seen", 80) == ["imbalanced classes seen"]


@settings(deadline=None)
@given(st.lists(st.text("ab日e\u0301", min_size=1, max_size=12), max_size=30), st.integers(32, 90), st.integers(0, 8))
def test_no_line_is_wider_and_no_word_is_lost(words: list[str], width: int, indent: int) -> None:
    lines = wrapped(" ".join(words), width, indent)
    assert all(cells(line) <= width for line in lines)
    assert " ".join(lines).split() == " ".join(words).split()


def test_a_letter_of_two_cells_counts_as_two() -> None:
    assert [cells(text) for text in ("abc", "日本", "e\u0301", "→")] == [3, 4, 1, 1]
    assert shortened("日本日本", 5) == "日本…"
    assert shortened("a  b\nc", 5) == "a b c"
    assert shortened("abc", 0) == ""


COLUMNS = (
    Column(key="name", title="name", right=False, shrinks=True),
    Column(key="loss", title="loss"),
    Column(key="rate", title="rate", weight=1),
    Column(key="wait", title="wait", weight=2),
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
    assert table(COLUMNS, ROWS, 28)[1] == "the first o…  0.25  1e-3"
    assert table(COLUMNS, ROWS, 20)[1] == "the first o…  0.25"
    assert table(COLUMNS, ROWS, 10)[:2] == ["name  loss", "the…  0.25"]


def test_an_empty_column_is_left_out() -> None:
    assert table(COLUMNS, [{"name": "a", "loss": "1"}], 80) == ["name  loss", "a        1"]


def test_parts_of_a_line_give_way_too() -> None:
    parts = [("epoch 1/4", 0), ("accuracy 0.9", 0), ("F1 0.8", 2), ("loss 0.3", 1)]
    assert fitted(parts, 80) == "epoch 1/4  accuracy 0.9  F1 0.8  loss 0.3"
    assert fitted(parts, 33) == "epoch 1/4  accuracy 0.9  loss 0.3"
    assert fitted(parts, 5) == "epoch 1/4  accuracy 0.9"


class Terminal(io.StringIO):
    """A stream that somebody watches."""

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


def test_a_file_gets_plain_lines_of_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    file = io.StringIO()
    screen = Screen(stream=file)
    screen.say(LONG, "warn")
    screen.live("step 1", 0.5, "a minute left")
    screen.fact("data", "d")
    screen.end()
    first, second, third = file.getvalue().splitlines()
    assert 70 < len(first) <= 80
    assert f"{first} {second.strip()}" == LONG
    assert third == "data       d"


def test_a_terminal_gets_colour_and_its_own_width(terminal: Terminal) -> None:
    screen = Screen(stream=terminal)
    screen.say(LONG, "warn")
    screen.fact("data", "[red]as it is[/red] :smile: 12")
    lines = terminal.getvalue().splitlines()
    assert lines[0].startswith("\x1b[33mone sentence")
    assert all(cells(line) <= 60 + len("\x1b[33m\x1b[0m") for line in lines)
    assert lines[-1] == "\x1b[1mdata\x1b[0m       [red]as it is[/red] :smile: 12"


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_without_colour_there_is_none(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, variable: tuple[str, str]
) -> None:
    monkeypatch.setenv(*variable)
    screen = Screen(stream=terminal)
    screen.say("no colour", "warn")
    screen.fact("data", "d")
    assert terminal.getvalue() == "no colour\ndata       d\n"


def test_the_live_line_stays_below_what_is_printed_and_goes_at_the_end(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(screens.time, "monotonic", lambda: now[0])
    screen, before = Screen(stream=terminal), sys.stdout
    screen.live("step 1/4", 0.25, "9s left")
    screen.live("step 2/4", 0.5, "6s left")  # too soon
    screen.say("a row")
    now[0] += 1
    screen.live("step 3/4", 0.75, "3s left")
    screen.live("step 4/4", 1.0, "testing", now=True)
    screen.end()
    screen.say("the end")
    text = terminal.getvalue()
    assert "step 2/4" not in text
    places = [text.index(part) for part in ("step 1/4", "a row", "step 3/4", "testing", "the end")]
    assert places == sorted(places)
    assert "━" in text
    assert text.count("\x1b[?25h") >= 1  # the cursor is shown at once: a process that is killed could not do it
    assert text.index("\x1b[?25h") < text.index("step 1/4")
    assert sys.stdout is before


@pytest.mark.parametrize("width", [20, 40, 80])
def test_the_live_line_is_never_wider_than_the_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    from rich.console import Console

    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    line = screens.foot("step 12,345/99,999", 0.4, "validating, loss 0.1234, 12m34s left", width)
    Console(file=file, width=200).print(line)
    assert file.getvalue().startswith("step 12,345/99,999")
    assert cells(file.getvalue().rstrip()) < width


def test_a_quiet_screen_says_nothing(terminal: Terminal) -> None:
    screen = Screen(quiet=True, stream=terminal)
    screen.say("a")
    screen.fact("a", "b")
    screen.table(["a"])
    screen.live("a", 0.5, "b", now=True)
    screen.end()
    assert terminal.getvalue() == ""


def test_what_a_stream_cannot_spell_stops_nothing() -> None:
    raw = io.BytesIO()
    screen = Screen(stream=io.TextIOWrapper(raw, encoding="ascii"))
    screen.say("128→128 of 退款 ± 0.1")
    assert raw.getvalue() == b"128?128 of ?? ? 0.1\n"


def test_it_speaks_on_stdout_or_stderr_as_they_are_now(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().say("out")
    Screen(errors=True).say("err")
    assert capsys.readouterr() == ("out\n", "err\n")
