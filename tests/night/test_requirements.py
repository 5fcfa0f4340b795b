# SPDX-License-Identifier: Apache-2.0
"""The lowest and the newest versions that ``pyproject.toml`` allows, each installed into an environment of its own, in
which the tests that start no process pass and a corpus becomes a dataset, a model and a prediction.

torch has the newest version that pip finds in both: an old one without CUDA is on an index of its own. What each
environment was made of, and how it went, is a line of ``night.jsonl``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tally
from tests.commands import PLAIN, ROOT, run_command, succeed
from tests.corpora import reviews, write_csv
from tests.requirements import UNPINNED, Requirement, requirements

pytestmark = pytest.mark.night

TEST = "requirements"
INSTALL_S, TESTS_S, COMMAND_S = 3600, 7200, 600
LEFT_OUT = {"bench"}
"""Extras whose distributions are held against padless, and are never part of it."""
SMALL = ("--model.embedding_dim", "16", "--model.hidden_size", "16", "--epochs", "2", "--precision", "fp32")
OLD = "ignore::DeprecationWarning"
WANTED = "not processes and not thorough and not slow and not night"


def lines_for(kind: str, asked: list[Requirement]) -> list[str]:
    """What pip is asked for, each distribution once."""
    return sorted({one.lowest_pin if kind == "lowest" else one.newest for one in asked if one.group not in LEFT_OUT})


def numbers_of(version: str) -> list[int]:
    """A version to be compared: 1.4 is 1.4.0, and what follows a + says how it was built."""
    numbers = [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


def test_each_distribution_has_one_lowest_version() -> None:
    asked = requirements()
    assert len({(one.name, one.lowest) for one in asked}) == len({one.name for one in asked})
    assert "numpy==1.26" in lines_for("lowest", asked)
    assert "transformers<5" in {one.newest for one in asked}
    assert numbers_of("2.13.0+cpu") == numbers_of("2.13")


@pytest.mark.parametrize("kind", ["lowest", "newest"])
def test_it_works_with_these_versions(kind: str, tmp_path: Path) -> None:
    python = str(environment(kind, tmp_path))
    listed = succeed(run_command([python, "-m", "pip", "list", "--format", "json"], COMMAND_S, {"PYTHONPATH": ""}))
    versions = {one["name"].lower().replace("_", "-"): one["version"] for one in json.loads(listed.stdout)}
    direct = {one.name: versions[one.name] for one in requirements() if one.group not in LEFT_OUT}
    if kind == "lowest":
        lowest = {one.name: one.lowest for one in requirements() if one.group not in LEFT_OUT}
        apart = {name for name in lowest if numbers_of(direct[name]) != numbers_of(lowest[name])}
        print(f"not the lowest: {', '.join(f'{name} {direct[name]}' for name in sorted(apart))}")
        assert apart <= UNPINNED
    started = time.monotonic()
    quietly = ("-W", OLD) if kind == "lowest" else ()  # old versions of two libraries may warn of each other
    words = [python, "-m", "pytest", *quietly, "-m", WANTED, "-n", "2", "--dist", "loadfile", "tests"]
    tested = run_command(words, TESTS_S, {})
    summary = tested.stdout.splitlines()[-1:]
    tally.append(TEST, kind, versions=direct, tests=summary, seconds=round(time.monotonic() - started))
    succeed(tested)
    from_a_csv_to_a_prediction(python, tmp_path)


def environment(kind: str, folder: Path) -> Path:
    """The interpreter of a fresh environment."""
    asked = folder / f"{kind}.txt"
    asked.write_text("\n".join(lines_for(kind, requirements())) + "\n")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=300)
    python = folder / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "-r", str(asked)]
    succeed(run_command(install, INSTALL_S, {"PYTHONPATH": ""}))
    return python


def from_a_csv_to_a_prediction(python: str, folder: Path) -> None:
    """Preprocess, train, evaluate and predict: the file of predictions has a line for each text."""
    write_csv(folder / "reviews.csv", reviews(400))
    write_csv(folder / "new.csv", [(text,) for text, _ in reviews(50, seed=9)], header=("text",))
    data, run = folder / "data", folder / "run"
    for words in (
        ("preprocessing", "run", folder / "reviews.csv", "--output", data, "--executor.workers", 2),
        ("harness.train", *PLAIN, "--data", data, "--run", run, *SMALL, "--device", "cpu"),
        ("harness", "predict", "--run", run, "--input", folder / "new.csv", "--output", folder / "out.csv"),
    ):
        succeed(run_command([python, "-m", *map(str, words)], COMMAND_S, {}, cwd=ROOT))
    assert len((folder / "out.csv").read_text().splitlines()) == 51
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
