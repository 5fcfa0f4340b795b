# SPDX-License-Identifier: Apache-2.0
"""A peer that is silent, stopped or gone: the others leave with a sentence that names the step and the wait."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from harness.ranks import heartbeat
from harness.ranks.distributed import LostPeerError, World
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
        if way == "signal":
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
    assert f"error: {sentence}: {LEFT}" in said
    assert (tmp_path / "status").read_text() == f"{sentence}: {LEFT}"
