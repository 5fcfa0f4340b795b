# SPDX-License-Identifier: Apache-2.0
"""Two machines, each with its own network, address and host name. After every failure between them, both commands end
in time with a sentence and a true status, and the restarted run ends like an uninterrupted one.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from tests.helpers.commands import read_json, unwrapped, wait_until
from tests.helpers.datasets import write_dataset
from tests.helpers.machines import PORT, Two, launch_on, two_machines, why_not
from tests.helpers.runs import arguments, final, steps_done

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.timeout(1200, func_only=True),
    pytest.mark.skipif(why_not() is not None, reason=f"two machines on this one: {why_not()}"),
]
SPLITS = {"train": 320, "validation": 60, "test": 60}
LIMIT_S = 30
"""``timeout_s`` of the trainings."""
SLOW_S = 240
"""What starting, noticing and leaving may take, beside a time limit, while other tests run."""
STEP = 6
"""Faults come so many steps, of 60, after the last of the start before."""


@dataclass
class Training:
    """One training on both machines, which is restarted repeatedly."""

    two: Two
    folder: Path
    name: str = "run"
    starts: int = 0

    @property
    def run(self) -> Path:
        """The run directory, in a shared folder."""
        return self.folder / "shared" / self.name

    def log(self, side: str) -> Path:
        """The output of machine ``side`` at the last start."""
        return self.folder / f"log-{self.name}-{side}-{self.starts}"

    def start(self, sides: str = "ab") -> list[Popen[str]]:
        """Start these machines."""
        self.starts += 1
        self.run.parent.mkdir(exist_ok=True)
        started = []
        for side in sides:
            words = arguments(self.folder / "data", self.run, "--timeout_s", str(LIMIT_S))
            machine = self.two.a if side == "a" else self.two.b
            started.append(launch_on(machine, self.two.a, *words, log=self.log(side)))
        return started

    def until_step(self, step: int, processes: list[Popen[str]]) -> None:
        """Wait until the run has reached this step."""

        def is_reached() -> bool:
            return steps_done(self.run) >= step or any(process.poll() is not None for process in processes)

        wait_until(is_reached, 600)
        assert steps_done(self.run) >= step, self.log("a").read_text() + self.log("b").read_text()

    def error_line(self, side: str) -> str:
        """The error line of machine ``side``; empty if it succeeded."""
        text = unwrapped(self.log(side).read_text()) if self.log(side).exists() else ""
        assert "Traceback" not in text, text
        return next((line[7:] for line in text.splitlines() if line.startswith("error: ")), "")

    def status(self) -> dict[str, Any]:
        """``status.json``; empty where there is none."""
        return read_json(self.run / "status.json") if (self.run / "status.json").exists() else {}

    def to_the_end(self) -> None:
        """Start both and wait until both succeed."""
        assert codes_of(self.start(), SLOW_S + 2 * LIMIT_S) == (0, 0), self.log("a").read_text()


def codes_of(processes: list[Popen[str]], limit_s: float = 900) -> tuple[int, ...]:
    """Exit codes, within the limit."""
    deadline = time.monotonic() + limit_s
    return tuple(process.wait(max(0.1, deadline - time.monotonic())) for process in processes)


Act = Callable[[Training], tuple[int, ...]]
"""Lets a fault happen; the exit codes of the machines that must end by themselves."""


def during(happen: Callable[[Two], object]) -> Act:
    """A fault that comes in mid-training."""

    def act(training: Training) -> tuple[int, ...]:
        first_step = steps_done(training.run)
        processes = training.start()
        training.until_step(first_step + STEP, processes)
        happen(training.two)
        return codes_of(processes)

    return act


def interrupt_link(two: Two) -> None:
    two.lose()
    time.sleep(10)
    two.restore()


def take_port(training: Training) -> tuple[int, ...]:
    """Another program on machine a uses the port; it ends with the machine's other processes."""
    words = f"import socket, time; s = socket.create_server(('', {PORT})); print('held', flush=True); time.sleep(900)"
    log = training.folder / "holder"
    training.two.a.start(sys.executable, "-c", words, log=log)
    wait_until(lambda: "held" in log.read_text(), 60)
    return codes_of(training.start())


LOST_PEER = r"rank {} at step \d+ waited .*from 1 other ranks"
PORT_TAKEN = "main_process_port: 29500 is taken by another program on machine-a"
NO_B = "machine 0 of 2: the machines did not meet at .* within 30 s"
FAULTS: dict[str, tuple[Act, tuple[int, ...], tuple[str, str, str]]] = {
    "cut": (during(lambda two: two.lose()), (1, 1), (LOST_PEER.format(0), LOST_PEER.format(1), LOST_PEER.format(0))),
    "port taken": (take_port, (2, 2), (PORT_TAKEN,) * 3),
    "machine 1 never comes": (lambda training: codes_of(training.start(sides="a")), (1,), (NO_B, "", NO_B)),
    "cut for 10 s": (during(interrupt_link), (0, 0), ("",) * 3),
}
"""Fault -> how it happens, the exit codes, and what machine a, machine b and the status say. A run has a status for
machine b to read only once it has begun, so the first fault comes in training."""


@pytest.mark.parametrize(
    "faults",
    [("cut", "cut for 10 s"), pytest.param(tuple(FAULTS), marks=pytest.mark.night)],
)
def test_faults_end_in_time_and_the_run_goes_on_to_the_same_end(tmp_path: Path, faults: tuple[str, ...]) -> None:
    """One training has all faults one after the other, and is then restarted once more."""
    write_dataset(tmp_path / "data", SPLITS)
    with two_machines() as two:
        undisturbed, training = Training(two, tmp_path, "undisturbed"), Training(two, tmp_path)
        undisturbed.to_the_end()
        for fault in faults:
            act, codes, expected = FAULTS[fault]
            launch, start_s = training.status().get("launch"), time.monotonic()
            assert act(training) == codes, fault
            status = training.status()
            reason = status.get("reason", "") if status.get("launch") != launch else ""
            errors = (training.error_line("a"), training.error_line("b"), reason)
            for wanted, text in zip(expected, errors, strict=True):
                assert re.match(wanted, text), (fault, text)
            assert time.monotonic() - start_s < 2 * SLOW_S + LIMIT_S or codes == (0, 0), fault
            for machine in two.machines:
                machine.kill()
            two.restore()
        if training.status()["state"] != "finished":
            training.to_the_end()
    assert final(training.run) == final(undisturbed.run)
