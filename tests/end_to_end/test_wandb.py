# SPDX-License-Identifier: Apache-2.0
"""One run at W&B over any number of attempts: offline with kills and a sync; online with a server on loopback."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.helpers.commands import read_metrics, run_module, sentence, start_python, succeed, values_in_log, wait_until
from tests.helpers.datasets import write_dataset
from tests.helpers.runs import kill, launch, wait_for_step
from tests.helpers.wandb_server import KEY, Store, StoredRun, wandb_server

pytest.importorskip("wandb", reason="needs the extra wandb")

pytestmark = [pytest.mark.processes, pytest.mark.slow]
LIMIT_S = 150


def attempt(run: Path, first: int, last: int, state: str, **environment: str) -> str:
    """An attempt that ends in ``state``; returns its warnings."""
    result = succeed(run_module("tests.helpers.attempt", run, first, last, state, timeout_s=2 * LIMIT_S, **environment))
    return "".join(line for line in result.stderr.splitlines(keepends=True) if line.startswith("warning"))


def sync(run: Path, store: Store) -> tuple[int, int]:
    """``wandb-sync`` to a server; the rows that it has then, and how many of them are new."""
    environment = {"HOME": str(run.parent), **store.environment()}
    output = succeed(run_module("padless", "wandb-sync", run, **environment)).stdout
    num_rows, num_new = re.findall(r"all (\d+) rows of .*, (\d+) of them new", output)[0]
    return int(num_rows), int(num_new)


def check_history(stored_run: StoredRun, last: int) -> None:
    """The history has every step with its loss, in rows numbered consecutively."""
    steps = list(range(1, last + 1))
    assert stored_run.history("_step") == list(range(last))
    assert stored_run.history("train/step") == steps
    assert stored_run.history("train/loss") == pytest.approx([1 / step for step in steps], rel=1e-12)


@pytest.mark.timeout(900, func_only=True)
def test_a_real_run_over_a_kill_is_one_curve(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "job" / "run"
    write_dataset(data, {"train": 3000, "validation": 60, "test": 60})
    tracked = ("--tracking.tracker", "wandb", "--tracking.project", "p", "--epochs", "20")
    with patch.dict(os.environ, {"HOME": str(run.parent), "WANDB_MODE": "offline"}):
        process = launch(data, run, *tracked)
        wait_until(lambda: any((run / "wandb").glob("*/*.wandb")))
        wait_for_step(process, run, 60)
        kill(process)
        assert launch(data, run, *tracked).wait(2 * LIMIT_S) == 0
    log = (tmp_path / "job" / "log").read_text()
    assert "warning" not in log, log
    folders = sorted((run / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1
    with wandb_server() as store:
        assert sync(run, store)[1] == len((run / "metrics.jsonl").read_text().splitlines())
        (stored_run,) = store.runs.values()
        assert stored_run.history("train/loss") == pytest.approx(values_in_log(run, "loss"), rel=1e-9)
        for kind in ("train", "validation", "test"):
            steps = values_in_log(run, "step", kind)
            assert stored_run.history(f"{kind}/step") == steps == sorted(set(steps))
        assert sync(run, store)[1] == 0


def test_online_attempts_append_to_one_curve(tmp_path: Path) -> None:
    """One that is killed, one that is preempted, one that ends."""
    run = tmp_path / "run"
    with wandb_server() as store:
        environment = {"HOME": str(tmp_path), **store.environment()}
        doomed = start_python("-m", "tests.helpers.attempt", run, 1, 100_000, "finished", env=environment)

        def has_twenty_steps() -> bool:
            return any(len(stored_run.history("train/step")) >= 20 for stored_run in list(store.runs.values()))

        wait_until(has_twenty_steps)
        doomed.kill()
        doomed.wait(20)
        last = len(read_metrics(run, "train"))
        for state in ("preempted", "finished"):
            assert attempt(run, last + 1, last + 10, state, **environment) == ""
            last += 10
        (stored_run,) = store.runs.values()
        check_history(stored_run, last)
        assert stored_run.preempting
        assert stored_run.exit_codes[-2:] == [1, 0]
        assert stored_run.fields["groupName"] == "dataset-0123456789ab"
        assert json.loads(stored_run.fields["config"])["optim"]["value"]["lr"] == 2e-3


def test_without_a_key_or_a_server_the_rows_are_kept(tmp_path: Path) -> None:
    run, nowhere = tmp_path / "run", {"HOME": str(tmp_path), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    assert "no API key: set WANDB_API_KEY" in attempt(run, 1, 20, "finished", **nowhere)
    refused = run_module("padless", "wandb-sync", run, **nowhere, WANDB_API_KEY=KEY)
    assert (refused.returncode, sentence(refused).partition(" (")[0]) == (1, f"{run}: W&B did not accept all")
    with wandb_server() as store:
        assert sync(run, store) == (20, 20)
        (stored_run,) = store.runs.values()
        check_history(stored_run, 20)
