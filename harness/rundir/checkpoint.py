# SPDX-License-Identifier: Apache-2.0
"""``checkpoints/``: how tensors and plain values become a checkpoint and back, in formats that execute nothing.

::

    RUN/checkpoints/step-00001200/
        model.safetensors        weights
        optimizer.safetensors    Adam's moments and steps, averaged weights
        state.json               where the run stands: epochs, best so far, partial sums, configuration
        manifest.json            written last: bytes and sha256 of the others

The directory is built under a temporary name, every file fsynced and hashed on its way to the disk, and then renamed:
a name means completeness (law 2). A second one of a step takes the place of the first in one step, or in two that a
kill between them leaves readable (``preprocessing.base.atomic``). Reading checks every hash before a byte is parsed.
When one is written, and which are kept, is ``harness.training.writer``'s.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msgspec import field

from harness.rundir.json_files import Indexed, check_file, check_name, facts_of, read_object, read_typed
from harness.rundir.layout import BUNDLE, CHECKPOINTS, EVALUATION
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.schema import Count, Record, typed
from preprocessing.base.untrusted import check_regular, one_line, readable, shown

if TYPE_CHECKING:
    import torch

FORMAT, FORMAT_VERSION = "padless-checkpoint", 1
MANIFEST, STATE = "manifest.json", "state.json"
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
NAME = re.compile(rf"step-(\d{{8,}})({re.escape(atomic.ASIDE)})?")
MEND = "restore it, or remove this checkpoint"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter in ``optimizer.safetensors``, beside the number of its steps."""
AVERAGE = "average"
"""Before the names of averaged weights there."""

FEW = 3
"""So many names of tensors stand in a sentence."""

Tensors = Mapping[str, "torch.Tensor"]
Header = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name of a tensor -> dtype, as safetensors spells it, and shape."""


class Manifest(Record, frozen=True):
    """``manifest.json``."""

    format: str
    format_version: int
    step: Count
    files: dict[str, Indexed]


class TrainerState(Record, frozen=True):
    """Where the loop stands (``Trainer.state``)."""

    step: Count
    epochs_done: Count
    stopped: bool
    guard: dict[str, Count]
    scaler: dict[str, float] | None
    counted: list[dict[str, int | str]]


class SelectionState(Record, frozen=True):
    """The best validation so far."""

    metric: Literal["accuracy", "loss", "calibrated"]
    best: float | None
    best_step: Count | None
    epochs_since_best: Count
    decision: dict[str, float]


class CheckpointState(Record, frozen=True):
    """``state.json``."""

    step: Count
    trainer: TrainerState
    selection: SelectionState
    dataset: str
    dataset_parts: dict[str, Any]
    config: dict[str, Any]
    log_bytes: dict[str, Count]
    order_version: Count = 1
    versions: dict[str, str | None] = field(default_factory=dict)
    vectors: dict[str, Any] | None = None
    started_from: dict[str, Any] | None = None
    soft_labels: dict[str, Any] | None = None


class OtherVersionError(DataError):
    """A whole checkpoint that another version of padless wrote: not damaged, and nothing to be passed over."""


@dataclass(frozen=True)
class Checkpoint:
    """What a verified checkpoint holds."""

    path: Path
    step: int
    state: dict[str, Any]
    """``CheckpointState`` as plain values."""

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """All tensors of one file, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.path / name)


def name_of(run: str | Path, step: int) -> Path:
    """The name of the checkpoint of a step."""
    return Path(run, CHECKPOINTS, f"step-{step:08d}")


def path_of(run: str | Path, step: int) -> Path:
    """Where the checkpoint of a step lies: under its name, or beside it if a kill came between two renames."""
    path = name_of(run, step)
    return atomic.aside(path) if atomic.aside(path).is_dir() and not path.exists() else path


def write(run: str | Path, step: int, files: Mapping[str, Tensors], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint, whole or not at all, and return its directory. Tensors lie on the CPU, contiguous.

    One that is there already under this step is replaced; it was damaged, or made before the epoch's validation.
    Raises ``OSError``; what was there before is then still there.
    """
    target = name_of(run, step)
    temporary = atomic.unfinished(target)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, tensors in files.items():
            write_tensors(temporary / name, tensors)
        write_json(temporary / STATE, state)
        index = {name: facts_of(temporary / name) for name in (*files, STATE)}
        manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, "step": step, "files": index}
        write_json(temporary / MANIFEST, manifest)
        atomic.fsync(temporary)
        if target.exists() or target.is_symlink():
            atomic.remove(atomic.take_place(temporary, target))
        else:
            os.rename(temporary, target)
            atomic.fsync(target.parent)
    except BaseException:
        atomic.recover(target)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a small file, through to the disk. Raises ``OSError``."""
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
    atomic.fsync(path)


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write tensors in the safetensors format, through to the disk. Raises ``OSError``.

    The library writes from the tensors' own memory and holds no lock meanwhile, so a training loop beside it goes on.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:  # the library puts the number of an error of the system into its text
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
    path.chmod(path.parent.stat().st_mode & 0o666)  # the library's file is this user's alone
    atomic.fsync(path)


def verify(path: Path) -> Checkpoint:
    """Check a checkpoint byte by byte. Raises ``DataError`` that names the first file that is not as written."""
    content = read_object(path / MANIFEST, MEND)
    if content is None:
        raise DataError(f"{path / MANIFEST}: missing: not a whole checkpoint")
    if content.get("format") != FORMAT:
        raise DataError(f"{path / MANIFEST}: not the manifest of a padless checkpoint; {MEND}")
    if (found := content.get("format_version")) != FORMAT_VERSION:
        raise OtherVersionError(
            f"{path}: a checkpoint of format version {readable(found)}, this padless reads version {FORMAT_VERSION}: "
            "go on with the padless that wrote it, or name another run directory"
        )
    manifest: Manifest = typed(Manifest, content, str(path / MANIFEST), MEND)
    if not {MODEL, OPTIMIZER, STATE} <= manifest.files.keys():
        raise DataError(f"{path / MANIFEST}: does not name {MODEL}, {OPTIMIZER} and {STATE}: damaged; {MEND}")
    for name, line in manifest.files.items():
        check_name(name, path / MANIFEST, MEND)
        check_file(path / name, line, MANIFEST, MEND)
    state = read_typed(CheckpointState, path / STATE, MEND) or {}
    step = state["step"]
    if step != manifest.step or path != path_of(path.parents[1], step):
        raise DataError(f"{path}: its name, {MANIFEST} and {STATE} tell of different steps: renamed by hand? {MEND}")
    for name in (MODEL, OPTIMIZER):
        read_header(path / name, MEND)
    return Checkpoint(path, step, state)


def steps(run: str | Path) -> list[int]:
    """Steps that have a checkpoint by name, ascending; none of them is verified."""
    names = (path.name for path in Path(run, CHECKPOINTS).glob("step-*"))
    return sorted({int(match[1]) for name in names if (match := NAME.fullmatch(name))})


def newest(run: str | Path, damaged: Callable[[DataError], None]) -> Checkpoint | None:
    """The newest checkpoint that verifies; ``damaged`` is called for every newer one that does not. None without any.

    Raises ``OtherVersionError`` for one that this version cannot read: training from the start again would destroy it.
    """
    for step in reversed(steps(run)):
        try:
            return verify(path_of(run, step))
        except OtherVersionError:
            raise
        except DataError as error:
            damaged(error)
    return None


def delete(run: str | Path, unwanted: Iterable[int]) -> None:
    """Delete the checkpoints of some steps; a directory loses its name first, so that none is ever half there."""
    for step in unwanted:
        condemned = atomic.unfinished(path_of(run, step))
        os.rename(path_of(run, step), condemned)
        atomic.remove(condemned)


def sweep(run: str | Path) -> None:
    """Delete what killed processes left unfinished, and give checkpoints their names back; for the one process that
    owns the run.

    Nobody else writes into ``checkpoints/`` and ``bundle/``. Beside them a report or an evaluation may be written at
    this moment, so there only what a process left that is no more. Nothing is swept through a link, and nothing that
    has not the name of an unfinished file of ours.
    """
    for step in steps(run):
        atomic.recover(name_of(run, step))
        if (aside := atomic.aside(name_of(run, step))).is_dir():
            atomic.remove(aside)
    for name in (CHECKPOINTS, BUNDLE, EVALUATION, ""):
        folder = Path(run, name)
        for path in folder.iterdir() if folder.is_dir() and not (name and folder.is_symlink()) else ():
            final = atomic.final_of(path.name)
            is_ours = name == BUNDLE or (name == CHECKPOINTS and NAME.fullmatch(final or ""))
            if final is not None and (is_ours or atomic.is_abandoned(path.name)):
                atomic.remove(path)


def read_header(path: Path, mend: str) -> Header:
    """What a safetensors file says of itself; no tensor is read. Raises ``DataError`` for what is no whole one.

    The library checks that the tensors fill the file, so whoever loads it takes no more memory than it has bytes.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(path, os.stat(path).st_mode)
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or one_line(error)}; {mend}") from None
    except (SafetensorError, MemoryError) as error:  # more bytes than can be mapped
        raise DataError(f"{path}: not a safetensors file ({one_line(error)}); {mend}") from None


def check_tensors(found: Header, wanted: Header, what: str) -> None:
    """Raise ``DataError``, which begins with ``what``, for tensors that are not those of a network."""

    def spelt(tensors: Header, name: str) -> str:
        return f"{tensors[name][0]} {list(tensors[name][1])}" if name in tensors else "nothing"

    wrong = [
        f"{shown(name)} is {spelt(found, name)} where {spelt(wanted, name)} is expected"
        for name in dict.fromkeys((*wanted, *found))
        if found.get(name) != wanted.get(name)
    ]
    if wrong:
        more = f"; and {len(wrong) - FEW:,} more" if len(wrong) > FEW else ""
        raise DataError(f"{what} ({'; '.join(wrong[:FEW])}{more})")
