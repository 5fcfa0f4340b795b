# SPDX-License-Identifier: Apache-2.0
"""A peer that is silent, stopped or gone: the others leave with a sentence that names the step and the wait."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harness.ranks import heartbeat
from harness.ranks.distributed import LostPeerError, World, error_of
from harness.ranks.heartbeat import Heartbeat
from tests.ranks import start_ranks

BROKEN = (
    "[/src/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]:6046: Connection reset by peer. This "
    "is typically caused by a remote worker hanging or bugs in the application. Check it"
)
LEFT = "another rank is gone or stands still"


def test_what_torch_says_of_a_peer_that_is_gone_is_said_in_short() -> None:
    said = r"gone or took longer than 9 s \(Read error \[10\.0\.0\.2\]:6046: Connection reset by peer\)$"
    with pytest.raises(LostPeerError, match=said), World(1, 2, None, 9).waiting("an answer"):
        raise RuntimeError(BROKEN)
    with pytest.raises(RuntimeError, match=r"^shapes do not fit$"), World(1, 2, None, 9).waiting("an answer"):
        raise RuntimeError("shapes do not fit")


NCCL = "NCCL error in: /src/NCCLUtils.cpp:77, {} (run with NCCL_DEBUG=WARN for details), NCCL version 2.27.3 {}"


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        (NCCL.format("remote process exited or there was a network error", "ncclRemoteError: A call failed"), True),
        ("[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7) ran for 600000 milliseconds", True),
        ("NCCL communicator was aborted on rank 0.", True),
        (NCCL.format("unhandled cuda error", "ncclUnhandledCudaError: Call to CUDA function failed."), False),
        (NCCL.format("invalid usage", "ncclInvalidUsage: Duplicate GPU detected : rank 1 and rank 0"), False),
        (NCCL.format("unhandled system error", "ncclSystemError: System call (e.g. socket, malloc) failed"), False),
        ("CUDA error: an illegal memory access was encountered", False),
        ("Connection closed by peer [10.0.0.2]:4021", True),
    ],
)
def test_which_errors_of_a_collective_mean_that_another_rank_is_gone(said: str, lost: bool) -> None:
    with pytest.raises(LostPeerError if lost else RuntimeError), World(1, 2, None, 9).waiting("an answer"):
        raise RuntimeError(said)


class Group:
    """A process group with a backend that ``cannot`` be asked for its error, as gloo's, and one that can, as NCCL's."""

    _device_types = ("cpu", "cuda")

    def __init__(self, error: str, cannot: object) -> None:
        self.error, self.cannot = error, cannot

    def _get_backend(self, device: str) -> object:
        return SimpleNamespace(get_error=self._asked) if device == "cuda" else self.cannot

    def _asked(self) -> object:
        return SimpleNamespace(name=self.error)


def refuse() -> None:
    """What some builds of torch have in the place of a method that is not there."""
    raise RuntimeError("Backend gloo does not support getError")


@pytest.mark.parametrize("cannot", [object(), SimpleNamespace(get_error=refuse)])
@pytest.mark.parametrize(
    ("error", "cause", "follows"),
    [
        ("SUCCESS", None, None),
        ("REMOTE_ERROR", "another rank is gone or has failed", True),
        ("TIMEOUT", "another rank is gone or has failed", True),
        ("COMM_ERROR", "another rank is gone, or the device here failed", False),
    ],
)
def test_a_broken_process_group_is_a_sentence(
    error: str, cause: str | None, follows: bool | None, cannot: object
) -> None:
    beat = Heartbeat()
    beat.step, beat.group_error = 12, partial(error_of, Group(error, cannot))
    with beat.waiting("the gradients of step 12 from 3 other ranks"):
        found = beat.broken()
    if cause is None:
        assert found is None
        return
    waited = "rank 0 at step 12 waited for the gradients of step 12 from 3 other ranks"
    assert found == (f"{waited}: {cause} (the process group says {error})", follows)
    assert beat.broken() == (f"rank 0 at step 12: {cause} (the process group says {error})", follows)


def test_only_the_innermost_wait_is_judged() -> None:
    beat = Heartbeat()
    beat._limit_s, beat.step = 5.0, 12
    now = time.monotonic()
    assert beat.overdue(now) is None
    with beat.waiting("gradients from 3 other ranks"), beat.waiting("an answer from 3 other ranks"):
        late = now + 5 + heartbeat.MARGIN_S + 1
        assert beat.overdue(late - 2) is None
        assert "at step 12 waited 16 s for an answer from 3 other ranks" in str(beat.overdue(late))
        beat.stop_asked()
        assert beat.overdue(now + heartbeat.STOP_LIMIT_S - 35) is None
        beat._limit_s = 600.0
        assert beat.overdue(now + heartbeat.STOP_LIMIT_S + 1) is None, "before training a stop may take its time"
        beat.in_loop = True
        assert "was told to stop at step 12 and waited 45 s" in str(beat.overdue(now + heartbeat.STOP_LIMIT_S + 1))
    assert beat.overdue(late) is None


def rank_main(way: str, said: Path) -> None:
    """Rank 0 waits in a collective for rank 1, which never comes."""
    rank = int(os.environ["RANK"])
    from harness.ranks import preemption
    from harness.ranks.heartbeat import HEARTBEAT
    from harness.ranks.session import open_session

    os.dup2(os.open(said / f"rank{rank}", os.O_CREAT | os.O_WRONLY), 2)
    heartbeat.STOP_LIMIT_S, heartbeat.MARGIN_S = 1.5, 0.5
    preemption.install()
    with open_session("cpu", "fp32", 600) as session:
        session.world.gather_numbers(np.zeros(1), "the start")
        if rank == 1:
            (said / "ready").touch()
            time.sleep(60)
        HEARTBEAT.step, HEARTBEAT.in_loop = 7, True
        HEARTBEAT.last_words = (said / "status").write_text
        if way == "group":  # as NCCL's watchdog finds it; gloo cannot be asked
            HEARTBEAT.group_error = lambda: "REMOTE_ERROR"
        elif way == "signal":
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        else:
            HEARTBEAT.start(1.0)  # as under NCCL, where the collective itself says nothing
        session.world.gather_numbers(np.zeros(1), "the gradients of step 7")


@pytest.mark.processes
@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        ("signal", "rank 0 was told to stop at step 7 and waited 2 s for the gradients of step 7 from 1 other ranks"),
        ("group", "rank 0 at step 7 waited for the gradients of step 7 from 1 other ranks"),
        pytest.param(
            *("limit", "rank 0 at step 7 waited 2 s for the gradients of step 7 from 1 other ranks"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_silent_peer_inside_a_collective(tmp_path: Path, way: str, sentence: str) -> None:
    ranks = start_ranks(rank_main, 2, way, tmp_path)
    try:
        ranks[0].join(60)
        assert ranks[0].exitcode == 1
        assert (tmp_path / "ready").exists()
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
    said = (tmp_path / "rank0").read_text()
    left = "another rank is gone or has failed (the process group says REMOTE_ERROR)" if way == "group" else LEFT
    assert f"error: {sentence}: {left}" in said
    assert (tmp_path / "status").read_text() == f"{sentence}: {left}"
