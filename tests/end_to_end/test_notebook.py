# SPDX-License-Identifier: Apache-2.0
"""The notebook of the manual runs from start to end in an empty folder, and its stored outputs are right."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT, read_json, run_command, succeed

pytestmark = [pytest.mark.processes, pytest.mark.slow]

NOTEBOOK = ROOT / "docs/first-steps.ipynb"
EXECUTE = "import sys; from nbclient.cli import main; sys.exit(main())"


def shown(cell: dict[str, Any], kind: str = "text/plain") -> str:
    """The output of a cell, as text or as another MIME type."""
    return "".join(
        "".join(output.get("data", {}).get(kind, "")) + "".join(output.get("text", "") if kind == "text/plain" else "")
        for output in cell["outputs"]
    )


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
    for code, kind, said in (
        ("padless.prepare", "text/plain", "train 482, validation 59, test 59 rows, 3 classes"),
        ('y="loss"', "image/png", "iVBOR"),
        ("run.report", "text/html", "<iframe srcdoc="),
        ("later.join", "text/plain", "probability_question"),
        ("model.explain", "text/html", '<mark class="for"'),
        ("GridSearchCV", "text/plain", "({'lr': 0.00"),
    ):
        (cell,) = [cell for cell in cells if code in "".join(cell["source"])]
        assert said in shown(cell, kind), code
