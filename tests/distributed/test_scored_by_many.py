# SPDX-License-Identifier: Apache-2.0
"""Predictions are the same bytes by one process and by several, also after a rank was lost: every row scored once (law
5).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from harness import predict
from harness.inference.predict import ScoredPart
from preprocessing.base.errors import UserError
from tests.bundles import write_run
from tests.corpora import reviews, write_csv
from tests.ranks import Gone, run_ranks

pytestmark = pytest.mark.processes
ROWS = 3_000
PART = ("--part_mb", "0.005")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a table, and its predictions by one process."""
    root = tmp_path_factory.mktemp("by-many")
    write_run(root, embedding_dim=8, hidden_size=8)
    write_csv(root / "in.csv", enumerate(text for text, _ in reviews(ROWS, words=12)), ("n", "text"))
    assert ranked(root, "one.csv") is None
    return root


def ranked(root: Path, target: str, lost: int | None = None, *more: str) -> str | None:
    """One rank of ``accelerate launch -m harness.predict``; the rank ``lost`` dies in its second part.

    Returns the sentence of an error.
    """
    if lost is not None and os.environ.get("RANK") == str(lost):
        make, calls = ScoredPart.make, []

        def dying(part: ScoredPart) -> Any:
            calls.append(part.number)
            if len(calls) == 2:
                os._exit(9)
            return make(part)

        ScoredPart.make = dying  # type: ignore[method-assign]
    words = ["--run", str(root / "run"), "--input", str(root / "in.csv"), "--output", str(root / target)]
    try:
        assert predict.main([*words, *PART, "--device", "cpu", "--quiet", *more]) == 0
    except UserError as error:
        return str(error)
    return None


def test_two_ranks_write_the_same_bytes(root: Path) -> None:
    assert run_ranks(ranked, 2, root, "two.csv") == [None, None]
    assert (root / "two.csv").read_bytes() == (root / "one.csv").read_bytes()
    assert not (root / "two.csv.parts").exists()


def test_what_a_lost_rank_has_not_made_is_made_at_the_next_start(root: Path) -> None:
    left, gone = run_ranks(ranked, 2, root, "lost.csv", 1, "--timeout_s", "20", may_die=True)
    assert gone == Gone(9)
    assert "waited for the end of predicting from 1 other ranks" in left
    made = len(list((root / "lost.csv.parts").glob("0*.json")))
    assert made >= 2
    assert not (root / "lost.csv").exists()
    assert ranked(root, "lost.csv") is None
    assert (root / "lost.csv").read_bytes() == (root / "one.csv").read_bytes()
