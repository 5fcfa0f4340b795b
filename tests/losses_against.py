# SPDX-License-Identifier: Apache-2.0
"""A gate for refactors: ``python -m tests.losses_against REVISION``.

Trains one small fixed configuration with this tree and with a checkout of REVISION, on one process and on two, and
compares the two ``metrics.jsonl`` line by line: loss and row hash of every step, and every figure of validation and
test that both have. A change that is to change nothing leaves all of them equal to the last bit. Both trees read one
dataset, written by this one. The exit code is 0 if all lines are equal, 1 if not, 2 if a training failed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from padless.core import cli
from padless.core.errors import ConfigError
from tests.helpers.commands import ROOT, run_command
from tests.helpers.datasets import write_dataset

LIMIT_S = 600
ROWS = {"train": 600, "validation": 120, "test": 120}
TRAINING = (
    "--device cpu --precision fp32 --epochs 2 --global_batch 32 --micro_batch 7 --model.embedding_dim 16 "
    "--model.hidden_size 16 --model.num_layers 2 --model.pooling max+mean "
    "--model.dropout 0.3 --model.word_dropout 0.1 --optim.ema 0.98 --optim.label_smoothing 0.05 --seed 3 "
    "--tracking.log_every 1"
)
"""Only keys that every revision with resumable runs understands."""
LOGGED = ("step", "loss", "row_hash")
"""What is compared of a line of training; others hold times or depend on the figures that a version happens to log."""


def main(argv: list[str]) -> int:
    """Train, compare, print; returns the exit code."""
    (revision,) = argv
    different = False
    with tempfile.TemporaryDirectory() as folder, work_tree_of(revision, Path(folder, "tree")) as theirs:
        data = Path(folder, "data")
        write_dataset(data, ROWS)
        for processes in (1, 2):
            metrics = [
                train(tree, data, Path(folder, f"{name}-{processes}"), processes)
                for name, tree in (("ours", ROOT), ("theirs", theirs))
            ]
            difference = first_difference(*metrics)
            print(f"processes {processes}: {difference or f'{len(metrics[0])} lines, all equal'}", flush=True)
            different = different or difference is not None
    return int(different)


@contextmanager
def work_tree_of(revision: str, path: Path) -> Iterator[Path]:
    """A detached work tree of ``revision`` for as long as the block runs. Raises ``ConfigError`` if git has none."""
    added = run_command(["git", "worktree", "add", "--detach", str(path), revision])
    if added.returncode:
        raise ConfigError(f"{revision}: git cannot check it out: {' '.join(added.stderr.split())}")
    try:
        yield path
    finally:
        run_command(["git", "worktree", "remove", "--force", str(path)])


def train(tree: Path, data: Path, run: Path, processes: int) -> list[dict[str, Any]]:
    """Train with the code of ``tree`` in processes of its own; the lines of ``metrics.jsonl``.

    Raises ``ConfigError`` with the end of what the training said if it failed.
    """
    options = ("--config_file", str(tree / "configs/accelerate/cpu.yaml"), "--num_processes", str(processes))
    keys = ("--config", str(tree / "tests/plain.yaml"), "--data", str(data), "--run", str(run), *TRAINING.split())
    command = [sys.executable, "-m", "padless", "train", *options, *keys]
    result = run_command(command, LIMIT_S, {"PYTHONPATH": str(tree)}, cwd=tree)
    if result.returncode:
        message = " ".join((result.stderr or result.stdout)[-2000:].split())
        raise ConfigError(f"{tree}: the training on {processes} processes ended with {result.returncode}: {message}")
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def first_difference(records: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str | None:
    """The first line, counted from 1, and key that differ; None if the files say the same."""
    for number, (record, base_record) in enumerate(zip(records, theirs, strict=False), 1):
        keys = (
            "kind",
            *(LOGGED if record["kind"] == "train" else sorted(record.keys() & base_record.keys() - {"kind"})),
        )
        for key in keys:
            if key not in record or record[key] != base_record.get(key):
                return f"line {number}: {key} is {record.get(key)} here, {base_record.get(key)} there"
    return None if len(records) == len(theirs) else f"{len(records)} lines here, {len(theirs)} there"


if __name__ == "__main__":
    sys.exit(cli.run(main))
