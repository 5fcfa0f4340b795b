# SPDX-License-Identifier: Apache-2.0
"""Messages and exit codes for failed writes, the same for all commands and ranks; a full disk at every write; untrusted
JSON.
"""

from __future__ import annotations

import errno
import gzip
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.distributed.world import World
from harness.output.console import Log
from harness.rundir import checkpoint
from padless.core import atomic
from padless.core.atomic import refusal
from padless.core.errors import ConfigError, StorageError, UserError
from padless.core.untrusted import parse_json
from tests.helpers.bundles import write_run
from tests.helpers.commands import PLAIN_RECIPE, ROOT, run_module
from tests.helpers.corpora import contents, reviews, write_csv
from tests.helpers.datasets import write_dataset

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
    path = f"/disk/step-06{atomic.TEMPORARY_MARK}host-17/model.safetensors"
    error = refusal(OSError(number, os.strerror(number), path), "/disk", otherwise="name another")
    assert type(error) is kind
    assert str(error).startswith(f"/disk/step-06/model.safetensors: cannot be written ({os.strerror(number)}); ")
    assert str(error).endswith("name another")


@pytest.mark.processes
def test_only_what_padless_left_is_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside an output, of temporary folders, in a run. Names like ours without the word padless belong to others, and
    those of other machines and of processes that live stay, but for checkpoints, which only the owner of a run writes.
    """
    ended_process = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    host, dead = os.uname().nodename, int(ended_process.stdout)
    signed = f"{atomic.TEMPORARY_MARK}{host}-{dead}"
    foreign_names = ["mine.txt", f"out.csv.tmp-{host}-{dead}", f"padless-other.tmp-{host}-{dead}"]
    foreign_names += [f"out.csv{atomic.TEMPORARY_MARK}{owner}" for owner in (f"a-{dead}", f"{host}-{os.getpid()}")]
    unfinished_checkpoint = f"checkpoints/step-00000006{atomic.TEMPORARY_MARK}a-1"
    for name in (*foreign_names, f"out.csv{signed}", f"padless-ab12{signed}", f"a.json{signed}", unfinished_checkpoint):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "content").touch()
    atomic.sweep(tmp_path / "out.csv")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with atomic.temporary_folder() as folder:
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {*foreign_names, folder.name, f"a.json{signed}", "checkpoints"}
    assert not folder.exists()
    checkpoint.sweep_run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*foreign_names, "checkpoints"}
    assert [*(tmp_path / "checkpoints").iterdir()] == []


def test_ranks_agree_on_a_full_disk() -> None:
    with pytest.raises(StorageError) as caught, World().raise_together("writing"):
        raise OSError(errno.ENOSPC, "No space left on device", "/run/x")
    assert caught.value.agreed  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="Bad file"), World().raise_together("writing"):
        raise OSError(errno.EBADF, "Bad file descriptor")


@needs_full
def test_a_training_goes_on_when_its_log_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = open("/dev/full", "w")  # noqa: SIM115 - closed below
    log = Log()
    monkeypatch.setattr(sys, "stdout", stream)
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


MODEL = "--model.embedding_dim 8 --model.hidden_size 8 --precision fp32 --device cpu"
TRAINING = f"{' '.join(PLAIN_RECIPE)} {MODEL} --epochs 2 --global_batch 16 --checkpoint.every_steps 6"
COMMANDS = {
    "prepare": "padless prepare IN/in.csv.gz -o DISK/out --executor.workers 1 --shards.rows 60 --source.part_mb 0.02",
    "predict": "padless predict IN/made/run IN/new.csv -o DISK/out.csv --processes 1 --source.part_mb 0.02",
    "train": f"harness.train --data IN/data --run DISK/run {TRAINING}",
}
CHANGING = re.compile(
    r"lock$|run/(log\.txt|report\.html|attempts\.jsonl|throughput\.jsonl|.*(state|status|manifest|environment)\.json)"
)
"""Files whose bytes are never the same twice: times, addresses, speeds."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands read, on a disk with room."""
    folder = tmp_path_factory.mktemp("inputs")
    new = write_csv(folder / "new.csv", reviews(160))
    (folder / "in.csv.gz").write_bytes(gzip.compress(new.read_bytes()))
    write_run(folder / "made")
    write_dataset(folder / "data", {"train": 150, "validation": 40, "test": 30})
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, which only root may mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.processes
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("command", "step_kb"),
    [
        pytest.param("prepare", 12, marks=pytest.mark.slow),
        pytest.param("predict", 8, marks=pytest.mark.slow),
        pytest.param("train", 24, marks=pytest.mark.night),
    ],
)
def test_on_a_full_disk_a_command_stops_and_goes_on_when_there_is_room(
    command: str, step_kb: int, inputs: Path, disk: Path
) -> None:
    """With more and more room, until it is enough: so the disk is full at each of its writes."""
    words = COMMANDS[command].replace("IN/", f"{inputs}/").replace("DISK/", f"{disk}/").split()

    def run(room_kb: int | None) -> tuple[int, str]:
        """Exit code and stderr on an empty disk with so much room, or on the disk as it is."""
        if room_kb is not None:
            for path in disk.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            (disk / "tmp").mkdir()
            free = os.statvfs(disk)
            with (disk / "ballast").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(free.f_bavail * free.f_frsize - room_kb * 1024, 1))
        environment = {"TMPDIR": str(disk / "tmp"), "TORCHINDUCTOR_CACHE_DIR": str(inputs), "OMP_NUM_THREADS": "1"}
        result = run_module(*words, **environment)
        (disk / "ballast").unlink(missing_ok=True)
        return result.returncode, result.stderr

    def list_files() -> dict[str, bytes]:
        return {name: b"" if CHANGING.search(name) else data for name, data in contents(disk).items()}

    assert run(40_000)[0] == 0
    expected = list_files()
    for num_failures in itertools.count():
        code, stderr = run(num_failures * step_kb)
        if code == 0:
            break
        assert (code, stderr.count("error: "), "Traceback" in stderr) == (4, 1, False), stderr
        assert str(disk) in stderr
        assert [*disk.rglob(f"*{atomic.TEMPORARY_MARK}*"), *(disk / "tmp").iterdir()] == []
        assert run(None)[0] == 0
        assert list_files() == expected
    assert num_failures >= 5


BAD = {
    b"NaN": "invalid character",
    b"1e999": "out of range",
    b'{"a":' * 500 + b"1" + b"}" * 500: "more than 32 deep",
    rb'"\ud800"': "truncated",
    b'"\xff"': "Invalid UTF-8|can't decode",
    b"{} x": "trailing characters",
}


@pytest.mark.parametrize("data", BAD, ids=range(len(BAD)))
def test_what_is_no_strict_json_is_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(ValueError, match=BAD[data]):
        parse_json(data)
