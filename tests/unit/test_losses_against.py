# SPDX-License-Identifier: Apache-2.0
"""The gate for refactors finds the first line and key that differ, and leaves no work tree behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from preprocessing.base.errors import ConfigError
from tests.losses_against import Difference, checked_out, describe, first_difference, git


def line(step: int, loss: float, row_hash: str = "a", **more: Any) -> dict[str, Any]:
    return {"kind": "train", "step": step, "loss": loss, "row_hash": row_hash, **more}


VALIDATION = {"kind": "validation", "step": 2, "accuracy": 0.5}
OURS = [line(1, 0.7), line(2, 0.6), VALIDATION]


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (OURS, None),
        ([line(1, 0.7, grad_norm=3.0), line(2, 0.6), {**VALIDATION, "f1": 0.1}], None),
        ([line(1, 0.7), line(2, 0.6000000001), VALIDATION], Difference(2, "loss", 0.6, 0.6000000001)),
        ([line(1, 0.7), line(2, 0.6, "b"), VALIDATION], Difference(2, "row_hash", "a", "b")),
        ([line(1, 0.7), line(2, 0.6), {**VALIDATION, "accuracy": 0.6}], Difference(3, "accuracy", 0.5, 0.6)),
        ([line(1, 0.7), VALIDATION], Difference(2, "kind", "train", "validation")),
        (OURS[:2], Difference(3, "number of lines", 3, 2)),
    ],
)
def test_the_first_difference_is_named(theirs: list[dict[str, Any]], expected: Difference | None) -> None:
    assert first_difference(OURS, theirs) == expected


def test_a_result_is_a_line() -> None:
    assert describe(40, None) == "40 lines, all equal"
    assert describe(40, Difference(2, "loss", 0.5, 0.6)) == "line 2: loss is 0.5 here, 0.6 there"


@pytest.mark.processes
def test_a_revision_that_does_not_exist(tmp_path: Path) -> None:
    before = git("worktree", "list").stdout
    with (
        pytest.raises(ConfigError, match="no-such-revision: git cannot check it out"),
        checked_out("no-such-revision", tmp_path / "tree"),
    ):
        pass
    assert git("worktree", "list").stdout == before
