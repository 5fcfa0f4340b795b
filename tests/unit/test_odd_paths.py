# SPDX-License-Identifier: Apache-2.0
"""Odd names: paths that are not regular files are reported in one sentence, without blocking; no command prints escape
sequences of labels, texts, paths and options to a terminal (docs/reference/files.md).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import duckdb
import numpy as np
import pytest
import yaml

from harness.rundir.layout import BUNDLE, CONFIG
from padless.commands import main
from padless.core import cli, terminal
from padless.core.errors import DataError, UserError
from preprocessing.pipeline.assign import Assigner, Assignment
from preprocessing.sources import addresses
from tests.fuzz.outcome import limit_resources
from tests.helpers.bundles import write_drawn, write_run
from tests.helpers.commands import unwrapped
from tests.helpers.corpora import Command, contents, prepare, reviews, write_csv
from tests.helpers.report_runs import write_log

pytestmark = pytest.mark.thorough

OPTIONS = {
    "source.path": "prepare --source.path PATH --output HERE/o",
    "config": "prepare --config PATH --output HERE/o",
    "data": "train --data PATH --config tests/plain.yaml --dry_run --run HERE/dry",
    "predict --run": "predict --run PATH a",
    "predict --input": "predict --run HERE/run --input PATH --output HERE/out.csv --source.format csv",
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
    not_utf8 = os.fsdecode(os.fsencode(folder) + b"/caf\xe9")
    long, broken = str(folder / ("x" * 300)), str(folder / "a\nerror: all is well")
    for path in (str(folder / "pipe"), "/dev/zero", long, not_utf8, "~nobody/x", "", broken, str(folder / "loop")):
        words = [word.replace("HERE", str(folder)).replace("PATH", path) for word in OPTIONS[option].split()]
        with limit_resources(20):
            code = cli.run(main, words)
        err = capfd.readouterr().err
        last = err.splitlines()[-1]
        assert code in (2, 3, 4), (path, err)
        assert last.startswith("error: ")
        assert last.isprintable()
        assert "error: all is well" not in err.replace(last, "")


GOOD = "good\x1b]0;owned\x07\x1b[2J\u202e"
BAD = "bad\x9b31m\x7f\u2066\x0b"
WORD = "fine\x1b[8mhidden\u202d"
FOLDER = "da\x1b[31mta\u202e"
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a dataset and a run in a folder, all with escape sequences in their names."""
    hostile_folder = tmp_path_factory.mktemp("foreign") / FOLDER
    hostile_folder.mkdir()
    random = np.random.default_rng(1)
    rows = []
    for number in range(60):
        label = (GOOD, BAD)[number % 2]
        rows.append((f"{WORD} w{number} {' '.join(random.choice(['a', 'b', 'c', WORD], 4))}", label))
    write_csv(hostile_folder / "rows.csv", rows)
    manifest = prepare(hostile_folder / "rows.csv", hostile_folder / "data")
    write_drawn(hostile_folder / "run" / BUNDLE, hostile_folder / "data")
    (hostile_folder / "run" / CONFIG).write_text(
        yaml.safe_dump({"data": str(hostile_folder / "data"), "run": str(hostile_folder / "run")})
    )
    write_log(hostile_folder / "run", manifest, hostile_folder / "data", 3.0, 1)
    return hostile_folder


def commands(hostile_folder: Path) -> dict[str, list[str]]:
    """The words of a command line each."""
    run, data, rows = str(hostile_folder / "run"), str(hostile_folder / "data"), str(hostile_folder / "rows.csv")
    return {
        "inspect": ["inspect", data],
        "an option": ["prepare", f"--{GOOD}", "1"],
        "a value": ["prepare", "--text.max_tokens", BAD],
        "baseline": ["baseline", "--data", data],
        "predict": ["predict", "--run", run, f"{WORD} \x1b[2J"],
        "explain": ["explain", run, f"{WORD} \x1b[2J b"],
        "evaluate": ["evaluate", "--run", run, "--input", rows, "--device", "cpu"],
    }


@pytest.mark.parametrize("name", commands(Path()))
def test_no_command_passes_an_escape_sequence_on(
    name: str, hostile_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to a file nor, for the longest command, to a terminal with a live line."""
    words, expected = commands(hostile_folder)[name], 2 if name in ("an option", "a value") else 0
    live = name == "baseline"
    if live:
        monkeypatch.setattr(terminal, "is_terminal", lambda stream: True)
        monkeypatch.setenv("NO_COLOR", "1")
    capsys.readouterr()
    code = cli.run(main, words)
    out, err = capsys.readouterr()
    assert code == expected, err
    redraw = re.compile("\r\x1b\\[K") if live else re.compile("(?!)")
    for message in (out, err):
        assert not CONTROL_CHARACTERS.search(redraw.sub("", message)), message
    if code:
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1


def test_a_page_has_no_control_characters(hostile_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    assert cli.run(main, ["report", str(hostile_folder / "run"), "--output", str(output)]) == 0
    page = output.read_bytes().decode()
    assert not CONTROL_CHARACTERS.search(page)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ('s3://ME:SECRET@bucket/a: no bucket "ME:SECRET@bucket"', 's3://bucket/a: no bucket "…@bucket"'),
        ('s3://ME:SEC/RET+x@bucket/a: no bucket "ME:SEC", or RET+x', 's3://bucket/a: no bucket "ME:…", or …'),
        ("tcp://SECRET@host:1: no 'SECRET@host:1', but secrets", "tcp://host:1: no '…@host:1', but secrets"),
        ("http://me:SECRET@host:80/a.csv: no such file", "http://host:80/a.csv: no such file"),
        ("see 'https://me:SE@CRET@host/a.csv?token=SECRET': gone", "see 'https://host/a.csv': gone"),
        ("s3://KEY:SEC/RET+x@bucket/p?region=SECRET", "s3://bucket/p"),
        ("s3://bucket/part-?.csv", "s3://bucket/part-?.csv"),
    ],
)
def test_errors_repeat_no_password(message: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(DataError(message)) == expected
    terminal.print_stderr(message)
    assert unwrapped(capsys.readouterr().err) == f"{expected}\n"


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        ("s3fs", "prepare s3://ME:SECRET@bucket/in.csv -o new"),
        ("s3fs", "prepare in.csv -o s3://ME:SECRET@bucket/new"),
        ("distributed", "prepare in.csv -o new --executor.scheduler tcp://ME:SECRET@127.0.0.1:1"),
        ("requests", "prepare webhdfs://127.0.0.1:1/in.csv -o new"),
        ("requests", "prepare github://me/SECRET/in.csv -o new"),
    ],
)
def test_a_driver_that_refuses_an_address_is_a_sentence(
    driver: str, words: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(driver)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(addresses, "PAUSES_S", (0.01,))
    write_csv(tmp_path / "in.csv", reviews(20))
    assert command(*words.split()) in ((1,) if "webhdfs" in words else (2, 3))
    assert "://" in command.sentence
    assert ("SECRET" in command.err) == ("github" in words)


@pytest.mark.parametrize("name", ["run[1]", "**", "what?", "a\\b[c", "it's"])
def test_the_name_of_an_output_is_no_pattern(
    name: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a job of other rows that was killed when its facts were complete."""
    source = write_csv(tmp_path / "in.csv", reviews(100))
    others = write_csv(tmp_path / "others.csv", [(text, f"other {label}") for text, label in reviews(300)])
    with monkeypatch.context() as patch:
        patch.setattr(Assignment, "run", stop)
        assert command("prepare", others, "-o", tmp_path / "run1") == 1
    command.build(source, tmp_path / "plain")
    command.build(source, tmp_path / name)
    assert contents(tmp_path / name) == contents(tmp_path / "plain")


def stop(_: object) -> None:
    raise UserError("stopped")


@pytest.mark.parametrize("message", ["Could not write: No space left on device", "see max_temp_directory_size"])
def test_a_disk_that_fills_while_rows_are_assigned_is_a_sentence(
    message: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise duckdb.IOException(message)

    monkeypatch.setattr(Assigner, "check_labelled", fail)
    source = write_csv(tmp_path / "in.csv", reviews(100))
    assert "No space left on device" in command.refused(4, source, tmp_path / "out")


@pytest.mark.parametrize("words", ["prepare in.csv -o out", "train data", "predict run a"])
def test_a_folder_that_was_removed_is_a_sentence(
    words: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    os.chdir("gone")
    os.rmdir(tmp_path / "gone")
    assert command(*words.split()) == 2
    assert "folder was removed" in command.sentence
