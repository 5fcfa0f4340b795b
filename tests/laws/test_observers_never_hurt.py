# SPDX-License-Identifier: Apache-2.0
"""Law 8: observers never hurt. A tracker that sleeps for ever or raises costs a run one warning and, at its end, a
bounded wait: no step, no row of its own log, no exit code. So does a W&B server that hangs, fails or refuses.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from harness import train
from harness.config import RunConfig, TrackingConfig
from harness.output import tracking
from harness.output.tracking import Tracker, TrackerObserver
from harness.rundir.records import Ending
from tests.helpers.attempt import OPENING
from tests.helpers.commands import PLAIN_RECIPE, run_module, status_of, succeed
from tests.helpers.datasets import write_dataset
from tests.helpers.ranks import run_ranks
from tests.helpers.wandb_server import KEY, wandb_server

pytestmark = pytest.mark.processes

OPTIONS = "--epochs 2 --tracking.log_every 1 --model.embedding_dim 8 --model.hidden_size 8"
SMALL = (*PLAIN_RECIPE, *OPTIONS.split())
LIMIT_S = 2.0
UNAFFECTED = "; it is not used any more, training is not affected"
WARNING_BY_FAULT = {
    "sleep-everywhere": "did not finish within 2 s",
    "raise-start": "raised ConnectionError: no such server",
}
"""What a tracker does wrong, and what a run of 8 steps, 2 validations and a test says of it, once."""


class FaultyTracker(Tracker):
    """Does at each moment what the environment variable ``FAULT`` says, as in ``sleep-log``."""

    def misbehave(self, moment: str) -> None:
        fault, _, when = os.environ["FAULT"].partition("-")
        while fault == "sleep" and when in (moment, "everywhere"):
            time.sleep(1)
        if fault == "raise" and when == moment:
            raise ConnectionError("no such\nserver")

    def start(self) -> str:
        self.misbehave("start")
        return "nowhere"

    def log(self, kind: str, values: dict[str, Any]) -> None:
        self.misbehave("log")

    def close(self, state: str) -> None:
        self.misbehave("close")


def train_beside_faulty_trackers(root: str) -> dict[str, tuple[int, list[str]]]:
    """A run beside every fault, and one without a tracker: the exit code and the warnings of each."""
    tracking.FINISH_S = LIMIT_S  # in place of half a minute
    tracking.TRACKERS["faulty"] = f"{__name__}:FaultyTracker"
    endings = {}
    for fault in ("none", *WARNING_BY_FAULT):
        os.environ["FAULT"] = fault
        tracker = "none" if fault == "none" else "faulty"
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            argv = ["--data", f"{root}/data", "--run", f"{root}/{fault}", *SMALL, "--tracking.tracker", tracker]
            code = train.main([*argv, "--device", "cpu", "--precision", "fp32"])
        endings[fault] = (code, [line for line in errors.getvalue().splitlines() if line.startswith("warning:")])
    return endings


@pytest.mark.slow
def test_training_ends_as_it_would_without_a_tracker(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 240, "validation": 30, "test": 30})
    (endings,) = run_ranks(train_beside_faulty_trackers, 1, str(tmp_path))
    assert endings.pop("none") == (0, [])
    assert endings == {
        fault: (0, [f"warning: faulty {warning}{UNAFFECTED}"]) for fault, warning in WARNING_BY_FAULT.items()
    }
    for fault in WARNING_BY_FAULT:
        status = status_of(tmp_path / fault)
        assert (status["state"], status["exit_code"], status["step"]) == ("finished", 0, 8)
        for name in ("metrics.jsonl", "test.json", "bundle/bundle.json"):
            expected = (tmp_path / "none" / name).read_bytes()
            assert (tmp_path / fault / name).read_bytes() == expected, f"{fault}: {name}"


def test_a_tracker_that_takes_no_row_blocks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAULT", "sleep-log")
    monkeypatch.setitem(tracking.TRACKERS, "faulty", f"{__name__}:FaultyTracker")
    monkeypatch.setattr(tracking, "MAX_WAITING_CALLS", 100)
    run = tmp_path / "run"
    run.mkdir()
    config = RunConfig(run=str(run), tracking=TrackingConfig(tracker="faulty"))
    observer = TrackerObserver(config)
    observer.start(OPENING)
    began = time.monotonic()
    for step in range(5_000):
        observer.log("train", {"loss": 1.0, "step": step})
    observer.close(Ending("finished", 7))
    assert time.monotonic() - began < 1
    assert capfd.readouterr().err == f"warning: faulty did not take 100 rows{UNAFFECTED}\n"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "error", "refuse"])
def test_a_server_with_a_fault_delays_the_end_alone(fault: str, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    with wandb_server() as store:
        store.fault = fault
        address = "http://127.0.0.1:9" if fault == "refuse" else store.url
        environment = {"HOME": str(tmp_path), "WANDB_BASE_URL": address, "WANDB_API_KEY": KEY, "PATIENCE_S": "4"}
        result = succeed(run_module("tests.helpers.attempt", tmp_path / "run", 1, 20, "finished", **environment))
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["longest_s"] < 0.02  # a call of ``log``
    assert report["end_s"] < 4.5
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: wandb ")]
    assert len(warnings) == 1
    assert all(UNAFFECTED in line and "padless wandb-sync" in line for line in warnings)
    assert "Traceback" not in result.stderr
