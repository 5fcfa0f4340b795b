# SPDX-License-Identifier: Apache-2.0
"""The notebook of the manual runs from start to end in an empty folder, and its stored outputs are right."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT, run_command, succeed
from tests.datasets import write_dataset
from tests.runs import steps_done, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.slow]

NOTEBOOK = ROOT / "docs/first-steps.ipynb"
NEEDED = ("nbclient", "ipykernel")
EXECUTE = "import sys; from nbclient.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The executed code cells. ``padless`` is that of this tree."""
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    folder = tmp_path_factory.mktemp("notebook")
    shutil.copy(NOTEBOOK, folder)
    env = {"IPYTHONDIR": str(folder / "ipython")}
    command = [sys.executable, "-c", EXECUTE, "--inplace", "--kernel_name=python3", "--timeout=400", NOTEBOOK.name]
    succeed(run_command(command, 500, env, cwd=folder))
    assert (folder / "runs/messages/report.html").is_file()
    return [cell for cell in json.loads((folder / NOTEBOOK.name).read_text())["cells"] if cell["cell_type"] == "code"]


def shown(cell: dict[str, Any], kind: str = "text/plain") -> str:
    """The output of a cell, as text or as another MIME type."""
    return "".join(
        "".join(output.get("data", {}).get(kind, "")) + "".join(output.get("text", "") if kind == "text/plain" else "")
        for output in cell["outputs"]
    )


def test_it_shows_what_it_says_and_nothing_fails_or_warns(cells: list[dict[str, Any]]) -> None:
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"] == []
    for code, kind, said in (
        ("padless.prepare", "text/plain", "train 482, validation 59, test 59 rows, 3 classes"),
        ('y="loss"', "image/png", "iVBOR"),
        ("run.report", "text/html", "<iframe srcdoc="),
        ("later.join", "text/plain", "probability_question"),
        ("model.explain", "text/html", '<mark class="for"'),
        ("GridSearchCV", "text/plain", "{'lr': 0.003}"),
    ):
        (cell,) = [cell for cell in cells if code in "".join(cell["source"])]
        assert said in shown(cell, kind), code


def test_an_interrupt_of_the_kernel_saves_and_the_same_cell_goes_on(tmp_path: Path) -> None:
    for name in NEEDED:
        pytest.importorskip(name)
    from jupyter_client.manager import start_new_kernel

    write_dataset(tmp_path / "data", {"train": 200, "validation": 40})
    train = (
        "import padless; run = padless.train('data', 'runs/mine', epochs=999, model={'hidden_size': 8}, max_time=%r)"
    )
    manager, client = start_new_kernel(cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        asked = client.execute(train % "1h")
        wait_until(lambda: steps_done(tmp_path / "runs/mine") > 20)
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != asked:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        status = json.loads((tmp_path / "runs/mine/status.json").read_text())
        assert (status["state"], status["reason"]) == ("preempted", "SIGINT received")
        said: list[Any] = []
        client.execute_interactive(f"{train % '1'}\nprint(run.state)", timeout=60, output_hook=said.append)
        assert "".join(message["content"].get("text", "") for message in said).endswith("\npreempted\n")
        later = json.loads((tmp_path / "runs/mine/status.json").read_text())
        assert (later["reason"], later["step"] > status["step"]) == ("max_time of 1 s reached", True)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
