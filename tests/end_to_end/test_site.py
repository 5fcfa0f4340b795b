# SPDX-License-Identifier: Apache-2.0
"""The documentation: the site builds, a broken link ends the build, a real browser shows and searches it; the commands
of the tutorial and the cells of the notebook have the results that they show.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

import padless
from preprocessing.dataset.shards import read_manifest
from tests.helpers.commands import ROOT, read_json, run_command, succeed

pytestmark = [pytest.mark.processes, pytest.mark.slow]


def test_every_page_is_there_and_search_knows_every_option(tmp_path: Path) -> None:
    """Of ``mkdocs build`` as in ``make docs``. With ``--quiet`` it would ignore warnings."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    result = succeed(run_command(command, 900, {"NO_MKDOCS_2_WARNING": "1"}))
    assert "WARNING" not in result.stderr
    places = {entry["location"] for entry in read_json(tmp_path / "search/search_index.json")["docs"]}
    assert {"index.html", "tutorial.html", "slurm.html", "reference/options.html#optim.class_weights"} <= places
    fetched = re.compile(r'<(?:link|script|img|iframe)\b[^>]*(?:href|src)="(?:https?:)?//')
    assert [path for path in tmp_path.rglob("*.html") if fetched.search(path.read_text())] == []


TUTORIAL = (ROOT / "docs/tutorial.md").read_text()
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


TYPED = {
    "complaint": """The staff at the front desk were rude to me.
        The book I reserved never arrived.
        The toilets were dirty again.
        Your website keeps logging me out and I can't get back in.
        It is always so noisy on the second floor that I cannot read.
        I was fined for a book I had already brought back.
        The new chairs are comfortable, but the computers are far too slow.""",
    "praise": """Thank you so much for your help with my research.
        I love the new children's corner.
        The librarian was very kind and patient.
        The reading room was cold, but nobody could have been kinder.
        The summer reading program was a lot of fun for my kids.
        Great selection of cookbooks, thanks!
        Maria helped me find everything I needed for my essay.""",
    "question": """What time do you close on Saturdays?
        How do I renew my card?
        Can I borrow a laptop?
        Is there a fee for late returns?
        Where can I find the large print novels?
        Do you have any jobs for students?""",
}
"""Sentences as people type them; none is in the corpus, and none was chosen for what a model said of it."""


def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    lines = [line for line in "".join(BLOCK.findall(TUTORIAL)).splitlines() if line.startswith("padless ")]
    commands = [[sys.executable, "-m", "padless", *shlex.split(line)[1:]] for line in lines]
    outputs = [succeed(run_command(words, 600, cwd=tmp_path)).stdout for words in commands]
    results = dict(zip(lines, outputs, strict=True))
    manifest, run = read_manifest(tmp_path / "data/messages"), tmp_path / "runs/messages"
    assert results["padless prepare messages.csv -o data/messages"] in TUTORIAL
    scores = (run / "test.json", tmp_path / "data/messages/baseline/test.json")
    network, linear = (read_json(path)["accuracy"] for path in scores)
    assert network > 0.95 > 0.85 > linear
    evaluation = results["padless evaluate runs/messages later.csv"]
    assert all(name in evaluation for name in (*manifest.labels, "accuracy"))
    predicted, labelled = pd.read_csv(tmp_path / "predicted.csv"), pd.read_csv(tmp_path / "later.csv")
    assert predicted["text"].tolist() == labelled["text"].tolist()
    assert (predicted["predicted"] == labelled["label"]).mean() > 0.9
    model, lines = padless.load(run), {label: texts.splitlines() for label, texts in TYPED.items()}
    right = sum((model.predict(texts) == label).sum() for label, texts in lines.items())
    assert right >= 0.9 * sum(map(len, lines.values()))
    assert model.predict_proba("asdf qwer").tolist() == [pytest.approx([1 / 3] * 3)]


NOTEBOOK = ROOT / "docs/first-steps.ipynb"
EXECUTE = "import sys; from nbclient.cli import main; sys.exit(main())"


def test_it_shows_what_it_says_and_nothing_fails_or_warns(tmp_path: Path) -> None:
    for name in ("nbclient", "ipykernel"):
        pytest.importorskip(name)
    shutil.copy(NOTEBOOK, tmp_path)
    env = {"IPYTHONDIR": str(tmp_path / "ipython")}
    command = [sys.executable, "-c", EXECUTE, "--inplace", "--kernel_name=python3", "--timeout=400", NOTEBOOK.name]
    succeed(run_command(command, 500, env, cwd=tmp_path))
    assert (tmp_path / "runs/messages/report.html").is_file()
    cells = [cell for cell in read_json(tmp_path / NOTEBOOK.name)["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"] == []
    for code, excerpt in (
        ('y="loss"', "iVBOR"),
        ("run.report", "<iframe srcdoc="),
        ("model.explain", '<mark class="for"'),
        ("GridSearchCV", "({'lr': 0.00"),
    ):
        (cell,) = [cell for cell in cells if code in "".join(cell["source"])]
        assert excerpt in str(cell["outputs"]), code
