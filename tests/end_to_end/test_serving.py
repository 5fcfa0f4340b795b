# SPDX-License-Identifier: Apache-2.0
"""An image that serves: the packages that the page names, and nothing else that padless uses; and
``predict.py`` of an export, with numpy and ONNX Runtime alone.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest

import padless
from harness.rundir.bundle_files import ONNX, read_info
from tests.helpers.bundles import write_drawn
from tests.helpers.commands import ROOT, run_command
from tests.helpers.corpora import prepare, write_csv
from tests.helpers.report_runs import TEXTS, export

pytestmark = pytest.mark.processes
NAMES = """
numpy pandas pyarrow msgspec onnxruntime dateutil six pytz tzdata flatbuffers google
pyyaml yaml _yaml packaging psutil rich markdown_it mdurl pygments padless harness preprocessing
"""
PACKAGES = set(NAMES.split())
"""Those, what they need, and padless."""
ALONE = {"numpy", "onnxruntime", "characters"}
ONLY = """
import os
import sys
from importlib.abc import MetaPathFinder

class Nothing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in sys.stdlib_module_names and not root.startswith("_") and root not in PACKAGES:
            raise ModuleNotFoundError(f"No module named {root!r}", name=root)
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
SCRIPT = """
import json
import runpy
from pathlib import Path

folder, texts = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(folder))
if texts.suffix == ".json":
    values = runpy.run_path(str(folder / "predict.py"))
    print(json.dumps(values["Predictor"](folder).predict(json.loads(texts.read_bytes()))))
else:
    sys.stdin, sys.argv = open(texts, encoding="utf-8"), ["predict.py"]
    runpy.run_path(str(folder / "predict.py"), run_name="__main__")
"""
COMMAND = """
from padless.commands import run_console_script as script
sys.exit(script())
"""


def serve(code: str, *arguments: object, packages: set[str] = PACKAGES) -> subprocess.CompletedProcess[str]:
    """A process of such an image."""
    code = f"PACKAGES = {packages!r}\n{ONLY}{code}"
    return run_command([sys.executable, "-c", code, *map(str, arguments)])


def test_the_library_predicts_with_the_packages_that_the_page_names(exported_run: Path) -> None:
    page = (ROOT / "docs/predicting.md").read_text()
    (line,) = re.findall(r"^pip install (onnxruntime .* pandas .*)$", page, re.MULTILINE)
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


@pytest.mark.parametrize("json_lines", [(), ("--json",)])
def test_the_command_predicts_a_text(json_lines: tuple[str, ...], exported_run: Path) -> None:
    folder = exported_run.parent / "out"
    result = serve(COMMAND, "predict", folder, "a fine film", *json_lines)
    assert (result.returncode, result.stderr) == (0, "")
    assert str(padless.load(folder, "onnx").predict("a fine film")[0]) in result.stdout


def test_other_commands_name_the_package_that_they_need(exported_run: Path) -> None:
    result = serve(COMMAND, "report", exported_run)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "is not installed here" in result.stderr


WORDS = re.findall(
    r"\S+",
    """
film Ταινία фильм Й ֆիլմ סֶרֶט فِيلْم फ़िल्म ভালো ภาพยนตร์ 电影 映画 ｶﾞ 영화 great dull the not don’t naïve e\u0301
ﬁne 3.5 1,0 #tag !!! ?? 👍🏽 <b> </b> <br /> &amp; &#39; <!-- --> < \ud800 \0 Σ ΑΣ İ ½ \u200d ──
internationalisation unbelievable
""",
)
PLAIN_WORDS = [word for word in WORDS if word.isalpha()]
PIPELINES = [
    (["positive", "negative"], ["--text.max_tokens", "500"]),
    (
        ["3", "1", "2"],
        [
            *("--vocabulary.max_size", "150", "--text.truncate", "both"),
            *("--text.lowercase", "false", "--text.normalize", "nfc"),
        ],
    ),
    (
        ["new;good", "good", "new"],
        ["--source.labels_separator", ";", "--text.html", "false", "--text.truncate", "tail"],
    ),
]


@pytest.mark.thorough
@pytest.mark.parametrize(("labels", "options"), PIPELINES)
def test_the_script_of_an_export_predicts_as_padless_with_two_packages(
    labels: list[str], options: list[str], tmp_path: Path
) -> None:
    random = Random(0)
    rows = [(" ".join(random.choices(PLAIN_WORDS, k=20)), labels[row % len(labels)]) for row in range(90)]
    (tmp_path / "words.txt").write_text("the\nfilm\n")
    options = [*options, "--text.stop_words", str(tmp_path / "words.txt")]
    prepare(write_csv(tmp_path / "rows.csv", rows), tmp_path / "data", *options)
    write_drawn(tmp_path / "bundle", tmp_path / "data", pooling="max+mean", wide=256)
    folder = tmp_path / "out"
    assert export(tmp_path / "bundle", "--output", folder, "--onnx", "--quiet") == 0
    texts = [" ".join(random.choices(WORDS, k=length)) for length in range(644)]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    result = serve(SCRIPT, folder, tmp_path / "texts.json", packages=ALONE)
    assert (result.returncode, result.stderr) == (0, "")
    predictions = json.loads(result.stdout)
    model = padless.load(folder, engine="onnx")
    assert [prediction["predicted"] for prediction in predictions] == model.predict(texts).tolist()
    columns = [f"probability_{label}" for label in read_info(folder).labels]
    probabilities = [[prediction[column] for column in columns] for prediction in predictions]
    np.testing.assert_allclose(probabilities, model.predict_proba(texts), atol=1e-6)
    assert len({str(prediction["predicted"]) for prediction in predictions}) > 1


def test_the_script_reads_lines_and_names_a_damaged_file(exported_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported_run.parent / "out", tmp_path / "out")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    lines = serve(SCRIPT, folder, tmp_path / "texts.txt", packages=ALONE)
    as_json = run_command([sys.executable, "-m", "padless", "predict", str(folder), *TEXTS, "--json"])
    predictions, expected = (list(map(json.loads, result.stdout.splitlines())) for result in (lines, as_json))
    assert [[*prediction] for prediction in predictions] == [[*prediction] for prediction in expected]
    for prediction, other in zip(predictions, expected, strict=True):
        assert prediction == pytest.approx(other, abs=1e-6)
    (folder / ONNX).write_bytes((folder / ONNX).read_bytes() + b"0")
    damaged = serve(SCRIPT, folder, tmp_path / "texts.txt", packages=ALONE)
    assert (damaged.returncode, damaged.stdout, damaged.stderr.count("\n")) == (3, "", 1)
    assert "model.onnx: its sha256 is not the one in bundle.json" in damaged.stderr
