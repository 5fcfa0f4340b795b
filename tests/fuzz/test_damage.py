# SPDX-License-Identifier: Apache-2.0
"""The fuzzer itself: damage is what it says, and each kind of fault is noticed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import read_bytes
from tests.commands import ROOT
from tests.fuzz import damage
from tests.fuzz.outcome import outcome

TREE = {"a": [1, {"b": "x"}], "sha256": "0" * 64}


def test_damage_is_what_it_says() -> None:
    """What stands in a place is text that need not be JSON; what no hash can be made of keeps the old one."""
    assert (damage.flip(b"\x00\x00", 9), damage.overwrite(b"abcd", 3, b"xyz")) == (b"\x00\x02", b"abcx")
    assert (damage.swap(b"abcdef", 4, 0, 2), damage.swap(b"abcdef", 0, 1, 5)) == (b"efcdab", b"bacdef")
    assert list(damage.places(TREE)) == [(), ("a",), ("a", 0), ("a", 1), ("a", 1, "b"), ("sha256",)]
    assert damage.plant(TREE, ("a", 1, "b"), "NaN") == json.dumps(TREE).replace('"x"', "NaN").encode()
    assert damage.without(TREE, ("a", 0)) == {"a": [{"b": "x"}], "sha256": "0" * 64}
    assert damage.doubled({"a": 1}, ("a",)) == b'{"a": 1, "a": 1}'
    assert damage.renamed(TREE, ("a", 1, "b"), "c")["a"][1] == {"c": "x"}
    agreeing = damage.sealed(damage.plant(TREE, ("a", 0), "2"), lambda _: {"sha256": "1" * 64})
    assert json.loads(agreeing) == {"a": [2, {"b": "x"}], "sha256": "1" * 64}
    assert damage.sealed(b"[", lambda _: {"sha256": "1"}) == b"["


@pytest.mark.parametrize("what", damage.REPLACEMENTS)
def test_what_lies_in_a_files_place_is_refused(what: str, tmp_path: Path) -> None:
    """By the reader that others are built on; an empty file is one, and none at all is its caller's business."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    damage.REPLACEMENTS[what](path)

    def read() -> bytes:
        try:
            return read_bytes(path, 1 << 20)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None

    assert outcome(read, lambda result: result == b"", path) == ("same" if what == "an empty file" else "refused")


class RawError(DataError):
    """One that says what it was given, as no project error does."""

    def __init__(self, sentence: str) -> None:
        Exception.__init__(self, sentence)


def raises(error: Exception) -> Callable[[], Any]:
    """A function that does."""

    def function() -> Any:
        raise error

    return function


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (raises(KeyError("rows")), "KeyError"),
        (raises(RawError("file: two\nlines")), "printable"),
        (raises(RawError("file: \x1b[2J")), "printable"),
        (raises(DataError("it is damaged")), "names no file"),
        (raises(RawError("file " * 1_000)), "5000 characters"),
        (lambda: time.sleep(5), "not done after 0.2 s"),
        (lambda: 2, "another result"),
        (lambda: bytearray(1 << 45), "MemoryError"),
    ],
)
def test_each_fault_is_noticed(function: Callable[[], Any], fault: str) -> None:
    """Another exception, a sentence that says nothing or too much, a hang, another result, too much memory."""
    with pytest.raises(AssertionError, match=fault):
        outcome(function, lambda result: isinstance(result, bytearray), "file", seconds=0.2 if "0.2" in fault else 20)


@pytest.mark.processes
def test_too_much_memory_is_noticed() -> None:
    """In a process of its own: what others have let go of in this one may count against what is new."""
    lines = ["from tests.fuzz.outcome import outcome", "outcome(lambda: bytearray(b'x' * (600 << 20)), bool)"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert re.search(r"AssertionError: \d{3,4} MiB more memory than before$", done.stderr.strip())


def test_the_same_result_and_a_sentence_are_well() -> None:
    assert outcome(lambda: 1, lambda result: result == 1) == "same"
    assert outcome(raises(DataError("file: damaged")), lambda result: False, "file") == "refused"
