# SPDX-License-Identifier: Apache-2.0
"""Runs functions that need torch in processes of their own: a training leaves nothing in the process of its caller.

A server process imports torch once and computes nothing. Each call is a fork of it, which begins in milliseconds. The
server ends when its user's process does, and each process that it has forked gets SIGTERM then.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, BinaryIO, NoReturn

from padless.core.cli import SPINS
from padless.core.errors import UserError
from padless.core.processes import signal_on_parents_death
from padless.core.signals import TRAINING_SIGNALS
from padless.core.terminal import print_stderr

START = "import sys; sys.path = sys.argv[2:]; from padless.core import fork_server as server; server.fork_calls()"
PRELOADED = (
    "harness.inference.evaluation",
    "harness.launch.many",
    "harness.distributed.session",
    "harness.train",
    "harness.training.assembly",
    "pandas",
    "scipy.stats",
    "sklearn.feature_extraction.text",
    "torch._dynamo",
)
"""Modules that each call finds imported; torch's optimizers import the last one, in seconds."""
CHUNK_BYTES = 1 << 16


class ForkServer:
    """The server of this process. There is one, ``SERVER``."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None

    def start(self) -> socket.socket:
        """The socket of the running server, which takes seconds to be ready after its start."""
        with self.lock:
            is_running = self.process is not None and self.process.poll() is None  # a fork starts another one
            if is_running and self.control is not None:
                return self.control
            control, servers_end = socket.socketpair()
            with servers_end:
                words = [sys.executable, "-c", START, str(servers_end.fileno()), *sys.path]
                # in a session of its own: signals from the keyboard are for the caller
                environment = {"GOMP_SPINCOUNT": SPINS, **os.environ}
                self.process = subprocess.Popen(
                    words, pass_fds=[servers_end.fileno()], env=environment, start_new_session=True
                )
            self.control = control
            return control

    def close(self) -> None:
        """End the server, and with it what it has forked."""
        if self.process is not None and self.control is not None:
            self.control.close()
            self.process.kill()  # does nothing in a fork, whose child it is not
            self.process.wait()  # cannot hang: it was killed

    def begin(self, function: Callable[..., Any], *arguments: Any, **variables: str) -> Call:
        """Call ``function(*arguments)`` in a new process, with these environment variables besides those of this one.

        Function, arguments and result are pickled.
        """
        control = self.start()
        pipe, childs_pipe = Pipe()
        reader, writer = os.pipe()
        with self.lock, childs_pipe:
            socket.send_fds(control, [b"\n"], [childs_pipe.fileno(), writer])
            os.close(writer)
        pipe.send((function, arguments, {**os.environ, **variables}, os.getcwd()))
        return Call(pipe, os.fdopen(reader, "rb", 0))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function(*arguments)`` returns in a new process, whose output is printed here.

        An interrupt is passed on, so that a training saves a checkpoint, and raised at the end; a second one kills the
        process. Raises what the function raises, and ``UserError`` if the process dies.
        """
        with self.begin(function, *arguments) as call:
            was_interrupted = call.forward_output()
            if was_interrupted:
                with suppress(UserError):
                    call.result()  # cannot hang: it has ended
                raise KeyboardInterrupt
            return call.result()  # cannot hang: it has ended


class Call:
    """A function that runs in a process of its own."""

    def __init__(self, pipe: Connection, output: BinaryIO) -> None:
        """``pipe`` brings the number of the process, then its result; ``output`` what it prints."""
        self.pipe, self.output = pipe, output
        with suppress(EOFError, ConnectionError):  # it died, which ``result`` says
            self.pid: int | None = None
            self.pid = pipe.recv()  # cannot hang: a process that ends closes its end

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()
        self.output.close()

    def kill(self, number: int) -> None:
        """Send a signal to the process, if there is one."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def read_output(self, timeout_s: float | None) -> bytes:
        """What it has printed since the last time, as soon as there is any; empty when it has ended, or after
        ``timeout_s`` without any.
        """
        descriptor = self.output.fileno()
        is_ready = descriptor in wait([self.pipe, descriptor], timeout_s)
        return os.read(descriptor, CHUNK_BYTES) if is_ready else b""

    def result(self) -> Any:
        """What the function returns, when it has ended. Raises what it raises, and ``UserError`` if it died."""
        try:
            is_done, value = self.pipe.recv()  # cannot hang: it sends its result, or ends
        except (EOFError, ConnectionError):
            problem = "the process that computed it died; was it killed for its memory, or a shard cut?"
            raise UserError(f"{problem} The same call goes on") from None
        if not is_done:
            raise value
        return value

    def forward_output(self) -> bool:
        """Print what the process writes until its end, and send interrupts to it; returns whether one came."""
        num_interrupts = 0
        while True:
            try:
                content = self.read_output(None)
                if not content:
                    return num_interrupts > 0
                sys.stdout.write(content.decode(errors="replace"))
                sys.stdout.flush()
            except KeyboardInterrupt:
                num_interrupts += 1
                self.kill(signal.SIGINT if num_interrupts == 1 else signal.SIGKILL)
                if num_interrupts > 1:
                    raise
                print_stderr("saving a checkpoint; press Ctrl-C again to quit without saving")


class DirectCalls(ForkServer):
    """In place of a server where processes cannot be forked, as on Windows: calls run in this process."""

    def start(self) -> Any:
        """Start nothing."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function(*arguments)`` returns."""
        return function(*arguments)


SERVER = ForkServer() if hasattr(os, "fork") else DirectCalls()
atexit.register(SERVER.close)


def fork_calls() -> NoReturn:
    """Fork a process for each message on the socket that the command names, until it is closed."""
    for stop_signal in TRAINING_SIGNALS:
        signal.signal(stop_signal, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets processes that have ended
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # a collection in a fork would copy the pages of all these modules
    control = socket.socket(fileno=int(sys.argv[1]))
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            answer(*descriptors)
        for number in descriptors:
            os.close(number)


def answer(descriptor: int, output: int) -> NoReturn:
    """Run one call in this process, and send its result or its exception."""
    signal_on_parents_death("SIGTERM")
    for stop_signal in (*TRAINING_SIGNALS, signal.SIGCHLD):
        signal.signal(stop_signal, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    pipe = Connection(descriptor)
    try:
        function, arguments, environment, folder = pipe.recv()  # cannot hang: its caller sends it at once, or ends
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        pipe.send(os.getpid())
        result = True, function(*arguments)
    except BaseException as error:
        result = False, error
    sys.stdout.flush()
    sys.stderr.flush()
    with suppress(OSError):  # the caller is gone
        pipe.send(result)
    os._exit(0)
