# SPDX-License-Identifier: Apache-2.0
"""Messages and exit codes for failed writes, the same for all commands and ranks; a full disk at every write; untrusted
JSON.
"""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from harness.distributed.world import World
from harness.output.console import Log
from padless.core import atomic
from padless.core.atomic import refusal, storage_errors
from padless.core.errors import ConfigError, StorageError, UserError
from padless.core.untrusted import MOST_DEPTH, parse_json
from tests.helpers.commands import ROOT, run_module
from tests.helpers.full_disks import why_not

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StorageError),
        (errno.EROFS, StorageError),
        (errno.EACCES, StorageError),
        (errno.EISDIR, ConfigError),
        (errno.ENAMETOOLONG, ConfigError),
    ],
)
def test_an_error_of_the_system_has_a_sentence_and_an_exit_code(number: int, kind: type[UserError]) -> None:
    path = f"/disk/step-06{atomic.temporary_suffix('host', 17)}/model.safetensors"
    error = refusal(OSError(number, os.strerror(number), path), "/disk", otherwise="name another")
    assert type(error) is kind
    assert str(error).startswith(f"/disk/step-06/model.safetensors: cannot be written ({os.strerror(number)}); ")
    assert str(error).endswith("name another")


@pytest.mark.processes
def test_only_what_padless_left_is_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names like ours, of a process that has ended, without the word padless belong to others."""
    ended_process = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    host, dead = os.uname().nodename, int(ended_process.stdout)
    signed = atomic.temporary_suffix(host, dead)
    foreign_names = [f"out.csv.tmp-{host}-{dead}", f"padless-other.tmp-{host}-{dead}"]
    foreign_names.append(f"out.csv{atomic.temporary_suffix('a', dead)}")
    for name in ("mine.txt", *foreign_names, f"out.csv{signed}", f"padless-ab12{signed}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").touch()
    atomic.sweep(tmp_path / "out.csv")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with atomic.temporary_folder() as folder:
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"mine.txt", *foreign_names, folder.name}
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_a_directory_or_a_pipe_is_refused_before_anything_is_written(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir() if kind == "directory" else os.mkfifo(target)
    reason = "Is a directory" if kind == "directory" else "a pipe or a device"
    with (
        pytest.raises(ConfigError, match=rf"^{target}: cannot be written \({reason}\); "),
        storage_errors(target),
        atomic.replacing(target),
    ):
        pytest.fail("it came to that")
    assert not target.is_file()


def test_ranks_agree_on_a_full_disk() -> None:
    with pytest.raises(StorageError) as caught, World().raise_together("writing"):
        raise OSError(errno.ENOSPC, "No space left on device", "/run/x")
    assert caught.value.agreed  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="Bad file"), World().raise_together("writing"):
        raise OSError(errno.EBADF, "Bad file descriptor")


@needs_full
def test_a_training_goes_on_when_its_log_is_full() -> None:
    stream = open("/dev/full", "w")  # noqa: SIM115 - closed below
    log = Log()
    log.replacement = stream
    for _ in range(2):
        log.print_text("step 1")
        assert log.quiet
    assert os.readlink(f"/proc/self/fd/{stream.fileno()}") == "/dev/full"  # a caller's stream stays where it was
    with pytest.raises(OSError, match="No space left"):
        stream.close()


@pytest.mark.processes
@needs_full
def test_standard_output_that_is_full() -> None:
    with open("/dev/full", "w") as full_disk:
        command = [sys.executable, "-m", "padless", "train", "--help"]
        result = subprocess.run(
            command, stdout=full_disk, stderr=subprocess.PIPE, text=True, timeout=240, cwd=ROOT, check=False
        )
    assert result.returncode == 4
    assert result.stderr.count("error: ") == 1
    assert "Exception ignored" not in result.stderr


@needs_full
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


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("command", "at_least"),
    [
        pytest.param("prepare", 20, marks=pytest.mark.slow),
        pytest.param("predict", 5, marks=pytest.mark.slow),
        pytest.param("train", 30, marks=pytest.mark.night),
    ],
)
def test_every_place_that_writes_on_a_full_disk(tmp_path: Path, command: str, at_least: int) -> None:
    if reason := why_not(tmp_path):
        pytest.skip(reason)
    result = run_module("tests.helpers.full_disks", command, timeout_s=3500, OMP_NUM_THREADS="1")
    assert result.stdout, result.stderr
    report = json.loads(result.stdout)
    assert report["faults"] == []
    assert report["trials"] >= at_least


BAD = {
    b"NaN": "invalid character",
    b"1e999": "out of range",
    b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1): "more than 32 deep",
    b'{"a":' * 500 + b"1" + b"}" * 500: "more than 32 deep",
    rb'"\ud800"': "truncated",
    b'"\xff"': "can't decode byte 0xff|Invalid UTF-8",
    b"{} x": "trailing characters",
}


@pytest.mark.parametrize("data", BAD, ids=range(len(BAD)))
def test_what_is_no_strict_json_is_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(ValueError, match=BAD[data]):
        parse_json(data)
