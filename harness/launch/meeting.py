# SPDX-License-Identifier: Apache-2.0
"""The launchers of several machines meet before any rank starts, at the address and port where the ranks will.

Machine 0 opens a ``TCPStore`` of torch; the others write there their settings, and whether they can train. Machine 0
compares, and all get the same answer. So every machine reports a missing machine, a taken port, or a different
configuration, dataset or revision within the time limit.
"""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec

from harness.config import RunConfig, flat, to_dict
from harness.launch.stop import STOP
from harness.ranks import network
from harness.rundir import records
from harness.rundir.records import LAUNCH_ID
from preprocessing.base.errors import ERRORS, ConfigError, UserError

LOOK_EVERY_S = 0.1
TALK_S = 5.0
"""How long the others may take to read the answer; and how much longer they wait for it than machine 0 for them."""
PROBLEM_S = 60.0
"""Longest wait of a machine that only reports that it cannot train."""
ANSWER = "answer"

Say = Callable[[str], None]
Answer = tuple[str, str, int]
"""Machine 0's answer to all: the shared name of this start, why it is refused (or ""), and the exit code."""


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


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """The message of a machine; its facts must be equal on all."""

    rank: int
    facts: dict[str, Any] = {}
    problem: str = ""
    """Why it cannot train, if it cannot."""
    exit_code: int = 1
    host: str = msgspec.field(default_factory=platform.node)

    def __str__(self) -> str:
        return f"machine {self.rank} ({self.host})"


def place_of(arguments: Any) -> Place | None:
    """Where the launchers meet, and which this is; None for one machine.

    Raises ``ConfigError`` for options that do not fit several machines.
    """
    machines, processes, rank = arguments.num_machines, arguments.num_processes, arguments.machine_rank or 0
    if machines == 1:
        return None
    if arguments.rdzv_backend not in (None, "static"):
        raise ConfigError(f"--rdzv_backend {arguments.rdzv_backend}: padless itself counts the machines; leave it out")
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


def facts_of(arguments: Any, fingerprint: str = "", config: RunConfig | None = None) -> dict[str, Any]:
    """Facts that must be equal on every machine, by their names in messages; without ``config``, the general ones."""
    keys = {} if config is None else flat(to_dict(config))
    return {
        **{f"--{name}": getattr(arguments, name) for name in ("num_machines", "num_processes")},
        "the dataset's fingerprint": fingerprint[:16],
        **{key: str(value) for key, value in keys.items()},
        "the code": records.code_hash(),
        "torch": records.installed_version("torch"),
    }


def name_start(
    place: Place | None, config: RunConfig, facts: dict[str, Any], say: Say, launch: str, attempt: int
) -> str:
    """Name the first start of the ranks, or another attempt, in their environment; several machines meet for each.

    Raises ``UserError``, the same on each machine. Other machines notice a lost rank only within ``timeout_s``, so
    before another attempt the wait is twice as long.
    """
    name = os.environ[LAUNCH_ID] = f"{launch}-{attempt}" if attempt else launch
    if place is None:
        return name
    gc.collect()  # torch's objects of a failed attempt may hold the port
    hello = Hello(rank=place.rank, facts=facts)
    STOP.between()
    try:
        name = os.environ[LAUNCH_ID] = meet(place, hello, name, config.timeout_s * (2 if attempt else 1), say)
    except UserError as error:
        if place.rank == 0:
            note_end(config, str(error), error.exit_code)
        raise
    return name


@contextmanager
def telling(place: Place | None, timeout_s: float) -> Iterator[None]:
    """Send a ``UserError`` of the block to the other machines, so that they need not wait for this one."""
    try:
        yield
    except UserError as error:
        if place is not None:
            hello = Hello(rank=place.rank, problem=str(error), exit_code=error.exit_code)
            with contextlib.suppress(UserError):  # a machine that does not come is not told
                meet(place, hello, "", min(timeout_s, PROBLEM_S), lambda text: None)
        raise


def note_end(config: RunConfig, reason: str, exit_code: int) -> None:
    """Write to the run directory why no rank started, unless another process holds it or its run has finished."""
    if config.dry_run:
        return
    with contextlib.suppress(UserError), records.claim(config):
        status = records.read_status(config.run)
        if status.get("state") != "finished" and status.get("launch") != os.environ.get(LAUNCH_ID):
            records.write_status(config.run, records.Ending("failed", status.get("step", 0), exit_code, reason))


def meet(place: Place, hello: Hello, launch: str, timeout_s: float, say: Say) -> str:
    """Meet the other machines; returns the name that machine 0 gives this start (its ``launch``).

    Raises ``UserError`` with what is wrong, the same on all that have come, also for a taken port.
    """
    others = "machine 0" if place.rank else f"the other {place.machines - 1}"
    say(f"{place}, {hello.host}: waits up to {timeout_s:.0f} s for {others} at {place.where}")
    talk = ask if place.rank else receive
    name, refusal, code = talk(place, hello, launch, timeout_s)
    if refusal:
        raise ERRORS.get(code, UserError)(refusal)
    return name


def open_store(place: Place) -> Any:
    """The store at the place of the meeting, which machine 0 opens. Raises ``RuntimeError``."""
    from torch.distributed import TCPStore

    limit = timedelta(seconds=TALK_S)
    return TCPStore(place.host, place.port, is_master=place.rank == 0, timeout=limit, wait_for_workers=False)


def until(done: Callable[[], bool], deadline: float) -> None:
    """Poll ``done`` until it is true, or until ``deadline`` (monotonic seconds)."""
    while not done() and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)


def receive(place: Place, mine: Hello, launch: str, timeout_s: float) -> Answer:
    """On machine 0: wait for all others, judge, and answer. Raises ``ConfigError`` for a taken port."""
    deadline = time.monotonic() + timeout_s
    try:
        store = open_store(place)
    except RuntimeError as error:
        what = "is taken by another program" if "EADDRINUSE" in str(error) else f"cannot be opened ({error})"
        raise ConfigError(
            f"main_process_port: {place.port} {what} on {mine.host}; name another, the same on every machine"
        ) from None
    ranks = [str(rank) for rank in range(1, place.machines)]
    until(lambda: store.check(ranks), deadline)
    came = [rank for rank in ranks if store.check([rank])]
    others = [msgspec.json.decode(store.get(rank), type=Hello) for rank in came]
    answer = judge(place, [mine, *others], launch, timeout_s)
    store.set(ANSWER, msgspec.json.encode(answer).decode())
    until(lambda: store.check([f"read {rank}" for rank in came]), time.monotonic() + TALK_S)
    return answer


def ask(place: Place, mine: Hello, launch: str, timeout_s: float) -> Answer:
    """On the other machines: look for machine 0 until it answers. Raises ``UserError`` when it does not."""
    deadline = time.monotonic() + timeout_s + TALK_S
    answers: list[Answer] = []

    def look() -> None:
        while not answers and time.monotonic() < deadline:
            # torch raises these if nothing listens there, if it is no store, or if it is gone.
            with contextlib.suppress(RuntimeError, OSError):
                answers.append(visit(place, mine, deadline))
            time.sleep(LOOK_EVERY_S)

    # On a thread: a store waits forever for a program that does not answer.
    thread = threading.Thread(target=look, name="padless-meeting", daemon=True)
    thread.start()
    thread.join(timeout_s + 3 * TALK_S)
    if not answers:
        raise UserError(
            f"{place}: machine 0 did not answer at {place.where} within {timeout_s:.0f} s; start the same command "
            "there with --machine_rank 0, and check that this machine reaches it"
        )
    return answers[0]


def visit(place: Place, mine: Hello, deadline: float) -> Answer:
    """Say hello to machine 0 and read its answer. Raises ``RuntimeError`` where there is none."""
    store = open_store(place)
    store.set(str(place.rank), msgspec.json.encode(mine).decode())
    until(lambda: store.check([ANSWER]), deadline)
    answer = msgspec.json.decode(store.get(ANSWER), type=Answer)
    store.set(f"read {place.rank}", "")
    # The ranks' own store uses the same port: they must not find this one, which is about to close.
    with contextlib.suppress(RuntimeError):
        until(lambda: not store.check([ANSWER]), deadline)
    return answer


def judge(place: Place, hellos: Sequence[Hello], launch: str, timeout_s: float) -> Answer:
    """The answer that all machines get; a pure function. ``hellos``: machine 0's first."""
    first, *others = hellos
    for one in hellos:
        if one.problem:
            return launch, f"{one} cannot train: {one.problem}", one.exit_code
    missing = sorted(set(range(1, place.machines)) - {one.rank for one in others})
    if missing:
        names = f"machine{'s' if missing[1:] else ''} {', '.join(map(str, missing))} of {place.machines}"
        refusal = (
            f"{names} did not come to {place.where} within {timeout_s:.0f} s; start the same command there, "
            "each with its own --machine_rank, and see whether it reaches that address and port"
        )
        return launch, refusal, 1
    for one in others:
        for name, here in first.facts.items():
            if (there := one.facts.get(name)) != here:
                refusal = (
                    f"{name} is {there} on {one} and {here} on {first}: start the same command on all machines, with "
                    "the same code, packages and dataset"
                )
                return launch, refusal, ConfigError.exit_code
    return launch, "", 0
