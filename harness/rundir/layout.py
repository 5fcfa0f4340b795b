# SPDX-License-Identifier: Apache-2.0
"""The file names in a run directory and in a folder of many runs, checks of directories that users name, and the lock
that one process holds while it trains in a run directory.

::

    config.yaml                the resolved configuration
    environment.json           versions, git revision, devices, effective precision
    attempts.jsonl             one line per start: when, where, on how many processes, from which step
    status.json                state, exit code, reason, step; job scripts read it
    metrics.jsonl              metrics, one JSON object a line, flushed line by line
    throughput.jsonl           speed and time, one line for each line of it
    log.txt                    what was printed, and all settings with their reasons; appended by each start
    checkpoints/               states from which the run can resume (``checkpoint``)
    bundle/                    best weights with all that prediction needs (``bundle_files``)
    teachers/                  what its teacher says of each row (``harness/data/targets.py``)
    test.json                  metrics on the test split (``results``)
    test-predictions.parquet   one line for each row of the test split
    evaluation/                the same two files of any split or of new rows, from ``padless evaluate``; of validation,
                               from a run whose dataset has no test split
    report.html                a page about all of it
    tracking/                  wandb.json: the W&B run, and which rows were sent
    wandb/                     files of W&B itself
    baseline/                  TF-IDF baseline of a dataset whose directory cannot be written to
    STOP                       made by a user: save a checkpoint and stop
    .lock                      locked by the process that trains here

A folder of many runs, one for each seed or for each fold of the dataset, holds such directories instead of a run::

    seed-0/, seed-1/, …        a run directory each; fold-0/, fold-1/, … where folds were held out
    seeds.json, folds.json     the figures of each run, and their mean and spread (``results``)
    out-of-fold.parquet        folds: the prediction for every row by the run that did not learn from it
    report.html                a page about all of it
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TextIO, cast

from padless.core.atomic import contains_words, nearest_existing, refuse_inside, storage_errors
from padless.core.errors import ConfigError, StorageError, UserError
from padless.core.processes import acquire, is_lock
from preprocessing.dataset.shards import MANIFEST

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
ATTEMPTS = "attempts.jsonl"
STATUS = "status.json"
METRICS = "metrics.jsonl"
THROUGHPUT = "throughput.jsonl"
LOG = "log.txt"
CHECKPOINTS = "checkpoints"
BUNDLE = "bundle"
EVALUATION = "evaluation"
REPORT = "report.html"
STOP = "STOP"
LOCK = ".lock"
BASELINE, TEACHERS = "baseline", "teachers"
"""Folders of a dataset and of a run."""
OUT_OF_FOLD = "out-of-fold.parquet"
Kind = Literal["seed", "fold"]
"""How the runs of a folder differ."""
KINDS: tuple[Kind, ...] = ("seed", "fold")
MAX_LISTED = 5
"""Maximum number of runs listed in a message."""
MAX_LOOK_S = 60.0
"""Longest wait for a file of another machine to become visible."""
MAX_CLAIM_S = 20.0
"""How long a start waits for another process to release the directory.

Ranks take a moment to exit after their launcher was killed.
"""


storage = partial(storage_errors, otherwise="name another directory")
"""Turns a failure to write a path, or a file below it, into a ``UserError`` that names the file."""


def writable_path(data: str, run: str, name: str) -> Path:
    """``DATA/name``, or ``RUN/name`` if nothing can be written there."""
    path = Path(data, name)
    can_write = os.access(path if path.exists() else data, os.W_OK)
    return path if can_write else Path(run, name)


def holds_run(run: str | Path) -> bool:
    """Whether a run began in this directory."""
    return any(Path(run, name).exists() for name in (CONFIG, STATUS, METRICS, CHECKPOINTS, BUNDLE))


def is_own(run: str | Path) -> bool:
    """Whether padless made what a directory holds: by the lock of a run, or its status on a disk without locks."""
    return is_lock(Path(run, LOCK)) or contains_words(Path(run, STATUS), '"exit_code"')


def check_directory(run: str | Path) -> None:
    """Raise ``ConfigError`` if ``run`` cannot be a run directory: a file, a place inside a dataset, or a folder with
    other files, which a training would overwrite.

    Moving, publishing or overwriting a dataset affects everything in its directory.
    """
    if os.path.lexists(Path(run)) and not Path(run).is_dir():
        raise ConfigError(f"run: {run} is no directory; name another")
    if is_own(run):
        return
    path = Path(os.path.realpath(run))
    refuse_inside("run", path / LOCK)
    names = {*os.listdir(path)} - {BASELINE, TEACHERS} if path.is_dir() else set[str]()
    if any(name != LOCK or (path / name).stat().st_size for name in names):  # a kill may have left it without content
        raise ConfigError(f"run: {run} holds other files, and no run; name an empty or a new directory")


def check_figures_directory(output: str | Path, run: str | Path | None = None) -> None:
    """Raise ``ConfigError`` if ``output`` is a file, a dataset, or a run other than ``run``, whose figures would be
    replaced.
    """
    path = Path(os.path.realpath(output))
    if path.is_file():
        raise ConfigError(f"output: {output} is a file; name a directory")
    is_of_other_run = is_own(path) and (run is None or path != Path(os.path.realpath(run)))
    if is_of_other_run or (path / MANIFEST).is_file():
        kind = "a run" if is_of_other_run else "a dataset"
        raise ConfigError(f"output: {output} is the directory of {kind}; name one for these figures")


def claim_run(run: Path) -> TextIO:
    """Make the run directory and lock it until the returned file is closed.

    Raises ``ConfigError`` if another process holds it or it holds other files, ``StorageError`` if it cannot be
    written. A file system without locks is not locked.
    """
    check_directory(run)
    with storage(run):
        run.mkdir(parents=True, exist_ok=True)
        return open_locked(run, MAX_CLAIM_S, "a+")


def open_locked(run: Path, limit_s: float, mode: str) -> TextIO:
    """The lock file of a run directory, locked until it is closed. Raises ``ConfigError`` if another process still
    holds it after ``limit_s``.
    """
    lock = cast(TextIO, open(run / LOCK, mode))  # noqa: SIM115 - held for as long as the run
    try:
        sentence = f"run: another process trains in {run}; wait for it or name another directory"
        acquire(lock, limit_s, ConfigError(sentence))
    except ConfigError:
        lock.close()
        raise
    return lock


def check_claim(run: Path, limit_s: float = 0.0) -> None:
    """Raise what ``claim_run`` would raise after ``limit_s``, without writing: for a dry run, and a launcher."""
    nearest = nearest_existing(str(run))  # a file in place of a directory is refused later
    if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
        raise StorageError(f"run: {run} cannot be written: you may not write to {nearest}; name another directory")
    if (run / LOCK).exists():
        open_locked(run, limit_s, "r").close()


def is_free(run: Path) -> bool:
    """Whether a run directory exists, can be written, and is locked by no process."""
    try:
        check_claim(run)
    except UserError:
        return False
    return run.is_dir()


def wait_for_file(file: Path, is_visible: Callable[[], bool], timeout_s: float) -> None:
    """Wait until this machine sees a file as rank 0 has written it: network file systems cache what they have shown.

    Raises ``ConfigError`` after a minute, or half of ``timeout_s``, which is how long other ranks wait.
    """
    deadline = time.monotonic() + min(MAX_LOOK_S, timeout_s / 2)
    while not is_visible():
        if time.monotonic() > deadline:
            raise ConfigError(
                f"run: {file.parent} on {platform.node()} is not the directory that rank 0 writes to; name one that "
                "all machines share, or mount it there"
            )
        time.sleep(0.2)
        if file.parent.is_dir():
            os.listdir(file.parent)  # refreshes the cache of a network file system


@dataclass(frozen=True, order=True)
class Member:
    """One run of a folder of many, which need not exist."""

    kind: Kind
    number: int
    """The seed, or the fold that was held out."""
    folder: Path

    @property
    def name(self) -> str:
        """The name of its directory."""
        return f"{self.kind}-{self.number}"

    @property
    def path(self) -> Path:
        """Its directory."""
        return self.folder / self.name


def members(folder: str | Path) -> list[Member]:
    """The runs that began in a folder of many runs, in the order of their numbers; none in any other directory."""
    runs = []
    for kind in KINDS:
        for path in Path(folder).glob(f"{kind}-*"):
            match = re.fullmatch(rf"{kind}-(0|[1-9]\d*)", path.name)
            if match and holds_run(path):
                runs.append(Member(kind, int(match[1]), Path(folder)))
    return sorted(runs)


def join_runs(runs: Sequence[Member | Path]) -> str:
    """The names of runs, for a message."""
    names = [run.name for run in runs[:MAX_LISTED]]
    if len(runs) > MAX_LISTED:
        names.append("…")
    return ", ".join(names)


def check_many(run: str | Path, kind: Kind) -> None:
    """Raise ``ConfigError`` if the folder for many runs of a kind holds other runs, or files but no run."""
    if not any(is_own(path) for name in KINDS for path in Path(run).glob(f"{name}-*")):
        check_directory(run)
    other_runs = [member for member in members(run) if member.kind != kind]
    if holds_run(run) or other_runs:
        content = f"the runs {join_runs(other_runs)}" if other_runs else "a single run"
        raise ConfigError(f"run: {run} holds {content}; name another directory for --{kind}s")


def describe_missing_bundle(directory: Path) -> str:
    """The end of the "not a bundle" message for ``directory``: what is there, and what to do."""
    path = directory.parent if directory.name == BUNDLE else directory
    if holds_run(path):
        return f"the run {path} has not finished an epoch; name one whose training got that far"
    if (path / MANIFEST).is_file():
        return f"{path} is a dataset; name a run that was trained on it"
    runs = sorted(filter(holds_run, path.glob("*")))
    if runs:
        return f"{path} is a folder of runs; name one of them: {join_runs(runs)}"
    return f"{path} is neither a run directory nor a bundle; name one, as in runs/mine"
