# SPDX-License-Identifier: Apache-2.0
"""Tries a check on many damaged files: as many as Hypothesis's profile has examples, at night others each time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy

from tests.helpers.datasets import copy_of

Fuzz = Callable[..., Counter[str]]


@pytest.fixture
def fuzz() -> Fuzz:
    """Draw cases, ``share`` of the profile's number of them, and check each; returns how often each outcome came."""

    def check_cases(cases: SearchStrategy[Any], check: Callable[[Any], str], share: float = 1.0) -> Counter[str]:
        outcomes = Counter()

        @settings(max_examples=max(1, int(settings().max_examples * share)))
        @given(cases)
        def run(case: Any) -> None:
            outcomes[check(case)] += 1

        run()
        return outcomes

    return check_cases


@pytest.fixture(scope="session")
def whole_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undamaged dataset."""
    from tests.fuzz.test_hostile_datasets import write_whole  # imports torch

    root = tmp_path_factory.mktemp("whole")
    write_whole(root)
    return root


root = copy_of("whole_dataset")
"""A copy to be damaged."""
