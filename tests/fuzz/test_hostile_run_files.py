# SPDX-License-Identifier: Apache-2.0
"""The files of a run, of its bundle, its export and its predictions, damaged, then read and really used.

By a disk, so that hashes notice, and by a stranger, with hashes that agree. What comes of it is the same result, or one
project error; a run goes on from the checkpoint before and says so. Files that no hash vouches for may say something
else in its range.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tests import damages
from tests.artefacts import Artefact, artefacts
from tests.fuzz.conftest import Fuzz
from tests.fuzz.damage import REPLACEMENTS, Damage, byte_damages, json_damages
from tests.fuzz.outcome import outcome
from tests.stage import Stage, staged

pytestmark = [pytest.mark.thorough, pytest.mark.processes]  # the environment of a run names git's revision
NAMES = (
    *("bundle index", "bundle weights", "bundle vocabulary", "bundle training facts"),
    *("checkpoint manifest", "checkpoint state.json", "checkpoint model.safetensors"),
    *("checkpoint optimizer.safetensors", "run status", "run metrics.jsonl", "run config.yaml"),
    *("run environment.json", "run attempts.jsonl", "run throughput.jsonl", "run test.json", "run predictions"),
    *("run tracker journal", "export index", "prediction begun", "prediction marker", "prediction part"),
)
HANDED_ON = tuple(name for name in NAMES if name.startswith(("bundle", "export")))
"""What may come from a stranger: checkpoints and records of runs are read where they were written."""
SHARE = 0.08
"""Of the cases that a fuzz test has: there are so many files."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A small run with all that belongs to it."""
    with staged(tmp_path_factory.mktemp("run") / "stage") as made:
        yield made


@pytest.fixture
def one(stage: Stage, request: pytest.FixtureRequest) -> Artefact:
    """The file of this name."""
    return next(found for found in artefacts(stage) if found.name == request.param)


def check(stage: Stage, one: Artefact, whole: Any, damage: Damage, *, agree: bool) -> str:
    """Damage a file, use it, and undo the damage."""
    with one.undone():
        if agree:
            one.put(damage.data)
        else:
            one.path.write_bytes(damage.data)
        return outcome(one.use, lambda found: one.free or found == whole or agree or damages.is_said(found), stage.root)


@pytest.mark.parametrize("one", NAMES, indirect=True)
def test_a_damaged_file_of_a_run(fuzz: Fuzz, stage: Stage, one: Artefact) -> None:
    """Flips, cuts, additions and swaps."""
    whole = one.use()
    fuzz(byte_damages(one.path.read_bytes()), lambda damage: check(stage, one, whole, damage, agree=False), SHARE)
    assert one.use() == whole


@pytest.mark.parametrize("one", HANDED_ON, indirect=True)
def test_a_hostile_file_of_a_run(fuzz: Fuzz, stage: Stage, one: Artefact) -> None:
    """Whatever somebody who can make hashes agree has written; in JSON any value in any place."""
    whole, data = one.use(), one.path.read_bytes()
    cases: st.SearchStrategy[Damage] = byte_damages(data)
    if one.path.suffix == ".json":
        cases = st.one_of(json_damages(json.loads(data), one.seal), cases)
    fuzz(cases, lambda damage: check(stage, one, whole, damage, agree=True), SHARE)
    assert one.use() == whole


@pytest.mark.parametrize("what", REPLACEMENTS)
def test_what_lies_in_the_place_of_a_runs_file(stage: Stage, what: str) -> None:
    """A pipe is not waited for, a device is not read to its end, a terabyte of zeros is not read at all."""
    for one in artefacts(stage):
        if one.name not in NAMES:
            continue
        whole = one.use()
        with one.undone():
            REPLACEMENTS[what](one.path)

            def fits(found: Any, one: Artefact = one, whole: Any = whole) -> bool:
                return one.free or found == whole or damages.is_said(found)

            outcome(one.use, fits, stage.root)
        assert one.use() == whole, one.name


@pytest.mark.slow
def test_the_table_of_damages_has_no_fault(tmp_path: Path) -> None:
    """Every kind of file, and among the cases pickles, paths, numbers and labels of a stranger."""
    rows = damages.run(tmp_path, seed=random.randrange(1 << 20))
    assert [row for row in rows if row.outcome == "FAULT"] == []
    assert len(rows) >= 300
    said = {part for row in rows for part in ("pickle", "path", "number", "label") if part in row.damage}
    assert said == {"pickle", "path", "number", "label"}
    refused = sum(row.outcome.startswith("exit code") for row in rows)
    assert refused > len(rows) // 3
    assert not (tmp_path / "executed").exists()
