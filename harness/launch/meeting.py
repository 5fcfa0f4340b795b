# SPDX-License-Identifier: Apache-2.0
"""The launchers of several machines meet before any rank starts, at the address and port where the ranks will.

Machine 0 opens a ``TCPStore`` of torch; the others write there what they were asked for, and whether they can train.
Machine 0 compares, and all get the same answer. So a machine that never comes, a taken port, or another configuration,
dataset or revision is a sentence on every machine within the time limit. Before that each machine names the network
interface that leads to the others, since gloo would offer the address of the machine's own name.
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
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

from harness.config import RunConfig, flat, to_dict
from harness.launch.stop import STOP
from harness.ranks import network
from harness.ranks.stopping import EXIT_CODE
from harness.rundir.records import (
    LAUNCH_ID,
    State,
    claim,
    code_hash,
    git_revision,
    installed_version,
    read_status,
    write_status,
)
from preprocessing.base.errors import ConfigError, UserError

LOOK_EVERY_S = 0.1
TALK_S = 5.0
"""How long the others may take to read the answer; and how much longer they wait for it than machine 0 for them."""
PROBLEM_S = 60.0
"""Longest wait for the others of a machine that has only to say that it cannot train."""
ANSWER = "answer"
CODE, DATASET, TORCH = "the code", "the dataset's fingerprint", "torch"
ADVICE = {
    CODE: "install the same revision on all machines",
    DATASET: "give all machines the same dataset, best in a directory that they share",
    TORCH: "install the same version on all machines",
}
"""Facts that no command changes, and what does."""

Say = Callable[[str], None]


class MeetingError(UserError):
    """A machine did not come, or another one has a reason not to go on."""

    def __init__(self, sentence: str, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


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
    """What a machine says of itself; its facts must be the same on all."""

    rank: int
    facts: dict[str, Any] = {}
    """Name -> plain value, or for a configuration key -> value."""
    problem: str = ""
    """Why it cannot train, if it cannot."""
    exit_code: int = 1
    host: str = msgspec.field(default_factory=platform.node)

    def __str__(self) -> str:
        return f"machine {self.rank} ({self.host})"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What machine 0 makes of all hellos."""

    launch: str = ""
    """A name of this start that all machines share."""
    refusal: str = ""
    exit_code: int = 1


def place_of(arguments: Any) -> Place | None:
    """Where the launchers meet, and which this is; None for one machine.

    Raises ``ConfigError`` for options that do not fit several machines.
    """
    machines = arguments.num_machines or 1
    if machines == 1:
        return None
    processes, rank = arguments.num_processes or machines, arguments.machine_rank or 0
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
    """Tell the ranks by which interface they reach the other machines, and say so. A user's own choice stays.

    Raises ``ConfigError`` where it cannot be told, and for a name that no interface has.
    """
    route = network.find(place.host, place.port)
    if route is None:
        raise ConfigError(
            f"no network interface of this machine leads to {place.host} for certain; name it, as in "
            f"export {network.GLOO}=eth0 (ip address lists them)"
        )
    if not route.address and route.interface not in network.interfaces():
        raise ConfigError(f"{network.GLOO}: {route.interface}: no such network interface is up here; see ip address")
    network.use(route)
    say(f"network interface {route} leads to the other machines")


def facts_of(arguments: Any, fingerprint: str = "", config: RunConfig | None = None) -> dict[str, Any]:
    """What must be the same on every machine, by the name that a sentence gives it; without a run, what any needs."""
    options = {f"--{name}": getattr(arguments, name) for name in ("num_machines", "num_processes")}
    keys = {} if config is None else {key: str(value) for key, value in flat(to_dict(config)).items()}
    revision = (git_revision() or installed_version("padless") or "unknown")[:12]
    versions = {CODE: f"{revision} ({code_hash()})", TORCH: installed_version("torch")}
    return {**options, DATASET: fingerprint[:16], "configuration": keys, **versions}


def name_start(
    place: Place | None, config: RunConfig, facts: dict[str, Any], say: Say, launch: str, attempt: int
) -> str:
    """The name of the first start of the ranks, or of another attempt, told to them; several machines meet for each.

    Raises ``UserError``, the same on each machine. A lost rank is noticed at once on its own machine, and within
    ``timeout_s`` on another, so that they wait for each other twice as long before another attempt.
    """
    os.environ[LAUNCH_ID] = f"{launch}-{attempt}" if attempt else launch
    if place is None:
        return os.environ[LAUNCH_ID]
    gc.collect()  # what torch leaves of an attempt that failed may hold the port
    hello = Hello(rank=place.rank, facts=facts)
    try:
        with STOP.noting(lambda name: note_end(config, f"{name} received", EXIT_CODE)):
            limit_s = config.timeout_s * (2 if attempt else 1)
            os.environ[LAUNCH_ID] = meet(place, hello, os.environ[LAUNCH_ID], limit_s, say)
            return os.environ[LAUNCH_ID]
    except UserError as error:
        if place.rank == 0:
            note_end(config, str(error), error.exit_code)
        raise


@contextmanager
def telling(place: Place | None, timeout_s: float) -> Iterator[None]:
    """Tell the other machines what this one refuses in the block, so that they need not wait for it."""
    try:
        yield
    except UserError as error:
        if place is not None:
            hello = Hello(rank=place.rank, problem=str(error), exit_code=error.exit_code)
            with contextlib.suppress(UserError):  # whoever does not come is not told
                meet(place, hello, "", min(timeout_s, PROBLEM_S), lambda text: None)
        raise


def note_end(config: RunConfig, reason: str, exit_code: int) -> None:
    """Say in the run directory why no rank came so far as to do it; not in one that another process holds, nor where a
    run has finished.
    """
    if config.dry_run:
        return
    with contextlib.suppress(UserError), claim(config):
        status = read_status(config.run) or {}
        if status.get("state") != "finished" and status.get("launch") != os.environ.get(LAUNCH_ID):
            state: State = "preempted" if exit_code == EXIT_CODE else "failed"
            write_status(config.run, state, step=status.get("step", 0), exit_code=exit_code, reason=reason)


def meet(place: Place, hello: Hello, launch: str, timeout_s: float, say: Say) -> str:
    """Meet the other machines; the name of this start that machine 0 gave (``launch``, there).

    Raises ``MeetingError`` with what is wrong, the same on all that have come, and ``ConfigError`` for a taken port.
    """
    if place.rank == 0:
        others = "machine 1" if place.machines == 2 else f"machines 1 to {place.machines - 1}"
        say(f"{place}, {hello.host}: waits up to {timeout_s:.0f} s for {others} at {place.where}")
        answer = receive(place, hello, launch, timeout_s)
    else:
        say(f"{place}, {hello.host}: looks for machine 0 at {place.where} for up to {timeout_s:.0f} s")
        answer = ask(place, hello, timeout_s)
    if answer.refusal:
        raise MeetingError(answer.refusal, answer.exit_code)
    return answer.launch


def receive(place: Place, mine: Hello, launch: str, timeout_s: float) -> Answer:
    """On machine 0: wait for all others, judge, and answer. Raises ``ConfigError`` for a taken port."""
    from harness.ranks.distributed import open_store

    deadline = time.monotonic() + timeout_s
    try:
        store = open_store(place.host, place.port, TALK_S, listens=True)
    except RuntimeError as error:
        what = "is taken by another program" if "EADDRINUSE" in str(error) else f"cannot be opened ({error})"
        raise ConfigError(
            f"main_process_port: {place.port} {what} on {mine.host}; name another, the same on every machine"
        ) from None
    came: dict[int, Hello] = {}
    others = range(1, place.machines)
    while len(came) < len(others) and time.monotonic() < deadline:
        for rank in others:
            if rank not in came and store.check([str(rank)]):
                came[rank] = read_hello(store.get(str(rank)), rank)
        time.sleep(LOOK_EVERY_S)
    answer = judge(place, [mine, *came.values()], launch, timeout_s)
    store.set(ANSWER, msgspec.json.encode(answer).decode())
    deadline = time.monotonic() + TALK_S
    while time.monotonic() < deadline and not all(store.check([f"read {rank}"]) for rank in came):
        time.sleep(LOOK_EVERY_S)
    return answer


def read_hello(message: bytes, rank: int) -> Hello:
    """What a machine said."""
    try:
        return msgspec.json.decode(message, type=Hello)
    except msgspec.MsgspecError:
        return Hello(rank=rank, problem="it runs another version of padless", host="?")


def ask(place: Place, mine: Hello, timeout_s: float) -> Answer:
    """On the other machines: look for machine 0 until it answers. Raises ``MeetingError`` when it does not."""
    from harness.ranks.distributed import open_store

    limit_s = timeout_s + TALK_S
    answers: SimpleQueue[Answer] = SimpleQueue()
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            # As torch says that nobody listens, that it is no store, or that it is gone.
            with contextlib.suppress(RuntimeError, OSError, msgspec.MsgspecError):
                store = open_store(place.host, place.port, TALK_S, listens=False)
                store.set(str(place.rank), msgspec.json.encode(mine).decode())
                while not store.check([ANSWER]):
                    if over.wait(LOOK_EVERY_S):
                        return
                answer = msgspec.json.decode(store.get(ANSWER), type=Answer)
                store.set(f"read {place.rank}", "")
                # The ranks' own store takes the same port: they must not find this one, which is about to close.
                with contextlib.suppress(RuntimeError):
                    while store.check([ANSWER]) and not over.wait(LOOK_EVERY_S):
                        pass
                answers.put(answer)
                return

    # On a thread: a store waits for ever for a program that says nothing.
    thread = threading.Thread(target=look, name="padless-meeting", daemon=True)
    thread.start()
    try:
        return answers.get(timeout=limit_s)
    except Empty:
        raise MeetingError(
            f"{place}: machine 0 did not answer at {place.where} within {timeout_s:.0f} s; start the same command "
            "there with --machine_rank 0, and see whether this machine reaches it"
        ) from None
    finally:
        over.set()
        thread.join(2 * TALK_S)  # a process that ends while torch's call returns is aborted


def judge(place: Place, hellos: Sequence[Hello], launch: str, timeout_s: float) -> Answer:
    """The answer that all machines get; a pure function. ``hellos``: machine 0's first."""
    first, *others = hellos
    for one in hellos:
        if one.problem:
            return Answer(refusal=f"{one} cannot train: {one.problem}", exit_code=one.exit_code)
    missing = sorted(set(range(1, place.machines)) - {one.rank for one in others})
    if missing:
        names = f"machine{'s' if missing[1:] else ''} {', '.join(map(str, missing))} of {place.machines}"
        refusal = (
            f"{names} did not come to {place.where} within {timeout_s:.0f} s; start the same command there, each with "
            "its own --machine_rank, and see whether it reaches that address and port"
        )
        return Answer(refusal=refusal)
    for one in others:
        for name, here, there in unlike(first.facts, one.facts):
            advice = ADVICE.get(name, "start the same command on all machines")
            refusal = f"{name} is {there} on {one} and {here} on {first}: {advice}"
            return Answer(refusal=refusal, exit_code=ConfigError.exit_code)
    return Answer(launch=launch)


def unlike(here: dict[str, Any], there: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name and both values of each fact that differs; a configuration's keys one by one."""
    for name, value in here.items():
        other = there.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from unlike(value, other)
        elif other != value:
            yield name, value, other
