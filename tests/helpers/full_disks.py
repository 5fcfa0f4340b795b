# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.helpers.full_disks [COMMAND]``: a full disk at every write of prepare, train and predict.

A command runs once with free space while its writes are recorded, then once for each write with the disk (a tmpfs) full
there: the writing process itself fills it just before it opens the file. Then space is freed, and the same command must
give the same result. Needs root to mount. Prints JSON; exit code 1 if any trial has a fault.

Audit events report Python's own writes; for those of Arrow, safetensors and torch, padless's few calls to them are
wrapped.
"""

from __future__ import annotations

import gzip
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

from padless.commands import main as harness
from padless.core import cli
from padless.core.atomic import TEMPORARY_MARK
from tests.helpers.bundles import write_run
from tests.helpers.commands import ROOT
from tests.helpers.corpora import contents, reviews, write_csv
from tests.helpers.datasets import write_dataset

LIMIT_S = 120
BALLAST = ".ballast"
"""What fills the disk; no file of padless."""
TEMPORARY = "tmp"
"""The temporary folder, on the small disk too."""
FAULT = re.compile(r"Traceback|Exception ignored|Error:|Warning:")


@dataclass
class Disk:
    """A mounted tmpfs; a context manager that unmounts it."""

    root: Path
    """An empty directory to mount it on."""
    megabytes: int = 48

    def __enter__(self) -> Disk:
        """Mount it. Raises ``OSError`` with the reason where that is not allowed."""
        self.root.mkdir(parents=True, exist_ok=True)
        mount("-t", "tmpfs", "-o", f"size={self.megabytes}m,mode=755", "tmpfs", str(self.root))
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self.root)], check=False, capture_output=True)

    def clear(self) -> None:
        """Remove all that lies on it."""
        self.make_room()
        for path in self.root.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def fill(self) -> None:
        """Leave no byte."""
        statistics = os.statvfs(self.root)
        size = statistics.f_bavail * statistics.f_frsize
        if size > 0:
            descriptor = os.open(self.root / BALLAST, os.O_CREAT | os.O_WRONLY)
            os.posix_fallocate(descriptor, 0, size)
            os.close(descriptor)

    def make_room(self) -> None:
        """Undo ``fill``."""
        (self.root / BALLAST).unlink(missing_ok=True)


def mount(*arguments: str) -> None:
    """``mount``; raises ``OSError`` with what it said."""
    result = subprocess.run(["mount", *arguments], check=False, capture_output=True, text=True)
    if result.returncode:
        raise OSError(f"mount {' '.join(arguments)}: {' '.join(result.stderr.split())}")


def why_not(folder: Path) -> str | None:
    """Why no tmpfs can be mounted here; None if it can."""
    if os.geteuid() != 0:
        return "mounting a small disk needs root"
    try:
        with Disk(folder / "probe", 1):
            return None
    except OSError as error:
        return f"no small disk can be mounted here: {error}"


WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
Opened = Callable[[str], None]
"""Called with a path, just before it is opened to be written."""


def watch(root: Path, opened: Opened) -> None:
    """Call ``opened`` before this process writes to anything below ``root``, for as long as it lives."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import safetensors.torch

    is_reporting = [False]

    def report(path: Any) -> None:
        if isinstance(path, str | os.PathLike) and not is_reporting[0] and Path(path).absolute().is_relative_to(root):
            is_reporting[0] = True
            try:
                opened(os.path.abspath(path))
            finally:
                is_reporting[0] = False

    def hear(event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = values
            if set(mode) & set("wax+") if isinstance(mode, str) else flags & WRITES:
                report(path)

    def reporting(call: Callable[..., Any], position: int) -> Callable[..., Any]:
        @wraps(call, updated=())
        def call_and_report(*arguments: Any, **options: Any) -> Any:
            if "r" not in (*arguments[1:2], options.get("mode")):
                report(arguments[position])
            return call(*arguments, **options)

        return call_and_report

    sys.addaudithook(hear)
    pa.OSFile = reporting(pa.OSFile, 0)
    pq.ParquetWriter.__init__ = reporting(pq.ParquetWriter.__init__, 1)
    safetensors.torch.save_file = reporting(safetensors.torch.save_file, 1)


def spelling(root: Path, path: str) -> str:
    """A path without numbers, hashes, and the marks of unfinished files."""
    name = os.path.relpath(path, root)
    name = re.sub(r"\.tmp-[^/]*", ".tmp", name)
    name = re.sub(r"padless-[a-z0-9_]{8}\b|\btmp[a-z0-9_]{8}\b", "padless-~", name)
    name = re.sub(r"(?<![a-z])[0-9a-f]{8,}(?![a-z])", "~", name)
    return re.sub(r"\d{2,}", "#", name)


SMALL = "--text.max_tokens 64 --vocabulary.min_count 1 --executor.workers 1 --shards.rows 60"
TRAINING = (
    f"--config {ROOT}/tests/plain.yaml --model.embedding_dim 8 --model.hidden_size 8 --model.wide 64 --optim.ema 0.9 "
    "--epochs 2 --global_batch 16 --precision fp32 --device cpu --checkpoint.every_steps 6 --tracking.log_every 3 "
    "--timeout_s 60"
)
Act = Callable[[Path, Path], int]
"""Called with the folder of the inputs, which has room, and the small disk."""


def make_inputs(root: Path, _: Path) -> int:
    """Write what the commands read."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [(text, label, f"g{number % 40}") for number, (text, label) in enumerate(reviews(160))]
    write_csv(root / "new.csv", rows, header=("text", "label", "group"))
    (root / "packed.csv.gz").write_bytes(gzip.compress((root / "new.csv").read_bytes()))
    write_csv(root / "more.csv", [(text,) for text, _ in reviews(70, seed=2)], header=("text",))
    write_dataset(root / "data", {"train": 150, "validation": 40, "test": 30})
    write_run(root / "made")
    return 0


def words_of(line: str, inputs: Path, disk: Path) -> list[str]:
    """The words of a line in which ``IN/`` and ``DISK/`` stand for the folders."""
    return line.replace("IN/", f"{inputs}/").replace("DISK/", f"{disk}/").split()


def padless(line: str) -> Act:
    return lambda inputs, disk: cli.run(harness, words_of(line, inputs, disk))


def train(inputs: Path, disk: Path) -> int:
    """A training in this process, which then exits; without the report, which takes half of the time."""
    from harness import train as entry
    from harness.distributed.stopping import run_rank
    from harness.output import report as run_report
    from padless.core.signals import end_process

    run_report.write_report_quietly = lambda run: None
    sys.argv = ["harness.train", *words_of(f"{TRAINING} --data IN/data --run DISK/run", inputs, disk)]
    end_process(run_rank(entry.main))


COMMANDS: dict[str, Act] = {
    "prepare": padless(
        f"prepare --source.path IN/packed.csv.gz {SMALL} --output DISK/out --splits.group_column group "
        "--splits.folds 2 --source.unlabelled_path IN/more.csv --source.part_mb 0.02"
    ),
    "train": train,
    "predict": padless(
        "predict IN/made/run IN/new.csv --processes 1 --source.part_mb 0.02 --device cpu --quiet --output DISK/out.csv"
    ),
}
CHANGING = re.compile(
    r"run/(log\.txt|attempts\.jsonl|environment\.json|throughput\.jsonl|config\.yaml|.*(state|manifest)\.json)"
)
"""Files whose bytes are never the same twice: times, addresses, speeds."""


def run_in_child(work: Callable[[], int], temporary: Path) -> tuple[int, str]:
    """Run ``work`` in a child of this process: its exit code and its standard error. It is killed when it is slow."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for number, path in ((1, out), (2, err)):
                    os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), number)
                os.environ["TMPDIR"], tempfile.tempdir = str(temporary), str(temporary)
                signal.alarm(LIMIT_S)
                code = work()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), err.read_text(errors="replace")


@dataclass(frozen=True)
class Sweep:
    """All trials of one command."""

    command: str
    inputs: Path
    disk: Disk

    def begin(self) -> None:
        """An empty disk."""
        self.disk.clear()
        (self.disk.root / TEMPORARY).mkdir()

    def run(self, opened: Opened | None = None) -> tuple[int, str]:
        """The command, in a child; ``opened`` is called there before each write."""

        def work() -> int:
            if opened is not None:
                watch(self.disk.root, opened)
            return COMMANDS[self.command](self.inputs, self.disk.root)

        return run_in_child(work, self.disk.root / TEMPORARY)

    def remaining_files(self) -> dict[str, bytes]:
        """What the disk holds, except what differs between runs."""
        files = contents(self.disk.root)
        kept_names = [name for name in files if not name.endswith(("/lock", ".lock")) and name != BALLAST]
        return {name: b"" if CHANGING.search(name) else files[name] for name in kept_names}

    def trials(self) -> Iterator[dict[str, Any]]:
        """At the first and the last write of each name."""
        with tempfile.NamedTemporaryFile("a+") as log:
            self.begin()
            code, stderr = self.run(lambda path: print(json.dumps(path), file=log, flush=True))
            assert code == 0, f"{self.command}: {stderr}"
            log.seek(0)
            names = [spelling(self.disk.root, path) for path in map(json.loads, log)]
        expected = self.remaining_files()
        for name, times in Counter(names).items():
            for number in sorted({1, times}):
                faults = list(self.trial(name, number, expected))
                yield {"command": self.command, "place": f"{name} ({number})", "faults": faults}

    def trial(self, name: str, number: int, expected: dict[str, bytes]) -> Iterator[str]:
        """What is wrong when the disk is full at a write, and after the same command with free space."""
        self.begin()
        num_seen = Counter()

        def fill_at_write(path: str) -> None:
            write_name = spelling(self.disk.root, path)
            num_seen[write_name] += 1
            if write_name == name and num_seen[write_name] == number:
                self.disk.fill()

        code, stderr = self.run(fill_at_write)
        self.disk.make_room()
        if code == 0 and self.remaining_files() == expected:  # there was room again: it removes what it needs no more
            return
        if code != 4 and not (code == 0 and name.startswith(TEMPORARY)):
            yield f"exit code {code}: {stderr[-300:]}"
        if match := FAULT.search(re.sub(r"(?m)^(error|warning): .*$", "", stderr)):
            yield f"said {match[0]!r}: {stderr[-600:]}"
        errors = re.findall(r"(?m)^error: .*$", stderr)
        if code == 4 and (len(errors) != 1 or str(self.disk.root) not in errors[0]):
            yield f"no sentence that names the file: {errors}"
        yield from (f"left: {path.name}" for path in self.disk.root.rglob(f"*{TEMPORARY_MARK}*"))
        yield from (f"left: {path.name}" for path in (self.disk.root / TEMPORARY).iterdir())
        code, stderr = self.run()
        if code != 0:
            yield f"again: exit code {code}: {stderr[-300:]}"
        elif (files := self.remaining_files()) != expected:
            names = sorted(name for name in {*files, *expected} if files.get(name) != expected.get(name))
            yield f"again: another end: {', '.join(names[:5])}"


def preload() -> None:
    """Import what the children need, once; compute nothing, so that there is no thread when they are forked."""
    names = "torch._dynamo harness.training.assembly harness.output.report harness.inference.predict harness.train"
    for name in (*names.split(), "preprocessing.pipeline.build"):
        importlib.import_module(name)


def main(commands: list[str]) -> int:
    """Try all, print what was found."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the small disk is taken away then, too
    trials = []
    with tempfile.TemporaryDirectory() as folder:
        if reason := why_not(Path(folder)):
            print(f"nothing tried: {reason}", file=sys.stderr)
            return 2
        preload()
        inputs = Path(folder, "inputs")
        code, stderr = run_in_child(partial(make_inputs, inputs, inputs), Path(folder))
        assert code == 0, stderr
        with Disk(Path(folder, "disk")) as disk:
            for command in commands or COMMANDS:
                trials += Sweep(command, inputs, disk).trials()
    faults = [trial for trial in trials if trial["faults"]]
    print(json.dumps({"trials": len(trials), "faults": faults}, indent=2))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
