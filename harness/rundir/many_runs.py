# SPDX-License-Identifier: Apache-2.0
"""The names in a folder of many runs: one training for each seed, or for each fold of the dataset.

::

    seed-0/, seed-1/, …     a run directory each (``layout``); fold-0/, fold-1/, … where folds were held out
    seeds.json, folds.json  the figures of each run, and their mean and spread
    out-of-fold.parquet     folds: the prediction for every row by the run that did not learn from it
    report.html             all of it to look at
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.rundir.json_files import read_object
from harness.rundir.layout import check_directory, holds_run
from harness.rundir.storage import storage
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.typed import having

Kind = Literal["seed", "fold"]
KINDS: tuple[Kind, ...] = ("seed", "fold")
OUT_OF_FOLD = "out-of-fold.parquet"
FORMAT, FORMAT_VERSION = "padless-many-runs", 1
Known = dict[str, Any]
SUMMARY = having(runs=list[Known], splits=dict[str, Known], labels=list[str], dataset=str | None)
SHOWN = 3
"""So many runs of a folder are named in a sentence."""


@dataclass(frozen=True, order=True)
class Member:
    """One run of such a folder."""

    kind: Kind
    number: int
    """The seed, or the fold that was held out."""
    path: Path

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.path.name


def member(folder: str | Path, kind: Kind, number: int) -> Member:
    """The run of a seed or a fold, whether it is there or not."""
    return Member(kind, number, Path(folder, f"{kind}-{number}"))


def members(folder: str | Path) -> list[Member]:
    """The runs that began in a folder of many runs, in the order of their numbers; none in any other directory."""
    found = []
    for path in Path(folder).iterdir() if Path(folder).is_dir() else ():
        named = re.fullmatch(r"(seed|fold)-(0|[1-9]\d*)", path.name)
        if named and (holds_run(path) or holds_rounds(path)):
            found.append(Member("seed" if named[1] == "seed" else "fold", int(named[2]), path))
    return sorted(found)


def holds_rounds(path: str | Path) -> bool:
    """Whether the first round of a self-training began in this directory."""
    return holds_run(Path(path, "round-0"))


def in_words(found: Sequence[Member]) -> str:
    """The names of runs, for a sentence."""
    return ", ".join(one.name for one in found[:SHOWN]) + (", …" if len(found) > SHOWN else "")


def check_single(run: str | Path) -> None:
    """Raise ``ConfigError`` where one run is to be and there is a folder of many."""
    if found := members(run):
        key = "--folds all" if found[0].kind == "fold" else f"--seeds {','.join(str(one.number) for one in found)}"
        raise ConfigError(
            f"run: {run} holds the runs {in_words(found)}; name another directory for a single run, or go on with {key}"
        )


def check_many(run: str | Path, kind: Kind) -> None:
    """Raise ``ConfigError`` where many runs of a kind are to be and there is something else."""
    check_directory(run)
    if holds_run(run) or holds_rounds(run):
        raise ConfigError(f"run: {run} holds a single run; name another directory for --{kind}s")
    others = [one for one in members(run) if one.kind != kind]
    if others:
        raise ConfigError(f"run: {run} holds the runs {in_words(others)}; name another directory for --{kind}s")


def refuse_many(run: str | Path) -> None:
    """Raise ``DataError`` that names the runs in a folder of many, where one of them is to be named."""
    if found := members(run):
        raise DataError(f"{run}: holds the runs {in_words(found)}; name one of them, as in {found[0].path}")


def summary_path(folder: str | Path, kind: Kind) -> Path:
    """The file with the figures of many runs."""
    return Path(folder, f"{kind}s.json")


def write_summary(folder: str | Path, kind: Kind, values: dict[str, Any]) -> None:
    """Write ``seeds.json`` or ``folds.json``; ``values`` are plain and finite. Raises ``StorageError``."""
    path = summary_path(folder, kind)
    with storage(path):
        atomic.write_json(path, {"format": FORMAT, "format_version": FORMAT_VERSION, "kind": kind, **values})


def read_summary(folder: str | Path, kind: Kind) -> dict[str, Any] | None:
    """The figures of many runs; None where there are none yet. Raises ``DataError`` for those of another version."""
    path = summary_path(folder, kind)
    content = read_object(path, "run the same launch again to make it anew")
    if content is not None and (content.get("format"), content.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise DataError(f"{path}: another version of padless wrote it; run the same launch again to make it anew")
    if content is not None and not SUMMARY.holds(content):
        raise DataError(f"{path}: holds no {SUMMARY}; run the same launch again to make it anew")
    return content
