# SPDX-License-Identifier: Apache-2.0
"""With this folder in ``PYTHONPATH``, the modules of padless find in a process on Linux what they would on Windows.

Other packages import and use the real modules: on Windows they have other code.
"""

from __future__ import annotations

import builtins
import fcntl
import os
import signal
import socket
from types import ModuleType
from typing import Any

PACKAGES = ("harness", "padless", "preprocessing")
MISSING_MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
MISSING_NAMES = {
    "os": "O_CLOEXEC O_NONBLOCK fork killpg pread pwrite sched_getaffinity sysconf uname",
    "signal": "SIGCHLD SIGCONT SIGHUP SIGKILL SIGQUIT SIGUSR1 SIGUSR2 pthread_sigmask sigwait",
    "socket": "recv_fds send_fds",
}


class WithoutNames(ModuleType):
    """A module that lacks some names."""

    def __init__(self, module: ModuleType, names: str) -> None:
        super().__init__(module.__name__)
        self._module, self._names = module, names.split()

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            raise AttributeError(f"module {self.__name__} has no attribute {name} on Windows")
        return getattr(self._module, name)


class Msvcrt(ModuleType):
    """The functions of Windows that lock a file."""

    LK_NBLCK = 2

    @staticmethod
    def locking(descriptor: int, mode: int, num_bytes: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(*error.args) from None


REPLACED: dict[str, ModuleType] = {
    module.__name__: WithoutNames(module, MISSING_NAMES[module.__name__]) for module in (os, signal, socket)
}
REPLACED["msvcrt"] = Msvcrt("msvcrt")  # for padless alone: the standard library recognizes Windows by it
import_any = builtins.__import__


def import_as_on_windows(name: str, variables: Any = None, *more: Any, **options: Any) -> ModuleType:
    """``__import__`` for the modules of padless."""
    package = (variables or {}).get("__package__") or ""
    if package.partition(".")[0] in PACKAGES:
        if name in MISSING_MODULES:
            raise ImportError(f"a module of {package} imports {name}, which Windows does not have")
        if name in REPLACED:
            return REPLACED[name]
    return import_any(name, variables, *more, **options)


builtins.__import__ = import_as_on_windows
