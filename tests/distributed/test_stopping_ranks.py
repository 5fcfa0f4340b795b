# SPDX-License-Identifier: Apache-2.0
"""How a rank stops: a peer that is silent or gone becomes a sentence with the step and the wait; an error is said once,
by a rank that is alive to say it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from harness.distributed import stopping
from harness.distributed.session import open_session
from harness.distributed.stopping import HEARTBEAT, REASONS, read_reasons
from harness.distributed.world import LostPeerError, World
from padless.core.errors import ConfigError, DataError
from padless.core.signals import STOP, listen_in_rank
from tests.helpers.ranks import start_ranks

PEER_IS_GONE = "another rank has ended or does not respond"


NCCL = "NCCL error in: /src/NCCLUtils.cpp:77, {} (run with NCCL_DEBUG=WARN for details), NCCL version 2.27.3 {}"


@pytest.mark.parametrize(
    ("message", "is_peer_lost"),
    [
        (NCCL.format("remote process exited or there was a network error", "ncclRemoteError: A call failed"), True),
        ("[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7) ran for 600000 milliseconds", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("[/gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]:6046: Connection reset by peer. This is typ", True),
    ],
)
def test_which_errors_of_a_collective_mean_that_another_rank_is_gone(message: str, is_peer_lost: bool) -> None:
    with (
        pytest.raises(LostPeerError if is_peer_lost else RuntimeError) as caught,
        World(1, 2, None, 9).watch_wait("an answer"),
    ):
        raise RuntimeError(message)
    assert isinstance(caught.value, LostPeerError) == is_peer_lost


def rank_main(way: str, folder: Path) -> None:
    """Rank 0 waits in a collective for rank 1, which never comes."""
    rank = int(os.environ["RANK"])
    os.dup2(os.open(folder / f"rank{rank}", os.O_CREAT | os.O_WRONLY), 2)
    stopping.STOP_LIMIT_S, stopping.MARGIN_S = 1.5, 0.5
    STOP.must_save = True
    listen_in_rank()
    with open_session("cpu", "fp32", 600) as session:
        session.world.gather_objects(0, "the start")
        if rank == 1:
            (folder / "ready").touch()
            time.sleep(60)
        HEARTBEAT.step = 7
        HEARTBEAT.last_words = (folder / "status").write_text
        if way == "signal":
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        else:
            HEARTBEAT.start(1.0)  # as under NCCL, where the collective itself says nothing
        session.world.gather_objects(0, "the gradients of step 7")


@pytest.mark.processes
@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        ("signal", "rank 0 had a stop request at step 7 and waited 2 s for the gradients of step 7 from 1 other ranks"),
        pytest.param(
            *("limit", "rank 0 at step 7 waited 2 s for the gradients of step 7 from 1 other ranks"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_silent_peer_inside_a_collective(tmp_path: Path, way: str, sentence: str) -> None:
    ranks = start_ranks(rank_main, 2, way, tmp_path)
    ranks[0].join(60)
    assert ranks[0].exitcode == 1
    assert (tmp_path / "ready").exists()
    stderr = (tmp_path / "rank0").read_text()
    assert f"error: {sentence}: {PEER_IS_GONE}" in stderr
    assert (tmp_path / "status").read_text() == f"{sentence}: {PEER_IS_GONE}"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(REASONS, str(tmp_path / "reasons"))
    return tmp_path / "reasons"


def mark_agreed(error: Exception) -> Exception:
    error.agreed = True  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("rank", "local_rank", "error", "code", "stderr", "word"),
    [
        (0, 0, mark_agreed(DataError("rows are missing")), 3, "error: rows are missing\n", "rows are missing"),
        (1, 1, mark_agreed(DataError("rows are missing")), 0, "", None),
        (1, 1, ConfigError("no such key"), 2, "error: no such key\n", "no such key"),
        (1, 1, KeyError("mood"), 1, "KeyError: 'mood'\n", "rank 1: KeyError: 'mood'"),
    ],
)
def test_who_speaks(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: int,
    local_rank: int,
    error: Exception,
    code: int,
    stderr: str,
    word: str | None,
) -> None:
    """An error that all have is said by the first rank of each machine; the traceback of a bug is printed."""
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    monkeypatch.setattr(stopping, "GRACE_S", 0.0)

    def main(_: list[str]) -> int:
        raise error

    assert stopping.run_rank(main) == code
    assert capsys.readouterr().err.endswith(stderr)
    assert [line["sentence"] for line in read_reasons(file)] == ([word] if word else [])
