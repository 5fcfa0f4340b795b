# SPDX-License-Identifier: Apache-2.0
"""Run a function on N real processes joined over gloo, with a hard limit: what distributed tests are made of."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 150


def run_ranks(
    function: Callable[..., Any], world_size: int, *arguments: Any, timeout_s: float = TIMEOUT_S
) -> list[Any]:
    """``function(*arguments)`` on ``world_size`` spawned ranks; what each returns, in rank order.

    ``function`` is importable and its values picklable. All ranks are killed when one fails or the time is up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(world_size):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_rank_main, args=(rank, world_size, port, sender, function, arguments))
        process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    try:
        results = []
        for rank, pipe in enumerate(pipes):
            if not pipe.poll(timeout_s):
                raise TimeoutError(f"rank {rank} of {world_size} said nothing for {timeout_s} s")
            succeeded, value = pipe.recv()
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


def _rank_main(rank: int, world_size: int, port: int, sender: Any, function: Any, arguments: tuple) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    try:
        sender.send((True, function(*arguments)))
    except BaseException:
        sender.send((False, traceback.format_exc()))
