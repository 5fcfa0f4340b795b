# SPDX-License-Identifier: Apache-2.0
"""Paths that nobody means, for every option that takes one: one sentence at once, and nothing waits for a pipe."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import __main__ as harness
from preprocessing import __main__ as preprocessing
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError
from preprocessing.config import PreprocessConfig
from preprocessing.corpus import addresses
from tests.bundles import write_run
from tests.corpora import write_csv
from tests.fuzz.outcome import limited

pytestmark = pytest.mark.thorough

KINDS: dict[str, Callable[[Path], str]] = {
    "a named pipe": lambda folder: str(folder / "pipe"),
    "a device": lambda folder: "/dev/zero",
    "a name of 300 letters": lambda folder: str(folder / ("x" * 300)),
    "a name that is not UTF-8": lambda folder: os.fsdecode(os.fsencode(folder) + b"/caf\xe9"),
    "nobody's home": lambda folder: "~nobody-at-all/x",
    "nothing": lambda folder: "",
    "a line break": lambda folder: str(folder / "a\nerror: all is well"),
    "a link to itself": lambda folder: str(folder / "loop"),
}
PLAIN = ["--config", "tests/plain.yaml"]
OPTIONS: dict[str, tuple[Any, Callable[[str, Path], list[str]]]] = {
    "source.path": (
        preprocessing.main,
        lambda path, folder: ["run", "--source.path", path, "--output", str(folder / "o")],
    ),
    "unlabelled_path": (
        preprocessing.main,
        lambda path, folder: [
            *("run", "--source.path", str(folder / "rows.csv"), "--output", str(folder / "o")),
            *("--source.unlabelled_path", path),
        ],
    ),
    "config": (preprocessing.main, lambda path, folder: ["run", "--config", path, "--output", str(folder / "o")]),
    "stop words": (
        preprocessing.main,
        lambda path, folder: [
            *("run", "--source.path", str(folder / "rows.csv"), "--output", str(folder / "o")),
            *("--text.stop_words", path),
        ],
    ),
    "vocabulary.base": (
        preprocessing.main,
        lambda path, folder: [
            *("run", "--source.path", str(folder / "rows.csv"), "--output", str(folder / "o")),
            *("--vocabulary.base", path),
        ],
    ),
    "check": (preprocessing.main, lambda path, folder: ["check", path]),
    "inspect": (preprocessing.main, lambda path, folder: ["inspect", path]),
    "plan": (harness.main, lambda path, folder: ["plan", "--data", path, *PLAIN]),
    "predict --run": (harness.main, lambda path, folder: ["predict", "--run", path, "a"]),
    "predict --input": (
        harness.main,
        lambda path, folder: [
            *("predict", "--run", str(folder / "run"), "--input", path, "--output", str(folder / "out.csv")),
            *("--format", "csv"),
        ],
    ),
    "explain": (harness.main, lambda path, folder: ["explain", path, "a"]),
    "evaluate": (harness.main, lambda path, folder: ["evaluate", "--run", str(folder / "run"), "--input", path]),
    "report": (harness.main, lambda path, folder: ["report", path]),
    "export": (harness.main, lambda path, folder: ["export", path, "--output", str(folder / "e")]),
    "baseline": (harness.main, lambda path, folder: ["baseline", "--data", path]),
    "checkpoint list": (harness.main, lambda path, folder: ["checkpoint", "list", path]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, a run, a pipe that nobody writes to, and a link to itself."""
    folder = tmp_path_factory.mktemp("odd")
    write_run(folder)
    write_csv(folder / "rows.csv", [("a b", "x"), ("c d", "y")] * 10)
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("option", OPTIONS)
def test_an_odd_path_gets_one_sentence(
    option: str, kind: str, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.inference.rows.PIPE_TIMEOUT_S", 0)
    monkeypatch.setattr("harness.inference.rows.NOTICE_AFTER_S", 0)
    main, words = OPTIONS[option]
    capfd.readouterr()
    with limited(20):
        code = cli.run(main, words(KINDS[kind](folder), folder))
    out, err = capfd.readouterr()
    last = err.splitlines()[-1]
    assert code in (2, 3, 4), (out, err)
    assert last.startswith("error: ")
    assert last.isprintable()
    assert "error: all is well" not in err.replace(last, "")


@pytest.mark.parametrize("path", ["a\0b", "a\nb", "", "a\r"])
def test_a_directory_that_is_to_be_made_has_a_name(path: str) -> None:
    from harness.config import RunConfig

    for config_class, key in ((PreprocessConfig, "output"), (RunConfig, "run")):
        with pytest.raises(ConfigError, match=rf"^{key}"):
            cli.parse(config_class, [f"--{key}={path}"], prog="test")


def test_a_source_with_a_null_character(tmp_path: Path) -> None:
    from preprocessing.base.errors import DataError

    with pytest.raises(ConfigError, match="holds the character 0"):
        cli.parse(PreprocessConfig, ["--source.path", "a\0b", "--output", "o"], prog="test")
    with pytest.raises(DataError, match="no file has such a name"):
        addresses.kind("a\0b")


def test_a_name_that_cannot_be_written_down_is_refused_though_it_is_there(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing else would be said than that a file is damaged, or a checkpoint's state would be."""
    data = folder / os.fsdecode(b"caf\xe9") / "data"
    shutil.copytree(folder / "data", data)
    run = ["--run", str(data / "run")]
    for main, words, key in (
        (preprocessing.main, ["check", str(data)], "dataset"),
        (preprocessing.main, ["run", str(folder / "rows.csv"), "--output", str(data / "new")], "output:"),
        (harness.main, ["launch", *PLAIN, "--data", str(folder / "data"), *run], "run:"),
        (harness.main, ["plan", *PLAIN, "--data", str(data)], "data:"),
    ):
        assert cli.run(main, words) == 2, words
        sentence = capfd.readouterr().err
        assert sentence.startswith(f"error: {key} "), sentence
        assert "is not UTF-8, which configurations and records are; give it another name, or a link" in sentence
    assert sorted(path.name for path in data.iterdir()) == sorted(path.name for path in (folder / "data").iterdir())


def test_a_text_may_hold_any_bytes(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = os.fsdecode(b"a fine caf\xe9")
    assert cli.run(harness.main, ["predict", "--run", str(folder / "run"), text, "--device", "cpu"]) == 0
    assert "a fine caf\\udce9" in capfd.readouterr().out
