# SPDX-License-Identifier: Apache-2.0
"""What there is to start from: ``padless tutorial`` writes the tutorial's files, ``padless runs`` lists runs."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.rundir import layout
from harness.rundir.metrics_log import read_log
from harness.rundir.records import is_free, read_config, read_status
from harness.rundir.results import read_figures
from preprocessing.base import atomic
from preprocessing.base.atomic import storing
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.help_page import beside
from preprocessing.base.schema import LocalPath
from preprocessing.base.split_names import TEST
from preprocessing.base.terminal import Column, Screen, public_values, table, tell
from preprocessing.corpus import sources

RUN_COLUMNS = [
    Column(key, right=key in ("step", "best", "test"), weight=weight)
    for key, weight in {"run": 0, "data": 1, "step": 2, "best": 0, "test": 0, "when": 0, "state": 0}.items()
]


@dataclass(frozen=True, kw_only=True)
class TutorialConfig:
    """Write the tutorial's files, to try padless on: messages.csv to learn from, later.csv to evaluate on."""

    output: LocalPath = "."
    """Folder to write to."""


def tutorial(config: TutorialConfig) -> None:
    """``padless tutorial``: write the two files. Raises ``ConfigError`` before anything is written if one was changed
    there.
    """
    shipped = {Path(config.output, file.name): file for file in sorted(Path(sources.__file__).parent.glob("*.csv"))}
    for target, file in shipped.items():
        if os.path.lexists(target) and not (target.is_file() and target.read_bytes() == file.read_bytes()):
            raise ConfigError(f"{target}: is there already and differs; remove it, or name another --output")
    screen = Screen()
    for target, file in shipped.items():
        with storing(target, otherwise="name another --output"):
            atomic.write_bytes(target, file.read_bytes())
        screen.say(str(target))
    screen.say(f"next: padless prepare {Path(config.output, 'messages.csv')} -o data/messages")


@dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """The runs below a folder, the last changed first: dataset, step, accuracy (of a pretraining, perplexity) of the
    best epoch on validation, and on test, last change, state.
    """

    SUBJECT = ("folder",)
    folder: str = "runs"
    """Where to look, at any depth."""
    json: bool = False
    """Print one JSON list."""


def runs(config: RunsConfig) -> None:
    """List the runs. Raises ``DataError`` if there is no such folder."""
    folder, screen = Path(config.folder), Screen()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder{beside(folder) or '; name the one that holds your runs'}")
    found = sorted(map(facts_of, folder.rglob(layout.STATUS)), key=lambda one: str(one["when"]), reverse=True)
    if config.json:
        print(json.dumps(found, indent=2))
    elif found:
        rows = [
            {key: f"{its:.4f}" if isinstance(its, float) else str(its) for key, its in one.items() if its is not None}
            for one in found
        ]
        screen.table(table(RUN_COLUMNS, rows, screen.width))
        for damaged in (one for one in found if one["state"] in ("damaged", "finished") and one["reason"]):
            tell(f"warning: {damaged['reason']}")
    else:
        print(f"{folder}: no runs yet; padless train DATA makes one")


def facts_of(status: Path) -> dict[str, Any]:
    """The run of a status as plain values; what is damaged is left out, and said in ``reason``.

    The state of a run whose status cannot be read is ``damaged``.
    """
    run, when = status.parent, time.localtime(status.stat().st_mtime)
    facts: dict[str, Any] = {"run": str(run), "when": time.strftime("%Y-%m-%d %H:%M", when)}
    facts |= {"state": "damaged", "data": None, "best": None, "test": None}
    try:
        facts |= read_status(run)
        if facts["state"] == "running" and is_free(run):
            facts["state"] = "interrupted"
        facts["data"] = public_values(read_config(run).get("data"))
        best = next((line for line in reversed(read_log(run)) if line.get("best")), {})
        facts["best"] = best.get("accuracy", best.get("perplexity"))
        facts["test"] = (read_figures(run, TEST) or {}).get("accuracy")
    except DataError as error:
        facts["reason"] = str(error)
    return facts
