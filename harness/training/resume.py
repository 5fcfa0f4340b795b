# SPDX-License-Identifier: Apache-2.0
"""Where a run goes on from, and whether it still is the same run: the configuration then and now, key by key.

Nothing here imports torch: the launcher asks before any process starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import CLASSIFIER, RunConfig, flat, to_dict
from harness.data import checks, order
from harness.rundir import layout
from harness.rundir.bundle_files import stored_info
from harness.rundir.checkpoint import Checkpoint, newest
from harness.rundir.records import known_status
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.untrusted import readable
from preprocessing.dataset.shards import MANIFEST, read_manifest

FREE = {
    "data": "the dataset is the same wherever it lies",
    "run": "the run directory was moved",
    "device": "equal within rounding",
    "threads": "equal within rounding",
    "micro_batch": "the same update, equal within rounding",
    "recurrence": "equal within rounding",
    "stage_dir": "the same rows from another place",
    "eval_batch": "the same scores",
    "timeout_s": "another limit on waits",
    "nan_limit": "another limit on skipped steps",
    "profile": "other steps are recorded",
    "dry_run": "a rehearsal",
    "resume": "how to start",
    "allow": "what may differ",
    "quiet": "what is printed",
    "max_time": "another time limit",
    "checkpoint": "other moments are saved or kept",
    "tracking": "log lines or trackers differ",
    "evaluation": "figures are computed otherwise",
    "self_training.labels": "the same soft labels, wherever they lie",
    "self_training.any_teacher": "which teachers are refused",
}
"""Keys, or their first parts, that leave the order of rows and every update what they are; and what they do change."""
BREAKING = {
    "fold": "other rows are held out",
    "task": "the weights are of another network",
    "language_model": "other updates from here on",
    "model": "the weights do not fit another model",
    "model.freeze_embedding": "other updates from here on",
    "init": "the run keeps the vectors that it began with",
    "init.weights": "the run keeps the weights that it began with",
    "global_batch": "another order of rows",
    "global_batch_tokens": "another order of rows",
    "order": "another order of rows",
    "self_training": "other soft labels, or another weight of them, from here on",
    "seed": "another order of rows and other dropout",
    "epochs": "another schedule of the learning rate",
    "optim": "other updates from here on",
    "precision": "other rounding from here on",
    "patience": "may stop elsewhere",
    "validate_every": "another epoch may be the best",
    "select": "another epoch may be the best; the best so far counts no more",
}
OTHER_DATA = "another dataset: other rows from here on; the best so far counts no more"
UNSET: tuple[Any, ...] = (None, {}, [], "none")


@dataclass(frozen=True)
class Difference:
    """A key that is not what it was when the run began."""

    key: str
    was: Any
    now: Any
    effect: str
    breaks: bool

    def __str__(self) -> str:
        """One line of the list."""
        return f"  {readable(self.key)}: was {readable(self.was)}, now {readable(self.now)} ({self.effect})"


def differences(was: Mapping[str, Any], now: Mapping[str, Any], *, same_data: bool) -> list[Difference]:
    """Every key whose value is another, in the order of the configuration; a key of one side alone is None there.

    ``same_data``: the datasets of both, wherever they lie, have one fingerprint.
    """
    before, after = flat(was), flat(now)
    found = []
    for key in dict.fromkeys([*after, *before]):
        old, new = before.get(key), after.get(key)
        if key == "data" and not same_data:
            found.append(Difference(key, old, new, OTHER_DATA, breaks=True))
        elif old != new and not (old in UNSET and new in UNSET):
            part = key.partition(".")[0]
            free = FREE.get(key) or FREE.get(part)
            effect = free or BREAKING.get(key) or BREAKING.get(part, "unknown to this version")
            found.append(Difference(key, old, new, effect, breaks=free is None))
    return found


def is_allowed(key: str, allowed: set[str]) -> bool:
    """Whether a key, or a part of the configuration that it lies in, was allowed by name."""
    parts = key.split(".")
    return any(".".join(parts[:count]) in allowed for count in range(1, len(parts) + 1))


def check_continuity(found: list[Difference], allowed: set[str]) -> None:
    """Raise ``ConfigError`` for the first difference that breaks the run and was not allowed."""
    for one in (one for one in found if one.breaks):
        key, was, now = map(readable, (one.key, one.was, one.now))
        if one.effect in (BREAKING["model"], BREAKING["task"]):
            raise ConfigError(f"{key}: was {was}, now {now}: {one.effect}; name another run directory")
        if not is_allowed(one.key, allowed):
            raise ConfigError(
                f"{key}: the run began with {was}, now {now} ({one.effect}); put it back, name another run "
                f"directory, or go on all the same with --allow {key}"
            )


@dataclass(frozen=True)
class ResumePoint:
    """How things stand in a run directory before a start."""

    begun: bool
    """A run began here."""
    finished: bool
    """It ended well and nothing new was asked of it."""
    differences: list[Difference]
    checkpoint: Checkpoint | None


def find_resume_point(config: RunConfig, say: Callable[[str], None], warn: Callable[[str], None]) -> ResumePoint:
    """What there is to go on from. ``say`` prints keys that differ, ``warn`` damaged files.

    Raises ``ConfigError`` if the run must not go on from here.
    """
    layout.check_single(config.run)
    if config.resume == "never":
        layout.check_free(config.run)
        return ResumePoint(False, False, [], None)
    layout.check_directory(config.run)
    if not layout.holds_run(config.run):
        return ResumePoint(False, False, [], None)
    status = known_status(config.run, warn)
    checkpoint = newest(config.run, lambda error: warn(f"damaged checkpoint: {error}; looking at the one before"))
    finished = status.get("state") == "finished"
    same_data = check_dataset(checkpoint, config, finished=finished)
    if checkpoint is None:
        return ResumePoint(True, False, [], None)
    check_order(checkpoint, config)
    found = differences(checkpoint.state["config"], to_dict(config), same_data=same_data)
    if found:
        say("\n".join([f"the configuration differs from that of {checkpoint.path}:", *map(str, found)]))
    check_continuity(found, config.allowed)
    return ResumePoint(True, finished and not any(one.breaks for one in found), found, checkpoint)


def check_soft_labels(checkpoint: Checkpoint, found: str | None, config: RunConfig) -> None:
    """Refuse soft labels that are not those which the run began with. Raises ``ConfigError``.

    ``found`` is the sha256 of those that are there now, None for none.
    """
    facts = checkpoint.state.get("soft_labels")
    began = None if facts is None else facts["sha256"]
    if began != found and not is_allowed("self_training.labels", config.allowed):
        was, now = ("none" if one is None else f"those of sha256 {one[:12]}" for one in (began, found))
        raise ConfigError(
            f"self_training.labels: the run of {checkpoint.path} began with {was}, now {now} are asked for: "
            f"restore the file, name another run directory, or go on all the same with --allow self_training.labels"
        )


def check_dataset(checkpoint: Checkpoint | None, config: RunConfig, *, finished: bool) -> bool:
    """Whether the dataset is the run's: that of its ``checkpoint``, else of its bundle. True where none can be read.

    Raises ``DataError`` for another one, unless the weights fit it and ``--allow`` names ``data``; in a run that has
    ``finished`` also ``epochs``, without which nothing would be trained on it.
    """
    if not Path(config.data, MANIFEST).exists():
        return True  # which is for the checks of the dataset to say
    began: Mapping[str, Any] = {} if checkpoint is None else checkpoint.state
    fingerprint = began.get("dataset")
    if checkpoint is None:
        with suppress(DataError):  # a damaged bundle is replaced
            info = stored_info(Path(config.run, layout.BUNDLE))
            fingerprint = None if info is None else info.dataset
    manifest = read_manifest(config.data)
    if fingerprint in (None, manifest.fingerprint):
        return True
    parts = began.get("dataset_parts")
    differ = checks.other_parts(parts, checks.parts_of(manifest)) if parts else ["rows, labels, texts or vocabulary"]
    fits = began.get("text_hash", manifest.text_hash) == manifest.text_hash
    fits = fits and ("classes" not in differ or config.task != CLASSIFIER)
    needed = ["data", "epochs"] if finished and checkpoint is not None else ["data"]
    if fits and all(is_allowed(key, config.allowed) for key in needed):
        return False
    place = began.get("config", {}).get("data", config.data)
    where = "" if place == config.data else f" ({readable(place)})"
    mend = f"go on with this one with {'more --epochs and ' * (len(needed) - 1)}--allow {','.join(needed)}"
    mend = mend if fits else "restore the run's own: its weights fit no other"
    raise DataError(
        f"{config.data}: not the dataset that {config.run} was trained on{where}: its {' and '.join(differ)} differ; "
        f"name another --run to train on it, or {mend}"
    )


def check_order(checkpoint: Checkpoint, config: RunConfig) -> None:
    """Refuse a run whose rows would come in another order now. Raises ``ConfigError``."""
    then = checkpoint.state.get("order_version", 1)
    if then != order.VERSION and not is_allowed("order", config.allowed):
        raise ConfigError(
            f"order: {checkpoint.path} was written by a padless with version {then} of the order of rows, this one has "
            f"version {order.VERSION}: the same dataset comes in another order, so rows would be missed or repeated; "
            f"go on with that padless, name another run directory, or --allow order"
        )
