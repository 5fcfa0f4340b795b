# SPDX-License-Identifier: Apache-2.0
"""What runs where ``fcntl``, ``resource``, ``os.fork`` and most signals are missing, as on Windows: the tutorial, from
texts to predictions, and ONNX. The processes run on Linux, and find there what ``tests/helpers/without_unix`` leaves.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest

import padless
from padless.core import atomic
from tests.helpers.commands import ROOT, run_command
from tests.helpers.corpora import reviews, write_csv

pytestmark = [pytest.mark.thorough, pytest.mark.processes]

PATHS = f"{ROOT / 'tests/helpers/without_unix'}:{ROOT}"
IMPORT_ALL = """
import importlib
import pkgutil
import harness, padless, preprocessing

for package in (harness, padless, preprocessing):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""
TUTORIAL = """
import json
import sys
import padless
from padless.commands import main
from padless.core import cli

folder, texts = sys.argv[1], json.loads(sys.argv[2])
options = {"executor.workers": 2, "shards.rows": 40, "quiet": True}
data = padless.prepare(f"{folder}/a.csv", output=f"{folder}/data", options=options)
keys = {"baseline": "none", "epochs": 1, "quiet": True, "num_processes": 1}
run = padless.train(data, f"{folder}/run", model={"embedding_dim": 4, "hidden_size": 4}, **keys)
accuracy = run.evaluate(split="validation")["accuracy"]
for words in (["export", f"{folder}/run", "-o", f"{folder}/onnx", "--onnx", "--quiet"],
              ["predict", f"{folder}/run", "--input", f"{folder}/a.csv", "--output", f"{folder}/out.csv"]):
    assert cli.run(main, words) == 0, words
probabilities = padless.load(f"{folder}/run").predict_proba(texts).tolist()
print(json.dumps([accuracy, probabilities, padless.load(f"{folder}/onnx", "onnx").predict_proba(texts).tolist()]))
"""
LOCK = """
import sys
from pathlib import Path
from padless.core.errors import DataError
from padless.core.processes import lock_file

path = Path(sys.argv[1])
with lock_file(path, 0, DataError("busy")):
    try:
        with lock_file(path, 0, DataError("busy")):
            print("locked twice")
    except DataError as error:
        print(error)
with lock_file(path, 0, DataError("busy")):
    pass
"""


def run_as_on_windows(program: str, *words: object) -> str:
    """What a program prints where the modules of padless find what Windows has."""
    command = [sys.executable, "-c", program, *map(str, words)]
    result = run_command(command, env={"PYTHONPATH": PATHS})
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_module_is_imported() -> None:
    assert run_as_on_windows(IMPORT_ALL) == ""


def test_texts_become_a_dataset_a_model_and_predictions(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", reviews(120))
    texts = ["a superb film", "w1 w2 boring", ""]
    *_, last = run_as_on_windows(TUTORIAL, tmp_path, json.dumps(texts)).splitlines()
    accuracy, by_torch, by_onnx = json.loads(last)
    assert 0 <= accuracy <= 1
    assert by_torch == padless.load(tmp_path / "run").predict_proba(texts).tolist()
    np.testing.assert_allclose(by_torch, by_onnx, atol=1e-6)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 121


def test_a_lock_excludes_another(tmp_path: Path) -> None:
    assert run_as_on_windows(LOCK, tmp_path / "a.lock") == "busy\n"


def test_several_trainings_run_one_after_the_other() -> None:
    program = "from harness.launch.many import TrainConfig, plan_slots\nprint(plan_slots(TrainConfig(), 3))"
    assert run_as_on_windows(program) == "[{}]\n"


def test_a_temporary_name_has_its_final_one_with_backslashes_too() -> None:
    name = atomic.temporary_path(Path("data")).name
    assert atomic.final_of(str(PureWindowsPath("C:/mine") / name / "train")) == r"C:\mine\data\train"
