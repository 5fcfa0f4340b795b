# SPDX-License-Identifier: Apache-2.0
"""The wheel in an environment of its own, without a checkout: scripts, recipes and the library, in a folder of a user.

Its dependencies come from the environment that runs the tests, so that nothing is downloaded.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import padless
from tests.helpers.commands import ROOT, run_command, succeed
from tests.helpers.datasets import sentences

pytestmark = [pytest.mark.processes, pytest.mark.slow]

SMALL = ("--model.embedding_dim", "16", "--model.hidden_size", "16", "--epochs", "1", "--precision", "fp32")
THREE_LINES = """
import json, sys
import padless
frame = padless.load("runs/mine").predict_frame(["a superb film"])
needless = {"nltk", "matplotlib", "sklearn"} & set(sys.modules)
print(json.dumps([padless.__file__, padless.__version__, frame["probability_1"].item(), sorted(needless)]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by hatchling, which leaves nothing in the checkout."""
    pytest.importorskip("hatchling", reason="to build without downloading it")
    folder = tmp_path_factory.mktemp("dist")
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    succeed(run_command([sys.executable, *words], 300))
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of scripts of a fresh environment with the wheel in it."""
    environment = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=120)
    python = environment / "bin/python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    succeed(run_command([*install, str(wheel)], 300, {"PYTHONPATH": ""}))
    (packages,) = environment.glob("lib/python*/site-packages")
    dependencies = Path(pd.__file__).parents[1]
    (packages / "dependencies.pth").write_text(f"{dependencies}\n")  # whose own .pth files are not read from here
    return python.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project: a corpus, a recipe, and own code in a package named like one of padless's."""
    project = tmp_path_factory.mktemp("project")
    texts, labels = sentences(400, 2, seed=3, longest=40)
    texts = [f"{text} {number}" for number, text in enumerate(texts)]
    pd.DataFrame({"text": texts, "label": labels}).to_csv(project / "reviews.csv", index=False)
    (project / "small.yaml").write_text("tracking: {tracker: none}\n")
    (project / "three_lines").mkdir()
    (project / "three_lines" / "script.py").write_text(THREE_LINES)
    if sys.version_info >= (3, 11):
        (project / "harness.py").write_text("raise RuntimeError('not this one')\n")
    return project


def run(folder: Path, *command: object) -> str:
    """Output of a command that must succeed, in the user's folder and without a checkout on the path."""
    words = [str(word) for word in command]
    return succeed(run_command(words, 300, {"PYTHONPATH": "", "NLTK_DATA": ""}, cwd=folder)).stdout


def test_scripts_work_in_any_folder(scripts: Path, folder: Path) -> None:
    index = run(folder, scripts / "padless", "--help").rpartition("documentation:")[2].strip()
    assert Path(index).is_relative_to(scripts.parent)
    pages = {path.relative_to(Path(index).parent) for path in Path(index).parent.rglob("*.*")}
    assert pages == {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    assert "imdb-pretrained" in run(scripts, scripts / "python", "-m", "padless", "train", "--help")


def test_from_a_csv_to_three_lines_without_a_checkout(scripts: Path, folder: Path) -> None:
    job = ("prepare", "reviews.csv", "--output", "data/mine", "--executor.workers", 2)
    run(folder, scripts / "padless", *job)
    keys = ("--data", "data/mine", "--run", "runs/mine", *SMALL)
    run(folder, scripts / "padless", "train", "--config_file", "cpu", *keys)
    run(folder, scripts / "padless", "evaluate", "--run", "runs/mine", "--data", "data/mine")
    prediction = run(folder, scripts / "padless", "predict", "--run", "runs/mine", "--json", "a superb film")
    file, version, probability, needless = json.loads(run(folder, scripts / "python", "three_lines/script.py"))
    assert file.startswith(str(scripts.parent))
    assert (version, needless) == (padless.__version__, [])
    assert json.loads(prediction)["probability_1"] == pytest.approx(probability, abs=1e-6)
