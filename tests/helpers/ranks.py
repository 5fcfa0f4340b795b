# SPDX-License-Identifier: Apache-2.0
"""Run a function on N real processes joined over gloo, with a hard limit: what distributed tests are made of.

Ranks are forked from a server that has imported torch once and computed nothing, so a rank starts in milliseconds
and not in the seconds that an interpreter with torch takes. Each is a process of its own that nothing has run in.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any

import pytest

from tests.helpers.commands import ROOT

TIMEOUT_S = 150
PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that the kernel sends when the parent dies."""
PRELOADED = ["torch", "torch._dynamo", "accelerate", "pandas", "scipy.stats", "sklearn.metrics", "matplotlib.figure"]
PRELOADED += ["harness.train", "harness.inference.evaluation", "harness.training.run", "tests.helpers.runs"]
"""What ranks find imported; a module that is not there costs time, nothing else."""


@dataclass(frozen=True)
class RankExit:
    """The result of a rank that ended without reporting one: its exit code, or the negative number of a signal."""

    exit_code: int | None


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    *arguments: Any,
    timeout_s: float = TIMEOUT_S,
    may_die: bool = False,
) -> list[Any]:
    """``function(*arguments)`` on ``world_size`` new ranks; what each returns, in rank order.

    ``function`` is importable and its values picklable. All ranks are killed when one fails or the time is up. With
    ``may_die``, a rank that ends without a result is no failure, and its value is ``RankExit``.
    """
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(world_size)]
    processes = start_ranks(_send_result, world_size, [sender for _, sender in pipes], function, arguments)
    for _, sender in pipes:
        sender.close()
    try:
        results = []
        for rank, (pipe, _) in enumerate(pipes):
            if not pipe.poll(timeout_s):
                raise TimeoutError(f"rank {rank} of {world_size} said nothing for {timeout_s} s")
            try:
                succeeded, value = pipe.recv()
            except EOFError:
                processes[rank].join(timeout_s)
                succeeded, value = may_die, RankExit(processes[rank].exitcode)
            if not succeeded:
                raise AssertionError(f"rank {rank} of {world_size} failed:\n{value}")
            results.append(value)
        for process in processes:
            process.join(timeout_s)
        return results
    finally:
        for process in processes:
            process.kill()
            process.join()


def start_ranks(function: Callable[..., None], world_size: int, *arguments: Any) -> list[Any]:
    """The processes of ``world_size`` new ranks, each in ``function(*arguments)``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")  # read when torch is loaded, which is there and not in the rank
        forkserver.ensure_running()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(world_size):
        environment = {**os.environ, **rank_environment(rank, world_size, port)}
        processes.append(context.Process(target=_rank_main, args=(environment, function, arguments), daemon=True))
        processes[-1].start()
    return processes


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """The variables that a launcher on one machine sets for a rank; none for a single rank."""
    if world_size == 1:
        return {}
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def _rank_main(environment: dict[str, str], function: Callable[..., None], arguments: tuple) -> None:
    if sys.platform == "linux":  # no rank outlives a test process that was killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.clear()
    os.environ.update(environment)
    # One thread: those of a tiny network only wait for each other.
    os.sched_getaffinity = lambda _: {0}  # type: ignore[assignment]
    function(*arguments)


def _send_result(senders: list[Any], function: Callable[..., Any], arguments: tuple) -> None:
    sender = senders[int(os.environ.get("RANK", "0"))]
    for peer_sender in senders:
        if peer_sender is not sender:
            peer_sender.close()
    try:
        sender.send((True, function(*arguments)))
    except BaseException:
        sender.send((False, traceback.format_exc()))
