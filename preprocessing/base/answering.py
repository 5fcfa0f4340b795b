# SPDX-License-Identifier: Apache-2.0
"""What comes of a command: its exit code, and one line on stderr where it is not 0."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Sequence

from preprocessing.base import stopping, storage
from preprocessing.base.errors import ConfigError, UserError
from preprocessing.base.invocation import as_typed
from preprocessing.base.printable import guards, tell

Main = Callable[[list[str]], int | None]
UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP)
"""What a system says of a path that can name nothing, wherever it is first asked."""


def run(main: Main, argv: Sequence[str] | None = None) -> int:
    """Call ``main(argv)`` and turn what it raises into one line on stderr and a documented exit code."""
    with guards():
        try:
            stopping.armed()
            return stopping.settle(answered(main, list(sys.argv[1:] if argv is None else argv)))
        except KeyboardInterrupt:
            return stopping.told()


def answered(main: Main, argv: list[str]) -> int:
    """The exit code of ``main(argv)``. Errors on the way out of a stop signal are of no interest any more."""
    try:
        return printed(main, argv)
    except Exception as error:
        return stopping.told() if stopping.heard() is not None else said(error)


def printed(main: Main, argv: list[str]) -> int:
    """Call ``main``, and see that what it has printed arrives: at the exit nobody could say that it did not."""
    try:
        code = main(argv) or 0
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def said(error: Exception) -> int:
    """Say in one line what a command raised; its exit code. What is a fault of ours is raised again."""
    refusal = storage.told(error) if isinstance(error, OSError) else error
    if isinstance(refusal, UserError):
        return say(as_typed(f"error: {refusal}"), refusal.exit_code)
    if isinstance(error, MemoryError):
        return say(f"error: not enough memory ({error}); ask for less at once, or take a machine with more", 1)
    if isinstance(error, BrokenPipeError):
        print_nowhere()
        return 0
    if isinstance(error, OSError) and error.errno in UNUSABLE and error.filename is not None:
        return say(f"error: {error.filename}: {error.strerror}; name another", ConfigError.exit_code)
    raise error


def say(line: str, code: int) -> int:
    """Print the one line of an error; its exit code."""
    with contextlib.suppress(OSError):  # a log on a full disk
        tell(line)
    try:
        sys.stdout.flush()
    except OSError:  # it takes no more, which is said by now
        print_nowhere()
    return code


def print_nowhere() -> None:
    """Let what is still to be printed vanish; Python would complain of it at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
