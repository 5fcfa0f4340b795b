# SPDX-License-Identifier: Apache-2.0
"""Law 8: observers never hurt. Trackers that sleep for ever, raise, die or read nothing cost a run one warning and, at
its end, a bounded wait: no step, no row of its own log, no exit code.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness import train
from harness.config import RunConfig, TrackingConfig
from harness.rundir.records import Ending
from harness.tracking import tracking
from harness.tracking.tracking import Trackers
from tests.commands import PLAIN, status_of, wait_until
from tests.datasets import write_dataset
from tests.fake_trackio import install
from tests.ranks import run_ranks

pytestmark = pytest.mark.processes

SMALL = (*PLAIN, "--epochs", "2", "--tracking.log_every", "1", "--model.embedding_dim", "8", "--model.hidden_size", "8")
LIMIT_S = 2.0
RAISED = "raised ConnectionError: no such server, and was stopped"
FAULTS = {
    "sleep-everywhere": "did not finish within 2 s, and was stopped",
    "sleep-finish": "did not finish within 2 s, and was stopped",
    "raise-start": RAISED,
    "raise-log": RAISED,
    "raise-finish": RAISED,
}
"""What a tracker does wrong, and what a run of 8 steps, 2 validations and a test says of it, once."""


def train_beside_faulty_trackers(root: str) -> dict[str, tuple[int, list[str]]]:
    """A run beside every fault, and one without a tracker: the exit code and the warnings of each."""
    tracking.FINISH_S = tracking.SHORT_FINISH_S = LIMIT_S  # in place of half a minute
    ends = {}
    for fault in ("none", *FAULTS):
        os.environ["FAKE_TRACKER"], os.environ["FAKE_ROWS"] = fault, f"{root}/{fault}.rows"
        tracker = "none" if fault == "none" else "trackio"
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            argv = ["--data", f"{root}/data", "--run", f"{root}/{fault}", *SMALL, "--tracking.tracker", tracker]
            code = train.main([*argv, "--device", "cpu", "--precision", "fp32"])
        ends[fault] = (code, [line for line in said.getvalue().splitlines() if line.startswith("warning:")])
    return ends


def patient(root: str) -> dict[str, tuple[int, list[str]]]:
    """The same, with a tracker that has always begun when the run ends: it takes longer to start than the run."""
    close = Trackers.close

    def close_what_has_begun(self: Trackers, *how: Any) -> None:
        if self.observers:
            wait_until(Path(os.environ["FAKE_ROWS"] + ".began").exists)
        close(self, *how)

    Trackers.close = close_what_has_begun  # type: ignore[method-assign]
    return train_beside_faulty_trackers(root)


def observers_of(run: Path) -> list[psutil.Process]:
    """Processes that still serve a run."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if {"harness.tracking.observer", str(run)} <= set(process.info["cmdline"] or [])
    ]


@pytest.mark.slow
def test_training_ends_as_it_would_without_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data", {"train": 240, "validation": 30, "test": 30})
    install(tmp_path, monkeypatch)
    monkeypatch.syspath_prepend(tmp_path / "fakes")
    (ends,) = run_ranks(patient, 1, str(tmp_path))
    assert ends.pop("none") == (0, [])
    assert ends == {
        fault: (0, [f"warning: trackio {says}; training is not affected"]) for fault, says in FAULTS.items()
    }
    undisturbed = tmp_path / "none"
    for fault in FAULTS:
        run = tmp_path / fault
        status = status_of(run)
        assert (status["state"], status["exit_code"], status["step"]) == ("finished", 0, 8)
        for name in ("metrics.jsonl", "test.json", "bundle/bundle.json"):
            assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), f"{fault}: {name}"
        assert observers_of(run) == []


# The calls of the loop, one by one.


@pytest.fixture
def trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trackers]:
    """One tracker, which has begun."""
    install(tmp_path, monkeypatch)
    monkeypatch.setattr(tracking, "FINISH_S", 0.5)
    monkeypatch.setattr(tracking, "SHORT_FINISH_S", 0.5)
    monkeypatch.setattr(tracking, "KILL_AFTER_S", 0.5)
    (tmp_path / "run").mkdir()
    config = RunConfig(run=str(tmp_path / "run"), tracking=TrackingConfig(tracker="trackio"))
    begun = Trackers(config, tmp_path / "run", facts={"dataset": "0123456789abcdef"})
    wait_until((tmp_path / "rows.began").exists)
    yield begun
    begun.close(Ending("failed", 7))


def process_of(trackers: Trackers) -> psutil.Process:
    """The process of the only tracker."""
    (only,) = trackers.observers
    return psutil.Process(only.process.pid)


def test_a_tracker_that_reads_nothing_blocks_nobody(trackers: Trackers, capfd: pytest.CaptureFixture[str]) -> None:
    """No call can block, since there is no pipe between the two processes."""
    process = process_of(trackers)
    (observer,) = trackers.observers
    assert (observer.process.stdin, observer.process.stdout) == (None, None)
    process.suspend()
    for _ in range(5_000):
        trackers.log("train", {"skipped": 1, "step": 7})
    trackers.log("baseline", {"accuracy": 0.5})
    trackers.close(Ending("finished", 7))
    assert not process.is_running()
    warning = "warning: trackio did not finish within 0 s, and was stopped; training is not affected\n"
    assert capfd.readouterr().err == warning


def test_a_tracker_that_dies_costs_one_warning(
    trackers: Trackers, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    process = process_of(trackers)
    process.kill()
    psutil.wait_procs([process], timeout=10)
    for _ in range(2):
        trackers.log("train", {"skipped": 1, "step": 7})
    trackers.close(Ending("finished", 7))
    log = tmp_path / "run" / "tracking" / "trackio.log"
    assert capfd.readouterr().err == f"warning: trackio stopped; {log} says why; training is not affected\n"
