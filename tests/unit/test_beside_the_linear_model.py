# SPDX-License-Identifier: Apache-2.0
"""The comparison of a run with the linear model: figures, a verdict, values for trackers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.baseline.results import Comparison, compare, folder_of, read_results
from harness.config import RunConfig
from harness.report import sinks
from harness.report.runs import beside_linear
from harness.report.sinks import BaselineSink
from harness.rundir.records import Ending
from harness.rundir.results import Measured, write_figures, write_predictions
from harness.tracking.tracking import Sink
from preprocessing.base.errors import DataError
from preprocessing.base.processes import status
from preprocessing.dataset.shards import read_manifest
from tests.bundles import write_index
from tests.commands import listens, wait_until
from tests.datasets import write_dataset

ROWS = {"train": 400, "validation": 120, "test": 90}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A writable dataset."""
    write_dataset(tmp_path / "own", ROWS)
    return tmp_path / "own"


def hits(rows: int, right: int, apart: int = 0) -> np.ndarray:
    """Which rows are right: the first ``right`` of them, with the last ``apart`` of these moved to the end."""
    found = np.arange(rows) < right - apart
    found[rows - apart :] = True
    return found


def stand(place: Path, split: str, right: np.ndarray) -> dict[str, Any]:
    """Predictions and figures of a split of two classes, right where ``right`` is true."""
    labels = np.arange(len(right)) % 2
    predicted = np.where(right, labels, 1 - labels)
    chances = np.stack((1 - predicted, predicted), axis=1).astype(float)
    found = {"rows": np.arange(len(right)), "labels": labels, "predicted": predicted, "chances": chances}
    write_predictions(place, split, ["no", "yes"], "text", **found)
    return {"accuracy": float(right.mean()), "rows": len(right), "seconds": 3.2}


def beside(folder: Path, network: np.ndarray, linear_model: np.ndarray, split: str = "test") -> Comparison:
    """The comparison of both on the same rows."""
    measured = Measured(split, stand(folder / "run", split, network), folder / "run")
    place = folder / "data" / "baseline"
    found = compare(measured, place, {split: stand(place, split, linear_model)})
    return found


@pytest.mark.parametrize(
    ("network", "linear_model", "points", "verdict"),
    [
        (hits(1000, 950), hits(1000, 900), "+5.00 points (95 %: +3.6",
         "the network is above the linear model"),
        (hits(1000, 890), hits(1000, 900), "-1.00 points (95 %: -1.6",
         "the network is below the linear model, which took 3s"),
        (hits(1000, 900, 100), hits(1000, 905), "-0.50 points (95 %: -3.",
         "no difference that these rows could show between the network and the linear model, which took 3s"),
    ],
)  # fmt: skip
def test_the_verdict_is_about_the_rows_that_both_predicted(
    tmp_path: Path, network: np.ndarray, linear_model: np.ndarray, points: str, verdict: str
) -> None:
    """The intervals of the two accuracies overlap in all cases but the first."""
    found = beside(tmp_path, network, linear_model)
    assert found.verdict == verdict
    said = f"accuracy on test: network {network.mean():.4f}, linear model {linear_model.mean():.4f}: {points}"
    assert found.figures.startswith(said)
    assert found.figures.endswith(f", both on the same {len(network):,} rows")
    assert found.low <= found.difference <= found.high


def test_predictions_of_other_rows_are_not_compared(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"baseline/test-predictions\.parquet: not the rows that .*run predicts"):
        beside(tmp_path, hits(90, 80), hits(91, 80))


class Heard(Sink):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.summaries: dict[str, Any] = {}

    def say(self, text: str) -> None:
        self.lines.append(text)

    def log(self, kind: str, values: dict[str, Any]) -> None:
        self.summaries |= {f"{kind}/{key}": value for key, value in values.items()}


@pytest.mark.processes
def test_a_fit_in_the_background_dies_with_its_parent(own: Path) -> None:
    program = (
        "import sys; from preprocessing.base.processes import Child; "
        "fit = Child('-m', 'harness', 'baseline', sys.argv[1]); print(fit.pid, flush=True); fit.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, own], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    wait_until(lambda: listens(pid), 60)
    os.kill(pid, signal.SIGSTOP)  # it must not be done before its parent dies
    parent.kill()
    parent.wait(20)
    os.kill(pid, signal.SIGCONT)
    parent.communicate(timeout=20)  # to the end of the fit's output, which is the same pipe
    wait_until(lambda: status(pid).get("State", "Z")[0] == "Z", 5)
    assert not folder_of(own).exists()


@pytest.mark.processes
def test_the_end_of_a_run_says_how_the_linear_model_does(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, fingerprint, heard = tmp_path / "run", read_manifest(own).fingerprint, Heard()
    write_index(run / "bundle", dataset=fingerprint)
    write_figures(run, "test", stand(run, "test", np.arange(ROWS["test"]) % 2 == 0))
    sink = BaselineSink(RunConfig(run=str(run), data=str(own)), heard)
    sink.begin()
    sink.close(Ending("preempted", 10, 85, "SIGTERM received"))
    assert sink.fit.returncode == -signal.SIGKILL
    assert (heard.lines, folder_of(own).exists()) == ([], False)
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # as if the dataset were read-only
    monkeypatch.setattr(sinks, "END_S", 60)
    sink.begin()
    assert os.getpriority(os.PRIO_PROCESS, sink.fit.pid) == 19
    sink.close(Ending("finished", 10))
    fitted, found = sink.fit, beside_linear(run, own)[1]
    sink.begin()
    assert sink.fit is fitted  # it is kept in the run: none is started again
    assert found.linear == read_results(folder_of(run), fingerprint)["test"]
    wait = "waiting up to 60 s for the linear model (--baseline none leaves it out)"
    assert heard.lines == [wait, f"{found.verdict} (accuracy {found.linear['accuracy']:.4f}): {found.points}"]
    assert heard.summaries["baseline/accuracy"] == found.linear["accuracy"]
    assert heard.summaries["baseline/difference"] == found.difference
