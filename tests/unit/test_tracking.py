# SPDX-License-Identifier: Apache-2.0
"""Trackers seen from the loop: nothing blocks, nothing raises, drops are counted, nothing is left running."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import psutil
import pytest

from harness.config import RunConfig, TrackingConfig, to_dict
from harness.tracking import observer
from harness.tracking.accelerate_tracker import showable
from harness.tracking.journal import Journal
from harness.tracking.observer import Inbox
from harness.tracking.trackers import active_trackers, check_trackers, wandb_mode, wandb_url
from harness.tracking.tracking import Trackers, observer_environment, plain
from harness.tracking.wire import Wire
from preprocessing.base.errors import ConfigError
from tests.fake_trackio import install

FACTS = {"dataset": "0123456789abcdef"}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the fake tracker writes its rows; the package is on the path of whatever is started."""
    monkeypatch.setenv("PYTHONPATH", install(tmp_path / "fakes"))
    monkeypatch.setenv("FAKE_ROWS", str(tmp_path / "rows"))
    monkeypatch.setenv("FAKE_TRACKER", "none")
    return tmp_path / "rows"


def start(run: Path, name: str = "trackio", **options: Any) -> Trackers:
    """Trackers of a run in ``run``."""
    run.mkdir(exist_ok=True)
    config = RunConfig(run=str(run), tracking=TrackingConfig(tracker=name, **options))
    return Trackers(config, run, active=True, facts=FACTS)


def process_of(trackers: Trackers) -> psutil.Process:
    """The process of the only tracker."""
    (only,) = trackers.observers
    assert only.process is not None
    return psutil.Process(only.process.pid)


def wait_for(path: Path, limit_s: float = 60) -> None:
    """Until a file is there."""
    deadline = time.monotonic() + limit_s
    while not path.exists():
        assert time.monotonic() < deadline, f"waited {limit_s} s for {path}"
        time.sleep(0.05)


@pytest.mark.processes
def test_rows_arrive_at_their_own_steps_and_numbers_only(tmp_path: Path, rows: Path) -> None:
    trackers = start(tmp_path / "run")
    trackers.write("train", {"step": 1, "loss": np.float32(0.5), "rows": np.int64(3), "verdict": "slow", "mfu": None})
    trackers.write("validation", {"step": 2, "accuracy": 0.75, "best": True})
    trackers.close("finished")
    told = ["1 ['train/loss', 'train/rows']", "2 ['validation/accuracy', 'validation/best']"]
    assert rows.read_text().splitlines() == told
    assert Journal(tmp_path / "run", "trackio").before == {"train": 1, "validation": 2}


@pytest.mark.processes
def test_a_resumed_run_tells_no_step_twice(tmp_path: Path, rows: Path) -> None:
    for first, last in ((1, 5), (3, 8)):
        trackers = start(tmp_path / "run")
        for step in range(first, last + 1):
            trackers.write("train", {"step": step, "loss": 1.0})
        trackers.close("preempted")
    assert [int(line.split()[0]) for line in rows.read_text().splitlines()] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.processes
def test_stop_signals_are_for_the_trainer(tmp_path: Path, rows: Path) -> None:
    trackers = start(tmp_path / "run")
    trackers.write("train", {"step": 1, "loss": 1.0})
    wait_for(rows)
    process = process_of(trackers)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        process.send_signal(number)
    trackers.write("train", {"step": 2, "loss": 1.0})
    trackers.close("preempted")
    assert len(rows.read_text().splitlines()) == 2
    assert not process.is_running()


@pytest.mark.processes
def test_a_tracker_that_raises_over_a_row_costs_one_warning(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_TRACKER", "raise-log")
    trackers = start(tmp_path / "run")
    for step in range(1, 20):
        trackers.write("train", {"step": step, "loss": 1.0})
    trackers.close("finished")
    said = "warning: trackio raised ConnectionError: no such server, and was stopped; training is not affected\n"
    assert capfd.readouterr().err == said
    assert not (tmp_path / "run" / "tracking" / "trackio.jsonl").exists()


def test_what_a_slow_tracker_has_no_room_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lines:
        lines = (*(b'{"do": "log"}\n' for _ in range(10)), b'{"do": "close", "limit_s": 60, "dropped": 2}\n')

    monkeypatch.setattr(observer, "QUEUE_ROWS", 3)
    inbox = Inbox(cast(Wire, Lines()))
    deadline = time.monotonic() + 10
    while inbox.last_clock is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    inbox.last_clock.cancel()
    assert inbox.dropped == 7 + 2
    assert inbox.rows_left() == ", with 12 rows not sent"
    assert [message["do"] for message in inbox] == ["log", "log", "log", "close"]


def test_ranks_other_than_zero_start_nothing(tmp_path: Path) -> None:
    config = RunConfig(run=str(tmp_path), tracking=TrackingConfig(tracker="wandb"))
    trackers = Trackers(config, tmp_path, active=False, facts=FACTS)
    trackers.write("train", {"step": 1})
    trackers.alert("title", "text")
    trackers.close("finished")
    assert trackers.observers == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_tensorboard_shows_one_curve_over_two_attempts(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    for first, last in ((1, 4), (3, 6)):
        trackers = start(tmp_path / "run", "tensorboard", project="p")
        for step in range(first, last + 1):
            trackers.write("train", {"step": step, "loss": 1 / step})
        trackers.close("finished")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "p"))
    events.Reload()
    points = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert [step for step, _ in points] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in points] == pytest.approx([1 / step for step in range(1, 7)], rel=1e-6)


def test_an_observer_is_no_rank_of_the_run() -> None:
    ranked = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x"}
    launched = {"ACCELERATE_USE_CPU": "1", "PET_SIGNALS_TO_HANDLE": "SIGTERM", "OMP_NUM_THREADS": "8"}
    kept = {"PATH": "/bin", "WANDB_MODE": "offline", "CUDA_VISIBLE_DEVICES": "0"}
    assert observer_environment(ranked | launched | kept) == kept | {"OMP_NUM_THREADS": "1"}


def test_what_the_pipe_carries() -> None:
    assert [plain(value) for value in (np.int64(3), np.float64(0.5), True, "text", None, [1])] == [
        3,
        0.5,
        1,
        "text",
        None,
        None,
    ]
    assert showable({"a": {"b": 1, "c": {"d": None}}, "e": [1, 2]}) == {"a.b": 1, "a.c.d": "None", "e": "[1, 2]"}


def test_the_journal_counts_only_what_a_finished_tracker_was_told(tmp_path: Path) -> None:
    killed = Journal(tmp_path, "wandb")
    killed.note(run_id="abc")
    assert killed.is_new("train", {"step": 7})
    after = Journal(tmp_path, "wandb")
    assert after.is_new("train", {"step": 7})
    after.commit()
    resumed = Journal(tmp_path, "wandb")
    assert [resumed.is_new("train", {"step": step}) for step in (6, 7, 8)] == [False, False, True]
    assert resumed.is_new("validation", {"step": 7})
    assert resumed.run_id == "abc"


def test_the_journal_takes_lines_from_several_and_survives_a_torn_one(tmp_path: Path) -> None:
    ours, theirs = Journal(tmp_path, "wandb"), Journal(tmp_path, "wandb")
    ours.note(sent="a", rows=3)
    theirs.note(finished="b")
    with ours.path.open("a") as file:
        file.write('{"sent": "c", "ro')
    ours.note(sent="a", rows=5)
    read = Journal(tmp_path, "wandb")
    assert (read.sent, read.finished, read.run_id) == ({"a": 5}, {"b"}, None)


def test_wandb_is_offline_unless_there_is_a_key_or_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MODE", "API_KEY", "BASE_URL", "IDENTITY_TOKEN_FILE", "CONFIG_DIR"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    assert wandb_mode() == "offline"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0123456789\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_mode() is None
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert wandb_mode() == "offline"
    monkeypatch.delenv("WANDB_BASE_URL")
    (tmp_path / ".config" / "wandb").mkdir(parents=True)
    (tmp_path / ".config" / "wandb" / "settings").write_text("[default]\nbase_url = https://own.example.org/\n")
    assert wandb_url() == "https://own.example.org"
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ConfigError, match="WANDB_MODE=online needs a key"):
        check_trackers(TrackingConfig(tracker="wandb"))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    check_trackers(TrackingConfig(tracker="wandb"))
    assert wandb_mode() is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert active_trackers(TrackingConfig(tracker="wandb,tensorboard")) == ["tensorboard"]
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(ConfigError, match="WANDB_MODE: 'onlin' is no mode of W&B; there are online, offline"):
        check_trackers(TrackingConfig(tracker="wandb"))


def test_a_folder_of_a_trackers_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvclive").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="dvclive needs the package dvclive: pip install dvclive, or use none"):
        check_trackers(TrackingConfig(tracker="dvclive"))
    (tmp_path / "dvclive" / "__init__.py").touch()
    check_trackers(TrackingConfig(tracker="dvclive"))


@pytest.mark.parametrize(("asked", "group"), [(None, "dataset-0123456789ab"), ("mine", "mine")])
def test_wandb_puts_runs_together_by_dataset_or_as_asked(tmp_path: Path, asked: str | None, group: str) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    from harness.tracking.wandb_run import WandbTracker

    config = to_dict(RunConfig(tracking=TrackingConfig(tracker="wandb", group=asked)))
    spec = {"config": config, "facts": {"dataset": "0123456789abcdef"}, "name": "mine seed-1", "tags": [], "pid": 1}
    tracker: Any = SimpleNamespace(spec=spec, run=tmp_path, journal=Journal(tmp_path, "wandb"))
    options = WandbTracker._options(tracker, "offline")
    assert (options["group"], options["name"]) == (group, "mine seed-1")
