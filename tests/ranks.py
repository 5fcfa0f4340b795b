# SPDX-License-Identifier: Apache-2.0
"""Run a function on N real processes joined over gloo, with a hard limit: what distributed tests are made of.

Ranks are forked from a server that has imported torch once and computed nothing, so a rank starts in milliseconds
instead of the seconds that an interpreter with torch takes. Each is a process of its own that nothing has run in.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 150
PRELOADED = ["torch", "accelerate", "pandas", "sklearn.metrics", "harness.training.run", "harness.evaluate"]
"""What ranks find imported; a module that is not there costs time, nothing else."""
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Gone:
    """What a rank leaves that ended without a word: its exit code, or the negative number of a signal."""

    exit_code: int | None


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    *arguments: Any,
    timeout_s: float = TIMEOUT_S,
    may_die: bool = False,
) -> list[Any]:
    """``function(*arguments)`` on ``world_size`` new ranks; what each returns, in rank order.

    ``function`` is importable and its values picklable. All ranks are killed when one fails or the time is up.
    With ``may_die``, a rank that ends without a word is no failure, and its value is ``Gone``.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = start_server()
    pipes, processes = [], []
    for rank in range(world_size):
        receiver, sender = context.Pipe(duplex=False)
        environment = {**os.environ, **rank_environment(rank, world_size, port)}
        process = context.Process(target=_rank_main, args=(environment, sender, function, arguments))
        process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    try:
        results = []
        for rank, pipe in enumerate(pipes):
            if not pipe.poll(timeout_s):
                raise TimeoutError(f"rank {rank} of {world_size} said nothing for {timeout_s} s")
            try:
                succeeded, value = pipe.recv()
            except EOFError:
                processes[rank].join(timeout_s)
                succeeded, value = may_die, Gone(processes[rank].exitcode)
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


def start_server() -> Any:
    """The context whose processes are forked from a server of this test process, which is started if need be."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")  # read when torch is loaded, which is there and not in the rank
        forkserver.ensure_running()
    return context


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What a launcher tells a rank, on one machine; one that is alone is told nothing."""
    if world_size == 1:
        return {}
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _rank_main(environment: dict[str, str], sender: Any, function: Any, arguments: tuple) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.sched_getaffinity = lambda _: {0}  # one thread: those of a tiny network only wait for each other
    try:
        sender.send((True, function(*arguments)))
    except BaseException:
        sender.send((False, traceback.format_exc()))
