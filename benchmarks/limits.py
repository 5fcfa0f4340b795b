# SPDX-License-Identifier: Apache-2.0
"""``limits``: how far rows, classes, texts, words and ranks go here.

Each size of each kind is tried by commands in processes of their own, whose memory is read when they end. What a line
of the output is there for is not tried again.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measuring import Lines, table
from preprocessing.base.errors import require
from preprocessing.base.installed import VERSION

CLASSES = ("dull", "fine")
SMALL = {"model.embedding_dim": 8, "model.hidden_size": 8, "precision": "fp32", "device": "cpu", "global_batch": 16}
SMALL |= {"tracking.tracker": "none", "optim.ema": "null"}


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """Sizes that grow until something gives way: seconds and peak memory of each, appended to a file."""

    output: str = "limits.jsonl"
    """File of results, a JSON line each; what it holds is not tried again."""
    only: list[str] = field(default_factory=list)
    """Kinds to try: rows, classes, text_bytes, vocabulary, ranks. Empty: all."""
    full: bool = False
    """Try the sizes of docs/security.md, which take minutes and gigabytes; else small ones, which take seconds each."""
    timeout_s: float = 900.0
    """Most seconds for one size."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        for name in self.only:
            require(name in CASES, "only", name, f"one of {', '.join(CASES)}")
        require(self.timeout_s > 0, "timeout_s", self.timeout_s, "above 0")


def main(config: LimitsConfig) -> None:
    """Try what is not there yet, then show all. Raises ``DataError`` for a file that is no file of results."""
    lines = Lines(Path(config.output), "kind", "size")
    for name in config.only or CASES:
        case = CASES[name]
        for size in case.full if config.full else case.small:
            if (name, size) not in lines.there:
                print(f"{name}: {size:,}", file=sys.stderr)
                lines.add({"kind": name, "size": size, "version": VERSION, **attempt(case.run, size, config.timeout_s)})
    found = list(lines.there.values())
    rows = [[one[key] for key in ("kind", "size", "seconds", "peak_mb", "end")] for one in found]
    print(json.dumps(found, indent=2) if config.json else table([("kind", "size", "seconds", "peak MB", "end"), *rows]))


class EndedError(Exception):
    """A command went no further; the message says how that ended."""


class Attempt:
    """One size of a kind, in a folder of its own."""

    def __init__(self, folder: str, timeout_s: float) -> None:
        """All its commands together have so many seconds."""
        self.folder, self.deadline, self.peak_mb = Path(folder), time.monotonic() + timeout_s, 0.0

    def command(self, module: object, *words: object, **options: Any) -> None:
        """Run a command of padless. Raises ``EndedError`` with its sentence, or with what else ended it."""
        keys = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        with tempfile.TemporaryFile("w+") as said:
            whole = [sys.executable, "-m", str(module), *map(str, words), *keys]
            process = subprocess.Popen(whole, stdout=said, stderr=said)
            timer = threading.Timer(max(0, self.deadline - time.monotonic()), process.kill)
            timer.start()
            _, status, usage = os.wait4(process.pid, 0)  # cannot hang: it is killed when its time is over
            timer.cancel()
            self.peak_mb = max(self.peak_mb, usage.ru_maxrss * 1024 / 1e6)  # getrusage(2): kilobytes on Linux
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                said.seek(0)
                last = ["", *said.read().splitlines()][-1][:300]
                late = time.monotonic() >= self.deadline
                raise EndedError("not done in time" if late else last or f"exit code {process.returncode}")

    def data(self, rows: Iterable[tuple[str, str]], **options: object) -> Path:
        """A dataset of texts and labels, by one process."""
        with (self.folder / "texts.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
        fixed = {"output": self.folder / "data", "executor.workers": 1, "vocabulary.min_count": 1, "quiet": "true"}
        self.command("preprocessing", "run", self.folder / "texts.csv", **{**fixed, **options})
        return self.folder / "data"

    def train(self, data: Path, *module: object, **options: object) -> None:
        """A run of a tiny network, on one rank unless ``module`` is a command that starts more."""
        recipe, run = self.folder / "recipe.yaml", self.folder / "run"
        recipe.write_text("seed: 0\n")
        words = module or ("harness.train",)
        self.command(*words, **{"config": recipe, "data": data, "run": run, **SMALL, **options})


def attempt(run: Callable[[Attempt, int], None], size: int, timeout_s: float) -> dict[str, Any]:
    """Seconds, the most memory that one process had, and how it ended."""
    began, end = time.monotonic(), "done"
    with tempfile.TemporaryDirectory(prefix="padless-limits-") as folder:
        here = Attempt(folder, timeout_s)
        try:
            run(here, size)
        except EndedError as error:
            end = str(error)
    return {"seconds": round(time.monotonic() - began, 1), "peak_mb": round(here.peak_mb), "end": end}


def few(number: int = 200) -> list[tuple[str, str]]:
    """Short texts of two classes."""
    return [(f"w{row % 50} {CLASSES[row % 2]} n{row}", CLASSES[row % 2]) for row in range(number)]


def rows(here: Attempt, size: int) -> None:
    """So many short texts become a dataset, and its order is worked out."""
    here.command("harness", "plan", data=here.data(few(size)), world_size=2)


def classes(here: Attempt, size: int) -> None:
    """A dataset of so many classes, with eight texts each, and an epoch of training."""
    labels = here.folder / "labels.yaml"
    names = [f"class{number}" for number in range(size)]
    labels.write_text(json.dumps({"source": {"labels": {name: [name] for name in names}}}))
    texts = ((f"w{row % size} n{row // size}", names[row % size]) for row in range(8 * size))
    here.train(here.data(texts, config=labels), epochs=1)


def text_bytes(here: Attempt, size: int) -> None:
    """A text of so many bytes among 200 short ones."""
    here.data([("word " * (size // 5), CLASSES[0]), *few()])


def vocabulary(here: Attempt, size: int) -> None:
    """So many different words, a thousandth of them in a text, all of them kept, and four steps of training."""
    texts = ((" ".join(f"x{number}" for number in range(part, size, 1000)), CLASSES[part % 2]) for part in range(1000))
    here.train(here.data(texts, **{"vocabulary.max_size": size + 2}), global_batch=256, epochs=1)


def ranks(here: Attempt, size: int) -> None:
    """A training by so many processes of this machine."""
    launcher = ("harness", "launch", "--config_file", "cpu", "--num_processes", size)
    here.train(here.data(few(400)), *launcher, epochs=1, global_batch=32)


class Case(NamedTuple):
    """A kind of size: what is done with one, and which are tried."""

    run: Callable[[Attempt, int], None]
    small: tuple[int, ...]
    full: tuple[int, ...]
    """The last ones are beyond what is promised."""


CASES = {
    "rows": Case(rows, (2_000,), (1_000_000, 3_000_000)),
    "classes": Case(classes, (20,), (1_000, 10_000)),
    "text_bytes": Case(text_bytes, (100_000,), (10_000_000, 100_000_000, 300_000_000)),
    "vocabulary": Case(vocabulary, (2_000,), (200_000, 2_000_000)),
    "ranks": Case(ranks, (2,), (4, 16)),
}
