# SPDX-License-Identifier: Apache-2.0
"""The launcher: accelerate's options, its report of ranks that exited, the status, and its cleanup."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.config import RunConfig
from harness.launch import launcher
from harness.launch.launcher import LOST_PAGES, Failure, describe_failure
from harness.launch.options import accelerate_arguments, split_arguments
from harness.ranks import devices
from harness.rundir.records import LAUNCH_ID, Ending, read_status, write_status


def fell(**ranks: tuple[int, float, str, bool]) -> Failure:
    """The launcher's report of ranks with these exit codes, times and last words, which may follow others."""
    error = RuntimeError()
    error.failures = {}
    for rank, (code, second, message, follows) in ranks.items():
        words = {"message": message, "timestamp": second, "follows": follows} if message else {}
        facts = SimpleNamespace(timestamp=int(second), exitcode=code, error_file_data=words)
        error.failures[int(rank[1:])] = facts
    return describe_failure(error)


BUG, ABORTED = "rank 1: KeyError: 'mood'", "rank 0 was killed by SIGABRT"
WAITED = "rank 0 at step 3 waited for the gradients"


@pytest.mark.parametrize(
    ("zero", "one", "sentence", "follows"),
    [
        ((1, 5.1, WAITED, True), (1, 5.9, BUG, False), BUG, False),
        ((1, 5.1, WAITED, True), (-15, 5.0, "", False), WAITED, True),
        ((1, 5.1, WAITED, True), (-9, 5.0, "", False), "rank 1 was killed by SIGKILL", False),
        ((1, 5.9, "later", False), (1, 5.2, "sooner", False), "sooner", False),
        ((-6, 5.0, "", False), (1, 5.9, "", False), "rank 1 ended with exit code 1", False),
        ((-6, 5.9, "", False), (1, 5.1, "rank 1 waited for the gradients", True), ABORTED, False),
    ],
)
def test_the_cause_is_what_a_rank_itself_said_or_that_which_left_first(
    zero: tuple[int, float, str, bool], one: tuple[int, float, str, bool], sentence: str, follows: bool
) -> None:
    """When a rank dies, NCCL's watchdog aborts the others, often before torch's agent checks."""
    found = fell(r0=zero, r1=one)
    assert (found.code, found.sentence, found.follows) == (1, sentence, follows)


def test_a_rank_of_another_code_and_one_that_lost_pages_end_with_3() -> None:
    terminated = (-15, 5.0, "", False)
    assert fell(r0=terminated, r1=(3, 5.0, "", False)) == Failure(3, "rank 1 ended with exit code 3", said=True)
    assert fell(r0=(-7, 5.0, "", False), r1=terminated) == Failure(3, f"rank 0 was killed by SIGBUS: {LOST_PAGES}")


def test_the_status_has_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCH_ID, "mine")

    def reason(failure: Failure) -> str:
        write_status(tmp_path, Ending("failed", 7, 1, "rank 0 waited for the gradients"))
        assert launcher.outcome(tmp_path, "mine", failure) == 1
        return str((read_status(tmp_path) or {})["reason"])

    assert reason(Failure(1, BUG, said=True)) == BUG
    late = Failure(1, "rank 1 waited for the gradients", said=True, follows=True)
    assert reason(late) == "rank 0 waited for the gradients"
    write_status(tmp_path, Ending("running", 7))
    assert launcher.outcome(tmp_path, "mine", late) == 1
    assert (read_status(tmp_path) or {})["reason"] == "rank 1 waited for the gradients"


@pytest.mark.parametrize(
    ("words", "several"),
    [
        ("--cpu --num_processes=2", True),
        ("--cpu --num_processes 2 --config_file cpu", True),
        ("--cpu", False),
    ],
)
def test_cpu_stands_for_several_processes_too(words: str, several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (devices.DEVICES, devices.THREADS):
        monkeypatch.setenv(name, "")
    given = accelerate_arguments(split_arguments(words.split(), RunConfig)[0], [])
    assert (given.multi_gpu, given.cpu, devices.asked_here()[0]) == (several, False, "cpu")
