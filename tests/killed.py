# SPDX-License-Identifier: Apache-2.0
"""Commands of every kind that are killed at random instants and started again, until they end by themselves.

Processes are forked from the server of ``tests/ranks.py``. An instant is drawn evenly from the time that an undisturbed
command takes, from its first import to its last rename. The report that a training draws when all is done is left out:
it would be half of the time, and is no part of what is compared.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.ranks.stopping import leave, run_rank
from harness.report import sinks
from preprocessing.base.installed import load
from tests.bundles import write_run
from tests.corpora import contents, reviews, write_csv
from tests.datasets import write_dataset
from tests.kills import arguments as preprocessing
from tests.ranks import PRELOADED, start_ranks
from tests.runs import arguments as training
from tests.runs import final

LIMIT_S = 400.0
"""After which a command is said to hang, on a machine with much else to do."""
LATEST, GROWTH = 1.1, 1.03
"""Instants are drawn up to this part of the undisturbed time, and after each kill of a job up to a little more: what
begins again and again on a machine that has become slow is let through in the end.
"""
LOG = "log"
PRELOADED.append("tests.warm")


@dataclass(frozen=True)
class Kind:
    """Commands of one kind, and what each must leave behind."""

    name: str
    share: int
    """Of the kills."""
    processes: int
    module: str
    words: Callable[[Path, Path], tuple[str, ...]]
    """Of the folder with the material and the place of a job."""
    end: Callable[[Path], dict[str, bytes]]
    """Of a place: all that must not depend on whether the job was disturbed."""
    before: Callable[[Path, Path], None] = lambda material, place: None
    """What makes the place ready, once."""


def prepare(folder: Path) -> None:
    """A corpus, a dataset, and a run with a table to predict."""
    write_csv(folder / "corpus.csv", reviews(600))
    write_dataset(folder / "data", {"train": 400, "validation": 120, "test": 120})
    write_run(folder / "model", size=8)
    write_csv(folder / "texts.csv", [(text,) for text, _ in reviews(900, seed=1)], header=("text",))


def output(place: Path) -> dict[str, bytes]:
    """Every file of a job's place, but what it printed: nothing else may be left there."""
    found = contents(place)
    found.pop(LOG, None)
    return found


def run_of(place: Path) -> dict[str, bytes]:
    """What a training must end in."""
    return final(place / "run")


def replace_words(material: Path, place: Path) -> tuple[str, ...]:
    """Preprocessing in the place of a dataset that is there."""
    return tuple(preprocessing(material / "corpus.csv", place / "out", seed=1))


def predict_words(material: Path, place: Path) -> tuple[str, ...]:
    """Predictions of a table, in about ten parts."""
    words = ("--run", material / "model" / "run", "--input", material / "texts.csv", "--output", place / "out.csv")
    return (*map(str, words), "--part_mb", "0.015", "--device", "cpu")


def first_dataset(material: Path, place: Path) -> None:
    """A dataset of another seed, to be replaced."""
    words = tuple(preprocessing(material / "corpus.csv", place / "out", seed=0))
    attempt = Attempt("preprocessing.__main__", 1, words, place)
    assert attempt.wait(LIMIT_S) == [0], (place / LOG).read_text()[-3000:]


KINDS = (
    Kind(
        name="preprocessing",
        share=4,
        processes=1,
        module="preprocessing.__main__",
        words=lambda material, place: tuple(preprocessing(material / "corpus.csv", place / "out", seed=0)),
        end=output,
    ),
    Kind(
        name="preprocessing over an old dataset",
        share=3,
        processes=1,
        module="preprocessing.__main__",
        words=replace_words,
        end=output,
        before=first_dataset,
    ),
    *(
        Kind(
            name=f"training on {ranks} rank{'s'[: ranks - 1]}",
            share=1,
            processes=ranks,
            module="harness.train",
            words=lambda material, place: training(material / "data", place / "run"),
            end=run_of,
        )
        for ranks in (1, 2)
    ),
    *(
        Kind(
            name=f"prediction on {ranks} rank{'s'[: ranks - 1]}",
            share=8 // ranks - 1,
            processes=ranks,
            module="harness.predict",
            words=predict_words,
            end=output,
        )
        for ranks in (1, 2)
    ),
)


class Attempt:
    """The processes of a command, begun."""

    def __init__(self, module: str, processes: int, words: tuple[str, ...], place: Path) -> None:
        """Start them; what they print is appended to the place's log."""
        self._processes: list[Any] = start_ranks(_command, processes, module, words, place / LOG)

    def codes(self) -> list[int] | None:
        """The exit codes, None while one of them is alive."""
        found = [process.exitcode for process in self._processes]
        return None if None in found else found

    def wait(self, timeout_s: float) -> list[int] | None:
        """The exit codes as soon as all have left; None when the time is up."""
        deadline = time.monotonic() + timeout_s
        while self.codes() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        return self.codes()

    def kill(self) -> bool:
        """SIGKILL for all at once; whether any was alive."""
        alive = self.codes() is None
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join(20)
        return alive


def _command(module: str, words: tuple[str, ...], log: Path) -> None:
    """What ``python -m module words`` does."""
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [module, *words]
    sinks.write_report_quietly = lambda *_, **__: None
    leave(run_rank(load(f"{module}:main")))


def begin(kind: Kind, material: Path, place: Path) -> Attempt:
    """One attempt of a job in its place."""
    return Attempt(kind.module, kind.processes, kind.words(material, place), place)


def undisturbed(kind: Kind, material: Path, place: Path) -> float:
    """Let a job of this kind end by itself; the seconds that it took."""
    place.mkdir(parents=True)
    kind.before(material, place)
    started = time.monotonic()
    codes = begin(kind, material, place).wait(LIMIT_S)
    assert codes == [0] * kind.processes, (codes, (place / LOG).read_text()[-3000:])
    return time.monotonic() - started


def killed_to_its_end(
    kind: Kind, material: Path, place: Path, usual_s: float, dice: random.Random, note: Callable[..., None]
) -> list[int] | None:
    """Kill a job at one random instant after the other, until an attempt ends before its instant; its exit codes.

    ``note`` is told of every kill of what was alive. None for a command that has not ended within ``LIMIT_S``.
    """
    for kills in itertools.count():
        instant = min(dice.uniform(0, LATEST * GROWTH**kills) * usual_s, LIMIT_S)
        attempt = begin(kind, material, place)
        codes = attempt.wait(instant)
        if codes is not None:
            return codes
        if attempt.kill():
            note(after_s=round(instant, 3), unfinished=unfinished(place))
        if instant == LIMIT_S:
            break
    return None


def unfinished(place: Path) -> list[str]:
    """Files that a kill has left before they had their names."""
    found: list[str] = []
    with suppress(FileNotFoundError):
        found = sorted({path.name.rpartition(".tmp-")[0] for path in place.rglob("*.tmp-*")})
    return found
