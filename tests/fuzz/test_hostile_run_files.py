# SPDX-License-Identifier: Apache-2.0
"""What strangers hand on of a run, its bundle and its export, damaged, then read and really used.

By a disk, so that hashes notice, and by a stranger, with hashes that agree. What comes of it is the same result, or
one project error.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from harness.inference.scorer import open_scorer
from harness.rundir.bundle_files import INDEX, ONNX, bundle_directory, read_info
from harness.rundir.json_files import SEAL, seal_of
from preprocessing.dataset.shards import VOCABULARY
from tests.fuzz.conftest import Fuzz
from tests.fuzz.damage import REPLACEMENTS, Damage, byte_damages, json_damages, places, plant, replace, reseal_json
from tests.fuzz.outcome import outcome
from tests.helpers.bundles import reseal
from tests.helpers.report_runs import TEXTS

pytestmark = [pytest.mark.thorough, pytest.mark.processes]  # the environment of a run names git's revision
NAMES = ("bundle index", "bundle weights", "bundle vocabulary", "export network")
SHARE = 0.1
"""Of the cases that a fuzz test has: there are so many files."""


def predict(folder: Path, engine: Any) -> Any:
    scorer = open_scorer(folder, engine)
    return scorer.score(scorer.encoder.encode_each(TEXTS)).tolist()


@dataclass(frozen=True)
class Artefact:
    """One file of a bundle or an export."""

    path: Path
    use: Callable[[], Any]
    """Reads it as commands do, and predicts with it."""

    def put(self, data: bytes) -> None:
        """Write other bytes in its place, with hashes that agree."""
        self.path.write_bytes(data)
        if self.path.suffix == ".safetensors":
            reseal(self.path.with_name(INDEX), weights_sha256=hashlib.sha256(data).hexdigest())

    def check(self, change: Callable[[], object], expected: Any = None) -> str:
        """The outcome of its use after a change, which is undone; without ``expected`` any result is one."""
        content_by_path = {path: path.read_bytes() for path in self.path.parent.iterdir()}
        try:
            change()
            return outcome(self.use, lambda result: expected in (None, result), self.path.parent)
        finally:
            if self.path.is_dir() and not self.path.is_symlink():
                self.path.rmdir()
            self.path.unlink(missing_ok=True)
            for path, content in content_by_path.items():
                path.write_bytes(content)


def own_seal(content: dict[str, Any]) -> dict[str, str]:
    return {SEAL: seal_of({name: value for name, value in content.items() if name != SEAL})}


@pytest.fixture(scope="module")
def artefacts(exported_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    root = Path(shutil.copytree(exported_run.parent, tmp_path_factory.mktemp("handed on") / "copy"))
    run = root / "run"
    bundle, use = bundle_directory(run), partial(predict, run, "torch")
    return {
        "bundle index": Artefact(bundle / INDEX, use),
        "bundle weights": Artefact(bundle / read_info(bundle).weights, use),
        "bundle vocabulary": Artefact(bundle / VOCABULARY, use),
        "export network": Artefact(root / "out" / ONNX, partial(predict, root / "out", "onnx")),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_refused_or_changes_nothing(fuzz: Fuzz, artefacts: dict[str, Artefact], name: str) -> None:
    artefact = artefacts[name]
    expected = artefact.use()
    for replacement in REPLACEMENTS:
        assert artefact.check(partial(replace, artefact.path, replacement), expected) == "refused"

    def check_bytes(damage: Damage) -> str:
        return artefact.check(partial(artefact.path.write_bytes, damage.data), expected)

    fuzz(byte_damages(artefact.path.read_bytes()), check_bytes, SHARE)
    assert artefact.use() == expected


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_executes_nothing(fuzz: Fuzz, artefacts: dict[str, Artefact], name: str, tmp_path: Path) -> None:
    """Whatever somebody who can make hashes agree has written; in JSON any value anywhere."""
    artefact = artefacts[name]
    expected, data = artefact.use(), artefact.path.read_bytes()
    cases = byte_damages(data)
    content = json.loads(data) if artefact.path.suffix == ".json" else {}
    if content:
        cases = st.one_of(json_damages(content, own_seal), cases)

    def check(damage: Damage) -> str:
        return artefact.check(partial(artefact.put, damage.data))

    for json_path in list(places(content))[1:]:
        check(Damage(f"{json_path} is empty", reseal_json(plant(content, json_path, '""'), own_seal)))
    assert check(Damage("a pickle", pickle.dumps(Bomb(tmp_path / "executed")))) == "refused"
    assert not (tmp_path / "executed").exists()
    fuzz(cases, check, 2 * SHARE)
    assert artefact.use() == expected
