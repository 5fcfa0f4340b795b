# SPDX-License-Identifier: Apache-2.0
"""A small dataset, checkpoint, bundle and ONNX folder, which every later version opens.

``python -m tests.helpers.lasting_files 0.1.0`` writes ``tests/data/0.1.0``; files of a released version never change.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import padless
from harness.rundir import checkpoint
from harness.rundir.layout import BUNDLE
from padless.commands import main
from padless.core import cli
from tests.helpers.commands import ROOT
from tests.helpers.corpora import reviews, write_csv

LASTING = ROOT / "tests" / "data"
TEXTS = ["a superb film", "review 7: w1, w2 and w3 were boring!", "", "Ein Film, der w1 heißt"]
KEYS = {"baseline": "none", "epochs": 1, "num_processes": 1, "seed": 1, "quiet": True}
MODEL = {"embedding_dim": 4, "hidden_size": 4, "wide": 64}


def write_lasting_files(folder: Path) -> None:
    """Make all files of a version in a new folder, with the predictions of ``TEXTS`` as ``expected.json``."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)  # files name relative paths
        options = {"executor.workers": 1, "shards.rows": 40, "quiet": True}
        data = padless.prepare(write_csv(Path("a.csv"), reviews(120)), output="data", options=options)
        run = padless.train(data, "run", model=MODEL, **KEYS)
        assert cli.run(main, ["export", "run", "-o", "onnx", "--onnx", "--quiet"]) == 0
        for program in Path("onnx").glob("*.py"):  # which no later version opens
            program.unlink()
        (step,) = checkpoint.steps("run")
        saved = checkpoint.checkpoint_path("run", step)
        for source, target in (("data", "data"), (saved, saved), (f"run/{BUNDLE}", BUNDLE), ("onnx", "onnx")):
            shutil.copytree(source, folder / target)
        expected = {
            "fingerprint": data.manifest.fingerprint,
            "step": step,
            "torch": run.model.predict_proba(TEXTS).tolist(),
            "onnx": padless.load("onnx", "onnx").predict_proba(TEXTS).tolist(),
        }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    write_lasting_files(LASTING / sys.argv[1])
