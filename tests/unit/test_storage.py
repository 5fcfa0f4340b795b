# SPDX-License-Identifier: Apache-2.0
"""What is said where something cannot be written, and with which exit code: one place for all commands and ranks."""

from __future__ import annotations

import errno
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import fs

from harness.config import RunConfig
from harness.ranks.distributed import RankError, World
from harness.tracking.journal import Journal
from harness.tracking.tracking import Observer
from harness.training.console import Log
from preprocessing.base import arrays, atomic, cli
from preprocessing.base.errors import ConfigError, DataError, StorageError, UserError
from preprocessing.base.storage import refusal, storing, temporary_folder, told
from preprocessing.dataset import remote

FULL = OSError(errno.ENOSPC, "No space left on device")


def refused(number: int, name: str | None = "/disk/a") -> UserError:
    return refusal(OSError(number, os.strerror(number), name), "/disk", otherwise="name another")


@pytest.mark.parametrize(
    ("number", "kind", "sentence"),
    [
        (errno.ENOSPC, StorageError, "(No space left on device); make room and run the same command to continue, or "),
        (errno.EDQUOT, StorageError, "(Disk quota exceeded); make room and run the same command to continue, or "),
        (errno.EROFS, StorageError, "(Read-only file system); "),
        (errno.EACCES, StorageError, "(Permission denied); "),
        (errno.EPERM, StorageError, "(Operation not permitted); "),
        (errno.EISDIR, ConfigError, "(Is a directory); "),
        (errno.ENOTDIR, ConfigError, "(Not a directory); "),
        (errno.ENAMETOOLONG, ConfigError, "(File name too long); "),
    ],
)
def test_an_error_of_the_system_has_a_sentence_and_an_exit_code(
    number: int, kind: type[UserError], sentence: str
) -> None:
    error = refused(number)
    assert type(error) is kind
    assert str(error) == f"/disk/a: cannot be written {sentence}name another"


def test_an_error_that_names_no_file_is_about_what_was_being_written() -> None:
    assert str(refused(errno.EROFS, None)) == "/disk: cannot be written (Read-only file system); name another"


def test_the_final_name_is_said_and_not_that_of_the_unfinished_file() -> None:
    error = refused(errno.EROFS, "/disk/step-06.tmp-host-17/model.safetensors")
    assert str(error).startswith("/disk/step-06/model.safetensors: cannot be written ")


@pytest.mark.parametrize(
    ("wanted", "gone"),
    [("file", "file"), ("run/file", "run"), ("run/checkpoints/step-06.tmp-host-17/model.safetensors", "run")],
)
def test_what_was_removed_meanwhile_is_no_full_disk_and_a_folder_that_is_gone_is_named(
    tmp_path: Path, wanted: str, gone: str
) -> None:
    error = refused(errno.ENOENT, str(tmp_path / wanted))
    assert type(error) is DataError
    assert str(error).startswith(f"{tmp_path / gone}: gone while it was needed (No such file or directory); ")


def test_a_relative_name_that_is_gone_is_said_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(refused(errno.ENOENT, "file")).startswith("file: gone while it was needed")
    assert str(refused(errno.ENOENT, "runs/mine/file")).startswith("runs: gone while it was needed")


def test_a_write_that_fails_names_the_file(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with (
        pytest.raises(StorageError, match=rf"^{target}: cannot be written \(No space left"),
        storing(tmp_path),
        atomic.replacing(target),
    ):
        raise OSError(errno.ENOSPC, "Error writing bytes to file")  # Arrow's words, without a name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_a_directory_or_a_pipe_is_refused_before_anything_is_written(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir() if kind == "directory" else os.mkfifo(target)
    what = "Is a directory" if kind == "directory" else "a pipe or a device"
    with (
        pytest.raises(ConfigError, match=rf"^{target}: cannot be written \({what}\); "),
        storing(target),
        atomic.replacing(target),
    ):
        pytest.fail("it came to that")
    assert not target.is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_numpys_files_are_the_same_bytes_and_fail_with_a_number() -> None:
    values = np.arange(100_000, dtype=np.int32).reshape(100, -1)
    one, other = io.BytesIO(), io.BytesIO()
    np.save(one, values)
    arrays.save(other, values)
    assert one.getvalue() == other.getvalue()
    with pytest.raises(OSError, match="No space left") as failed, open("/dev/full", "wb", buffering=0) as file:
        arrays.save(file, values)
    assert failed.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FULL, 4),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/home/x"), 4),
        (OSError(errno.EROFS, "Read-only file system", "/mnt/x"), 4),
        (OSError(errno.EACCES, "Permission denied", "/root/x"), 4),
    ],
)
def test_a_command_ends_with_a_sentence_whoever_failed_to_write(
    error: OSError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: list[str]) -> int:
        raise error

    assert cli.run(main, []) == code
    said = capsys.readouterr().err
    assert said.startswith(f"error: {error.filename or 'a temporary file (TMPDIR, /dev/shm)'}: cannot be written (")
    assert said.count("\n") == 1


def test_another_error_of_the_system_is_a_bug_and_stays_one() -> None:
    def main(_: list[str]) -> int:
        raise OSError(errno.EBADF, "Bad file descriptor")

    with pytest.raises(OSError, match="Bad file descriptor"):
        cli.run(main, [])
    assert told(OSError(errno.EACCES, "Permission denied")) is None  # of no file: a port, a device


def test_ranks_agree_on_a_full_disk() -> None:
    with pytest.raises(StorageError, match="cannot be written") as full, World().together("writing"):
        raise OSError(errno.ENOSPC, "No space left on device", "/run/x")
    assert full.value.agreed  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="Bad file"), World().together("writing"):
        raise OSError(errno.EBADF, "Bad file descriptor")
    assert RankError.exit_code == 1


def test_a_temporary_folder_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with (
        pytest.raises(StorageError, match=rf"^{tmp_path}/padless-\w+/a: .*set TMPDIR to a folder with room"),
        temporary_folder() as folder,
    ):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "a"))
    assert list(tmp_path.iterdir()) == []

    def none(**_: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", none)
    with pytest.raises(StorageError, match=r"^no folder for temporary files .*set TMPDIR"), temporary_folder():
        pytest.fail("there is none")


def test_an_error_of_the_output_is_none_of_the_temporary_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match="/elsewhere/x"), temporary_folder():
        raise OSError(errno.ENOSPC, "No space left on device", "/elsewhere/x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_training_goes_on_when_its_log_is_full(capfd: pytest.CaptureFixture[str]) -> None:
    stream = open("/dev/full", "w")  # noqa: SIM115 - closed below
    log = Log(stream=stream)
    log.say("step 1")
    assert log.quiet
    log.say("step 2")
    stream.close()  # what it could not take does not fail again
    assert RunConfig.__name__ not in capfd.readouterr().err


@pytest.mark.processes
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["recipes"], pytest.param(["--help"], marks=pytest.mark.slow), ["launch", "--help"]])
def test_standard_output_that_is_full(words: list[str]) -> None:
    import subprocess

    from tests.commands import ROOT

    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "harness", *words]
        result = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=240, cwd=ROOT, check=False
        )
    assert result.returncode == 4
    assert " ".join(result.stderr.split()).startswith("error: standard output: cannot be written (No space left")
    assert "Exception ignored" not in result.stderr


def test_wandb_sync_is_named_only_where_it_can_send(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def warning() -> str:
        observer = Observer.__new__(Observer)
        observer.name, observer.run, observer.warned = "wandb", tmp_path, False
        observer.warn("raised OSError: no room")
        return capsys.readouterr().err

    assert warning() == "warning: wandb raised OSError: no room; training is not affected\n"
    Journal(tmp_path, "wandb").note(run_id="abc")
    assert warning().endswith(f"; python -m harness wandb-sync {tmp_path} sends what is missing\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_line_is_appended_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    atomic.append_line(path, "one")

    class Short(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data)[:2])

    monkeypatch.setattr(atomic, "open", lambda path, mode, buffering: Short(path, "a+"), raising=False)
    with pytest.raises(OSError, match="No space left"):
        atomic.append_line(path, "two")
    assert path.read_text() == "one\n"


def test_a_line_that_was_cut_short_is_ended_before_another_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("one\ntw")
    atomic.append_line(path, "three")
    assert path.read_text() == "one\ntw\nthree\n"


def test_a_failed_copy_is_about_its_target(tmp_path: Path) -> None:
    copy = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "from"), None, str(tmp_path / "to"))
    assert str(refusal(copy, tmp_path)).startswith(f"{tmp_path}/to: cannot be written (No space left on device)")


def test_a_store_without_room_is_left_without_a_part_of_a_file(tmp_path: Path) -> None:
    target = tmp_path / "dataset.json"
    target.write_text("{")
    says = r"^local://store/dataset\.json: cannot be written .*name another --output"
    with (
        pytest.raises(StorageError, match=says),
        remote.whole(fs.LocalFileSystem(), str(target), "local://store/dataset.json"),
    ):
        raise FULL
    assert not target.exists()
