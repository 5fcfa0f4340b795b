# SPDX-License-Identifier: Apache-2.0
"""Trackers of Accelerate: each row once, at its step, over several attempts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.config import RunConfig, TrackingConfig
from harness.output.tracking import Trackers
from harness.rundir.metrics_log import MetricsLog
from harness.rundir.records import Ending
from tests.helpers.fake_trackio import install

FACTS = {"dataset": "0123456789abcdef"}


def start(run: Path, name: str, **options: Any) -> Trackers:
    """Trackers of a run in ``run``."""
    run.mkdir(exist_ok=True)
    config = RunConfig(run=str(run), quiet=True, tracking=TrackingConfig(tracker=name, **options))
    trackers = Trackers(config)
    trackers.follow(FACTS)
    return trackers


def test_numbers_of_rows_arrive_at_their_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = install(tmp_path, monkeypatch)
    trackers = start(tmp_path / "run", "trackio")
    trackers.log("train", {"step": 1, "loss": 0.5, "mfu": None, "rows_per_s": 9.0})
    trackers.log("validation", {"step": 2, "accuracy": 0.75, "best": True, "row_hash": "ab"})
    trackers.log("baseline", {"accuracy": 0.5})  # Accelerate's trackers have no summary
    trackers.close(Ending("preempted", 2))
    expected = ["1 ['train/loss', 'train/rows_per_s']", "2 ['validation/accuracy', 'validation/best']"]
    assert rows.read_text().splitlines() == expected
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_tensorboard_shows_one_curve_over_a_kill(tmp_path: Path) -> None:
    """Rows that were logged after the last checkpoint are logged again."""
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    run = tmp_path / "run"
    state, factor = None, 2.0
    for steps in ([1, 2, 3], [3, 4]):
        run.mkdir(exist_ok=True)
        log = MetricsLog(run, state)
        trackers = start(run, "tensorboard", project="p")
        for step in steps:
            log.write("train", {"step": step, "loss": factor / step})
            trackers.log("train", {"step": step, "loss": factor / step})
            state = log.state() if step == 2 else state
        trackers.close(Ending("preempted", steps[-1]))
        factor = 1.0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard" / "p"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (1, 2.0),
        (2, 1.0),
        (3, pytest.approx(1 / 3)),
        (4, 0.25),
    ]
