# SPDX-License-Identifier: Apache-2.0
"""The only module with collectives: sums, gathers, agreement between ranks, the start-up handshake (law 7).

Small control messages go over a gloo group of their own, so they never wait for a GPU. Every wait has a limit, and the
error names what was waited for.
"""

from __future__ import annotations

import os
import platform
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from harness.distributed.stopping import HEARTBEAT
from padless.core.atomic import as_storage_error
from padless.core.errors import ConfigError, UserError
from padless.core.untrusted import one_line

Value = TypeVar("Value")
GLOO = "GLOO_SOCKET_IFNAME"
"""Environment variable: the network interface that gloo uses."""
GLOO_LOST = re.compile("gloo|connection|socket|timed out waiting|pair closure")
"""Matches gloo's messages of a broken collective, and hardly any other error."""
NCCL_LOST = re.compile("remote|time ?out|timed out|timing out|abort")
"""The same for NCCL, whose other messages report that this rank's device failed, or that a call was wrong."""
LEAVE_LIMIT_S = 60.0
"""Longest wait at a normal end for ranks that are still busy, such as rank 0 with the report."""


class RankError(UserError):
    """Ranks could not go on together: one is missing, or they were not started alike."""

    exit_code = 1


class LostPeerError(RankError):
    """Another rank is gone or silent; that one may report why."""

    follows = True


@dataclass(frozen=True)
class World:
    """The ranks that train together. ``control`` is the gloo group for small messages, None for one process."""

    rank: int = 0
    world_size: int = 1
    control: Any = None
    timeout_s: int = 600

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    @contextmanager
    def watch_wait(self, awaited: str) -> Iterator[None]:
        """Name a collective: if a peer is gone or late, the error names ``awaited``.

        The block may compute too, like a backward pass that sends gradients; its own errors pass through.
        """
        if self.world_size == 1:
            yield
            return
        try:
            with HEARTBEAT.watch_wait(f"{awaited} from {self.world_size - 1} other ranks"):
                yield
        except RuntimeError as error:
            message = " ".join(str(error).split())
            start = message[:300].lower()
            if not (NCCL_LOST if "nccl" in start else GLOO_LOST).search(start):
                raise
            # torch's message without its source line and its advice.
            reason = re.sub(r"\[\S+\.cc:\d+\] ", "", message).partition(". This is typically")[0][:200]
            raise LostPeerError(
                f"rank {self.rank} at step {HEARTBEAT.step} waited for {awaited} from {self.world_size - 1} other "
                f"ranks, and at least one of them is gone or took longer than {self.timeout_s} s ({reason})"
            ) from error

    def gather_objects(self, value: Value, awaited: str) -> list[Value]:
        """``value`` of every rank, in rank order, on every rank. Small and picklable."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with self.watch_wait(awaited):
            dist.all_gather_object(values, value, group=self.control)
        return values

    def broadcast_from_main(self, value: Value, awaited: str) -> Value:
        """``value`` of rank 0, on every rank. Small and picklable; the others' values are ignored."""
        return self.gather_objects(value if self.is_main else None, awaited)[0]  # type: ignore[return-value]

    def gather_on_main(self, columns: Sequence[np.ndarray], awaited: str) -> list[list[np.ndarray]]:
        """The ``columns``, arrays of numbers, of every rank that has some, in rank order, on rank 0; none on others."""
        if self.world_size == 1:
            return [[*columns]]
        received: list[Any] | None = [None] * self.world_size if self.is_main else None
        with self.watch_wait(awaited):
            dist.gather_object([*columns], received, dst=0, group=self.control)
        return [columns_of_rank for columns_of_rank in received or [] if columns_of_rank]

    def start_maximum(self, numbers: np.ndarray, awaited: str) -> Callable[[], np.ndarray]:
        """Start the maximum over ranks of ``numbers`` int64 ``[n]``, on the control group, and go on at once.

        What it returns waits for the slowest rank, within the time limit, and gives the maxima, ``[n]``. Every rank
        starts and reads these in the same order.
        """
        maxima = torch.from_numpy(numbers.astype(np.int64))
        if self.world_size == 1:
            return maxima.numpy
        with self.watch_wait(awaited):
            work = dist.all_reduce(maxima, dist.ReduceOp.MAX, group=self.control, async_op=True)
        assert work is not None
        HEARTBEAT.has_lost_peer = partial(has_failed, work.get_future())

        def read() -> np.ndarray:
            with self.watch_wait(awaited):
                work.wait()
            return maxima.numpy()

        return read

    def broadcast_on_device(self, numbers: torch.Tensor, awaited: str) -> None:
        """Overwrite ``numbers`` by those of rank 0, on the path that gradients take: NCCL between GPUs, gloo between
        CPUs.
        """
        if self.world_size > 1:
            with self.watch_wait(awaited):
                dist.broadcast(numbers, src=0)

    @contextmanager
    def raise_together(self, awaited: str) -> Iterator[None]:
        """Run a block without collectives on every rank; if it fails on one, all raise.

        All ranks raise the first rank's ``UserError``; a failure to write becomes one. Any other exception is raised by
        its own rank, and the others raise a ``RankError`` that names it. So ranks agree before they leave: the launcher
        kills none half-way, and none waits for one that is gone.
        """
        error: UserError | None = None
        bug: Exception | None = None
        try:
            yield
        except UserError as caught:
            error = caught
        except Exception as caught:
            error = as_storage_error(caught) if isinstance(caught, OSError) else None
            if error is None:
                reason = " ".join(str(caught).split())[:300]
                bug, error = caught, RankError(f"rank {self.rank}: {type(caught).__name__}: {reason}")
        errors = self.gather_objects(error, f"the end of {awaited}")
        raised = bug or next((item for item in errors if item is not None), None)
        if raised is not None:
            raised.agreed = True  # type: ignore[attr-defined]
            raise raised

    def handshake(self, facts: dict[str, str]) -> None:
        """Check that every rank was started alike: same configuration, dataset and versions."""
        facts_by_rank = self.gather_objects(facts, "the start-up handshake")
        with self.raise_together("the start-up handshake"):
            for name, value in facts_by_rank[0].items():
                for rank, rank_facts in enumerate(facts_by_rank):
                    if rank_facts[name] != value:
                        raise ConfigError(
                            f"rank {rank} has {name} {rank_facts[name]}, rank 0 has {value}: start all ranks alike"
                        )


def has_failed(message: torch.futures.Future[Any]) -> bool:
    """Whether a message between ranks has ended with an error; does not wait."""
    if message.done():
        try:
            message.value()
        except RuntimeError:
            return True
    return False


@contextmanager
def joining(timeout_s: int) -> Iterator[None]:
    """In this block this rank joins the others; torch's error for a missing rank becomes a ``RankError``."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if read_world_size() == 1:
            raise
        address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        raise RankError(
            f"rank {os.environ.get('RANK', '0')} of {read_world_size()} on {platform.node()} did not join the "
            f"others through {address} within {timeout_s} s ({one_line(error)}); check that all machines "
            f"reach each other, and {GLOO}, here {os.environ.get(GLOO, 'not set')}"
        ) from error


def connect(timeout_s: int) -> World:
    """The world of the existing process group, or a world of one if there is none."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return World(timeout_s=timeout_s)
    control = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
    return World(dist.get_rank(), dist.get_world_size(), control, timeout_s)


def disconnect() -> None:
    """Leave the process group; safe to call twice, or without one. NCCL waits here until every rank does the same."""
    if dist.is_available() and dist.is_initialized():
        leaving = threading.Thread(target=dist.destroy_process_group, name="padless-leaving", daemon=True)
        leaving.start()
        leaving.join(LEAVE_LIMIT_S)


def read_world_size() -> int:
    """How many processes the launcher starts on all machines together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def read_local_rank() -> int:
    """The number of this process among those that the launcher started on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def read_local_world_size() -> int:
    """How many processes the launcher started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def count_machines() -> int:
    """On how many machines the launcher starts processes; 1 if it does not say."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))
