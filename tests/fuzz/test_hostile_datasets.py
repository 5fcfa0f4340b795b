# SPDX-License-Identifier: Apache-2.0
"""A dataset's manifest, shards and vocabulary, damaged: read, planned, loaded and computed with, or refused.

Damage is tried as a disk does it, so that hashes notice, and as a stranger does, with hashes that agree. What
agrees and is no fault (another name of a class, say) may be another dataset: then anything but a fault is fine.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from preprocessing.dataset.shards import MANIFEST, VOCABULARY
from preprocessing.dataset.verification import verify
from tests.fuzz.conftest import Fuzz
from tests.fuzz.damage import REPLACEMENTS, Damage, byte_damages, exchange, json_damages
from tests.fuzz.hostile_dataset import SHARDS, agreeing, seal, used, written
from tests.fuzz.outcome import check_sentence, outcome

pytestmark = pytest.mark.thorough


def test_a_damaged_manifest_is_refused(fuzz: Fuzz, root: Path) -> None:
    """Flips, cuts and swaps anywhere in it; what changes no value changes no result."""
    path = root / MANIFEST
    data, expected = path.read_bytes(), used(root)
    outcomes = fuzz(
        byte_damages(data),
        lambda damage: outcome(written(path, damage.data, lambda: used(root)), lambda found: found == expected, root),
    )
    assert outcomes["refused"] > outcomes.total() // 2


def test_a_hostile_manifest_is_refused(fuzz: Fuzz, root: Path) -> None:
    """Planted values, missing, doubled and exchanged keys, with hashes that agree."""
    path = root / MANIFEST
    content = json.loads(path.read_bytes())
    outcomes = fuzz(
        json_damages(content, seal),
        lambda damage: outcome(written(path, damage.data, lambda: used(root)), lambda found: True, root),
    )
    assert outcomes["refused"] > outcomes.total() // 2


def test_what_verify_says_of_a_hostile_manifest_is_said_in_sentences(fuzz: Fuzz, root: Path) -> None:
    """It reads on where others stop."""
    path = root / MANIFEST
    content = json.loads(path.read_bytes())

    def verified() -> bool:
        for problem in verify(root):
            check_sentence(problem, (root,))
        return True

    outcomes = fuzz(
        json_damages(content, seal),
        lambda damage: outcome(written(path, damage.data, verified), lambda found: found, root),
    )
    assert outcomes["refused"] > 0


@pytest.mark.parametrize("hashes", [True, False])
def test_a_damaged_shard_is_refused(fuzz: Fuzz, root: Path, hashes: bool) -> None:
    """By its hash; and where no hash is looked at, nothing worse than another number is read."""
    path, expected = root / SHARDS[1], used(root)
    outcomes = fuzz(
        byte_damages(path.read_bytes()),
        lambda damage: outcome(
            written(path, damage.data, lambda: used(root, hashes=hashes)),
            lambda found: found == expected or not hashes,
            root,
        ),
    )
    assert outcomes["refused"] > outcomes.total() // 3


def test_a_hostile_shard_is_refused_or_leads_nowhere(fuzz: Fuzz, root: Path) -> None:
    """Any bytes, with hashes and sizes that agree."""
    whole = {name: (root / name).read_bytes() for name in SHARDS}
    manifest = (root / MANIFEST).read_bytes()

    def check(drawn: tuple[str, Damage]) -> str:
        for name, data in whole.items():
            (root / name).write_bytes(data)
        (root / MANIFEST).write_bytes(manifest)
        agreeing(root, drawn[0], drawn[1].data)
        return outcome(lambda: used(root), lambda found: True, root)

    cases = st.one_of(
        *(byte_damages(data).map(lambda damage, name=name: (name, damage)) for name, data in whole.items())
    )
    outcomes = fuzz(cases, check)
    assert outcomes["refused"] > 0


def test_a_hostile_vocabulary_is_refused_or_leads_nowhere(fuzz: Fuzz, root: Path) -> None:
    """It carries its own hash."""
    data = (root / VOCABULARY).read_bytes()

    def check(damage: Damage) -> str:
        agreeing(root, VOCABULARY, damage.data)
        return outcome(lambda: used(root), lambda found: True, root)

    outcomes = fuzz(byte_damages(data), check)
    assert outcomes["refused"] > 0


@pytest.mark.parametrize("what", REPLACEMENTS)
@pytest.mark.parametrize("name", [MANIFEST, VOCABULARY, *SHARDS])
def test_what_lies_in_the_place_of_a_datasets_file_is_refused(root: Path, name: str, what: str) -> None:
    """A pipe is not waited for, and a device is not read to its end."""
    REPLACEMENTS[what](root / name)
    assert outcome(lambda: used(root, hashes=False), lambda found: False, root) == "refused"


@pytest.mark.parametrize("one", [MANIFEST, VOCABULARY, SHARDS[0]])
@pytest.mark.parametrize("other", [VOCABULARY, SHARDS[1], SHARDS[2]])
def test_exchanged_files_are_refused(root: Path, one: str, other: str) -> None:
    """Each is whole, and in the wrong place."""
    exchange(root / one, root / other)
    assert outcome(lambda: used(root), lambda found: one == other, root) == ("same" if one == other else "refused")
