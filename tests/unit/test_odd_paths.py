# SPDX-License-Identifier: Apache-2.0
"""Paths that are not regular files: every command and key reports them in one sentence, without blocking."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.__main__ import main as harness
from preprocessing.__main__ import main as preprocessing
from preprocessing.base import cli
from tests.bundles import write_run
from tests.corpora import write_csv
from tests.fuzz.outcome import limited

pytestmark = pytest.mark.thorough

PLAIN = ["--config", "tests/plain.yaml"]
OPTIONS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "source.path": (preprocessing, "prepare --source.path PATH --output HERE/o"),
    "config": (preprocessing, "prepare --config PATH --output HERE/o"),
    "plan": (harness, "plan --data PATH --config tests/plain.yaml"),
    "predict --run": (harness, "predict --run PATH a"),
    "predict --input": (harness, "predict --run HERE/run --input PATH --output HERE/out.csv --format csv"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, a run, a pipe without a writer, and a link to itself."""
    folder = tmp_path_factory.mktemp("odd")
    write_run(folder)
    write_csv(folder / "rows.csv", [("a b", "x"), ("c d", "y")] * 10)
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    return folder


@pytest.mark.parametrize("option", OPTIONS)
def test_an_odd_path_gets_one_sentence(option: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main, line = OPTIONS[option]
    not_utf8 = os.fsdecode(os.fsencode(folder) + b"/caf\xe9")
    long, broken = str(folder / ("x" * 300)), str(folder / "a\nerror: all is well")
    for path in (str(folder / "pipe"), "/dev/zero", long, not_utf8, "~nobody/x", "", broken, str(folder / "loop")):
        words = [word.replace("HERE", str(folder)).replace("PATH", path) for word in line.split()]
        with limited(20):
            code = cli.run(main, words)
        err = capfd.readouterr().err
        last = err.splitlines()[-1]
        assert code in (2, 3, 4), (path, err)
        assert last.startswith("error: ")
        assert last.isprintable()
        assert "error: all is well" not in err.replace(last, "")


def test_a_name_that_cannot_be_written_down_is_refused_though_it_is_there(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Otherwise a file would be reported as damaged, or a checkpoint's state would be."""
    data = folder / os.fsdecode(b"caf\xe9") / "data"
    shutil.copytree(folder / "data", data)
    for main, words, key in (
        (preprocessing, ["check", str(data)], "data:"),
        (preprocessing, ["prepare", str(folder / "rows.csv"), "--output", str(data / "new")], "output:"),
        (harness, ["plan", *PLAIN, "--data", str(data)], "data:"),
    ):
        assert cli.run(main, words) == 2, words
        sentence = capfd.readouterr().err
        assert sentence.startswith(f"error: {key}"), sentence
        assert "is not UTF-8" in sentence
        assert "give it another name, or a link" in sentence
    assert not (data / "new").exists()
