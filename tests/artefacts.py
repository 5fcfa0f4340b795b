# SPDX-License-Identifier: Apache-2.0
"""The files of a small run (``tests/stage.py``): how each is used, and which hashes others keep of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.rundir import checkpoint, layout
from harness.rundir.bundle_files import EXPORT, INDEX, bundle_directory, read_info
from harness.rundir.json_files import SEAL, seal_of
from harness.rundir.metrics_log import FILES
from harness.rundir.training_facts import FILE as TRAINING
from preprocessing.dataset.shards import VOCABULARY
from tests.stage import Stage


def nothing() -> None:
    """Nothing else has to agree."""


@dataclass(frozen=True)
class Artefact:
    """One file of the stage."""

    name: str
    path: Path
    use: Callable[[], Any]
    """Reads it as commands do, and uses what was read; what came of it, to be compared."""
    agree: Callable[[], None] = nothing
    """Makes the hashes that others keep of it agree, as a stranger would."""
    beside: tuple[Path, ...] = ()
    """What that changes."""
    seal: Callable[[dict[str, Any]], dict[str, str]] | None = None
    """The hashes that it keeps of itself, by their key."""
    free: bool = False
    """No hash vouches for it: another value in its range is another value, and no fault."""

    def put(self, data: bytes) -> None:
        """Write other bytes in its place, with hashes that agree."""
        self.path.write_bytes(data)
        self.agree()

    @contextmanager
    def undone(self) -> Iterator[None]:
        """All is as it was behind the block."""
        kept = {path: path.read_bytes() for path in (self.path, *self.beside)}
        try:
            yield
        finally:
            for path, data in kept.items():
                if path.is_symlink() or not path.is_file():
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)


def reseal(path: Path, **changes: Any) -> None:
    """Change a sealed index, and seal it again; of what is no such index, nothing."""
    content = json.loads(path.read_bytes())
    content.pop(SEAL)
    content |= changes
    path.write_text(json.dumps({**content, SEAL: seal_of(content)}))


def agree_checkpoint(folder: Path, name: str) -> None:
    """The manifest of a checkpoint says what a file is now."""
    path, data = folder / checkpoint.MANIFEST, (folder / name).read_bytes()
    content = json.loads(path.read_text())
    content["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(content))


def agree_weights(folder: Path, name: str) -> None:
    """The index of a bundle says what its weights are now."""
    reseal(folder / INDEX, weights_sha256=hashlib.sha256((folder / name).read_bytes()).hexdigest())


def own_seal(content: dict[str, Any]) -> dict[str, str]:
    """The seal of an index."""
    return {SEAL: seal_of({name: value for name, value in content.items() if name != SEAL})}


def artefacts(stage: Stage) -> dict[str, Artefact]:
    """Every file that is damaged, one of each kind, by its name."""
    bundle, newest = bundle_directory(stage.run), checkpoint.path_of(stage.run, stage.steps[-1])
    weights, index = read_info(bundle).weights, bundle / INDEX
    predict, resume, log_on, report = partial(stage.predict, stage.run), stage.resume, stage.log_on, stage.report
    found = [
        Artefact("bundle index", index, predict, seal=own_seal),
        Artefact("bundle weights", bundle / weights, predict, partial(agree_weights, bundle, weights), (index,)),
        Artefact("bundle vocabulary", bundle / VOCABULARY, predict),
        Artefact("bundle training facts", bundle / TRAINING, partial(stage.evaluate_with, bundle), free=True),
        Artefact("checkpoint manifest", newest / checkpoint.MANIFEST, resume),
    ]
    for name in (checkpoint.STATE, checkpoint.MODEL, checkpoint.OPTIMIZER):
        agree = partial(agree_checkpoint, newest, name)
        found.append(Artefact(f"checkpoint {name}", newest / name, resume, agree, (newest / checkpoint.MANIFEST,)))
    found += [
        Artefact("run status", stage.run / layout.STATUS, resume, free=True),
        *(Artefact(f"run {name}", stage.run / name, log_on, free=True) for name in FILES[:1]),
        *(
            Artefact(f"run {name}", stage.run / name, report, free=True)
            for name in (layout.CONFIG, layout.ATTEMPTS, "test.json")
        ),
        Artefact("run predictions", stage.run / "test-predictions.parquet", report, free=True),
    ]
    exported = partial(stage.predict, stage.export, "onnx")
    found.append(Artefact("export index", stage.export / EXPORT, exported, seal=own_seal))
    return {one.name: one for one in found}
