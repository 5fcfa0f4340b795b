# SPDX-License-Identifier: Apache-2.0
"""What else a disk may be: full or read-only from the start, without room for temporary files, of another kind.

Each is one command with one fault. The exit code and the sentence are judged, then the fault is mended and the same
command must succeed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.__main__ import main as harness
from preprocessing.__main__ import main as preprocessing
from tests.commands import ROOT
from tests.full_disks.disk import Disk
from tests.full_disks.scenarios import SCENARIOS, SMALL, Act, Inputs, Scenario, of, train, training
from tests.full_disks.sweep import FAULT, Ended, Outcome, forked

CPU = ("--device", "cpu", "--quiet")
NOT_HERE = ("a frame",)
"""Scenarios whose temporary folder lies on the small disk: they are tried place by place."""


@dataclass(frozen=True)
class Fault:
    """A command and what is wrong with its disk."""

    name: str
    act: Act
    spoil: Callable[[Disk], None]
    mend: Callable[[Disk], None]
    code: int
    says: str
    """A pattern that the sentence, or the warning, has."""
    before: Act | None = None


def fill(disk: Disk) -> None:
    disk.fill()


def make_room(disk: Disk) -> None:
    disk.make_room()


def read_only(disk: Disk) -> None:
    disk.protect(True)


def writable(disk: Disk) -> None:
    disk.protect(False)


def nothing(disk: Disk) -> None:
    """No fault of the disk's."""


def whole_disks() -> Iterator[Fault]:
    """Every command on a disk that is full, or read-only, before it begins."""
    for one in SCENARIOS:
        if one.name not in NOT_HERE:
            code = 0 if one.name == "baseline" else 4
            full = r"No space left on device\); (make room|no run)"
            yield Fault(f"{one.name}: full", one.act, fill, make_room, code, full, one.before)
            yield Fault(
                f"{one.name}: read-only", one.act, read_only, writable, code, "Read-only file system", one.before
            )


def kinds() -> Iterator[Fault]:
    """A directory where a file is wanted, and the reverse."""

    def folder_at(*names: str) -> Callable[[Disk], None]:
        return lambda disk: [(disk.root / name).mkdir(parents=True) for name in names] and None

    def gone(*names: str) -> Callable[[Disk], None]:
        return lambda disk: [os.removedirs(disk.root / name) for name in names] and None

    def file_at(name: str) -> Callable[[Disk], None]:
        def make(disk: Disk) -> None:
            (disk.root / name).parent.mkdir(exist_ok=True)
            (disk.root / name).write_text("mine")

        return make

    def removed(name: str) -> Callable[[Disk], None]:
        return lambda disk: (disk.root / name).unlink()

    wants_file = {
        "x/r.html": of(harness, "report", "{run}", "--output", "DISK/x/r.html"),
        "x/e.html": of(harness, "explain", "{bundle}", "a fine film", "--output", "DISK/x/e.html", *CPU),
        "x/soft.arrow": of(
            harness, "label", "--run", "{run}", "--data", "{data}", "--output", "DISK/x/soft.arrow", *CPU
        ),
        "x/plot.png": of(preprocessing, "inspect", "{data}", "--plot", "DISK/x/plot.png"),
        "x/test.json": of(harness, "evaluate", "--run", "{run}", "--data", "{data}", "--output", "DISK/x", *CPU[:2]),
        "run/config.yaml": training(),
    }
    for name, act in wants_file.items():
        yield Fault(f"{name} is a directory", act, folder_at(name), gone(name), 2, r"Is a directory\)")
    wants_folder = {
        "out": of(preprocessing, "run", "--source.path", "{packed.csv.gz}", "--output", "DISK/out", *SMALL),
        "vectors": of(preprocessing, "vectors", "{data}", "--output", "DISK/vectors", "--dim", "4", "--epochs", "1"),
        "run": training(),
        "run/checkpoints": training(),
        "run/bundle": training(),
        "stage": training("--stage_dir", "DISK/stage"),
        "eval": of(harness, "evaluate", "--run", "{run}", "--data", "{data}", "--output", "DISK/eval", *CPU[:2]),
        "export": of(harness, "export", "{run}", "--output", "DISK/export", "--quiet"),
        "configs": of(harness, "recipes", "imdb", "--output", "DISK/configs"),
        "made": of(harness, "predict", "--run", "{bundle}", "--input", "{new.csv}", "--output", "DISK/made/", *CPU),
    }
    for name, act in wants_folder.items():
        yield Fault(
            f"{name} is a file",
            act,
            file_at(name),
            removed(name),
            2,
            r"File exists|Not a directory|is a file|there already",
        )
    for name, act in (
        ("report", of(harness, "report", "{run}", "--output", "/dev/full")),
        ("explain", of(harness, "explain", "{bundle}", "a", "--format", "text", "--output", "/dev/full", *CPU)),
        ("predict", of(harness, "predict", "--run", "{bundle}", "--input", "{new.csv}", "--output", "/dev/full", *CPU)),
    ):
        yield Fault(f"{name} --output /dev/full", act, nothing, nothing, 2, "pipe or a device")


def onto(path: str, number: int, act: Act) -> Act:
    """A command whose standard output is a file of this name, on its first run."""

    def printing(inputs: Inputs, disk: Path) -> int:
        if not (disk / "again").exists():
            os.dup2(os.open(path, os.O_WRONLY), number)
        return act(inputs, disk)

    return printing


def outputs() -> Iterator[Fault]:
    """Standard output that takes no more."""
    for name, act in (
        ("predict", of(harness, "predict", "--run", "{bundle}", "a fine film")),
        ("explain", of(harness, "explain", "{bundle}", "a fine film", *CPU[:2])),
        ("recipes", of(harness, "recipes")),
        ("--help", of(harness, "launch", "--help")),
        ("inspect", of(preprocessing, "inspect", "{data}", "--json")),
        ("check", of(preprocessing, "check", "{data}")),
        (
            "evaluate",
            of(harness, "evaluate", "--run", "{run}", "--input", "{packed.csv.gz}", "--output", "DISK/e", "--json"),
        ),
    ):
        again = lambda disk: (disk.root / "again").touch()  # noqa: E731
        yield Fault(
            f"{name} > /dev/full", onto("/dev/full", 1, act), nothing, again, 4, "standard output: cannot be written"
        )
    yield Fault("training > /dev/full", onto("/dev/full", 1, training()), nothing, nothing, 0, "")


def trackers() -> Iterator[Fault]:
    """A training whose tracker's own folder lies on a full disk."""
    for tracker, folder in (("wandb", "wandb"), ("tensorboard", "tensorboard"), ("wandb", "tracking")):
        yield Fault(
            f"{tracker}: {folder}/ is full", tracked(tracker, folder), nothing, nothing, 0, "training is not affected"
        )


def tracked(tracker: str, folder: str) -> Act:
    """The training; what it says of W&B's rows must be true."""

    def act(inputs: Inputs, disk: Path) -> int:
        own = Disk(disk / "run" / folder, 1)
        if not own.root.exists():
            own.__enter__().fill()
        os.environ |= {"WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}
        return train(("--data", inputs.data, "--run", str(disk / "run"), "--tracking.tracker", tracker))

    return act


def workers() -> Iterator[Fault]:
    """Processes that a command starts, on a disk that is full after so many kilobytes: it is they who write."""
    words = ["run", "--source.path", "{new.csv}", "--source.part_mb", "0.005", "--output", "DISK/out", *SMALL]
    words[words.index("--executor.workers") + 1] = "2"
    for room in (20, 60, 100):
        name = f"preprocessing with two workers: full after {room} kB"
        yield Fault(
            name, of(preprocessing, *words), filling(room), make_room, 4, r"No space left on device\); make room"
        )


def filling(kilobytes: int) -> Callable[[Disk], None]:
    """Leave so much room."""
    return lambda disk: disk.fill(kilobytes << 10)


def temporary() -> Iterator[Fault]:
    """No room for temporary files, and room for the output."""
    using = ("evaluation of new rows", "explanation", "export", "soft labels", "preprocessing")
    for one in SCENARIOS:
        if one.name in using:
            code = 4 if one.name in using[:3] else 0
            yield Fault(
                f"{one.name}: TMPDIR is full", without_tmpdir(one), nothing, nothing, code, "TMPDIR" if code else ""
            )


def without_tmpdir(one: Scenario) -> Act:
    """A command whose temporary folder is a disk of its own, full on the first run."""

    def act(inputs: Inputs, disk: Path) -> int:
        import tempfile

        own = Disk(disk / "temporary", 1)
        if not own.root.exists():
            own.__enter__().fill()
            os.environ["TMPDIR"] = tempfile.tempdir = str(own.root)
        return one.act(inputs, disk)

    return act


def every() -> Iterator[Fault]:
    """All of them."""
    yield from (*whole_disks(), *kinds(), *outputs(), *workers(), *temporary(), *trackers())


def outcome(fault: Fault, inputs: Inputs, disk: Disk, temporary_folder: Path) -> Outcome:
    """Try one, mend it, and try again."""
    disk.clear()

    def run(act: Act) -> Ended:
        return forked(lambda: act(inputs, disk.root), temporary_folder)

    if fault.before is not None:
        assert run(fault.before).code == 0
    fault.spoil(disk)
    ended = run(fault.act)
    fault.mend(disk)
    lines = [line for line in ended.err.splitlines() if line.startswith(("error: ", "warning: "))]
    found = Outcome("another disk", fault.name, "", ended.code, " | ".join(lines))
    if ended.code != fault.code:
        found.faults.append(f"exit code {ended.code}: {ended.err[-400:]}")
    if sum(line.startswith("error: ") for line in lines) != (fault.code != 0):
        found.faults.append("not one sentence")
    if not re.search(fault.says, found.said):
        found.faults.append(f"not said: {fault.says}")
    if match := FAULT.search(re.sub(r"(?m)^(error|warning): .*$", "", ended.err)):
        found.faults.append(f"said {match[0]!r}: {ended.err[-600:]}")
    again = run(fault.act)
    found.code_again = again.code
    if again.code != (fault.code if fault.name.endswith("/dev/full") and "--output" in fault.name else 0):
        found.faults.append(f"again: exit code {again.code}: {again.err[-400:]}")
    if "wandb-sync" in found.said and not sends(disk):
        found.faults.append("wandb-sync is promised, and has no id to send under")
    unmount(disk)
    return found


def sends(disk: Disk) -> bool:
    """Whether the journal has what ``wandb-sync`` needs."""
    from harness.tracking.tracking import can_be_sent

    return can_be_sent(disk.root / "run")


def unmount(disk: Disk) -> None:
    """Take away the disks that lie below the small one."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place = line.split()[1]
        if place.startswith(f"{disk.root}{os.sep}"):
            Disk(Path(place)).__exit__()
    sys.stdout.flush()
