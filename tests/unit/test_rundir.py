# SPDX-License-Identifier: Apache-2.0
"""The run directory: locks, damage, reading back; no other code has its file names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.config import RunConfig
from harness.rundir import layout, records, results
from harness.rundir.json_files import read_lines
from harness.rundir.metrics_log import MetricsLog, read_log
from harness.rundir.records import (
    known_status,
    read_config,
    write_config,
)
from harness.rundir.results import open_predictions
from preprocessing.base.errors import ConfigError, DataError

pytestmark = pytest.mark.thorough


def test_a_run_directory_is_claimed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CLAIM_LIMIT_S", 0.3)
    config = RunConfig(run=str(tmp_path / "run"))
    with records.claim(config), pytest.raises(ConfigError, match="another process trains in"):
        records.claim(config)
    records.claim(config).close()
    assert not layout.holds_run(config.run)
    write_config(config)
    assert layout.holds_run(config.run)
    assert read_config(tmp_path / "run")["optim"]["betas"] == [0.9, 0.999]


def test_a_last_line_that_was_cut_short_never_counts_and_any_other_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / layout.METRICS
    assert read_lines(path) == []
    path.write_text('{"step": 1}\n\n{"step": 2}\n{"step": 3, "lo')
    assert read_lines(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 2 is not JSON \(.*\); remove it, or restore the file"):
        read_lines(path)
    assert read_lines(path, several_writers=True) == [{"step": 1}, {"step": 3}]


@pytest.mark.parametrize("content", [b'{"state": "fini', b'{"state": "over"}', b"[]"])
def test_a_damaged_status_is_rebuilt_from_the_checkpoints(tmp_path: Path, content: bytes) -> None:
    """It has the newest step and is not finished: a run that had finished will finish again."""
    (tmp_path / layout.CHECKPOINTS / "step-00000012").mkdir(parents=True)
    (tmp_path / layout.STATUS).write_bytes(content)
    said = []
    found = known_status(tmp_path, said.append)
    assert (found["state"], found["step"], found["launch"]) == ("failed", 12, None)
    assert len(said) == 1
    assert "status.json" in said[0]
    assert "the newest checkpoint is that of step 12" in said[0]


def test_damaged_metrics_are_cut_back_to_whole_lines_and_it_is_said(tmp_path: Path) -> None:
    """The sizes in the checkpoint decide; a JSON line with foreign content counts as damaged."""
    log = MetricsLog(tmp_path)
    for step in range(1, 6):
        log.write("train", {"step": step, "loss": 0.5})
    known = log.sizes()
    log.write("train", {"step": 6, "loss": 0.5})
    path = tmp_path / layout.METRICS
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(
        lines[0] + lines[1].replace(b"0.5", b"[1]") + lines[2].replace(b"loss", b"lo\xffs") + lines[3] + b'{"k'
    )
    again = MetricsLog(tmp_path, known)
    again.write("train", {"step": 6, "loss": 0.25})
    written = known[layout.METRICS]
    assert again.mended == [f"{path}: damaged: {written} bytes were written; the 2 whole lines among them are kept"]
    assert [line["step"] for line in read_log(tmp_path)] == [1, 4, 6]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert results.read_figures(tmp_path, "test") is None
    results.write_figures(tmp_path, "test", {"accuracy": 0.5})
    assert results.read_figures(tmp_path, "test") == {"accuracy": 0.5}
    path = tmp_path / "test.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))
    with pytest.raises(DataError, match=r"test\.json: its content does not match its sha256"):
        results.read_figures(tmp_path, "test")


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    names = ["0.5", "1"]
    chances = np.array([[0.25, 0.75], [0.5, 0.5]])
    rows, labels, predicted = np.array([7, 9]), np.array([1, 0]), np.array([1, 1])
    given = {"rows": rows, "labels": labels, "predicted": predicted, "chances": chances}
    results.write_predictions(tmp_path, "test", names, "float", **given)
    frame = open_predictions(tmp_path)
    assert (frame["label"].tolist(), frame["predicted"].tolist()) == ([1.0, 0.5], [1.0, 1.0])
    found = results.read_predictions(tmp_path, "test", ["label", "probability_1"])
    assert found.to_pydict() == {"row": [7, 9], "label": [1.0, 0.5], "probability_1": [0.75, 0.5]}
    assert list(frame) == ["row", "label", "predicted", *(f"probability_{name}" for name in names)]
