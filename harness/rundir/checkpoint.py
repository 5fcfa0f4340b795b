# SPDX-License-Identifier: Apache-2.0
"""``checkpoints/``: writes and reads checkpoints, in formats that execute nothing.

::

    RUN/checkpoints/step-00001200/
        model.safetensors        weights
        optimizer.safetensors    Adam's moments and steps, averaged weights
        state.json               epochs, best so far, partial sums, configuration
        manifest.json            written last: bytes and sha256 of the others

The directory is built under a temporary name, every file hashed and fsynced, and then renamed: a name means
completeness (law 2). While a second checkpoint of the same step is written, the first has another name, under which it
is read if a kill comes. Reading checks every hash before parsing.
``harness.training.writer`` decides when to write and which to keep.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.rundir.json_files import FileName, read_object
from harness.rundir.layout import BUNDLE, CHECKPOINTS, EVALUATION
from padless.core import atomic
from padless.core.errors import DataError
from padless.core.schema import AtLeast0, Record, Sha256, convert_json
from padless.core.untrusted import open_regular, quote_value, sha256_of

if TYPE_CHECKING:
    import torch

FORMAT, FORMAT_VERSION = "padless-checkpoint", 3
MANIFEST, STATE = "manifest.json", "state.json"
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
NAME = re.compile(rf"step-(\d{{8,}})({re.escape(atomic.ASIDE)})?")
ADVICE = "restore it, or remove this checkpoint"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of each parameter in ``optimizer.safetensors``, besides the number of steps."""
AVERAGE = "average"
"""Prefix of the names of averaged weights there."""

Tensors = Mapping[str, "torch.Tensor"]


class Indexed(Record, frozen=True):
    """What ``manifest.json`` says of a file."""

    bytes: AtLeast0
    sha256: Sha256


class CheckpointManifest(Record, frozen=True):
    """``manifest.json``."""

    format: str
    format_version: int
    step: AtLeast0
    files: dict[FileName, Indexed]


KEYS = {"step", "trainer", "selection", "dataset", "config", "log_bytes", "seconds", "order_version"}
"""Keys that every ``state.json`` has."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    path: Path
    step: int
    state: dict[str, Any]
    """The content of ``state.json``."""

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """All tensors of one file, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.path / name)


def name_of(run: str | Path, step: int) -> Path:
    """The name of the checkpoint of a step."""
    return Path(run, CHECKPOINTS, f"step-{step:08d}")


def checkpoint_path(run: str | Path, step: int) -> Path:
    """The directory of a step's checkpoint: its name, or the name beside it if a kill came between two renames."""
    path = name_of(run, step)
    return atomic.aside(path) if atomic.aside(path).is_dir() and not path.exists() else path


def write(run: str | Path, step: int, files: Mapping[str, Tensors], state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically. Tensors are contiguous and on the CPU.

    Replaces an existing one of this step, which was damaged or made before the epoch's validation. Raises ``OSError``;
    the existing one is then still there.
    """
    target = name_of(run, step)
    old = atomic.aside(target)
    if os.path.lexists(target):
        os.rename(target, old)
    try:
        with atomic.new_folder(target) as folder:
            for name, tensors in files.items():
                write_tensors(folder / name, tensors)
            atomic.write_json(folder / STATE, state)
            index = {}
            for name in (*files, STATE):
                path = folder / name
                index[name] = {"bytes": path.stat().st_size, "sha256": atomic.sha256_file(path)}
            manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, "step": step, "files": index}
            atomic.write_json(folder / MANIFEST, manifest)
    except BaseException:
        atomic.recover(target)
        raise
    if os.path.lexists(old):
        atomic.remove(old)


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write tensors in the safetensors format. Raises ``OSError``.

    The library writes from the tensors' own memory without the GIL, so that training continues in another thread.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:  # the errno is only in the library's text
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
    path.chmod(path.parent.stat().st_mode & 0o666)  # the library's file has mode 600


def verify_checkpoint(path: Path) -> Checkpoint:
    """Check every byte of a checkpoint. Raises ``DataError``, which names the first changed file."""
    content = read_object(path / MANIFEST, ADVICE)
    if content is None:
        raise DataError(f"{path / MANIFEST}: missing: not a whole checkpoint")
    if content.get("format") != FORMAT:
        raise DataError(f"{path / MANIFEST}: not the manifest of a padless checkpoint; {ADVICE}")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path}: a checkpoint of format version {quote_value(version)}, this padless reads version "
            f"{FORMAT_VERSION}: go on with the padless that wrote it, or name another run directory"
        )
    manifest: CheckpointManifest = convert_json(CheckpointManifest, content, str(path / MANIFEST), ADVICE)
    if not {MODEL, OPTIMIZER, STATE} <= manifest.files.keys():
        raise DataError(f"{path / MANIFEST}: does not name {MODEL}, {OPTIMIZER} and {STATE}: damaged; {ADVICE}")
    for name, entry in manifest.files.items():
        check_file(path / name, entry)
    state = read_object(path / STATE, ADVICE) or {}
    if not state.keys() >= KEYS:
        raise DataError(f"{path / STATE}: not the state of a training; {ADVICE}")
    step = state["step"]
    if step != manifest.step or path != checkpoint_path(path.parents[1], step):
        raise DataError(f"{path}: its name, {MANIFEST} and {STATE} have different steps: renamed by hand? {ADVICE}")
    return Checkpoint(path, step, state)


def check_file(path: Path, entry: Indexed) -> None:
    """Raise ``DataError`` for a file that differs from its entry in the manifest; one of another size is not read."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            digest = sha256_of(file) if size == entry.bytes else ""
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: {MANIFEST} names this file; {ADVICE}") from None
    if size != entry.bytes:
        raise DataError(f"{path}: {size:,} bytes, and {MANIFEST} says {entry.bytes:,}: truncated or changed; {ADVICE}")
    if digest != entry.sha256:
        raise DataError(f"{path}: its sha256 is not the one in {MANIFEST}: bytes were changed; {ADVICE}")


def steps(run: str | Path) -> list[int]:
    """Steps with a checkpoint, ascending; only names are read."""
    matches = [NAME.fullmatch(path.name) for path in Path(run, CHECKPOINTS).glob("step-*")]
    return sorted({int(match[1]) for match in matches if match})


def newest(run: str | Path, damaged: Callable[[DataError], None]) -> Checkpoint | None:
    """The newest valid checkpoint, None where there are none; ``damaged`` is called for every newer invalid one.

    Raises ``DataError`` if all are invalid: training from the start would overwrite what the run still has.
    """
    errors = []
    for step in reversed(steps(run)):
        try:
            return verify_checkpoint(checkpoint_path(run, step))
        except DataError as error:
            damaged(error)
            errors.append(error)
    if errors:
        advice = f"to begin again, name another run directory or remove {run}"
        raise DataError(f"{errors[0]}; no other checkpoint is whole; {advice}")
    return None


def delete(run: str | Path, unwanted: Iterable[int]) -> None:
    """Delete the checkpoints of some steps; none is ever incomplete."""
    for step in unwanted:
        atomic.vanish(checkpoint_path(run, step))


def sweep_run(run: str | Path) -> None:
    """Delete unfinished files of killed processes, and rename checkpoints back. Only the owner of the run calls this.

    No other process writes into ``checkpoints/`` and ``bundle/``. In the other folders a report or an evaluation may be
    in progress, so only files of dead processes are deleted there. Only names of padless's unfinished files are
    deleted, and links to folders are not followed.
    """
    for step in steps(run):
        atomic.recover(name_of(run, step))
        if (aside := atomic.aside(name_of(run, step))).is_dir():
            atomic.remove(aside)
    for name in (CHECKPOINTS, BUNDLE, EVALUATION, ""):
        folder = Path(run, name)
        for path in folder.iterdir() if folder.is_dir() and not (name and folder.is_symlink()) else ():
            final = atomic.final_of(path.name)
            is_ours = name == BUNDLE or (name == CHECKPOINTS and NAME.fullmatch(final))
            if final != path.name and (is_ours or atomic.is_abandoned(path.name)):
                atomic.remove(path)
