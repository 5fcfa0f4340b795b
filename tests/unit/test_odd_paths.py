# SPDX-License-Identifier: Apache-2.0
"""Odd names: paths that are not regular files are reported in one sentence, without blocking; no command prints escape
sequences of labels, texts, paths and options to a terminal (docs/reference/files.md).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from unittest.mock import Mock

import duckdb
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
        *lines, last = capfd.readouterr().err.splitlines()
        assert code in (2, 3, 4), (path, last)
        assert last.startswith("error: ")
        assert last.isprintable()
        assert "error: all is well" not in lines


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
    run, data = hostile_folder / "run", hostile_folder / "data"
    rows = [(f"{WORD} w{number} {'abc'[number % 3]} {WORD}", (GOOD, BAD)[number % 2]) for number in range(60)]
    manifest = prepare(write_csv(hostile_folder / "rows.csv", rows), data)
    write_drawn(run / BUNDLE, data)
    (run / CONFIG).write_text(yaml.safe_dump({"data": str(data), "run": str(run)}))
    write_log(run, manifest, data, 3.0, 1)
    return hostile_folder


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ["inspect", "data"]),
        (2, ["prepare", f"--{GOOD}", "1"]),
        (2, ["prepare", "--text.max_tokens", BAD]),
        (0, ["baseline", "data"]),
        (0, ["predict", "run", f"{WORD} \x1b[2J"]),
        (0, ["explain", "run", f"{WORD} \x1b[2J b"]),
        (0, ["evaluate", "run", "rows.csv", "--device", "cpu"]),
        (0, ["report", "run"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_no_command_passes_an_escape_sequence_on(
    code: int, words: list[str], hostile_folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to a file nor, for the longest command, to a terminal with a live line."""
    redraw = "(?!)"
    if words[0] == "baseline":
        redraw = "\r\x1b\\[J"
        monkeypatch.setattr(terminal.Screen, "is_live", True)
        monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(hostile_folder)
    assert command(*words) == code, command.err
    page = Path("run/report.html").read_text() if words[0] == "report" else ""
    for message in (command.out, command.err, page):
        assert not CONTROL_CHARACTERS.search(re.sub(redraw, "", message)), message
    if code:
        assert command.sentence


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ('s3://ME:SECRET@bucket/a: no bucket "ME:SECRET@bucket"', 's3://bucket/a: no bucket "…@bucket"'),
        ('s3://ME:SEC/RET+x@bucket/a: no bucket "ME:SEC", or RET+x', 's3://bucket/a: no bucket "ME:…", or …'),
        ("tcp://SECRET@host:1: no 'SECRET@host:1', but secrets", "tcp://host:1: no '…@host:1', but secrets"),
        ("http://me:SECRET@host:80/a.csv: no such file", "http://host:80/a.csv: no such file"),
        ("see 'https://me:SE@CRET@host/a.csv?token=SECRET': gone", "see 'https://host/a.csv': gone"),
        ("none of ['http://host/a?SECRET', 'http://host/b?SECRET']", "none of ['http://host/a', 'http://host/b']"),
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
    assert command(*words.split()) in (2, 3)
    assert "://" in command.sentence
    assert ("SECRET" in command.err) == ("github" in words)


def test_the_name_of_an_output_is_no_pattern(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a job of other rows that was killed when its facts were complete."""
    source = write_csv(tmp_path / "in.csv", reviews(100))
    others = write_csv(tmp_path / "others.csv", [(text, f"other {label}") for text, label in reviews(300)])
    with monkeypatch.context() as patch:
        patch.setattr(Assignment, "run", Mock(side_effect=UserError("stopped")))
        assert command("prepare", others, "-o", tmp_path / "run1") == 1
    command.build(source, tmp_path / "plain")
    for name in ("run[1]", "**", "a\\b[c", "it's"):
        command.build(source, tmp_path / name)
        assert contents(tmp_path / name) == contents(tmp_path / "plain")


@pytest.mark.parametrize("message", ["Could not write: No space left on device", "see max_temp_directory_size"])
def test_a_disk_that_fills_while_rows_are_assigned_is_a_sentence(
    message: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Assigner, "check_labelled", Mock(side_effect=duckdb.IOException(message)))
    source = write_csv(tmp_path / "in.csv", reviews(100))
    assert "No space left on device" in command.refused(4, source, tmp_path / "out")


def test_a_folder_that_was_removed_is_a_sentence(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    os.chdir("gone")
    os.rmdir(tmp_path / "gone")
    assert command("predict", "run", "a") == 2
    assert "folder" in command.sentence
