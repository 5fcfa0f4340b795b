# SPDX-License-Identifier: Apache-2.0
"""What a report makes of a run's files, by value; a browser looks at it in end_to_end/test_report_in_a_browser.py."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.config import flat
from harness.report.charts import Series, draw, is_steep
from harness.report.curves import averaged, thinned
from harness.report.facts import RunFacts
from harness.report.formats import by_value
from harness.report.page import write_report_quietly
from harness.report.plots import learning_charts
from harness.report.views import reproduce

NOTHING = RunFacts(
    directory=Path("runs/a"),
    config={},
    environment={},
    status={},
    train=[],
    validation=[],
    speed=[],
    attempts=[],
    measured=None,
    fingerprint=None,
    manifest=None,
    manifest_note=None,
    linear={},
    beside=None,
    linear_note=None,
)


def facts(**values: Any) -> RunFacts:
    return dataclasses.replace(NOTHING, **values)


def test_speed_is_averaged_over_the_time_that_each_line_stands_for() -> None:
    train = [{"step": 10, "rows": 100, "padding": 0.1}, {"step": 20, "rows": 300, "padding": 0.3}]
    speed = [
        {"step": 10, "rows_per_s": 10.0, "tokens_per_s": 1000.0, "data_wait": 0.0, "mfu": None, "memory_bytes": 5},
        {"step": 20, "rows_per_s": 100.0, "tokens_per_s": 8000.0, "data_wait": 0.52, "mfu": 0.5, "memory_bytes": 7},
    ]
    summary = facts(train=train, speed=speed).speed_summary
    assert summary == pytest.approx(
        {
            "seconds": 13.0,
            "tokens_per_s": (10 * 1000 + 3 * 8000) / 13,
            "data_wait": 3 * 0.52 / 13,
            "mfu": 0.5,
            "padding": 0.2,
            "memory_bytes": 7.0,
        }
    )
    assert facts().speed_summary == {}


def test_a_long_run_is_drawn_as_means_of_neighbours() -> None:
    lines = [{"step": step, "loss": float(step)} for step in range(1, 1001)]
    steps, values = averaged([*lines, {"step": 1001, "loss": float("nan")}, {"step": 1002}], "loss", points=100)
    assert len(steps) == 100
    assert (steps[0], values[0]) == (10, 5.5)
    assert (steps[-1], values[-1]) == (1000, 995.5)
    assert averaged(lines[:3], "loss") == ([1, 2, 3], [1.0, 2.0, 3.0])
    assert averaged([], "loss") == ([], [])


def test_a_thinned_curve_keeps_its_ends() -> None:
    x, y = thinned(np.arange(10_000), np.arange(10_000) * 2, points=50)
    assert len(x) == 50
    assert (x[0], x[-1]) == (0, 9999)
    assert (y == 2 * x).all()


def test_settings_and_values_are_written_flat() -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": [1]}) == {"a.b.c": 1, "d": [1]}
    assert by_value([0.1, None, 0.1, "unset"]) == [("0.1", [1, 3]), ("null", [2]), ("unset", [4])]


def test_commands_that_make_the_run_again() -> None:
    environment = {
        "git_revision": "abc-dirty",
        "versions": {"torch": "2.6"},
        "effective": {"processes": "4: as launched"},
    }
    run = facts(directory=Path("runs/my run"), environment=environment)
    assert reproduce(run) == [
        "git checkout abc   # and changes that were not committed",
        "# torch 2.6",
        "python -m harness launch --num_processes 4 --config 'runs/my run/config.yaml' --run 'runs/my run-again'",
    ]
    assert reproduce(facts()) == ["python -m harness launch --config runs/a/config.yaml --run runs/a-again"]


@pytest.mark.parametrize(
    ("select", "chart"),
    [("accuracy", "Validation accuracy"), ("loss", "Loss"), ("calibrated", "Validation loss, calibrated")],
)
def test_a_ring_marks_the_best_epoch_on_the_figure_that_chose_it(select: str, chart: str) -> None:
    lines = [
        {"step": step, "accuracy": 0.8, "log_loss": 0.5, "calibrated_log_loss": 0.4, "f1": 0.7, "best": step == 10}
        for step in (10, 20)
    ]
    run = facts(validation=lines, train=[{"step": 10, "loss": 0.5}], config={"select": select})
    shown = {each.title: each.svg for each in learning_charts([run], ["one"])}
    marked = {"config": {**run.config, "select": "none"}}
    plain = {each.title: each.svg for each in learning_charts([dataclasses.replace(run, **marked)], ["one"])}
    assert [title for title in shown if shown[title] != plain[title]] == [chart]


def test_a_chart_has_the_page_s_colours_and_names_of_its_own() -> None:
    series = [Series("$a_1^", [1, 2, 3], [0.1, 0.2, 0.3]), Series("b", [1, 2], [0.3, 0.2], 9, "dashed")]
    chart = draw("My chart", series, "step", "loss")
    assert chart is not None
    assert chart.legend == [("$a_1^", 0, "line"), ("b", 1, "dashed")]
    root = ElementTree.fromstring(chart.svg)
    assert (root.get("role"), root.get("aria-label")) == ("img", "My chart")
    assert root.get("width") is None
    names = [part.get("id", "my-chart") for part in root.iter()]
    assert all(name.startswith("my-chart") for name in names)
    assert {"var(--s0)", "var(--s1)", "var(--ink)", "var(--line)"} <= {
        piece.strip() for piece in chart.svg.replace('"', ";").replace(": ", ";").split(";")
    }
    assert "#0" not in chart.svg.replace("url(#", "").replace('href="#', "")
    assert draw("Nothing", [Series("a", [], [])], "step", "loss") is None


def test_a_second_round_of_colours_is_dashed() -> None:
    series = [Series(f"run {slot}", [1, 2], [0.1, 0.2], slot) for slot in range(17)]
    chart = draw("Many", series, "step", "loss")
    assert chart is not None
    assert [entry[1] for entry in chart.legend] == [*range(8), *range(8), 0]
    assert [entry[2] for entry in chart.legend] == ["line"] * 8 + ["dashed"] * 8 + ["line"]


def test_a_few_large_values_do_not_press_the_others_onto_the_axis() -> None:
    assert is_steep([Series("norm", [1, 2, 3, 4], [500.0, 1.0, 0.9, 0.8])])
    assert not is_steep([Series("norm", [1, 2, 3], [5.0, 1.0, 0.9])])
    assert not is_steep([Series("norm", [1, 2, 3, 4], [500.0, 1.0, 0.9, 0.0])])


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report_quietly(tmp_path)
    (tmp_path / "config.yaml").write_text("data: nowhere\n")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": 1, "loss": None}) + "\n")
    (tmp_path / "report.html").mkdir()
    write_report_quietly(tmp_path)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"warning: no report written ({tmp_path}/config.yaml: missing")
    assert second.startswith(f"warning: no report written ({tmp_path}/report.html: cannot be written (Is a directory)")
    assert second.endswith(f"python -m harness report {tmp_path} tries again")
