# SPDX-License-Identifier: Apache-2.0
"""The tutorial's commands, run in its order, have the results it describes."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest

from preprocessing.dataset.shards import read_manifest
from tests.commands import ROOT, read_json, run_command, succeed

pytestmark = [pytest.mark.processes, pytest.mark.slow]

TUTORIAL = (ROOT / "docs/tutorial/index.md").read_text()
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    lines = [line for line in "".join(BLOCK.findall(TUTORIAL)).splitlines() if line.startswith("padless ")]
    commands = [[sys.executable, "-m", "harness", *shlex.split(line)[1:]] for line in lines]
    done = [succeed(run_command(words, 600, cwd=tmp_path)).stdout for words in commands]
    results = {line.removesuffix(" -o predicted.csv"): said for line, said in zip(lines, done, strict=True)}
    manifest, run = read_manifest(tmp_path / "data/messages"), tmp_path / "runs/messages"
    said = results["padless prepare messages.csv -o data/messages"]
    assert said in TUTORIAL
    scores = (run / "test.json", tmp_path / "data/messages/baseline/test.json")
    network, linear = (read_json(path)["accuracy"] for path in scores)
    assert network > 0.95 > 0.85 > linear
    shown = results["padless evaluate runs/messages later.csv"]
    assert all(name in shown for name in (*manifest.labels, "accuracy", "not in the vocabulary: 6.5%"))
    predicted, given = pd.read_csv(tmp_path / "predicted.csv"), pd.read_csv(tmp_path / "later.csv")
    assert predicted["text"].tolist() == given["text"].tolist()
    assert (predicted["predicted"] == given["label"]).mean() > 0.8
