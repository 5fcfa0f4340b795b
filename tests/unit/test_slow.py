# SPDX-License-Identifier: Apache-2.0
"""Two commands side by side: both have run to their end, neither failure is lost, nothing is interleaved."""

from __future__ import annotations

import sys

import pytest

from tests.slow import CLUSTER, OTHERS, side_by_side


def speak(words: str, code: int) -> list[str]:
    """A command that says something in two parts, and ends with an exit code."""
    first, second = words.split()
    script = f"import sys, time; print({first!r}, flush=True); time.sleep(0.3); print({second!r}); sys.exit({code})"
    return [sys.executable, "-c", script]


@pytest.mark.processes
@pytest.mark.parametrize(("others", "cluster", "code"), [(0, 0, 0), (1, 0, 1), (0, 3, 3), (-9, 1, -9)])
def test_every_failure_is_the_exit_code(
    others: int, cluster: int, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    killed = [sys.executable, "-c", "import os; print('one two', flush=True); os.kill(os.getpid(), 9)"]
    first = killed if others < 0 else speak("one two", others)
    assert side_by_side(first, speak("three four", cluster)) == code
    assert capfd.readouterr().out.split() == ["one", "two", "three", "four"]


def test_both_together_are_all_slow_tests() -> None:
    assert CLUSTER[-3:] == ("-m", "slow and not night", "tests/slurm")
    assert OTHERS[3:5] == CLUSTER[3:5]
    assert OTHERS[-2:] == ("--ignore", CLUSTER[-1])
