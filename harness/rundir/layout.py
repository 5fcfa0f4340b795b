# SPDX-License-Identifier: Apache-2.0
"""The names in a run directory, and whether a directory holds a run.

::

    config.yaml                the resolved configuration
    environment.json           versions, git revision, devices, effective precision
    attempts.jsonl             one line per start: when, where, on how many processes, from which step
    status.json                state, exit code, reason, step: the truth that job scripts read
    metrics.jsonl              what was learned, one JSON object a line, flushed line by line
    throughput.jsonl           how fast, one line for each train line of metrics.jsonl
    checkpoints/               what the run can go on from (``checkpoint``)
    bundle/                    best weights with all that prediction needs (``bundle_files``)
    test.json                  metrics on the test split (``results``)
    test-predictions.parquet   one line for each row of the test split
    evaluation/                the same two files of any split or of new rows, from ``harness.evaluate``; of validation,
                               from a run whose dataset has no test split
    report.html                all of it to look at
    tracking/                  what each tracker printed (NAME.log) and was told (NAME.jsonl)
    wandb/, tensorboard/, …    what a tracker itself writes
    bad_batches/               rows of steps whose gradient was not finite
    vectors/                   word vectors of a dataset whose directory cannot be written to
    profile/                   traces of the steps that were profiled
    STOP                       made by a user: save a checkpoint and stop
    .lock                      held by the process that trains here

A folder of many runs (``many_runs``) holds such directories and no run of its own.
"""

from __future__ import annotations

from pathlib import Path

from preprocessing.base.errors import ConfigError
from preprocessing.dataset.shards import MANIFEST

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
ATTEMPTS = "attempts.jsonl"
STATUS = "status.json"
METRICS = "metrics.jsonl"
THROUGHPUT = "throughput.jsonl"
CHECKPOINTS = "checkpoints"
BUNDLE = "bundle"
EVALUATION = "evaluation"
REPORT = "report.html"
TRACKING = "tracking"
BAD_BATCHES = "bad_batches"
PROFILE = "profile"
VECTORS = "vectors"
STOP = "STOP"
LOCK = ".lock"


def holds_run(run: str | Path) -> bool:
    """Whether a run began in this directory."""
    return any(Path(run, name).exists() for name in (CONFIG, STATUS, METRICS))


def check_free(run: str | Path) -> None:
    """Raise ``ConfigError`` if ``run`` holds a run already, or cannot become a directory."""
    check_directory(run)
    if holds_run(run):
        raise ConfigError(f"run: {run} already holds a run; name another directory, or remove it")


def check_directory(run: str | Path) -> None:
    """Raise ``ConfigError`` if ``run`` cannot be a directory, or would begin inside a dataset.

    Whoever moves, publishes or overwrites a dataset does so with all that lies in its directory.
    """
    if Path(run).exists() and not Path(run).is_dir():
        raise ConfigError(f"run: {run} is a file; name a directory")
    if holds_run(run):
        return
    place = Path(run).resolve()
    if inside := next((folder for folder in (place, *place.parents) if (folder / MANIFEST).is_file()), None):
        raise ConfigError(f"run: {run} lies inside the dataset {inside}; name a directory outside of it")


def tracker_log(run: str | Path, name: str) -> Path:
    """The file that takes what the tracker ``name`` prints."""
    return Path(run, TRACKING, f"{name}.log")


def tracker_journal(run: str | Path, name: str) -> Path:
    """The file that holds what the tracker ``name`` was told, one JSON object a line."""
    return Path(run, TRACKING, f"{name}.jsonl")


def tracker_folder(run: str | Path, name: str) -> Path:
    """The folder in which the tracker ``name`` keeps files of its own."""
    return Path(run, name)


def trace_name(first: int, last: int) -> str:
    """Name of the file in ``profile/`` that holds the trace of these steps, both included."""
    return f"steps-{first}-{last}.json"
