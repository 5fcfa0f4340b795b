# SPDX-License-Identifier: Apache-2.0
"""The launchers of several machines meet, before any rank starts, at the address and port where the ranks will.

Machine 0 listens, the others come and say what they were asked for and whether they can; machine 0 compares, and all
get the same answer. So a machine that never comes, a taken port, or another configuration, dataset or revision is a
sentence on every machine, in the time that was said, and no traceback of torch.
"""

from __future__ import annotations

import errno
import json
import platform
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from preprocessing.base.errors import ConfigError, UserError

LONGEST = 1 << 20
"""Bytes of a message; a stranger at the port can send no more."""
HELLO_S = 5.0
"""How long someone who has connected may take to say who it is."""
LOOK_EVERY_S = 0.5
EXCUSE_S = 60.0
"""Longest wait for the others of a machine that has only to say that it cannot train."""
APART_S = 60.0
"""Clocks that differ more are said."""
CODE, DATASET, TORCH = "the code", "the dataset's fingerprint", "torch"
MEND = "start the same command on all machines"
MENDS = {
    CODE: "install the same revision on all machines",
    DATASET: "give all machines the same dataset, best in a directory that they share",
    TORCH: "install the same version on all machines",
}
"""Facts that no command changes, and what does."""
PROTOCOL = "padless roll call 1"

Say = Callable[[str], None]


class MeetingError(UserError):
    """A machine did not come, or another one has a reason not to go on."""


@dataclass(frozen=True)
class Place:
    """Where the machines meet, and which of them this one is."""

    host: str
    port: int
    rank: int
    machines: int

    def __str__(self) -> str:
        """``machine 1 of 2``."""
        return f"machine {self.rank} of {self.machines}"


@dataclass(frozen=True)
class Hello:
    """What a machine says of itself; facts must be the same on all."""

    rank: int
    facts: dict[str, Any] = field(default_factory=dict)
    """Name -> plain value, or for a configuration key -> value."""
    problem: str = ""
    """Why it cannot train, if it cannot."""
    exit_code: int = 1
    host: str = field(default_factory=platform.node)
    clock: float = 0.0
    """Seconds since the epoch when it was sent; once it has come, seconds ahead of the clock here."""

    @property
    def name(self) -> str:
        """``machine 1 (node-7)``."""
        return f"machine {self.rank} ({self.host})"


@dataclass(frozen=True)
class Answer:
    """What machine 0 makes of all hellos."""

    launch: str = ""
    """A name of this start that all machines share."""
    refusal: str = ""
    exit_code: int = 1
    notes: tuple[str, ...] = ()


def meet(place: Place, mine: Hello, launch: str, timeout_s: float, say: Say) -> str:
    """Meet the other machines; the name of this start that machine 0 gave (``launch``, there).

    Raises ``MeetingError`` with what is wrong, the same on all that have come, and ``ConfigError`` for a taken port.
    """
    where = f"{place.host}:{place.port}"
    if place.rank == 0:
        others = "machine 1" if place.machines == 2 else f"machines 1 to {place.machines - 1}"
        say(f"{place}, {mine.host}: waits up to {timeout_s:.0f} s for {others} at {where}")
        answer = receive(place, mine, launch, timeout_s)
    else:
        say(f"{place}, {mine.host}: looks for machine 0 at {where} for up to {timeout_s:.0f} s")
        answer = visit(place, mine, timeout_s)
    for note in answer.notes:
        say(note)
    if answer.refusal:
        error = MeetingError(answer.refusal)
        error.exit_code = answer.exit_code
        raise error
    return answer.launch


def excuse(place: Place, error: UserError, timeout_s: float) -> None:
    """Tell the others that this machine cannot train, so that they need not wait; whoever does not come is not told."""
    hello = Hello(place.rank, problem=str(error), exit_code=error.exit_code)
    try:
        meet(place, hello, "", min(timeout_s, EXCUSE_S), lambda text: None)
    except UserError:
        return


def receive(place: Place, mine: Hello, launch: str, timeout_s: float) -> Answer:
    """On machine 0: wait for all others, judge, and answer each. Raises ``ConfigError`` for a taken port."""
    deadline = time.monotonic() + timeout_s
    came: dict[int, tuple[Hello, socket.socket]] = {}
    answer = None
    with listen(place) as server:
        while len(came) < place.machines - 1 and answer is None and time.monotonic() < deadline:
            server.settimeout(min(LOOK_EVERY_S, max(0.01, deadline - time.monotonic())))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            hello = read_hello(connection)
            if hello is None:
                connection.close()
            elif hello.rank in came and is_there(came[hello.rank][1]):
                answer = refused(f"two machines came as {hello.rank}, {came[hello.rank][0].host} and {hello.host}", [])
                send(connection, answer)
                connection.close()
            elif not 0 < hello.rank < place.machines:
                answer = refused(f"{hello.name} came to {place.machines} machines", [])
                send(connection, answer)
                connection.close()
            else:
                if hello.rank in came:  # started again
                    came.pop(hello.rank)[1].close()
                came[hello.rank] = hello, connection
    answer = answer or judge(place, [mine, *(hello for hello, _ in came.values())], launch, timeout_s)
    for _, connection in came.values():
        send(connection, answer)
    for _, connection in came.values():
        wait_for_close(connection)
    return answer


def listen(place: Place) -> socket.socket:
    """A socket at the port where the ranks will meet. Raises ``ConfigError`` if another program has it."""
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", place.port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", place.port))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        what = "is taken by another program" if error.errno == errno.EADDRINUSE else "may not be used"
        raise ConfigError(
            f"main_process_port: {place.port} {what} on {platform.node()}; name another, the same on every machine"
        ) from None


def visit(place: Place, mine: Hello, timeout_s: float) -> Answer:
    """On the other machines: go to machine 0 until it answers. Raises ``MeetingError`` when it does not."""
    deadline = time.monotonic() + timeout_s
    reason = "nobody listens there"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((place.host, place.port), timeout=min(left, HELLO_S)) as connection:
                send(connection, replace(mine, clock=time.time()))
                # Longer than machine 0 waits for the last of the others, so that it is heard of who is missing.
                connection.settimeout(left + HELLO_S)
                found = read(connection)
                if found is not None and "refusal" in found:
                    return Answer(**{**found, "notes": tuple(found["notes"])})
                reason = "another program listens there"
        except OSError as error:
            reason = error.strerror or str(error)
        time.sleep(min(LOOK_EVERY_S, max(0.0, deadline - time.monotonic())))
    raise MeetingError(
        f"{place}: machine 0 did not answer at {place.host}:{place.port} within {timeout_s:.0f} s ({reason}); "
        f"start the same command there with --machine_rank 0, and see whether this machine reaches it"
    )


def judge(place: Place, hellos: list[Hello], launch: str, timeout_s: float) -> Answer:
    """What is to be said to all; a pure function. ``hellos``: machine 0's first."""
    hellos = [hellos[0], *sorted(hellos[1:], key=lambda one: one.rank)]
    notes = clocks(hellos)
    for one in hellos:
        if one.problem:
            return refused(f"{one.name} cannot train: {one.problem}", notes, one.exit_code)
    missing = sorted(set(range(place.machines)) - {one.rank for one in hellos})
    if missing:
        names = f"machine{'s' if missing[1:] else ''} {', '.join(map(str, missing))} of {place.machines}"
        return refused(
            f"{names} did not come to {place.host}:{place.port} within {timeout_s:.0f} s; start the same command "
            f"there, each with its own --machine_rank, and see whether it reaches that address and port",
            notes,
        )
    for one in hellos[1:]:
        said = unlike(hellos[0], one)
        if said:
            mend = next((mend for fact, mend in MENDS.items() if said.startswith(fact)), MEND)
            return refused(f"{said}: {mend}", notes, ConfigError.exit_code)
    return Answer(launch, notes=notes)


def unlike(first: Hello, other: Hello) -> str:
    """The first fact that is another one on ``other``, in words; empty if all are the same."""
    for name, value in first.facts.items():
        theirs = other.facts.get(name)
        if isinstance(value, dict) and isinstance(theirs, dict):
            said = unlike(replace(first, facts=value), replace(other, facts=theirs))
            if said:
                return said
        elif theirs != value:
            return f"{name} is {theirs} on {other.name} and {value} on {first.name}"
    return ""


def clocks(hellos: list[Hello]) -> tuple[str, ...]:
    """Lines for clocks that are far from machine 0's."""
    first = hellos[0]
    return tuple(
        f"the clock of {one.name} is {abs(one.clock):,.0f} s {'ahead of' if one.clock > 0 else 'behind'} that of "
        f"{first.name}; training does not mind, times in logs do"
        for one in hellos[1:]
        if abs(one.clock) > APART_S
    )


def refused(sentence: str, notes: tuple[str, ...] | list[str], exit_code: int = 1) -> Answer:
    """An answer that ends the start on every machine."""
    return Answer(refusal=sentence, exit_code=exit_code, notes=tuple(notes))


def read_hello(connection: socket.socket) -> Hello | None:
    """Who has come; None for somebody else."""
    connection.settimeout(HELLO_S)
    try:
        found = read(connection) or {}
        hello = Hello(**found)
    except (OSError, TypeError):
        return None
    types = {"rank": int, "facts": dict, "problem": str, "exit_code": int, "host": str, "clock": float}
    if found.keys() != types.keys() or any(type(found[name]) is not kind for name, kind in types.items()):
        return None
    return replace(hello, clock=hello.clock - time.time())


def read(connection: socket.socket) -> dict[str, Any] | None:
    """One message; None for an end without one, or for what is none of ours. Raises ``OSError``."""
    received = b""
    while not received.endswith(b"\n"):
        part = connection.recv(1 << 16)
        received += part
        if not part or len(received) > LONGEST:
            return None
    try:
        protocol, content = json.loads(received)
    except (ValueError, TypeError, RecursionError):
        return None
    return content if protocol == PROTOCOL and isinstance(content, dict) else None


def send(connection: socket.socket, message: Hello | Answer) -> None:
    """Write one message; to somebody who has gone, nothing."""
    try:
        connection.sendall(json.dumps([PROTOCOL, vars(message)]).encode() + b"\n")
    except OSError:
        return


def is_there(connection: socket.socket) -> bool:
    """Whether the other side has not closed."""
    connection.setblocking(False)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def wait_for_close(connection: socket.socket) -> None:
    """Let the other side close first, so that the port is free at once for the ranks."""
    with connection:
        connection.settimeout(HELLO_S)
        try:
            connection.recv(1)
        except OSError:
            return
