# SPDX-License-Identifier: Apache-2.0
"""The tutorial's commands, run in its order, have the results it describes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from preprocessing.dataset.shards import read_manifest
from tests.commands import ROOT, run_command, succeed

pytestmark = [pytest.mark.processes, pytest.mark.slow]

TUTORIAL = (ROOT / "docs/tutorial/index.md").read_text()
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command of the tutorial, in order."""
    lines = "".join(BLOCK.findall(TUTORIAL)).replace("\\\n", " ").splitlines()
    words = [line.partition(" ") for line in lines]
    return [f"harness {rest}" for script, _, rest in words if script == "padless"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the repository's documents and recipes, in which the tutorial's commands run unchanged."""
    for name in ("docs", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.fixture
def results(place: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """The output of each command, by its first two words and the options that distinguish similar commands."""
    done = {}
    for line in commands():
        words = shlex.split(line)
        result = succeed(run_command([sys.executable, "-m", *words], 600, {}, cwd=place))
        name = " ".join(words[:2]) + (" --input" if "--input" in words else "")
        assert name not in done
        done[name] = result
    return done


def test_the_tutorial_does_what_it_says(results: dict[str, subprocess.CompletedProcess[str]], place: Path) -> None:
    names = ["harness prepare", "harness inspect", "harness baseline", "harness train", "harness predict"]
    assert list(results) == [*names, "harness predict --input", "harness evaluate --input"]
    manifest = read_manifest(place / "data/messages")
    rows = ", ".join(f"{name} {manifest.rows(name)}" for name in ("train", "validation", "test"))
    said = f"data/messages: {rows} rows, vocabulary {manifest.vocabulary_size}"
    assert said in TUTORIAL
    assert said in results["preprocessing run"].stdout + results["preprocessing run"].stderr
    run = place / "runs/messages"
    assert json.loads((run / "test.json").read_text())["accuracy"] > 0.8
    assert "complaint" in (run / "report.html").read_text()
    shown = results["harness evaluate --input"].stdout
    assert all(name in shown for name in (*manifest.labels, "accuracy", "unknown"))
    assert results["harness predict"].stdout.split()[0] == "question"
    predicted, given = pd.read_csv(run / "later.csv"), pd.read_csv(place / "docs/tutorial/later.csv")
    assert predicted["text"].tolist() == given["text"].tolist()
    assert (predicted["predicted"] == given["label"]).mean() > 0.8
