# SPDX-License-Identifier: Apache-2.0
"""What the launcher does on each of several machines before its ranks start: name the network, meet the others."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from harness.config import RunConfig, flat, to_dict
from harness.launch import roll_call
from harness.launch.roll_call import CODE, DATASET, TORCH, Hello, MeetingError, Place
from harness.ranks import network
from harness.ranks.stopping import EXIT_CODE, SIGNALS
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


def place_of(arguments: Any) -> Place | None:
    """Where the launchers meet, and which this is; None for one machine, or where torch's own rendezvous counts them.

    Raises ``ConfigError`` for options that do not fit several machines.
    """
    machines = arguments.num_machines or 1
    if machines == 1 or arguments.rdzv_backend not in (None, "static"):
        return None
    processes, rank = arguments.num_processes or machines, arguments.machine_rank or 0
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


def name_network(place: Place, say: Callable[[str], None]) -> None:
    """Tell the ranks by which interface they reach the other machines, and say so. A user's own choice stays.

    Raises ``ConfigError`` where it cannot be told, and for a name that no interface has.
    """
    route = network.find(place.host, place.port)
    if route is None:
        names = ", ".join(name for name in network.interfaces() if name != "lo") or "none but the loopback"
        raise ConfigError(
            f"no network interface of this machine leads to {place.host} for certain; name it, as in "
            f"export {network.GLOO}=eth0 (up: {names})"
        )
    if not route.address and route.interface not in network.interfaces():
        raise ConfigError(f"{network.GLOO}: {route.interface}: no such network interface is up here; see ip address")
    network.use(route)
    say(f"network interface {route}")


def name_start(
    place: Place | None,
    config: RunConfig,
    facts: dict[str, Any],
    say: Callable[[str], None],
    launch: str,
    attempt: int,
) -> str:
    """The name of the first start of the ranks, or of another attempt, told to them; several machines meet for each.

    Raises ``UserError``, the same on each machine. A lost rank is noticed at once on its own machine, and within
    ``timeout_s`` on another, so that they wait for each other twice as long before another attempt.
    """
    os.environ[LAUNCH_ID] = f"{launch}-{attempt}" if attempt else launch
    if place is not None:
        gc.collect()  # what torch leaves of an attempt that failed may hold the port
        os.environ[LAUNCH_ID] = meet(place, config, facts, say, config.timeout_s * (2 if attempt else 1))
    return os.environ[LAUNCH_ID]


def meet(place: Place, config: RunConfig, facts: dict[str, Any], say: Callable[[str], None], timeout_s: float) -> str:
    """Meet the launchers of the other machines; the name of this start. Raises ``UserError``, the same on each."""
    hello = Hello(place.rank, {**facts, CODE: code(), TORCH: installed_version("torch")})
    try:
        with stoppable():
            return roll_call.meet(place, hello, os.environ[LAUNCH_ID], timeout_s, say)
    except UserError as error:
        if place.rank == 0:
            note_end(config, str(error), error.exit_code)
        raise


@contextmanager
def stoppable() -> Iterator[None]:
    """Let a stop signal end the wait in the block with a ``MeetingError`` whose exit code asks to be started again."""

    def stop(number: int, _: Any) -> None:
        error = MeetingError(f"{signal.Signals(number).name} received while waiting for the other machines")
        error.exit_code = EXIT_CODE
        raise error

    before = {name: signal.signal(getattr(signal, name), stop) for name in SIGNALS}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def try_meeting(arguments: Any, timeout_s: float, say: Callable[[str], None]) -> None:
    """Name the network and meet the other machines, if there are any, with nothing to train. Raises ``UserError``."""
    place = place_of(arguments)
    if place is not None:
        name_network(place, say)
        facts = {"--num_processes": arguments.num_processes, CODE: code(), TORCH: installed_version("torch")}
        roll_call.meet(place, Hello(place.rank, facts), "", timeout_s, say)


def facts_of(config: RunConfig, fingerprint: str, arguments: Any) -> dict[str, Any]:
    """What must be the same on every machine, by the name that a sentence gives it."""
    return {
        "--num_machines": arguments.num_machines,
        "--num_processes": arguments.num_processes,
        DATASET: fingerprint[:16],
        "configuration": {key: str(value) for key, value in flat(to_dict(config)).items()},
    }


def name_launch(arguments: Any, place: Place | None) -> str:
    """A name for this start of the ranks; the launchers of several machines get that of machine 0, or make the same."""
    if arguments.num_machines == 1 or place is not None:
        return uuid.uuid4().hex
    job = [os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT")]
    return "-".join([*job, str(arguments.main_process_ip), str(arguments.main_process_port)])


@contextmanager
def told(place: Place | None, timeout_s: float) -> Iterator[None]:
    """Tell the other machines what this one refuses in the block, so that they need not wait for it."""
    try:
        yield
    except UserError as error:
        if place is not None:
            roll_call.excuse(place, error, timeout_s)
        raise


def code() -> str:
    """The git revision of the code that runs, and a hash of all its modules."""
    return f"{(git_revision() or installed_version('padless') or 'unknown')[:12]} ({code_hash()})"


def note_end(config: RunConfig, reason: str, exit_code: int) -> None:
    """Say in the run directory why no rank came so far as to do it; not in one that another process holds, nor where a
    run has finished.
    """
    if config.dry_run:
        return
    with contextlib.suppress(UserError):
        lock = claim(config)
        with lock:
            status = read_status(config.run) or {}
            if status.get("state") != "finished" and status.get("launch") != os.environ.get(LAUNCH_ID):
                state: State = "preempted" if exit_code == EXIT_CODE else "failed"
                write_status(config.run, state, step=status.get("step", 0), exit_code=exit_code, reason=reason)
