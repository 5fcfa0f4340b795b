# SPDX-License-Identifier: Apache-2.0
"""The checks before a start, in their order: what the launcher asks before any process is there, and the ranks again.

The doctor asks the same. Nothing here imports torch or touches a device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harness.config import RunConfig
from harness.data import checks
from harness.model.registry import check_model, parameters_of
from harness.model.starts import check_named, find_donor
from harness.rundir.checkpoint import Checkpoint
from harness.rundir.records import check_claim
from harness.tracking.trackers import check_trackers
from harness.training import resume
from harness.training.resume import ResumePoint
from preprocessing.base.errors import ConfigError
from preprocessing.base.processes import memory_bytes
from preprocessing.base.terminal import size
from preprocessing.dataset.shards import Manifest


def check_run(config: RunConfig, say: Callable[[str], None], warn: Callable[[str], None]) -> ResumePoint:
    """Model and trackers, then the run directory: where the run would go on from, and whether its dataset is the same.
    For one process of a run.

    ``say`` prints keys that differ, ``warn`` damaged files, also of a quiet run. A dry run is
    checked as the run that it rehearses, though it neither goes on from the checkpoint nor ends because the run has,
    and leaves nothing behind. Raises ``ConfigError`` if a tracker is not there or the run must not go on, ``DataError``
    for another dataset than the run's, ``DataError`` or ``StorageError`` for a directory that cannot be used.
    """
    check_model(config.model)
    check_trackers(config.tracking)
    if config.dry_run:
        check_claim(config)
    return resume.find_resume_point(replace(config, dry_run=False), say, warn)


def check_data(
    config: RunConfig, world_size: int, checkpoint: Checkpoint | None = None, *, here: int = 1, hashes: bool = True
) -> Manifest:
    """The dataset: whole, enough of it for every process and option, and with the soft labels of ``checkpoint``.

    ``here`` of the ``world_size`` processes run on this machine, and share its memory.
    ``hashes``: also read and hash its bytes, and soft labels if they are asked for, which one process of a run does.
    Raises ``DataError`` or ``ConfigError`` with the first thing that is wrong.
    """
    manifest = checks.check_dataset(config.data, hashes=hashes, task=config.task, fold=config.fold)
    checks.check_fit(config, manifest, world_size)
    checks.check_useful(config, manifest, world_size)
    check_room(config, manifest, processes=here)
    if hashes:
        soft = checks.open_soft_labels(config, manifest)
        if checkpoint is not None:
            resume.check_soft_labels(checkpoint, None if soft is None else soft.sha256, config)
    return manifest


def check_start(config: RunConfig, manifest: Manifest) -> None:
    """Whether the files are there that a run without a checkpoint starts from, and fit. For one process of a run.

    Raises ``ConfigError`` or ``DataError``.
    """
    if config.init.weights:
        find_donor(config.init.weights, config.model)
    if config.init.vectors not in ("none", "own"):
        check_named(config.init.vectors, manifest, config.model.embedding_dim)


DRAWN, TRAINED, AVERAGED = 4, 16, 4
"""Bytes of a parameter: in memory, where it is drawn; with its gradient and Adam's two averages; and its average."""


def check_room(config: RunConfig, manifest: Manifest, device_bytes: int | None = None, *, processes: int = 1) -> None:
    """Raise ``ConfigError`` for a network whose weights alone are more than the processes of this machine can have.

    ``device_bytes`` is what the device of the training has; None: it is not known yet, and may be another than this
    machine's memory, in which the weights are drawn in any case. ``processes`` of this machine, each with weights of
    its own, share that memory, or that device.
    """
    known = device_bytes is not None or config.device == "cpu"
    total = memory_bytes() if device_bytes is None else device_bytes
    parameters = parameters_of(config, manifest)
    each = TRAINED + (0 if config.optim.ema is None else AVERAGED) if known else DRAWN
    if each * parameters * processes <= total:
        return
    what = "weights, gradients and the optimizer's averages" if known else "weights"
    taken = size(each * parameters)
    if processes > 1:
        taken = f"{size(each * parameters * processes)}, {taken} in each of {processes} processes"
    raise ConfigError(
        f"model: {parameters:,} parameters take {taken} ({what}), and there are {size(total)} here; "
        f"lower model.hidden_size ({config.model.hidden_size:,}), model.embedding_dim "
        f"({config.model.embedding_dim:,}) or model.num_layers ({config.model.num_layers})"
    )
