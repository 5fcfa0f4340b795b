# SPDX-License-Identifier: Apache-2.0
"""``limits``: how many rows, classes, words and ranks, and how long a text, are possible on this machine.

For each kind and size, commands run in subprocesses; their peak memory is read when they end.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

CLASSES = ("dull", "fine")
LIMIT_S = 900
"""Time limit of one command."""
TRAINING = "--seed 0 --model.embedding_dim 8 --model.hidden_size 8 --precision fp32 --device cpu --global_batch 16"
TRAINING += " --epochs 1 --optim.ema null --tracking.tracker none"
PREPROCESSING = "--executor.workers 1 --vocabulary.min_count 1 --quiet true"


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """Increasing sizes until something fails: seconds and peak memory of each."""

    full: bool = False
    """Try the sizes of docs/security.md, which take minutes and gigabytes; else small ones of seconds each."""
    json: bool = False
    """Print JSON instead of a table."""


def main(config: LimitsConfig) -> None:
    """Try all sizes, then show the results."""
    found = []
    for name, (commands, small, full) in CASES.items():
        for size in full if config.full else small:
            print(f"{name}: {size:,}", file=sys.stderr)
            found.append({"kind": name, "size": size, **attempt(commands, size)})
    print(json.dumps(found, indent=2) if config.json else pd.DataFrame(found).to_string(index=False))


Commands = Callable[[Path, int], list[str]]
"""(folder, size) -> padless commands that try this size."""


def attempt(commands: Commands, size: int) -> dict[str, Any]:
    """Seconds, peak memory of one process, and how it ended."""
    began, most, end = time.monotonic(), 0.0, "done"
    with tempfile.TemporaryDirectory(prefix="padless-limits-") as folder:
        for command in commands(Path(folder), size):
            peak_mb, end = run(command.split())
            most = max(most, peak_mb)
            if end != "done":
                break
    return {"seconds": round(time.monotonic() - began, 1), "peak_mb": round(most), "end": end}


def run(words: list[str]) -> tuple[float, str]:
    """Peak memory of a command in MB; and ``done``, its last line of output, or why it ended."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, "-m", *words], stdout=said, stderr=said)
        timer = threading.Timer(LIMIT_S, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)  # cannot hang: it is killed after its time limit
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        last = ["", *said.read().splitlines()][-1][:300]
    peak_mb = usage.ru_maxrss * 1024 / 1e6  # getrusage(2): kilobytes on Linux
    return peak_mb, last or f"exit code {process.returncode}" if process.returncode else "done"


def data(folder: Path, rows: Iterable[tuple[str, str]], *options: str) -> str:
    """Write texts and labels; returns the command that builds a dataset from them."""
    with (folder / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    words = ("preprocessing prepare", folder / "texts.csv", "--output", folder / "data", PREPROCESSING, *options)
    return " ".join(map(str, words))


def training(folder: Path, module: str = "harness.train", *options: str) -> str:
    """The command that trains a tiny network on that dataset."""
    return " ".join([f"{module} --data {folder / 'data'} --run {folder / 'run'}", TRAINING, *options])


def few(number: int = 200) -> list[tuple[str, str]]:
    """Short texts of two classes."""
    return [(f"w{row % 50} {CLASSES[row % 2]} n{row}", CLASSES[row % 2]) for row in range(number)]


def rows(folder: Path, size: int) -> list[str]:
    """Build a dataset of ``size`` short texts, and compute its order."""
    return [data(folder, few(size)), f"harness plan --data {folder / 'data'} --world_size 2"]


def classes(folder: Path, size: int) -> list[str]:
    """Build a dataset of ``size`` classes with eight texts each, and train an epoch."""
    labels = folder / "labels.yaml"
    names = [f"class{number}" for number in range(size)]
    labels.write_text(json.dumps({"source": {"labels": {name: [name] for name in names}}}))
    texts = ((f"w{row % size} n{row // size}", names[row % size]) for row in range(8 * size))
    return [data(folder, texts, f"--config {labels}"), training(folder)]


def text_bytes(folder: Path, size: int) -> list[str]:
    """Build a dataset with a text of ``size`` bytes among 200 short ones."""
    return [data(folder, [("word " * (size // 5), CLASSES[0]), *few()])]


def vocabulary(folder: Path, size: int) -> list[str]:
    """Build a dataset of ``size`` different words, a thousandth of them in each text, and train four steps."""
    texts = ((" ".join(f"x{number}" for number in range(part, size, 1000)), CLASSES[part % 2]) for part in range(1000))
    return [
        data(folder, texts, f"--vocabulary.max_size {size + 2}"),
        training(folder, "harness.train", "--global_batch 256"),
    ]


def ranks(folder: Path, size: int) -> list[str]:
    """Train with ``size`` processes on this machine."""
    launcher = f"harness train --config_file cpu --num_processes {size}"
    return [data(folder, few(400)), training(folder, launcher, "--global_batch 32")]


CASES: dict[str, tuple[Commands, tuple[int, ...], tuple[int, ...]]] = {
    "rows": (rows, (2_000,), (1_000_000, 3_000_000)),
    "classes": (classes, (20,), (1_000, 10_000)),
    "text_bytes": (text_bytes, (100_000,), (10_000_000, 100_000_000, 300_000_000)),
    "vocabulary": (vocabulary, (2_000,), (200_000, 2_000_000)),
    "ranks": (ranks, (2,), (4, 16)),
}
"""Commands, small sizes, and the sizes of docs/security.md; the last ones are above the documented limits."""
