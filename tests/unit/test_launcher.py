# SPDX-License-Identifier: Apache-2.0
"""The launcher: its report of ranks that exited, the status, what accelerate is asked for; and what ranks of several
machines compare.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from harness.config import Choice, RunConfig
from harness.distributed import devices
from harness.distributed.world import World
from harness.launch import launcher, many
from harness.launch.launcher import SIGBUS_CAUSE, Failure, Launch, describe_failures
from harness.launch.options import TrainConfig, accelerate_arguments, complete_options
from harness.rundir.records import LAUNCH_ID, Ending, State, read_status, write_status
from harness.training.assembly import check_shared
from harness.training.rules import ResolvedConfig
from padless.core import cli
from padless.core.errors import ConfigError
from tests.helpers.datasets import write_dataset

BUG, ABORTED = "rank 1: KeyError: 'mood'", "rank 0 was killed by SIGABRT"
WAITED = "rank 0 at step 3 waited for the gradients"


BOTH_FAILED = {0: 1, 1: 1}


@pytest.mark.parametrize(
    ("exit_codes", "reasons", "failure"),
    [
        (BOTH_FAILED, [(0, WAITED, True), (1, BUG, False)], Failure(1, BUG, True)),
        ({0: 1, 1: 85}, [(0, WAITED, True)], Failure(1, WAITED, True, True)),
        ({0: 1, 1: -9}, [(0, WAITED, True)], Failure(1, "rank 1 was killed by SIGKILL")),
        (BOTH_FAILED, [(1, "sooner", False), (0, "later", False)], Failure(1, "sooner", True)),
        ({0: -6, 1: 1}, [(1, WAITED, True)], Failure(1, ABORTED)),
        ({0: -15, 1: 3}, [], Failure(3, "rank 1 ended with exit code 3")),
        ({0: 1, 1: -7}, [(0, WAITED, True)], Failure(3, f"rank 1 was killed by SIGBUS: {SIGBUS_CAUSE}")),
    ],
)
def test_the_cause_is_what_a_rank_itself_said_or_that_which_left_first(
    exit_codes: dict[int, int], reasons: list[tuple[int, str, bool]], failure: Failure
) -> None:
    """When a rank dies, NCCL's watchdog aborts the others, often before torch's agent checks."""
    lines = [{"rank": rank, "code": 1, "sentence": sentence, "follows": follows} for rank, sentence, follows in reasons]
    assert describe_failures(exit_codes, lines) == failure


KILLED, ENDED = Failure(1, "rank 1 was killed by SIGKILL"), Failure(1, "rank 0 ended with exit code 1")
LATE = Failure(1, "rank 1 waited for the gradients", is_reported=True, follows=True)


@pytest.mark.parametrize(
    ("state", "code", "failure", "expected", "reason"),
    [
        ("finished", 0, None, 0, WAITED),
        ("failed", 3, ENDED, 3, WAITED),
        ("running", 0, KILLED, 1, KILLED.sentence),
        ("finished", 0, KILLED, 1, KILLED.sentence),
        ("preempted", 85, Failure(1, "the launcher stopped"), 85, WAITED),
        ("failed", 1, Failure(1, BUG, is_reported=True), 1, BUG),
        ("failed", 1, LATE, 1, WAITED),
        ("running", 0, LATE, 1, LATE.sentence),
    ],
)
def test_the_status_has_the_code_and_the_cause(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: State,
    code: int,
    failure: Failure | None,
    expected: int,
    reason: str,
) -> None:
    monkeypatch.setenv(LAUNCH_ID, "of another")
    launch = Launch(ResolvedConfig(RunConfig(run=str(tmp_path)), {}), TrainConfig(), 2)
    write_status(tmp_path, Ending(state, 7, code, WAITED))
    assert launch.conclude(failure) == expected
    assert read_status(tmp_path)["reason"] == reason


def test_a_dry_run_has_no_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCH_ID, "of another")
    config = RunConfig(run=str(tmp_path / "run"), dry_run=True)
    assert Launch(ResolvedConfig(config, {}), TrainConfig(), 2).conclude(None) == 0
    assert list(tmp_path.iterdir()) == []


def test_without_any_rank_the_status_says_why_but_of_a_run_that_has_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LAUNCH_ID, "of another")
    options = TrainConfig(num_machines=2, main_process_ip="n1", main_process_port=5)
    for state, expected in (("finished", "finished"), ("failed", "failed")):
        write_status(tmp_path, Ending(state, 9))  # type: ignore[arg-type]
        launch = Launch(ResolvedConfig(RunConfig(run=str(tmp_path), timeout_s=30), {}), options, 2)
        assert launch.conclude(launch.describe_error(TimeoutError("1/2 clients joined"))) == 1
        assert state != "finished" or launch.conclude(None) == 0
        status = read_status(tmp_path)
        assert (status["state"], status["step"]) == (expected, 9)
    sentence = (
        "machine 0 of 2: the machines did not meet at n1:5 within 30 s (1/2 clients joined); start the same command"
    )
    assert status["reason"].startswith(sentence)


def test_options_of_several_machines() -> None:
    def parse_arguments(words: str) -> Any:
        options = complete_options(cli.parse(TrainConfig, words.split(), prog="train"))
        return accelerate_arguments(options, options.num_processes or 1, [])

    two = "--num_machines 2 --main_process_ip n1 --main_process_port 5"
    options = parse_arguments(f"{two} --num_processes 4 --machine_rank 1")
    assert (options.rdzv_conf, options.machine_rank, options.multi_gpu) == ("timeout=600", 1, True)
    with pytest.raises(ConfigError, match="2 machines are counted from 0 to 1"):
        parse_arguments(f"{two} --num_processes 2 --machine_rank 2")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", (2, "the reason")),
        ("--num_processes 1", (1, None)),
        ("--threads 2", (1, None)),
        ("--config_file cpu", (2, None)),
    ],
)
def test_cores_get_processes_where_the_user_left_their_number_open(
    words: str, expected: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "data", {"train": 20, "validation": 10})
    launches = list[tuple[Any, ...]]()

    def record_launch(launch: Launch) -> int:
        launches.append((launch.num_processes, launch.resolved.processes))
        return 0

    monkeypatch.setattr(Launch, "run", record_launch)
    monkeypatch.setattr(launcher, "processes_on_cores", lambda config, cores: Choice("2", "the reason"))
    monkeypatch.delenv(devices.OMP, raising=False)
    monkeypatch.setenv(LAUNCH_ID, "of another")
    keys = f"--data {tmp_path}/data --run {tmp_path}/run --device cpu --quiet {words}"
    assert many.main(cli.parse(TrainConfig, keys.split(), prog="train")) == 0
    assert launches == [expected]


class OnAnotherMachine(World):
    """A second rank, to which rank 0 names a file that is not there."""

    def gather_objects(self, value: Any, what: str) -> list[Any]:
        return [Path(os.environ["ELSEWHERE"]) if "file" in what else value]


def test_all_machines_see_the_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / ".seen-there"))
    for run in (tmp_path, tmp_path / "absent"):
        check_shared(str(run), World())
    assert list(tmp_path.iterdir()) == []
    started_s = time.monotonic()
    with pytest.raises(ConfigError, match=rf"run: {tmp_path} on .* is not the directory that rank 0 writes to"):
        check_shared(str(tmp_path), OnAnotherMachine(rank=1, timeout_s=1))
    assert time.monotonic() - started_s < 60
