# SPDX-License-Identifier: Apache-2.0
"""Which rows W&B lacks, what its summary says, and what is refused before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.__main__ import main
from harness.tracking import wandb_sync
from harness.tracking.journal import Journal
from harness.tracking.wandb_sync import Sync, check, logged, merge, summarize
from preprocessing.base.errors import ConfigError, DataError, UserError

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


def test_rows_carry_the_speeds_of_their_step() -> None:
    rows = merge(TRAIN + VALIDATION, [{"kind": "train", "step": 3, "tokens_per_s": 7.0}])
    assert list(rows) == [("train", 1), ("train", 2), ("train", 3), ("validation", 3)]
    assert rows["train", 3] == {"step": 3, "tokens_per_s": 7.0, "loss": 1 / 3}
    assert "tokens_per_s" not in rows["validation", 3]


def test_the_summary_has_the_last_of_everything_and_the_best_validation() -> None:
    later = {"kind": "validation", "step": 6, "accuracy": 0.4, "best": False}
    summary = summarize(merge([*TRAIN, *VALIDATION, later], []))
    assert (summary["train/step"], summary["train/loss"]) == (3, 1 / 3)
    assert (summary["validation/accuracy"], summary["best/accuracy"], summary["best/step"]) == (0.4, 0.5, 3)


def test_rows_of_a_log_are_those_with_a_step_of_their_own() -> None:
    system = {"type": "stats", "stats": {}}
    unknown = {"type": "history", "history": {"item": {"_step": 4}}}
    assert logged([record("train", 1), system, unknown, record("test", 9)]) == [("train", 1), ("test", 9)]


def test_what_cannot_be_sent_is_said_first(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="no run named: python -m harness wandb-sync RUN takes one run directory"):
        main(["wandb-sync"])
    with pytest.raises(DataError, match="is not a run directory"):
        main(["wandb-sync", str(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="wandb-sync needs a key: set WANDB_API_KEY, or run `wandb login`"):
        check(run)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 cannot be reached .* try again") as refused:
        check(run)
    assert refused.value.exit_code == 1
    (run / "tracking" / "wandb.jsonl").unlink()
    with pytest.raises(ConfigError, match="no attempt of this run used W&B"):
        check(run)
