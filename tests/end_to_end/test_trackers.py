# SPDX-License-Identifier: Apache-2.0
"""Law 8 with the limits that users meet: trackers that sleep for ever or raise, in runs under the launcher."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import psutil
import pytest

from harness.tracking.tracking import FINISH_S, KILL_AFTER_S, SHORT_FINISH_S
from tests.commands import PLAIN, read_metrics, run_module, succeed
from tests.datasets import write_dataset
from tests.fake_trackio import FAKE_TRACKIO

pytestmark = pytest.mark.slow

SMALL = (*PLAIN, "--epochs", 2, "--tracking.log_every", 1, "--model.embedding_dim", 8, "--model.hidden_size", 8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trackers")
    write_dataset(path / "data", {"train": 240, "validation": 30, "test": 30})
    (path / "fakes").mkdir()
    (path / "fakes" / "trackio.py").write_text(FAKE_TRACKIO)
    return path


def observers_of(run: Path) -> list[psutil.Process]:
    """Processes that still serve a run."""
    processes = psutil.process_iter(["cmdline"])
    return [
        process
        for process in processes
        if {"harness.tracking.observer", str(run)} <= set(process.info["cmdline"] or [])
    ]


@pytest.mark.parametrize(
    ("how", "says", "waits_s"),
    [
        ("sleep-everywhere", "did not finish within 15 s, with 11 rows not sent", SHORT_FINISH_S),
        # 15 where it had not begun, on a busy machine
        pytest.param("sleep-finish", r"did not finish within (15|30) s", FINISH_S, marks=pytest.mark.night),
        ("raise-start", "raised ConnectionError: no such server", 0),
        pytest.param("raise-finish", "raised ConnectionError: no such server", 0, marks=pytest.mark.night),
    ],
)
def test_training_ends_on_time_with_one_warning(root: Path, how: str, says: str, waits_s: float) -> None:
    run = root / how
    fakes = f"{Path(__file__).parents[2]}{os.pathsep}{root / 'fakes'}"
    faults = {"FAKE_TRACKER": how, "FAKE_ROWS": str(root / f"{how}.rows"), "PYTHONPATH": fakes}
    arguments = ("--data", root / "data", "--run", run, *SMALL, "--tracking.tracker", "trackio")
    result = succeed(run_module("harness", "launch", *arguments, **faults))
    ended = time.time()
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning:")]
    (warning,) = warnings
    assert re.fullmatch(f"warning: trackio {says}, and was stopped; training is not affected", warning), warning
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"]) == ("finished", 8)
    assert [line["step"] for line in read_metrics(run, "train")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert ended - (run / "status.json").stat().st_mtime < waits_s + KILL_AFTER_S + 60
    assert observers_of(run) == []
