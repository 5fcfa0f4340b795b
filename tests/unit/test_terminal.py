# SPDX-License-Identifier: Apache-2.0
"""What stands in a terminal or a log: lines wrapped at words, tables, a live line in a terminal
only; and what a training prints, in few lines of 80 columns.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from harness.config import Choice, RunConfig
from harness.output.console import Console
from harness.rundir.events import Opening
from harness.rundir.metrics_log import read_log
from harness.rundir.records import Ending
from harness.rundir.results import read_figures
from padless.core import terminal as screens
from padless.core.terminal import WIPE, Live, Screen, progress_line, table, wrap_text
from preprocessing.dataset.shards import read_manifest
from tests.helpers.report_runs import write_data, write_run


def test_a_sentence_is_cut_at_words_and_a_table_aligns_its_columns() -> None:
    text = "accuracy on test: network 0.5000, TF-IDF baseline 0.4000"
    assert wrap_text(text, 32) == ["accuracy on test: network", "  0.5000, TF-IDF baseline 0.4000"]
    assert wrap_text("'a  b' and 'c ' are alike", 17) == ["'a  b' and 'c '", "  are alike"]
    assert wrap_text("see /a/long/path/to/a/file now", 12) == ["see", "  /a/long/path/to/a/file", "  now"]
    rows = [{"name": "the first of all", "loss": "0.25"}, {"name": ":b:", "loss": "10.5", "wait": "2 s"}]
    lines = ["name              loss  wait", "the first of all  0.25", ":b:               10.5   2 s"]
    assert table(rows, left=("name",)) == lines


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "60", "LINES": "20"}.items():
        monkeypatch.setenv(name, value)
    return Terminal()


LONG = "one sentence of many words that do not stand on a line of sixty columns, and neither on one of eighty"


def test_a_file_gets_plain_lines_of_eighty_columns_and_a_terminal_colour_and_its_width(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    for stream in (file := io.StringIO(), terminal):
        monkeypatch.setattr(sys, "stdout", stream)
        screen.print_lines(LONG)
        screen.print_text(LONG)
        screen.fact("data", "[red]as it is[/red] :smile: 12")
    whole, first, second, third = file.getvalue().splitlines()
    assert whole == LONG
    assert 70 < len(first) <= 80
    assert f"{first} {second.strip()}" == LONG
    assert third == "data       [red]as it is[/red] :smile: 12"
    lines = terminal.getvalue().split("\n")[:-1]
    assert f"{WIPE}one sentence" in terminal.getvalue()
    assert all(cell_len(line) <= 60 + len(WIPE) for line in lines)
    assert lines[-1] == f"{WIPE}{third}"


def test_the_live_line_moves_by_itself_below_what_is_printed_and_goes_at_the_end(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screens, "REDRAW_EVERY_S", 0.01)
    monkeypatch.setattr(sys, "stdout", terminal)
    screen, steps = Screen(), [1]
    live = Live(lambda: [progress_line(steps[0] / 4, f"step {steps[0]}/4", f"{4 - steps[0]}s left")], screen)
    for steps[0] in (1, 2):
        while f"step {steps[0]}/4" not in terminal.getvalue():
            time.sleep(0.01)
    live.close()
    screen.print_text("the end")
    assert f"step 1/4  25%  3s left{WIPE}" in terminal.getvalue()
    assert terminal.getvalue().endswith(f"2s left{WIPE}{WIPE}the end\n")


def test_a_file_gets_a_line_of_progress_in_ten_seconds_if_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s, share_done, file = [100.0], [0.0], io.StringIO()
    monkeypatch.setattr(screens, "REDRAW_EVERY_S", 1000.0)
    monkeypatch.setattr(screens.time, "monotonic", lambda: clock_s[0])
    monkeypatch.setattr(sys, "stdout", file)
    live = Live(lambda: [progress_line(share_done[0], "tokenize", "2 workers")], Screen())
    for at, share in ((105, 0.1), (110, 0.2), (115, 0.3), (121, 0.3), (140, 0.3), (151, 0.0)):
        clock_s[0], share_done[0] = at, share
        live.show()
    live.close()
    assert file.getvalue() == "tokenize  20%  2 workers\ntokenize  30%  2 workers\ntokenize  2 workers\n"


CHOICES = {name: Choice("value", "a reason") for name in ("device", "precision", "processes", "recurrence")}
TRAINED = {"loss": 0.6931, "tokens_per_s": 1_234_567.8}
STOPPED = Ending("preempted", 50, 85, "SIGUSR2 received, which is what SLURM sends before the time is up")


def replay(ending: Ending, **more: Any) -> None:
    """Print the run in ``run``."""
    config = RunConfig(data="data", run="run", epochs=4, **more)
    console = Console(config)
    console.start(Opening(manifest=read_manifest("data"), total_steps=200, first_step=0, choices=CHOICES))
    for line in read_log(Path("run")):
        console.log(line["kind"], TRAINED | line)
        console.advance(line["step"])
    console.results({"test": read_figures(Path("run"), "test") or {}})
    console.close(ending)


@pytest.mark.thorough
@pytest.mark.parametrize("classes", [2, 40])
def test_little_is_printed_and_the_log_has_it_all_without_a_line_wider_than_eighty_columns(
    classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("run"), write_data(Path(), classes, 900))
    capsys.readouterr()
    replay(Ending("finished", 200))
    output, log = capsys.readouterr().out, Path("run/log.txt").read_text()
    assert [line for line in (output + log).splitlines() if cell_len(line) > 80] == []
    assert [line.split(" ")[0] for line in output.splitlines()[:5]] == ["data", "model", "training", "device", "run"]
    assert len(output.splitlines()) < 25
    assert set(output.splitlines()) <= set(log.splitlines())
    for word in ("started ", "recurrence value: a reason", "calibration: ", "recall"):
        assert word in log
        assert word not in output
    replay(STOPPED, quiet=True)
    assert (capsys.readouterr().out, Path("run/log.txt").read_text().count("recurrence")) == ("", 2)
