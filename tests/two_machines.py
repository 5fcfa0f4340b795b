# SPDX-License-Identifier: Apache-2.0
"""Trainings on two machines that something happens to: how long until both have ended, what each says, what
``status.json`` says, and whether the run that is then started again ends as an undisturbed one.

    python -m tests.two_machines      what is said of each, as root

``tests/end_to_end/test_two_machines.py`` asserts on the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

from harness.rundir.layout import CHECKPOINTS
from tests.commands import ROOT, unwrapped
from tests.datasets import write_dataset
from tests.machines import PORT, Two, launch_on, two_machines, why_not
from tests.runs import arguments, steps_done, wait_until

SPLITS = {"train": 320, "validation": 60, "test": 60}
LIMIT_S = 30
"""``timeout_s`` of the trainings."""
START_S, END_S = 600, 900
STEP = 6
"""Faults come so many steps, of 60, after the last of the start before."""


@dataclass
class Place:
    """Where one training lies, with what the machines said."""

    two: Two
    data: Path
    folder: Path
    starts: int = 0

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.folder / "shared" / "run"

    def log(self, side: str) -> Path:
        """What machine ``side`` printed at the last start."""
        return self.folder / f"log-{side}-{self.starts}"

    def start(self, sides: str = "ab", **of_b: Any) -> list[Popen[str]]:
        """Start these; ``of_b``: what is another on machine b (``keys``, ``processes``, ``own``)."""
        self.starts += 1
        self.run.parent.mkdir(parents=True, exist_ok=True)
        return [self.start_one(side, **(of_b if side == "b" else {})) for side in sides]

    def start_one(self, side: str, keys: tuple[str, ...] = (), **more: Any) -> Popen[str]:
        """Start one of the two."""
        machine = self.two.a if side == "a" else self.two.b
        words = arguments(self.data, self.run, "--timeout_s", str(LIMIT_S), *keys)
        options = ("--max_restarts=0",)  # the same command goes on, but not by itself
        return launch_on(machine, self.two.a, *words, log=self.log(side), options=options, **more)

    def said(self, side: str) -> str:
        """The line with which machine ``side`` said what is wrong; empty if it ended well."""
        text = unwrapped(self.log(side).read_text()) if self.log(side).exists() else ""
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in text, text
        return lines[0].removeprefix("error: ") if lines else ""

    def status(self) -> dict[str, Any]:
        """``status.json``; empty where there is none."""
        path = self.run / "status.json"
        return json.loads(path.read_text()) if path.exists() else {}


Act = Callable[[Place], tuple[float, tuple[int | None, ...]]]
"""Lets a fault happen; the seconds until both machines had ended, and their exit codes."""


@dataclass
class Ending:
    """What came of a fault."""

    fault: str
    seconds: float = 0.0
    """From the fault, or from the start for one that was there before, until both machines had ended."""
    codes: tuple[int | None, ...] = ()
    said: dict[str, str] = field(default_factory=dict)
    """The sentence of each machine, by its letter."""
    status: dict[str, Any] = field(default_factory=dict)
    """``status.json``; empty if this start did not write it."""
    equal: bool | None = None
    """Whether the run, started again if it had not finished, has the weights of the undisturbed one."""


def wait_for(processes: list[Popen[str]], limit_s: float = END_S) -> tuple[int | None, ...]:
    """Exit codes, within the limit; None for a process that is still there."""
    deadline = time.monotonic() + limit_s
    codes: list[int | None] = []
    for process in processes:
        with suppress(TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        codes.append(process.poll())
    return tuple(codes)


def during(happen: Callable[[Place], None], ends: str = "ab") -> Act:
    """A fault that comes in mid-training; ``ends``: the machines that must end by themselves."""

    def act(place: Place) -> tuple[float, tuple[int | None, ...]]:
        before = steps_done(place.run)
        processes = place.start()
        wait_until(
            lambda: steps_done(place.run) >= before + STEP or any(one.poll() is not None for one in processes), START_S
        )
        assert steps_done(place.run) >= before + STEP, place.log("a").read_text() + place.log("b").read_text()
        since = time.monotonic()
        happen(place)
        codes = wait_for([process for process, side in zip(processes, "ab", strict=True) if side in ends])
        return time.monotonic() - since, codes

    return act


def at_start(differs: Callable[[Place], Mapping[str, Any]], sides: str = "ab") -> Act:
    """A fault that is there when the machines start."""

    def act(place: Place) -> tuple[float, tuple[int | None, ...]]:
        since = time.monotonic()
        codes = wait_for(place.start(sides, **differs(place)))
        return time.monotonic() - since, codes

    return act


def cut_for(seconds: float) -> Callable[[Place], None]:
    """Cut the link, and mend it again."""

    def happen(place: Place) -> None:
        place.two.lose()
        time.sleep(seconds)
        place.two.mend()

    return happen


def lose_packets(place: Place) -> dict[str, Any]:
    """Every tenth packet is lost, in both directions."""
    place.two.lose(0.1)
    return {}


def lose_power(side: str) -> Callable[[Place], None]:
    """Machine ``side`` is gone, and its kernel says goodbye to nobody."""

    def happen(place: Place) -> None:
        place.two.lose()
        (place.two.a if side == "a" else place.two.b).kill()

    return happen


def other_revision(place: Place) -> dict[str, Any]:
    """Machine b runs a copy of the code in which a comment is another."""
    copy = place.folder / "copy"
    shutil.copytree(ROOT / "harness", copy / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    with open(copy / "harness" / "batch.py", "a") as file:
        file.write("# another revision\n")
    return {"own": {ROOT / "harness": copy / "harness"}}


def other_dataset(place: Place) -> dict[str, Any]:
    """Machine b has another dataset at the same place."""
    write_dataset(place.folder / "other", SPLITS, seed=7)
    return {"own": {place.data: place.folder / "other"}}


def take_port(place: Place) -> dict[str, Any]:
    """Another program on machine a has the port; it ends with the machine's other processes."""
    words = (
        f"import socket, time; held = socket.create_server(('', {PORT})); print('held', flush=True); time.sleep(900)"
    )
    place.two.a.start(sys.executable, "-c", words, log=place.folder / "holder")
    wait_until(lambda: (place.folder / "holder").exists() and "held" in (place.folder / "holder").read_text(), 60)
    return {}


def nothing_at(where: Callable[[Place], Path]) -> Callable[[Place], dict[str, Any]]:
    """Machine b has an empty directory there."""

    def differs(place: Place) -> dict[str, Any]:
        place.run.parent.mkdir(parents=True, exist_ok=True)
        return {"own": {where(place): None}}

    return differs


FAULTS: dict[str, Act] = {
    "undisturbed": at_start(lambda place: {}),
    "link cut for ever": during(lambda place: place.two.lose()),
    "link cut for 10 s": during(cut_for(10)),
    "10 % of packets lost": at_start(lose_packets),
    "a machine loses power": during(lose_power("b"), "a"),
    "machine 0 loses power": during(lose_power("a"), "b"),
    "a machine frozen": during(lambda place: place.two.b.send(signal.SIGSTOP), "a"),
    "processes of a machine killed": during(lambda place: place.two.b.kill(), "a"),
    "processes of machine 0 killed": during(lambda place: place.two.a.kill(), "b"),
    "another revision": at_start(other_revision),
    "another dataset": at_start(other_dataset),
    "another configuration": at_start(lambda place: {"keys": ("--optim.lr", "0.01")}),
    "port taken": at_start(take_port),
    "machine 1 never comes": at_start(lambda place: {}, "a"),
    "machine 0 never comes": at_start(lambda place: {}, "b"),
    "run directory not shared": at_start(nothing_at(lambda place: place.run.parent)),
    "dataset on one side only": at_start(nothing_at(lambda place: place.data)),
    "other number of processes": at_start(lambda place: {"processes": 4}),
}


CHAINS = (
    ("undisturbed",),
    (
        "another revision",
        "another dataset",
        "another configuration",
        "other number of processes",
        "run directory not shared",
        "dataset on one side only",
        "port taken",
        "machine 1 never comes",
        "machine 0 never comes",
    ),
    (
        "a machine loses power",
        "machine 0 loses power",
        "a machine frozen",
        "processes of a machine killed",
        "processes of machine 0 killed",
        "link cut for ever",
        "link cut for 10 s",
    ),
    ("10 % of packets lost",),
)
"""Faults that one training suffers one after the other, which is then started once more if it has not finished."""
FEW = (("undisturbed",), ("another dataset", "link cut for ever"))
"""One before the start and one in mid-training."""


def suffer(faults: tuple[str, ...], data: Path, folder: Path, undisturbed: str | None) -> tuple[list[Ending], str]:
    """Make two machines, and let one training on them suffer one fault after the other, the same command each time;
    what came of each, and the weights that it had in the end.
    """
    folder.mkdir(parents=True)
    endings = []
    with two_machines() as two:
        place = Place(two, data, folder)
        for fault in faults:
            before = place.status().get("launch")
            seconds, codes = FAULTS[fault](place)
            said = {side: place.said(side) for side in "ab"}
            status = place.status()
            endings.append(Ending(fault, seconds, codes, said, status if status.get("launch") != before else {}))
            for machine in two.both:
                machine.kill()
            two.mend()
        if place.status().get("state") != "finished":
            codes = wait_for(place.start())
            assert codes == (0, 0), place.log("a").read_text()[-3000:] + place.log("b").read_text()[-3000:]
        newest = max((place.run / CHECKPOINTS).iterdir())
        weights = hashlib.sha256((newest / "model.safetensors").read_bytes()).hexdigest()
    for ending in endings:
        ending.equal = undisturbed is None or weights == undisturbed
    return endings, weights


def main() -> int:
    """Make every fault happen; a line of JSON for each."""
    reason = why_not()
    if reason is not None:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # the machines are removed
    undisturbed, all_equal = None, True
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder, "data"), SPLITS)
        for number, chain in enumerate(CHAINS):
            endings, weights = suffer(chain, Path(folder, "data"), Path(folder, str(number)), undisturbed)
            undisturbed = undisturbed or weights
            for one in endings:
                print(json.dumps(vars(one)), flush=True)
                all_equal = all_equal and bool(one.equal)
    return 0 if all_equal else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
