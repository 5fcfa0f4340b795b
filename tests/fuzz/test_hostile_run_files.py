# SPDX-License-Identifier: Apache-2.0
"""The files of a run, of its bundle and of its export, damaged, then read and really used.

By a disk, so that hashes notice, and by a stranger, with hashes that agree. What comes of it is the same result, or one
project error; a run goes on from the checkpoint before and says so. Files that no hash vouches for may say something
else in its range.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.artefacts import Artefact, artefacts
from tests.fuzz.conftest import Fuzz
from tests.fuzz.damage import REPLACEMENTS, Damage, byte_damages, json_damages, replace
from tests.fuzz.outcome import outcome
from tests.stage import Stage, staged

pytestmark = [pytest.mark.thorough, pytest.mark.processes]  # the environment of a run names git's revision
HANDED_ON = ("bundle index", "bundle weights", "bundle vocabulary", "bundle training facts", "export index")
"""What may come from a stranger: checkpoints and records of runs are read where they were written."""
KEPT = (
    *("checkpoint manifest", "checkpoint state.json", "checkpoint model.safetensors", "run status", "run config.yaml"),
    *("checkpoint optimizer.safetensors", "run metrics.jsonl", "run attempts.jsonl", "run test.json"),
    "run predictions",
)
SHARE = 0.1
"""Of the cases that a fuzz test has: there are so many files."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("run") / "stage") as made:
        yield made


@pytest.fixture
def one(stage: Stage, request: pytest.FixtureRequest) -> Artefact:
    return artefacts(stage)[request.param]


def is_said(found: Any) -> bool:
    """Whether a run went on from what was whole, and told so."""
    return isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], tuple) and bool(found[1])


@pytest.mark.parametrize("one", [*HANDED_ON, *KEPT], indirect=True)
def test_a_damaged_file_of_a_run(fuzz: Fuzz, stage: Stage, one: Artefact) -> None:
    whole = one.use()

    def check(damage: Damage) -> str:
        with one.undone():
            one.path.write_bytes(damage.data)
            return outcome(one.use, lambda found: one.free or found == whole or is_said(found), stage.root)

    fuzz(byte_damages(one.path.read_bytes()), check, SHARE)
    assert one.use() == whole


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("one", HANDED_ON, indirect=True)
def test_a_hostile_file_of_a_run(fuzz: Fuzz, stage: Stage, one: Artefact, tmp_path: Path) -> None:
    """Whatever somebody who can make hashes agree has written; in JSON any value anywhere; no pickle is executed."""
    whole, data = one.use(), one.path.read_bytes()
    cases: st.SearchStrategy[Damage] = byte_damages(data)
    if one.path.suffix == ".json":
        cases = st.one_of(json_damages(json.loads(data), one.seal), cases)

    def check(damage: Damage) -> str:
        with one.undone():
            one.put(damage.data)
            return outcome(one.use, lambda found: True, stage.root)

    assert check(Damage("a pickle", pickle.dumps(Bomb(tmp_path / "executed")))) == "refused"
    assert not (tmp_path / "executed").exists()
    fuzz(cases, check, 2 * SHARE)
    assert one.use() == whole


@pytest.mark.parametrize("what", REPLACEMENTS)
def test_what_lies_in_the_place_of_a_runs_file(stage: Stage, what: str) -> None:
    """A pipe is not waited for, a device is not read to its end, a terabyte of zeros is not read at all."""
    for one in artefacts(stage).values():
        whole = one.use()

        def fits(found: Any, one: Artefact = one, whole: Any = whole) -> bool:
            return one.free or found == whole or is_said(found)

        with one.undone():
            replace(one.path, what)
            outcome(one.use, fits, stage.root)
