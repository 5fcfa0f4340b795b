# SPDX-License-Identifier: Apache-2.0
"""Trackers seen from the loop: nothing blocks, nothing raises, drops are counted, nothing is left running."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from harness.__main__ import main
from harness.config import RunConfig, TrackingConfig
from harness.tracking import wandb_sync
from harness.tracking.journal import Journal
from harness.tracking.trackers import active_trackers, check_trackers, wandb_mode, wandb_url
from harness.tracking.tracking import Trackers, observer_environment
from harness.tracking.wandb_sync import Sync, check, merge, summarize
from preprocessing.base.errors import ConfigError, DataError, UserError
from tests.fake_trackio import install
from tests.runs import wait_until

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


@pytest.mark.processes
def test_rows_arrive_once_at_their_own_steps_and_stop_signals_are_for_the_trainer(tmp_path: Path, rows: Path) -> None:
    trackers = start(tmp_path / "run")
    trackers.write("train", {"step": 1, "loss": np.float32(0.5), "rows": np.int64(3), "verdict": "slow", "mfu": None})
    wait_until(rows.exists)
    (observer,) = trackers.observers
    assert observer.process is not None
    process = psutil.Process(observer.process.pid)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        process.send_signal(number)
    trackers.write("validation", {"step": 2, "accuracy": 0.75, "best": True})
    trackers.close("preempted")
    assert not process.is_running()
    resumed = start(tmp_path / "run")
    for step in (1, 2):
        resumed.write("train", {"step": step, "loss": 1.0})
    resumed.close("finished")
    told = ["1 ['train/loss', 'train/rows']", "2 ['validation/accuracy', 'validation/best']", "2 ['train/loss']"]
    assert rows.read_text().splitlines() == told


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


def test_wandb_is_offline_unless_there_is_a_key_or_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MODE", "API_KEY", "BASE_URL", "IDENTITY_TOKEN_FILE", "CONFIG_DIR"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    assert wandb_mode() == "offline"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0123456789\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_mode() is None
    (tmp_path / ".config" / "wandb").mkdir(parents=True)
    (tmp_path / ".config" / "wandb" / "settings").write_text("[default]\nbase_url = https://own.example.org/\n")
    assert (wandb_url(), wandb_mode()) == ("https://own.example.org", "offline")
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ConfigError, match="WANDB_MODE=online needs a key"):
        check_trackers(TrackingConfig(tracker="wandb"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert active_trackers(TrackingConfig(tracker="wandb,tensorboard")) == ["tensorboard"]


TRAIN = [{"kind": "train", "step": step, "loss": 1 / step} for step in (1, 2, 3)]
VALIDATION = [{"kind": "validation", "step": 3, "accuracy": 0.5, "best": True}]


def record(kind: str, step: int) -> dict[str, Any]:
    """A row as W&B's reader prints it."""
    return {"type": "history", "history": {"item": {f"{kind}/step": step, f"{kind}/loss": 1.0, "_step": 0}}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose two attempts are known to W&B."""
    journal = Journal(tmp_path, "wandb")
    journal.note(run_id="abc")
    journal.note(finished="run-1-abc")
    journal.note(sent="offline-run-3-abc", rows=1)
    (tmp_path / "config.yaml").write_text("tracking: {project: p}\n")
    lines = [json.dumps(line) for line in TRAIN + VALIDATION]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"kind": "train", "st']))
    return tmp_path


def test_missing_is_what_no_log_holds_that_has_arrived(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = {
        "run-1-abc": [record("train", 1)],  # online and finished: has arrived
        "run-2-abc": [record("train", 2)],  # online and killed: may have been on its way
        "offline-run-3-abc": [record("validation", 3), record("train", 3)],  # its first row was sent, one came later
    }
    monkeypatch.setattr(wandb_sync, "read_own_log", lambda file: logs[file.parent.name])
    missing = Sync(run, quiet=True).missing()
    assert missing == [("train", {"step": 2, "loss": 1 / 2}), ("train", {"step": 3, "loss": 1 / 3})]


def test_the_summary_has_the_last_of_everything_and_the_best_validation() -> None:
    later = {"kind": "validation", "step": 6, "accuracy": 0.4, "best": False}
    summary = summarize(merge([*TRAIN, *VALIDATION, later], [{"kind": "train", "step": 3, "tokens_per_s": 7.0}]))
    assert (summary["train/step"], summary["train/loss"], summary["train/tokens_per_s"]) == (3, 1 / 3, 7.0)
    assert (summary["validation/accuracy"], summary["best/accuracy"], summary["best/step"]) == (0.4, 0.5, 3)


def test_what_cannot_be_sent_is_said_first(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(DataError, match="is not a run directory"):
        main(["wandb-sync", str(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="wandb-sync needs a key: set WANDB_API_KEY, or run `wandb login`"):
        check(run)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 cannot be reached .* try again") as refused:
        check(run)
    assert refused.value.exit_code == 1
