# SPDX-License-Identifier: Apache-2.0
"""Checks before a start, and which checkpoint a run resumes from. Launcher, doctor and ranks call them.

Nothing here imports torch or touches a device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.config import CLASSIFIER, LANGUAGE_MODEL, RunConfig, flat, to_dict
from harness.data import checks, order
from harness.model.starts import SHAPE, check_dim, find_donor, read_head
from harness.rundir import layout
from harness.rundir.bundle_files import stored_info
from harness.rundir.checkpoint import Checkpoint, newest
from harness.rundir.records import check_claim, read_status
from harness.tracking.trackers import check_trackers
from preprocessing.base.cli import from_file
from preprocessing.base.configuration import build, find
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.help_page import suggestion
from preprocessing.base.untrusted import shown
from preprocessing.dataset import views
from preprocessing.dataset.shards import Manifest

FREE = frozenset(
    [
        *("data", "run", "device", "threads", "micro_batch", "recurrence", "stage_dir", "eval_batch", "timeout_s"),
        *("nan_limit", "dry_run", "resume", "allow", "quiet", "verbose", "max_time", "checkpoint"),
        *("tracking", "evaluation", "baseline"),
    ]
)
"""Keys, or prefixes of keys, that change neither the order of rows nor any update, except for rounding."""
OF_BOTH = (
    *("data", "fold", "seed", "device", "precision", "threads", "stage_dir", "timeout_s", "max_time", "dry_run"),
    *("quiet", "verbose", "tracking.tracker", "tracking.project", "tracking.group", "tracking.tags"),
    *(f"model.{key}" for key in SHAPE),
)
"""Keys of a run that the language model trained before it has too."""
FITTING = frozenset(["model.freeze_embedding"])
"""Model keys that ``--allow`` accepts: the weights still fit."""
UNSET: tuple[Any, ...] = (None, {}, [], "none")


@dataclass(frozen=True)
class ResumePoint:
    """State of a run directory before a start."""

    checkpoint: Checkpoint | None = None
    finished: bool = False
    """The run has finished, and the configuration asks for no more training."""


def check_run(config: RunConfig, warn: Callable[[str], None]) -> ResumePoint:
    """Check trackers and run directory: the checkpoint to resume from, and whether the dataset is the same. One
    process of a run calls it.

    ``warn`` prints damaged files, also in a quiet run. A dry run gets the same checks, but does not resume, runs even
    if the run has finished, and writes nothing. Raises ``ConfigError`` if a tracker is missing or the run cannot
    resume, ``DataError`` for another dataset than the run's, ``DataError`` or ``StorageError`` for an unusable
    directory.
    """
    check_trackers(config.tracking)
    keys = flat(to_dict(config))
    for name in config.allow:
        if not any(is_allowed(key, [name]) for key in keys):
            raise ConfigError(f"allow: {name!r} is no key of a training{suggestion(name, keys, '')}")
    if config.dry_run:
        check_claim(config)
    config = replace(config, dry_run=False)
    layout.check_single(config.run)
    layout.check_directory(config.run)
    if not layout.holds_run(config.run):
        return ResumePoint()
    if config.resume == "never":
        raise ConfigError(f"run: {config.run} already holds a run; name another directory, or remove it")
    finished = read_status(config.run).get("state") == "finished"
    checkpoint = newest(config.run, lambda error: warn(f"damaged checkpoint: {error}; looking at the one before"))
    same_data = check_dataset(checkpoint, config, finished=finished)
    if checkpoint is None:
        return ResumePoint()
    before, after = flat(checkpoint.state["config"]), keys
    versions = checkpoint.state["order_version"], order.VERSION
    before["order"], after["order"] = (f"version {number} of the order of rows" for number in versions)
    breaking = [] if same_data else ["data"]
    for key in dict.fromkeys([*after, *before]):  # a missing key counts as None
        was, now = before.get(key), after.get(key)
        if was != now and not (was in UNSET and now in UNSET) and not is_allowed(key, FREE):
            breaking.append(key)
    unfit = [key for key in breaking if key.partition(".")[0] in ("model", "task") and key not in FITTING]
    for key in [*unfit, *(key for key in breaking if not is_allowed(key, config.allow))]:
        was, now = shown(before.get(key)), shown(after.get(key))
        if unfit:
            raise ConfigError(f"{key}: was {was}, now {now}: the weights fit no other; name another run directory")
        raise ConfigError(
            f"{key}: the run began with {was}, now {now}; set it back, name another run directory, or continue "
            f"anyway with --allow {','.join(sorted({*breaking, *config.allow}))}"
        )
    return ResumePoint(checkpoint, finished and not breaking)


def check_data(config: RunConfig, world_size: int, *, hashes: bool = True) -> Manifest:
    """Check that the dataset is complete and fits processes and options.

    ``hashes``: also verify the hashes of shards; one process of a run does it. Raises ``DataError`` or ``ConfigError``
    with the first problem.
    """
    manifest = checks.check_dataset(config.data, hashes=hashes, task=config.task, fold=config.fold)
    checks.check_fit(config, manifest, world_size)
    checks.check_useful(config, manifest)
    return manifest


def pretraining(config: RunConfig) -> RunConfig | None:
    """The configuration of the language model that ``init.pretrain`` names, as a run of its own; None where there is
    none to train, or it has finished. Raises ``ConfigError`` for an unknown recipe.
    """
    run = config.initial_weights
    recipe = config.init.pretrain
    if run is None or recipe is None or config.init.weights or layout.holds_run(config.run):
        return None
    if read_status(run).get("state") == "finished":
        return None
    recipe, values = find(recipe, "pretrain", "--init.pretrain"), flat(to_dict(config))
    shared = {key: values[key] for key in OF_BOTH if values[key] is not None}
    first: RunConfig = build(RunConfig, from_file(RunConfig, recipe) | {"task": LANGUAGE_MODEL, "run": run} | shared)
    return first


def check_start(config: RunConfig) -> None:
    """Check the weights and vectors that a new run starts from. One process of a run calls it.

    Raises ``ConfigError`` or ``DataError``.
    """
    if pretraining(config) is not None:
        what = "this language model is not trained yet; padless train does so first"
        raise ConfigError(f"init.pretrain: {config.init.pretrain}: {what}, or name another with --init.weights")
    if config.initial_weights:
        find_donor(config.initial_weights, config.model)
    if (source := config.init.vectors) not in ("none", "own"):
        check_dim(source, read_head(source).dim, config.model.embedding_dim)


def is_allowed(key: str, allowed: Collection[str]) -> bool:
    """Whether ``allowed`` names the key or one of its prefixes."""
    return any(f"{key}.".startswith(f"{one}.") for one in allowed)


def parts_of(manifest: Manifest) -> dict[str, Any]:
    """Facts of a dataset kept in checkpoints, to name what differs in another dataset."""
    return {
        "classes": manifest.labels,
        "shares": [share for *_, share in views.parts_of("", manifest)],
        "text pipeline": manifest.text_hash,
        "vocabulary": manifest.vocabulary_hash,
    }


def check_dataset(checkpoint: Checkpoint | None, config: RunConfig, *, finished: bool) -> bool:
    """Whether the dataset is that of the run's ``checkpoint``, else of its bundle; True if neither can be read.

    Raises ``DataError`` for another dataset, unless the weights fit it and ``--allow`` names ``data``; a ``finished``
    run also needs ``epochs`` there, or it would not train on the new dataset.
    """
    manifest = views.read_data(config.data)
    began = {} if checkpoint is None else checkpoint.state
    fingerprint = began.get("dataset")
    if checkpoint is None:
        with suppress(DataError):  # a damaged bundle is replaced
            info = stored_info(Path(config.run, layout.BUNDLE))
            fingerprint = None if info is None else info.dataset
    if fingerprint in (None, manifest.fingerprint):
        return True
    was, now = began.get("dataset_parts"), parts_of(manifest)
    differ = [part for part in now if was is not None and was[part] != now[part]] or ["rows, labels or texts"]
    fits = not {"text pipeline", "vocabulary"} & {*differ} and ("classes" not in differ or config.task != CLASSIFIER)
    needed = ["data", "epochs"] if finished and checkpoint is not None else ["data"]
    if fits and all(is_allowed(key, config.allow) for key in needed):
        return False
    mend = "restore the old one: the weights fit no other"
    if fits:
        mend = f"go on with this one with {'more --epochs and ' * (len(needed) - 1)}--allow {','.join(needed)}"
    raise DataError(
        f"{config.data}: not the dataset that {config.run} was trained on: its {' and '.join(differ)} differ; "
        f"name another --run to train on it, or {mend}"
    )
