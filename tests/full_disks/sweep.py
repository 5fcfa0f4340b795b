# SPDX-License-Identifier: Apache-2.0
"""A command is run once with room while its writes are noted, then once for each of them with the disk full there.

The disk is filled by the very process that is about to write, just before it opens the file: no race, and a real
ENOSPC of a real file system. Afterwards room is made and the same command must come to the same end.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from preprocessing.base.atomic import TEMPORARY_MARK
from tests.corpora import contents
from tests.full_disks.disk import BALLAST, Disk, spelling, watch
from tests.full_disks.scenarios import Inputs, Scenario

LIMIT_S = 120
TEMPORARY = "tmp"
"""The temporary folder, on the small disk too."""
FAULT = re.compile(r"Traceback|Exception ignored|Error:|Warning:")


@dataclass(frozen=True)
class Place:
    """A write of a command."""

    kind: str
    """``file`` or ``folder``."""
    name: str
    occurrence: int
    """How many of this name came before it."""

    def __str__(self) -> str:
        again = f" ({self.occurrence + 1})" if self.occurrence else ""
        return f"{self.name}{'/' if self.kind == 'folder' else ''}{again}"


@dataclass
class Outcome:
    """A trial: what came of it."""

    scenario: str
    place: str
    how: str
    code: int
    said: str
    code_again: int | None = None
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int
    out: str
    err: str


def forked(work: Callable[[], int], temporary: Path) -> Ended:
    """Run ``work`` in a child of this process; it is killed when it takes too long."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for number, path in ((1, out), (2, err)):
                    os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), number)
                os.environ["TMPDIR"], tempfile.tempdir = str(temporary), str(temporary)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(LIMIT_S)
                code = work()
            except SystemExit as left:  # --help
                code = int(left.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return Ended(code, out.read_text(errors="replace"), err.read_text(errors="replace"))


class Sweep:
    """All trials of one command."""

    def __init__(self, scenario: Scenario, inputs: Inputs, disk: Disk) -> None:
        """Nothing is run yet."""
        self.scenario, self.inputs, self.disk = scenario, inputs, disk

    def begin(self) -> None:
        """An empty disk, but for what the command expects to be there."""
        self.disk.clear()
        (self.disk.root / TEMPORARY).mkdir()
        before = self.scenario.before
        if before is not None:
            ended = forked(lambda: before(self.inputs, self.disk.root), self.disk.root / TEMPORARY)
            assert ended.code == 0, ended.err

    def run(self, opened: Callable[[str, str], None] | None = None) -> Ended:
        """The command, in a child; ``opened`` is called there before each write."""

        def work() -> int:
            if opened is not None:
                watch(self.disk.root, opened)
            return self.scenario.act(self.inputs, self.disk.root)

        return forked(work, self.disk.root / TEMPORARY)

    def record(self) -> tuple[list[Place], dict[str, bytes]]:
        """Every write, and what the command leaves."""
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "log")

            def note(kind: str, path: str) -> None:
                with open(log, "a") as file:
                    file.write(f"{kind}\t{path}\n")

            log.touch()
            self.begin()
            ended = self.run(note)
            assert ended.code == 0, f"{self.scenario.name}: {ended.err}"
            lines = [line.split("\t") for line in log.read_text().splitlines()]
        seen: Counter[tuple[str, str]] = Counter()
        found: list[Place] = []
        for kind, path in lines:
            name = spelling(self.disk.root, path)
            found.append(Place(kind, name, seen[kind, name]))
            seen[kind, name] += 1
        last = [place for place in found if place.occurrence in (0, seen[place.kind, place.name] - 1)]
        return last, self.left()

    def left(self) -> dict[str, bytes]:
        """What lies on the disk, but for what is never the same twice."""
        found = contents(self.disk.root)
        return {
            name: b"" if any(re.search(one, name) for one in self.scenario.changing) else data
            for name, data in found.items()
            if not name.endswith(("/lock", ".lock")) and name != BALLAST
        }

    def trials(self, quick: bool = False) -> Iterator[Outcome]:
        """One after the other: no room, no inode."""
        places, expected = self.record()
        for place in places:
            if re.search(self.scenario.only, place.name):
                ways = ["no inode"] if place.kind == "folder" else ["full", "no inode"]
                for how in ways[:1] if quick or place.occurrence else ways:
                    yield self.trial(place, how, expected)

    def trial(self, place: Place, how: str, expected: dict[str, bytes]) -> Outcome:
        """The disk is full when ``place`` is to be written."""
        self.begin()
        counter: Counter[tuple[str, str]] = Counter()

        def fault(kind: str, path: str) -> None:
            name = spelling(self.disk.root, path)
            if (kind, name, counter[kind, name]) == (place.kind, place.name, place.occurrence):
                self.disk.use_up_names() if how == "no inode" else self.disk.fill()
            counter[kind, name] += 1

        return self.judged(str(place), how, self.run(fault), expected)

    def judged(self, place: str, how: str, ended: Ended, expected: dict[str, bytes]) -> Outcome:
        """What is wrong with an end, and with what the same command makes of it when there is room."""
        optional = any(re.search(one, place) for one in self.scenario.only_said)
        lines = [line for line in ended.err.splitlines() if line.startswith(("error: ", "warning: "))]
        found = Outcome(self.scenario.name, place, how, ended.code, " | ".join(lines))
        self.disk.make_room()
        done = ended.code == 0 and self.left() == expected  # there was room again: it removes what it needs no more
        harmless = done or (ended.code == 0 and (place.startswith(TEMPORARY) or optional))
        if ended.code != 4 and not harmless:
            found.faults.append(f"exit code {ended.code}: {ended.err[-300:]}")
        if match := FAULT.search(re.sub(r"(?m)^(error|warning): .*$", "", ended.err)):
            found.faults.append(f"said {match[0]!r}: {ended.err[-600:]}")
        if ended.code == 4:
            errors = [line for line in lines if line.startswith("error: ")]
            words = [str(self.disk.root), "make room", *(["TMPDIR"] if place.startswith(TEMPORARY) else [])]
            if len(errors) != 1 or not all(word in errors[0] for word in words):
                found.faults.append(f"no sentence that names file and way out: {errors}")
        found.faults += self.damaged()
        if done:
            return found
        again = self.run()
        found.code_again = again.code
        if again.code != 0:
            found.faults.append(f"again: exit code {again.code}: {again.err[-300:]}")
        elif (after := self.left()) != expected:
            names = sorted(name for name in {*after, *expected} if after.get(name) != expected.get(name))
            found.faults.append(f"again: another end: {', '.join(names[:5])}")
        return found

    def damaged(self) -> list[str]:
        """What lies half-written under a final name, or was left under a temporary one."""
        files = [path for path in self.disk.root.rglob("*") if path.is_file() and path.name != BALLAST]
        left = [f"left: {path.name}" for path in self.disk.root.rglob(f"*{TEMPORARY_MARK}*")]
        left += [f"left: {path.name}" for path in (self.disk.root / TEMPORARY).iterdir()]
        inside = [path for path in files if TEMPORARY_MARK not in str(path)]
        return left + [f"half-written: {wrong}" for path in inside if (wrong := whole(path))]


def whole(path: Path) -> str | None:
    """What is wrong with a file that has its final name; None if it can be read to its end."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import load_file

    readers: dict[str, Callable[[], object]] = {
        ".json": lambda: json.loads(path.read_bytes()),
        ".jsonl": lambda: [json.loads(line) for line in path.read_bytes().splitlines()],
        ".arrow": lambda: pa.ipc.open_file(path.read_bytes()).read_all(),
        ".parquet": lambda: pq.read_table(path),
        ".npy": lambda: np.load(path),
        ".safetensors": lambda: load_file(path),
    }
    try:
        readers.get(path.suffix, lambda: None)()
    except Exception as error:
        return f"{path.name}: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    ends = {".jsonl": b"\n", ".yaml": b"\n", ".md": b"\n", ".html": b"</html>\n", ".png": b"IEND\xaeB`\x82"}
    data = path.read_bytes()
    return f"{path.name}: cut" if data and not data.endswith(ends.get(path.suffix, b"")) else None
