# SPDX-License-Identifier: Apache-2.0
"""Checks before a start, and which checkpoint a run resumes from. Launcher and ranks call them.

Nothing here imports torch or touches a device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.config import LANGUAGE_MODEL, RunConfig, flat, to_record
from harness.data import order
from harness.data.targets import find_teacher_info
from harness.model.initialization import SHAPE, find_donor, read_head
from harness.rundir import layout
from harness.rundir.bundle_files import find_info
from harness.rundir.checkpoint import Checkpoint, newest
from harness.rundir.layout import check_claim
from harness.rundir.records import RESTORE_STATUS, read_run_config, read_status
from padless.core.configuration import build_config, find_config, read_files, suggest_key
from padless.core.errors import ConfigError, DataError
from padless.core.untrusted import quote_value
from preprocessing.dataset import views

FREE = frozenset(
    [
        *("data", "run", "device", "threads", "micro_batch", "recurrence", "timeout_s"),
        *("dry_run", "allow", "quiet", "max_time", "checkpoint", "tracking", "baseline"),
    ]
)
"""Keys, or prefixes of keys, that change neither the order of rows nor any update, except for rounding."""
OF_BOTH = (
    *("data", "fold", "seed", "device", "precision", "threads", "timeout_s", "max_time", "dry_run"),
    *("quiet", "tracking.tracker", "tracking.project"),
    *(f"model.{key}" for key in SHAPE),
)
"""Keys of a run that the language model trained before it has too."""
UNCHANGEABLE = {
    "model": "the weights fit no other",
    "task": "the weights fit no other",
    "evaluation": "the bundle decides by the former already",
}
"""Keys, or prefixes of keys, that no start may change, and why."""
UNSET: tuple[Any, ...] = (None, {}, [], "none")


def check_run(config: RunConfig, warn: Callable[[str], None]) -> tuple[Checkpoint | None, bool]:
    """Check the run directory and that the dataset is the same. One process of a run calls it. Returns the checkpoint
    to resume from, and whether the run has finished and the configuration requires no more training.

    A run that has finished is never trained again, whatever is missing or damaged in it. ``warn`` prints damaged files,
    also in a quiet run. A dry run gets the same checks, but does not resume, runs even if the run has finished, and
    writes nothing. Raises ``ConfigError`` if the run cannot resume, ``DataError`` for another
    dataset than the run's and for damage, ``StorageError`` for an unusable directory.
    """
    keys = flat(asdict(config))
    for name in config.allow:
        if not any(is_allowed(key, [name]) for key in keys):
            raise ConfigError(f"allow: {name!r} is no key of a training; {suggest_key(name, keys, '')}")
    if config.dry_run:
        check_claim(Path(config.run))
    layout.check_directory(config.run)
    if not layout.holds_run(config.run):
        return None, False
    state = read_status(config.run).get("state")
    if state is None:
        problem = "missing, so nothing says whether the run has finished"
        raise DataError(f"{Path(config.run, layout.STATUS)}: {problem}; {RESTORE_STATUS}")
    is_finished = state == "finished"
    checkpoint = newest(config.run, lambda error: warn(f"damaged checkpoint: {error}; looking at the one before"))
    if checkpoint is None and not is_finished:
        return None, False
    facts = read_facts(config.run) if checkpoint is None else checkpoint.state
    if facts["dataset"] != views.read_data(config.data).fingerprint:
        problem = f"not the dataset that {config.run} was trained on"
        remedy = f"name another --run (--init.weights {config.run} takes its weights), or restore the dataset"
        raise DataError(f"{config.data}: {problem}; {remedy}")
    has_changed = check_keys(config, facts)
    if has_changed and checkpoint is None:
        raise DataError(f"{config.run}: has finished and has no checkpoint to go on from; name another run directory")
    return checkpoint, is_finished and not has_changed


def describe_finished(config: RunConfig) -> str:
    """What a start says of a run that has finished."""
    return f"{config.run} has finished already; name another run directory to train again"


def read_facts(run: str) -> dict[str, Any]:
    """What the state of a checkpoint would say of dataset and configuration, of a finished run without checkpoints.

    Raises ``DataError`` if it has no bundle or no configuration either.
    """
    info = find_info(Path(run, layout.BUNDLE))
    if info is None:
        raise DataError(
            f"{run}: has finished, but has no bundle and no checkpoint; restore one, or to begin again remove {run}"
        )
    return {"dataset": info.dataset, "config": read_run_config(run), "order_version": order.VERSION}


def list_changes(config: RunConfig, facts: Mapping[str, Any]) -> dict[str, str]:
    """The keys that differ from those in ``facts`` and change the result: what each was, and is now."""
    old, new = flat(facts["config"]), flat(to_record(config))
    versions = facts["order_version"], order.VERSION
    old["order"], new["order"] = (f"version {number} of the order of rows" for number in versions)
    teacher_info = find_teacher_info(config, facts["dataset"])
    if teacher_info is not None and "teacher" in facts:
        old["teacher"], new["teacher"] = facts["teacher"], teacher_info.origin
    changes = {}
    for key in dict.fromkeys([*new, *old]):  # a missing key counts as None
        is_unset = old.get(key) in UNSET and new.get(key) in UNSET
        if old.get(key) != new.get(key) and not is_unset and not is_allowed(key, FREE):
            changes[key] = f"{quote_value(old.get(key))}, now {quote_value(new.get(key))}"
    return changes


def check_keys(config: RunConfig, facts: Mapping[str, Any]) -> bool:
    """Whether keys differ from those in ``facts`` that change the result. Raises ``ConfigError`` for the first one that
    ``--allow`` does not name, or that no start may change.
    """
    changes = list_changes(config, facts)
    for key, values in changes.items():
        reason = UNCHANGEABLE.get(key.partition(".")[0])
        if reason is not None:
            raise ConfigError(f"{key}: was {values}: {reason}; name another run directory")
    for key, values in changes.items():
        if not is_allowed(key, config.allow):
            raise ConfigError(
                f"{key}: the run began with {values}; set it back, name another run directory, or continue anyway with "
                f"--allow {','.join(sorted({*changes, *config.allow}))}"
            )
    return bool(changes)


def pretraining(config: RunConfig) -> RunConfig | None:
    """The configuration of the language model that ``init.pretrain`` names, as a run of its own; None where there is
    none to train, or it has finished. Raises ``ConfigError`` for an unknown recipe.
    """
    run, recipe = config.initial_weights, config.init.pretrain
    if run is None or recipe is None or config.init.weights or layout.holds_run(config.run):
        return None
    if read_status(run).get("state") == "finished":
        return None
    recipe, values = find_config(recipe, "pretrain", "--init.pretrain"), flat(asdict(config))
    shared = {key: values[key] for key in OF_BOTH if values[key] is not None}
    language_model: RunConfig = build_config(
        RunConfig, read_files(RunConfig, [recipe]) | {"task": LANGUAGE_MODEL, "run": run} | shared
    )
    return language_model


def check_start(config: RunConfig) -> None:
    """Check the weights and vectors that a new run starts from. One process of a run calls it.

    Raises ``ConfigError`` or ``DataError``.
    """
    if pretraining(config) is not None:
        sentence = "this language model is not trained yet; padless train does so first, or name another with"
        raise ConfigError(f"init.pretrain: {config.init.pretrain}: {sentence} --init.weights")
    if config.initial_weights:
        find_donor(config.initial_weights, config.model)
    source = config.init.vectors
    if source not in ("none", "own"):
        read_head(source, config.model.embedding_dim)


def is_allowed(key: str, names: Collection[str]) -> bool:
    """Whether ``names`` has the key or one of its prefixes."""
    return any(f"{key}.".startswith(f"{name}.") for name in names)
