# SPDX-License-Identifier: Apache-2.0
"""The launchers of several machines meet before any rank starts, at the address and port where the ranks will.

Machine 0 opens a ``TCPStore`` of torch; the others write there that they have come, and all get the same answer. So
every machine reports a missing machine or a taken port within the time limit. Whether all have the same configuration,
dataset and code is compared by the ranks.
"""

from __future__ import annotations

import gc
import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from harness.config import RunConfig
from harness.launch.stop import STOP
from harness.ranks import network
from harness.rundir import records
from harness.rundir.records import LAUNCH_ID
from preprocessing.base.errors import ConfigError, UserError

LOOK_EVERY_S = 0.1
TALK = timedelta(seconds=5)
"""How long the others may take to read the answer; and how much longer they wait for it than machine 0 for them."""
LAUNCH, REFUSAL = "launch", "refusal"
"""Keys of machine 0's answer."""

Say = Callable[[str], None]
Answer = tuple[str, str]
"""The name of this start, and why it is refused, or ""."""


@dataclass(frozen=True)
class Place:
    """Where the machines meet, and which of them this one is."""

    host: str
    port: int
    rank: int
    machines: int

    def __str__(self) -> str:
        return f"machine {self.rank} of {self.machines}"

    @property
    def where(self) -> str:
        """Address and port."""
        return f"{self.host}:{self.port}"


def place_of(arguments: Any) -> Place | None:
    """Where the launchers meet, and which this is; None for one machine.

    Raises ``ConfigError`` for options that do not fit several machines.
    """
    machines, processes, rank = arguments.num_machines, arguments.num_processes, arguments.machine_rank or 0
    if machines == 1:
        return None
    if not arguments.main_process_ip or arguments.main_process_port is None:
        raise ConfigError(
            f"{machines} machines meet at an address: give --main_process_ip and --main_process_port, the same on each"
        )
    if processes % machines:
        raise ConfigError(
            f"--num_processes {processes}: counts the processes of all {machines} machines, as many on each; give a "
            f"multiple of {machines}"
        )
    if not 0 <= rank < machines:
        raise ConfigError(f"--machine_rank {rank}: {machines} machines are counted from 0 to {machines - 1}")
    return Place(arguments.main_process_ip, int(arguments.main_process_port), rank, machines)


def name_network(place: Place, say: Say) -> None:
    """Set the interface by which ranks reach the other machines, and print it. Raises ``ConfigError``."""
    say(f"network interface {network.name_interface(place.host, place.port)} leads to the other machines")


def name_start(place: Place | None, config: RunConfig, say: Say, launch: str, attempt: int) -> str:
    """Name the first start of the ranks, or another attempt, in their environment; several machines meet for each.

    Raises ``UserError``, the same on each machine. Other machines notice a lost rank only within ``timeout_s``, so
    before another attempt the wait is twice as long.
    """
    name = os.environ[LAUNCH_ID] = f"{launch}-{attempt}" if attempt else launch
    if place is None:
        return name
    gc.collect()  # torch's objects of a failed attempt may hold the port
    STOP.between()
    try:
        name = os.environ[LAUNCH_ID] = meet(place, name, config.timeout_s * (2 if attempt else 1), say)
    except UserError as error:
        if place.rank == 0:
            note_end(config, str(error), error.exit_code)
        raise
    return name


def note_end(config: RunConfig, reason: str, exit_code: int) -> None:
    """Write to the run directory why no rank started, unless another process holds it or its run has finished."""
    if config.dry_run:
        return
    with suppress(UserError), records.claim(config):
        status = records.read_status(config.run)
        if status.get("state") != "finished" and status.get("launch") != os.environ.get(LAUNCH_ID):
            records.write_status(config.run, records.Ending("failed", status.get("step", 0), exit_code, reason))


def meet(place: Place, launch: str, timeout_s: float, say: Say) -> str:
    """Meet the other machines; returns the name that machine 0 gives this start (its ``launch``).

    Raises ``UserError`` for a missing machine, the same on all that have come, and for a taken port.
    """
    others = "machine 0" if place.rank else f"the other {place.machines - 1}"
    say(f"{place}, {platform.node()}: waits up to {timeout_s:.0f} s for {others} at {place.where}")
    name, refusal = ask(place, timeout_s) if place.rank else receive(place, launch, timeout_s)
    if refusal:
        raise UserError(refusal)
    return name


def open_store(place: Place) -> Any:
    """The store at the place of the meeting, which machine 0 opens. Raises ``RuntimeError``."""
    from torch.distributed import TCPStore

    return TCPStore(place.host, place.port, is_master=place.rank == 0, timeout=TALK, wait_for_workers=False)


def receive(place: Place, launch: str, timeout_s: float) -> Answer:
    """On machine 0: wait for all others, and answer. Raises ``ConfigError`` for a taken port."""
    try:
        store = open_store(place)
    except RuntimeError as error:
        what = "is taken by another program" if "EADDRINUSE" in str(error) else f"cannot be opened ({error})"
        raise ConfigError(
            f"main_process_port: {place.port} {what} on {platform.node()}; name another, the same on every machine"
        ) from None
    ranks, refusal = [str(rank) for rank in range(1, place.machines)], ""
    with suppress(RuntimeError):  # not all have come
        store.wait(ranks, timedelta(seconds=timeout_s))
    if missing := [rank for rank in ranks if not store.check([rank])]:
        refusal = (
            f"machine{'s' if missing[1:] else ''} {', '.join(missing)} of {place.machines} did not come to "
            f"{place.where} within {timeout_s:.0f} s; start the same command there, each with its own --machine_rank, "
            "and see whether it reaches that address and port"
        )
    store.set(REFUSAL, refusal)
    store.set(LAUNCH, launch)
    with suppress(RuntimeError):
        store.wait([f"read {rank}" for rank in ranks if rank not in missing], TALK)
    return launch, refusal


def ask(place: Place, timeout_s: float) -> Answer:
    """On the other machines: look for machine 0 until it answers. Raises ``UserError`` when it does not."""
    deadline = time.monotonic() + timeout_s + TALK.seconds
    answers: list[Answer] = []

    def look() -> None:
        while not answers and time.monotonic() < deadline:
            # torch raises these if nothing listens there, if it is no store, or if it is gone.
            with suppress(RuntimeError, OSError):
                store = open_store(place)
                store.set(str(place.rank), "")
                store.wait([LAUNCH], timedelta(seconds=deadline - time.monotonic()))
                answers.append((store.get(LAUNCH).decode(), store.get(REFUSAL).decode()))
                store.set(f"read {place.rank}", "")
                # The ranks' own store uses the same port: they must not find this one, which is about to close.
                store.wait(["closed"], TALK)
            time.sleep(LOOK_EVERY_S)

    # On a thread: a store waits forever for a program that does not answer.
    thread = threading.Thread(target=look, name="padless-meeting", daemon=True)
    thread.start()
    thread.join(timeout_s + 3 * TALK.seconds)
    if not answers:
        raise UserError(
            f"{place}: machine 0 did not answer at {place.where} within {timeout_s:.0f} s; start the same command "
            "there with --machine_rank 0, and check that this machine reaches it"
        )
    return answers[0]
