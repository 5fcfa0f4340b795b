# SPDX-License-Identifier: Apache-2.0
"""What a command answers to a mistake, inside the process of the test."""

from __future__ import annotations

import pytest

from harness import __main__ as harness_main
from preprocessing.base import cli


def refuse(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str]:
    """Exit code and the one line of a command that is expected to fail before any process starts."""
    code = cli.run(harness_main.main, [str(argument) for argument in argv])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return code, lines[0].removeprefix("error: ")
