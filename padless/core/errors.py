# SPDX-License-Identifier: Apache-2.0
"""Errors that users can correct: one sentence that names the file, row or key, what is wrong and what to do."""

from __future__ import annotations

from padless.core.terminal import plain_line, public_sentence

LONGEST = 1500
"""Most characters of a sentence."""


class UserError(Exception):
    """An error that the user can correct, in one sentence; docs/reference/files.md has the exit codes."""

    exit_code = 1

    def __init__(self, sentence: object = "") -> None:
        """Control characters in ``sentence`` are escaped, passwords in addresses removed, and its length is limited."""
        text = plain_line(public_sentence(str(sentence)[: 2 * LONGEST]))
        super().__init__(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")


class ConfigError(UserError):
    """The configuration or the command line is wrong (exit code 2)."""

    exit_code = 2


class DataError(UserError):
    """A file, a row or a directory does not hold what it should (exit code 3)."""

    exit_code = 3


class StorageError(UserError):
    """Something cannot be written: the disk is full, a quota is used up, a directory is read-only (exit code 4)."""

    exit_code = 4


ERRORS: dict[int, type[UserError]] = {error.exit_code: error for error in (ConfigError, DataError, StorageError)}


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Raise :class:`ConfigError` with key, value and what is ``expected``, unless the ``condition`` holds."""
    if not condition:
        raise ConfigError(f"{key}: {value!r} is out of range: expected {expected}")
