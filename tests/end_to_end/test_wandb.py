# SPDX-License-Identifier: Apache-2.0
"""One run at W&B over any number of attempts: offline with kills and a sync; online with a server on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest

from harness.tracking.tracking import kill_tree
from tests.commands import logged, read_metrics, run_module, sentence, start_python, succeed, wait_until
from tests.datasets import shared_dataset, write_dataset
from tests.laws.test_observers_never_hurt import observers_of
from tests.patient import LIMIT_S, patience
from tests.runs import kill, launch, steps_done, wait_for_step
from tests.wandb_server import KEY, Store, StoredRun, wandb_server

pytest.importorskip("wandb", reason="needs the extra wandb")

pytestmark = pytest.mark.processes


data = shared_dataset({"train": 120, "validation": 30, "test": 30})


def offline(run: Path) -> dict[str, str]:
    """Variables of a node without key and network, with long time limits for W&B."""
    return {"HOME": str(run.parent), "WANDB_MODE": "offline", "PYTHONPATH": patience(run.parent)}


def attempt(run: Path, data: Path, first: int, last: int, state: str, **env: str) -> None:
    """An attempt that ends in ``state``."""
    env["PYTHONPATH"] = patience(run.parent)
    result = succeed(run_module("tests.attempt", run, data, first, last, state, timeout_s=2 * LIMIT_S, **env))
    assert "warning" not in result.stderr, result.stderr


def sync(run: Path, store: Store, *options: str) -> dict[str, Any]:
    """``wandb-sync`` to a server."""
    environment = {"HOME": str(run.parent), **store.environment()}
    return json.loads(succeed(run_module("harness", "wandb-sync", run, "--json", *options, **environment)).stdout)


def kill_trainer(process: subprocess.Popen[str]) -> None:
    """SIGKILL the launcher and its ranks, but not their trackers."""
    doomed = []
    for member in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # a child that has ended meanwhile
            spared = {"harness.tracking.observer", "--port-filename"} & set(member.cmdline())
            if not spared and "wandb" not in member.name():
                doomed.append(member)
    for member in doomed:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait(20)


@pytest.mark.slow
@pytest.mark.timeout(900, func_only=True)
def test_a_real_run_over_two_kills_and_a_preemption_is_one_curve(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "job" / "run"
    write_dataset(data, {"train": 3000, "validation": 60, "test": 60})
    tracked = ("--tracking.tracker", "wandb", "--tracking.project", "p", "--epochs", "20")
    environment = offline(tmp_path / "run")
    begin = partial(launch, data, run, *tracked, paths=environment["PYTHONPATH"])
    with patch.dict(os.environ, environment):
        for number, stop in enumerate((kill, kill_trainer, lambda process: process.send_signal(signal.SIGUSR2)), 1):
            process = begin()
            wait_until(lambda n=number: len(list((run / "wandb").glob("*/*.wandb"))) >= n)
            wait_for_step(process, run, steps_done(run) + 60)
            assert process.poll() is None
            stop(process)
        assert process.wait(2 * LIMIT_S) == 85
        assert begin().wait(2 * LIMIT_S) == 0
    log = (tmp_path / "job" / "log").read_text()
    assert "warning" not in log, log
    folders = sorted((run / "wandb").glob("offline-run-*"))
    assert len(folders) == 4
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1
    wanted = logged(run, "step")
    assert wanted == sorted(set(wanted))
    with wandb_server() as store:
        sync(run, store)
        (stored,) = store.runs.values()
        assert stored.history("train/step") == wanted
        for kind in ("validation", "test"):
            assert stored.history(f"{kind}/step") == logged(run, "step", kind)
        assert stored.history("train/loss") == pytest.approx(logged(run, "loss"), rel=1e-9)
        assert sync(run, store)["filled"] == 0


def check_history(stored: StoredRun, expected: range) -> None:
    """The history has every step with its loss, in rows numbered consecutively."""
    logged = stored.history("train/step")
    assert stored.history("_step") == list(range(len(logged)))
    assert logged == list(expected)
    assert stored.history("train/loss") == pytest.approx([1 / step for step in logged], rel=1e-12)


@pytest.mark.slow
def test_online_attempts_append_to_one_curve(data: Path, tmp_path: Path) -> None:
    """One that is killed, one that is preempted, one that ends."""
    run = tmp_path / "run"
    with wandb_server() as store:
        environment = {"HOME": str(tmp_path), **store.environment()}
        words = ("-m", "tests.attempt", run, data, 1, 100_000, "finished")
        doomed = start_python(*words, env={**environment, "PYTHONPATH": patience(tmp_path)})
        wait_until(lambda: any(len(one.history("train/step")) >= 20 for one in list(store.runs.values())))
        doomed.kill()
        for observer in observers_of(run):
            kill_tree(observer.pid)
        doomed.wait(20)
        lines = (run / "metrics.jsonl").read_text().splitlines()
        (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines if line.endswith("}")))
        last = len(read_metrics(run, "train"))
        for state in ("preempted", "finished"):
            attempt(run, data, last + 1, last + 10, state, **environment)
            last += 10
        (stored,) = store.runs.values()
        check_history(stored, range(1, last + 1))
        assert stored.preempting
        assert stored.exit_codes[-2:] == [1, 0]
        assert stored.fields["groupName"] == "dataset-0123456789ab"
        assert json.loads(stored.fields["config"])["optim"]["value"]["lr"] == 2e-3
        assert sync(run, store)["filled"] == 0
        check_history(stored, range(1, last + 1))


@pytest.mark.slow
def test_a_server_that_is_not_there_costs_one_warning_and_the_rows_are_kept(data: Path, tmp_path: Path) -> None:
    nowhere = {"HOME": str(tmp_path), "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": KEY}
    result = succeed(run_module("tests.attempt", tmp_path / "run", data, 1, 20, "finished", **nowhere))
    assert sum(line.startswith("warning:") for line in result.stderr.splitlines()) == 1
    refused = run_module("harness", "wandb-sync", tmp_path / "run", **nowhere)
    assert (refused.returncode, sentence(refused).partition(" (")[0]) == (1, "http://127.0.0.1:9 cannot be reached")
    sync_to_a_new_server(tmp_path / "run", 20)


def sync_to_a_new_server(run: Path, rows: int) -> None:
    """Send all of a run, and check that it arrives."""
    with wandb_server() as store:
        assert sync(run, store)["rows"] == rows
        (stored,) = store.runs.values()
        check_history(stored, range(1, rows + 1))
