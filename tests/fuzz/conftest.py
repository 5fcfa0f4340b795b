# SPDX-License-Identifier: Apache-2.0
"""How many damaged files a fuzz test tries: few in ``make test``, more when ``slow``, many at ``night``.

``PADLESS_FUZZ`` sets another number for all. At ``night``, and with that variable, other files are tried each time, and
what to decorate the test with to try a failing case again is printed. Else the files are the same every time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from tests.helpers.datasets import copy_of

NUM_SHORT, NUM_LONG, NUM_NIGHT = 30, 200, 5000


@dataclass(frozen=True)
class Fuzz:
    """Tries a check on many cases."""

    examples: int
    is_same: bool

    def __call__(self, cases: SearchStrategy[Any], check: Callable[[Any], str], share: float = 1.0) -> Counter[str]:
        """Draw ``share`` of the examples from ``cases`` and check each; how often each outcome came."""
        outcomes = Counter()

        @settings(
            max_examples=max(1, int(self.examples * share)),
            deadline=None,
            derandomize=self.is_same,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(cases)
        def run(case: Any) -> None:
            outcomes[check(case)] += 1

        run()
        return outcomes


@pytest.fixture(
    params=[
        pytest.param(NUM_SHORT, id="short"),
        pytest.param(NUM_LONG, id="long", marks=pytest.mark.slow),
        pytest.param(NUM_NIGHT, id="night", marks=pytest.mark.night),
    ]
)
def fuzz(request: pytest.FixtureRequest) -> Fuzz:
    examples = os.environ.get("PADLESS_FUZZ")
    return Fuzz(int(examples or request.param), examples is None and request.param != NUM_NIGHT)


@pytest.fixture(scope="session")
def whole_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undamaged dataset."""
    from tests.fuzz.test_hostile_datasets import write_whole  # imports torch

    root = tmp_path_factory.mktemp("whole")
    write_whole(root)
    return root


root = copy_of("whole_dataset")
"""A copy to be damaged."""
