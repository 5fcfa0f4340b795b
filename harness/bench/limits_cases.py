# SPDX-License-Identifier: Apache-2.0
"""``python -m harness.bench.limits_cases KIND SIZE FOLDER``: one attempt of ``bench limits``; its last line is JSON."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLASSES = ("dull", "fine")
MODEL = ("--model.embedding_dim", "8", "--model.hidden_size", "8", "--precision", "fp32", "--device", "cpu")
PLAIN = ("--tracking.tracker", "none", "--optim.ema", "null", "--global_batch", "16")


@dataclass(frozen=True)
class Case:
    """A kind of size, what is done with one, and which are tried."""

    run: Callable[[int, Path], None]
    small: tuple[int, ...]
    full: tuple[int, ...]
    """The last ones are beyond what is promised."""


def table(folder: Path, rows: Iterable[tuple[str, str]]) -> Path:
    """A file of texts and labels."""
    path = folder / "texts.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(rows)
    return path


class RefusedError(Exception):
    """A command said in one line that it does not do this."""


def command(module: str, *words: object) -> None:
    """Run a command of padless in a process of its own; what it prints goes to stderr. Raises ``RefusedError``."""
    told = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(told, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        if not said:
            raise SystemExit(f"exit code {done.returncode}: {done.stderr.strip()[-300:]}")
        raise RefusedError(said[-1].removeprefix("error: "))


def preprocess(folder: Path, *words: object) -> Path:
    """A dataset of the table of a folder, by one process."""
    data = folder / "data"
    told = ("--output", data, "--executor.workers", 1, "--vocabulary.min_count", 1, "--quiet", "true")
    command("preprocessing", "run", *words, *told)
    return data


def train(folder: Path, data: Path, *words: object) -> Path:
    """A run of a tiny network on one rank."""
    run, recipe = folder / "run", folder / "recipe.yaml"
    recipe.write_text("seed: 0\n")
    command("harness.train", "--config", recipe, "--data", data, "--run", run, *MODEL, *PLAIN, *words)
    return run


def few(number: int = 200) -> Iterable[tuple[str, str]]:
    """Short texts of two classes."""
    return ((f"w{row % 50} {CLASSES[row % 2]} n{row}", CLASSES[row % 2]) for row in range(number))


def rows(size: int, folder: Path) -> None:
    """So many short texts become a dataset, and its order is worked out."""
    data = preprocess(folder, table(folder, few(size)))
    command("harness", "plan", "--data", data, "--world_size", 2)


def classes(size: int, folder: Path) -> None:
    """A dataset of so many classes, with eight texts each, and an epoch of training."""
    made = ((f"w{row % size} n{row // size}", f"class{row % size}") for row in range(8 * size))
    names = folder / "labels.yaml"
    listed = {f"class{number}": [f"class{number}"] for number in range(size)}
    names.write_text("source: {labels: " + json.dumps(listed) + "}\n")
    data = preprocess(folder, table(folder, made), "--config", names)
    train(folder, data, "--epochs", 1)


def text_bytes(size: int, folder: Path) -> None:
    """A text of so many bytes among 200 short ones."""
    long = "word " * (size // 5)
    preprocess(folder, table(folder, [(long, CLASSES[0]), *few()]))


def vocabulary(size: int, folder: Path) -> None:
    """So many different words, a thousandth of them in a text, all of them kept, and four steps of training."""
    made = ((" ".join(f"x{number}" for number in range(part, size, 1000)), CLASSES[part % 2]) for part in range(1000))
    data = preprocess(folder, table(folder, made), "--vocabulary.max_size", size + 2)
    train(folder, data, "--global_batch", 256, "--epochs", 1)


def shards(size: int, folder: Path) -> None:
    """So many shards of at most two rows each, and an epoch's order."""
    data = preprocess(folder, table(folder, few(2 * size)), "--shards.rows", 2)
    command("harness", "plan", "--data", data, "--world_size", 2)


def files(size: int, folder: Path) -> None:
    """So many files of one text each, in a folder for each class."""
    for name in CLASSES:
        (folder / "source" / name).mkdir(parents=True)
    for number, (text, name) in enumerate(few(size)):
        (folder / "source" / name / f"{number:06d}.txt").write_text(text)
    preprocess(folder, folder / "source")


def epochs(size: int, folder: Path) -> None:
    """So many epochs over 64 rows."""
    data = preprocess(folder, table(folder, few(80)))
    train(folder, data, "--epochs", size)


def checkpoints(size: int, folder: Path) -> None:
    """A checkpoint after every step, at most so many of them kept, and all of these verified."""
    data = preprocess(folder, table(folder, few(400)))
    keep = ("--checkpoint.every_steps", 1, "--checkpoint.keep_last", size)
    run = train(folder, data, "--epochs", -(-size // 20), *keep)
    command("harness", "checkpoint", "verify", run)


def ranks(size: int, folder: Path) -> None:
    """A training by so many processes of this machine."""
    data, recipe = preprocess(folder, table(folder, few(400))), folder / "recipe.yaml"
    recipe.write_text("seed: 0\n")
    told = ("launch", "--config_file", "cpu", "--num_processes", size, "--config", recipe, "--epochs", 1)
    paths = ("--data", data, "--run", folder / "run")
    command("harness", *told, *paths, *MODEL, *PLAIN, "--global_batch", 32)


CASES = {
    "rows": Case(rows, (2_000,), (1_000_000, 3_000_000)),
    "classes": Case(classes, (20,), (1_000, 10_000)),
    "text_bytes": Case(text_bytes, (100_000,), (10_000_000, 100_000_000, 300_000_000)),
    "vocabulary": Case(vocabulary, (2_000,), (200_000, 2_000_000)),
    "shards": Case(shards, (50,), (1_000, 10_000)),
    "files": Case(files, (20,), (1_000, 10_000)),
    "epochs": Case(epochs, (3,), (100, 1_000)),
    "checkpoints": Case(checkpoints, (5,), (100, 1_000)),
    "ranks": Case(ranks, (2,), (4, 16)),
}


def peak_mb() -> float:
    """The most memory that one of the commands' processes has had (getrusage(2): kilobytes on Linux)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e6


def main(argv: list[str]) -> int:
    """One attempt."""
    name, size, folder = argv
    answer: dict[str, Any] = {}
    began = time.monotonic()
    try:
        CASES[name].run(int(size), Path(folder))
    except RefusedError as error:
        answer["refused"] = str(error)
    print(json.dumps({"seconds": round(time.monotonic() - began, 1), "peak_mb": round(peak_mb()), **answer}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
