# SPDX-License-Identifier: Apache-2.0
"""An image that serves: numpy, pandas, pyarrow, msgspec, ONNX Runtime, and nothing else that padless uses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import padless
from tests.helpers.commands import ROOT, run_command
from tests.helpers.report_runs import TEXTS

pytestmark = pytest.mark.processes
NAMES = """
numpy pandas pyarrow msgspec onnxruntime dateutil six pytz tzdata flatbuffers google
pyyaml yaml _yaml packaging padless harness preprocessing
"""
PACKAGES = set(NAMES.split())
"""Those, what they need, and padless."""
ONLY = f"""
import os
import sys
from importlib.abc import MetaPathFinder

class Nothing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in sys.stdlib_module_names and not root.startswith("_") and root not in {PACKAGES!r}:
            raise ModuleNotFoundError(f"No module named {{root!r}}", name=root)
        if root == "onnxruntime" and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
            raise ImportError("it would collect data")

os.environ.pop("ORT_DISABLE_TELEMETRY", None)  # set by the export of the test itself
sys.meta_path.insert(0, Nothing())
"""
LIBRARY = """
import json
import padless
model = padless.load(sys.argv[1])
texts = json.loads(sys.argv[2])
print(json.dumps([model.predict_proba(texts).tolist(), model.predict(texts).tolist()]))
"""
COMMAND = """
from padless.commands import run_console_script as script
sys.exit(script())
"""


def serve(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A process of such an image."""
    return run_command([sys.executable, "-c", ONLY + code, *map(str, arguments)])


def test_the_library_predicts_with_the_packages_that_the_page_names(exported_run: Path) -> None:
    page = (ROOT / "docs/predicting.md").read_text()
    (line,) = re.findall(r"^pip install (onnxruntime .*)$", page, re.MULTILINE)
    assert set(line.split()) <= PACKAGES
    result = serve(LIBRARY, exported_run.parent / "out", json.dumps(TEXTS))
    assert (result.returncode, result.stderr) == (0, "")
    chances, predicted = json.loads(result.stdout)
    model = padless.load(exported_run)
    np.testing.assert_allclose(np.array(chances), model.predict_proba(TEXTS), atol=1e-6)
    assert predicted == model.predict(TEXTS).tolist()


def test_the_command_predicts_a_file(exported_run: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n1,a fine film\n2,awful w1\n")
    out = tmp_path / "out.csv"
    result = serve(
        COMMAND, "predict", "--run", exported_run.parent / "out", "--input", tmp_path / "in.csv", "--output", out
    )
    assert (result.returncode, result.stderr) == (0, "")
    lines = out.read_text().splitlines()
    assert lines[0] == "id,text,predicted,probability_negative,probability_positive"
    expected = padless.load(exported_run.parent / "out", "onnx").predict_proba(["a fine film", "awful w1"])
    np.testing.assert_allclose([float(line.split(",")[-1]) for line in lines[1:]], expected[:, 1], atol=1e-6)


def test_other_commands_name_the_package_that_they_need(exported_run: Path) -> None:
    result = serve(COMMAND, "report", exported_run)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "is not installed here" in result.stderr
