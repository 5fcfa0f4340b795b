# SPDX-License-Identifier: Apache-2.0
"""Values of learning rates, row hashes and exit codes of the launcher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import OptimConfig
from harness.data.order import row_hash
from harness.launch import launcher
from harness.launch.launcher import Failure
from harness.rundir.records import LAUNCH_ID, State, write_status
from harness.training.optim import learning_rate


def test_learning_rate_climbs_then_falls_to_zero() -> None:
    config = OptimConfig(lr=1.0, warmup=0.1, decay="linear")
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx(np.linspace(0.1, 1, 10))
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(1 / 90)
    cosine = OptimConfig(lr=1.0, warmup=0.0, decay="cosine")
    assert learning_rate(50, 100, cosine) == pytest.approx(0.5)
    assert learning_rate(99, 100, OptimConfig(lr=0.3, warmup=0.0, decay="none")) == 0.3


@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=40, unique=True), st.integers(0, 1000), st.data())
def test_row_hash_adds_up_over_any_split_and_sees_every_change(rows: list[int], step: int, data: st.DataObject) -> None:
    numbers = np.array(rows)
    cut = data.draw(st.integers(0, len(rows)))
    mask = (1 << 64) - 1
    whole = row_hash(numbers, step)
    assert (row_hash(numbers[cut:], step) + row_hash(numbers[:cut], step)) & mask == whole
    assert row_hash(numbers[1:], step) != whole
    assert row_hash(numbers, step + 1) != whole
    assert row_hash(np.append(numbers, numbers[0]), step) != whole


@pytest.mark.parametrize(
    ("state", "code", "failure", "expected"),
    [
        ("finished", 0, None, 0),
        ("failed", 3, Failure(1, "rank 0 ended with exit code 1"), 3),
        ("running", 0, Failure(1, "rank 1 was killed by SIGKILL"), 1),
        ("finished", 0, Failure(1, "rank 1 was killed by SIGKILL"), 1),
        ("preempted", 85, Failure(1, "the launcher stopped"), 85),
    ],
)
def test_exit_code_is_the_one_in_the_status(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: State,
    code: int,
    failure: Failure | None,
    expected: int,
) -> None:
    monkeypatch.setenv(LAUNCH_ID, "mine")
    write_status(tmp_path, state, exit_code=code)
    assert launcher.outcome(tmp_path, "mine", failure) == expected
