# SPDX-License-Identifier: Apache-2.0
"""The files of a run, of its bundle and of its export, damaged, then read and really used.

By a disk, so that hashes notice, and by a stranger, with hashes that agree. What comes of it is the same result, or
one project error; a run goes on from the checkpoint before and says so. Files that no hash vouches for may say
something else in its range.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from harness.config import CheckpointConfig, OptimConfig, TrackingConfig
from harness.inference.scorer import open_scorer
from harness.ranks.session import Session, open_session
from harness.report.page import view
from harness.report.runs import RunFacts
from harness.rundir import checkpoint, layout
from harness.rundir.bundle_files import INDEX, ONNX, bundle_directory, read_info
from harness.rundir.json_files import SEAL, seal_of
from harness.rundir.metrics_log import MetricsLog, read_log
from harness.training import assembly
from harness.training.preflight import check_run
from harness.training.writer import RunWriter
from preprocessing.dataset.shards import VOCABULARY
from tests.bundles import reseal
from tests.datasets import write_dataset
from tests.fuzz.conftest import Fuzz
from tests.fuzz.damage import REPLACEMENTS, Damage, byte_damages, json_damages, places, plant, replace, sealed
from tests.fuzz.outcome import outcome
from tests.report_runs import export
from tests.runs import small

pytestmark = [pytest.mark.thorough, pytest.mark.processes]  # the environment of a run names git's revision
TEXTS = ["a fine film", "awful w1 w2 awful w1 w2", "", "w1 w2 w3 w4 odd"]
HANDED_ON = ("bundle index", "bundle weights", "bundle vocabulary", "export network")
"""What may come from a stranger: checkpoints and records of runs are read where they were written."""
KEPT = (
    *("checkpoint manifest", "checkpoint state.json", "checkpoint model.safetensors"),
    *("checkpoint optimizer.safetensors", "status", "metrics", "config", "attempts", "test", "predictions"),
)
SHARE = 0.1
"""Of the cases that a fuzz test has: there are so many files."""


def digest(*values: Any) -> str:
    """sha256 over arrays, tensors and plain values."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, dict):
            found.update(digest(*(part for item in sorted(value.items()) for part in item)).encode())
        else:
            is_array = isinstance(value, torch.Tensor | np.ndarray)
            found.update(np.asarray(value).tobytes() if is_array else repr(value).encode())
    return found.hexdigest()


class Stage:
    """A small run with its checkpoints, bundle and export, and how each of its files is read and used."""

    def __init__(self, root: Path, session: Session) -> None:
        self.root, self.run, self.export = root, root / "run", root / "export"
        rows = {"train": 40, "validation": 16, "test": 16}
        write_dataset(root / "data", rows, longest=12, widths=(8, 16), block_rows=16)
        parts = {"checkpoint": CheckpointConfig(every_steps=3, keep_last=2), "tracking": TrackingConfig(log_every=1)}
        parts |= {"optim": OptimConfig(ema=0.9)}
        self.config = small(root / "data", self.run, wide=64, epochs=2, global_batch=10, **parts)
        with assembly.open_run(self.config, session) as run:
            run.train()
        self.live = assembly.assemble(self.config, session, RunWriter(self.config, active=False), {})
        assert export(self.run, "--output", self.export, "--onnx", "--quiet") == 0
        self.newest = checkpoint.path_of(self.run, checkpoint.steps(self.run)[-1])

    def predict(self, place: Path, engine: Any) -> Any:
        scorer = open_scorer(place, engine)
        return scorer.score(scorer.encode(TEXTS)).tolist()

    def resume(self) -> Any:
        """Go on from the newest checkpoint that is whole: the state that a trainer then has, and what was said."""
        said = []
        point = check_run(self.config, said.append)
        if point.checkpoint is None:
            return "begins anew", tuple(said)
        self.live.trainer.load(point.checkpoint)
        self.live.selection.load(point.checkpoint.state["selection"])
        return digest(*self.live.trainer.state(), self.live.selection.state()), tuple(said)

    def log_on(self) -> Any:
        """Open the metrics as a run does that goes on, and read them: how many lines."""
        MetricsLog(self.run, checkpoint.verify(self.newest).state)
        return len(read_log(self.run))

    def report(self) -> Any:
        return sorted(view(RunFacts(self.run), "run"))


@dataclass(frozen=True)
class Artefact:
    """One file of the stage."""

    path: Path
    use: Callable[[], Any]
    """Reads it as commands do, and uses what was read; what came of it, to be compared."""
    free: bool = False
    """No hash vouches for it: another value in its range is another value, and no fault."""
    seal: Callable[[dict[str, Any]], dict[str, str]] | None = None
    """The hashes that it keeps of itself, by their key."""
    index: Path | None = None
    """The sealed index with the sha256 of it."""

    def put(self, data: bytes) -> None:
        """Write other bytes in its place, with hashes that agree."""
        self.path.write_bytes(data)
        if self.index:
            reseal(self.index, weights_sha256=hashlib.sha256(data).hexdigest())

    @contextmanager
    def undone(self) -> Iterator[None]:
        """All is as it was behind the block."""
        kept = {path: path.read_bytes() for path in (self.path, self.index) if path}
        try:
            yield
        finally:
            for path, data in kept.items():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                path.unlink(missing_ok=True)
                path.write_bytes(data)


def own_seal(content: dict[str, Any]) -> dict[str, str]:
    return {SEAL: seal_of({name: value for name, value in content.items() if name != SEAL})}


def artefacts(stage: Stage) -> dict[str, Artefact]:
    """Every file that is damaged, one of each kind, by its name."""
    run, bundle, index = stage.run, bundle_directory(stage.run), bundle_directory(stage.run) / INDEX
    predict, exported = partial(stage.predict, run, "torch"), partial(stage.predict, stage.export, "onnx")
    found = {
        "bundle index": Artefact(index, predict, seal=own_seal),
        "bundle weights": Artefact(bundle / read_info(bundle).weights, predict, index=index),
        "bundle vocabulary": Artefact(bundle / VOCABULARY, predict),
        "export network": Artefact(stage.export / ONNX, exported),
        "checkpoint manifest": Artefact(stage.newest / checkpoint.MANIFEST, stage.resume),
        "status": Artefact(run / layout.STATUS, stage.resume, free=True),
        "metrics": Artefact(run / layout.METRICS, stage.log_on, free=True),
    }
    for name in (checkpoint.STATE, checkpoint.MODEL, checkpoint.OPTIMIZER):
        found[f"checkpoint {name}"] = Artefact(stage.newest / name, stage.resume)
    for name in (layout.CONFIG, layout.ATTEMPTS, "test.json", "test-predictions.parquet"):
        found[name.partition(".")[0].removeprefix("test-")] = Artefact(run / name, stage.report, free=True)
    return found


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with open_session("cpu", "fp32", 60) as session:
        yield Stage(tmp_path_factory.mktemp("run"), session)


@pytest.fixture
def one(stage: Stage, request: pytest.FixtureRequest) -> Artefact:
    return artefacts(stage)[request.param]


def is_said(found: Any) -> bool:
    """Whether a run went on from what was whole, and told so."""
    return isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], tuple) and bool(found[1])


@pytest.mark.parametrize("one", [*HANDED_ON, *KEPT], indirect=True)
def test_a_damaged_file_of_a_run(fuzz: Fuzz, stage: Stage, one: Artefact) -> None:
    whole = one.use()

    def check(put: Callable[[], object]) -> str:
        with one.undone():
            put()
            return outcome(one.use, lambda found: one.free or found == whole or is_said(found), stage.root)

    for what in REPLACEMENTS:
        check(lambda what=what: replace(one.path, what))
    fuzz(byte_damages(one.path.read_bytes()), lambda damage: check(lambda: one.path.write_bytes(damage.data)), SHARE)
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
    cases = byte_damages(data)
    content = json.loads(data) if one.path.suffix == ".json" else {}
    if content:
        cases = st.one_of(json_damages(content, one.seal), cases)

    def check(damage: Damage) -> str:
        with one.undone():
            one.put(damage.data)
            return outcome(one.use, lambda found: True, stage.root)

    for place in list(places(content))[1:]:
        empty = plant(content, place, '""')
        check(Damage(f"{place} is empty", empty if one.seal is None else sealed(empty, one.seal)))
    assert check(Damage("a pickle", pickle.dumps(Bomb(tmp_path / "executed")))) == "refused"
    assert not (tmp_path / "executed").exists()
    fuzz(cases, check, 2 * SHARE)
    assert one.use() == whole
