# SPDX-License-Identifier: Apache-2.0
"""Trackers: their rows and starting values, and refusals of a sync."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.config import RunConfig, TrackingConfig
from harness.rundir.records import Ending
from harness.tracking import tracking
from harness.tracking.journal import alone
from harness.tracking.trackers import active_trackers
from harness.tracking.tracking import Trackers, observer_environment
from preprocessing.base.errors import ConfigError
from tests.commands import wait_until
from tests.fake_trackio import install

FACTS = {"dataset": "0123456789abcdef"}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the fake tracker writes its rows; child processes can import its package."""
    return install(tmp_path, monkeypatch)


def start(run: Path, name: str = "trackio", **options: Any) -> Trackers:
    """Trackers of a run in ``run``."""
    run.mkdir(exist_ok=True)
    config = RunConfig(run=str(run), tracking=TrackingConfig(tracker=name, **options))
    return Trackers(config, run, facts=FACTS)


def write(run: Path, kind: str, **values: Any) -> None:
    """A row in the run's file."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": kind, **values}) + "\n")


@pytest.mark.processes
def test_rows_arrive_once_at_their_own_steps_and_stop_signals_are_for_the_trainer(tmp_path: Path, rows: Path) -> None:
    run = tmp_path / "run"
    trackers = start(run)
    (run / "throughput.jsonl").write_text('{"kind": "train", "step": 1, "rows_per_s": 9.0}\n')
    write(run, "train", step=1, loss=0.5, mfu=None)
    wait_until(rows.exists)
    (observer,) = trackers.observers
    process = psutil.Process(observer.process.pid)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        process.send_signal(number)
    write(run, "validation", step=2, accuracy=0.75, best=True)
    trackers.close(Ending("preempted", 2))
    assert not process.is_running()
    resumed = start(run)  # the rows since its checkpoint stand there again
    write(run, "train", step=2, loss=1.0)
    resumed.close(Ending("finished", 2))
    told = ["1 ['train/loss', 'train/rows_per_s']", "2 ['validation/accuracy', 'validation/best']", "2 ['train/loss']"]
    assert rows.read_text().splitlines() == told


@pytest.mark.slow
def test_tensorboard_shows_one_curve_over_a_kill_and_a_preemption(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    run = tmp_path / "run"
    for last, state in ((2, "preempted"), (4, "killed"), (6, "finished")):
        trackers = start(run, "tensorboard", project="p")
        for step in range(last - 1, last + 1):
            write(run, "train", step=step, loss=1 / step)
        if state == "killed":
            (observer,) = trackers.observers
            wait_until(lambda: len(list((run / "tensorboard" / "p").glob("events*"))) == 2)
            tracking.kill_tree(observer.process.pid)
        trackers.close(Ending("finished" if state == "finished" else "preempted", last))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard" / "p"))
    events.Reload()
    points = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert [step for step, _ in points] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in points] == pytest.approx([1 / step for step in range(1, 7)], rel=1e-6)


def test_an_observer_is_no_rank_of_the_run() -> None:
    ranked = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x"}
    launched = {"ACCELERATE_USE_CPU": "1", "PET_SIGNALS_TO_HANDLE": "SIGTERM", "OMP_NUM_THREADS": "8"}
    kept = {"PATH": "/bin", "WANDB_MODE": "offline", "CUDA_VISIBLE_DEVICES": "0"}
    assert observer_environment(ranked | launched | kept) == kept | {"OMP_NUM_THREADS": "1"}


def test_one_process_at_a_time_tells_a_tracker(tmp_path: Path) -> None:
    refused = pytest.raises(ConfigError, match="another process sends this run to wandb")
    with alone(tmp_path, "wandb", 0), refused, alone(tmp_path, "wandb", 0):
        pass
    with alone(tmp_path, "wandb", 0):
        pass


def test_wandb_is_not_started_where_it_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert active_trackers(TrackingConfig(tracker="wandb,tensorboard")) == ["tensorboard"]
