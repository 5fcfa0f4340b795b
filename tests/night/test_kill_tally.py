# SPDX-License-Identifier: Apache-2.0
"""Law 6, counted: a training of two ranks is killed again and again at random instants, and every run that was killed
must end, bit for bit, where an undisturbed one ends.

Every kill, and every end, appends a line to ``night.jsonl`` (or the file that ``PADLESS_NIGHT`` names); the runs are in
``night/`` beside it. So the tally can be stopped at any time and goes on from there: that is one more kill.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ROOT, read_metrics, run_command
from tests.datasets import write_dataset
from tests.runs import Ranks, final, start, steps_done, wait_for_step

pytestmark = pytest.mark.night

TALLY = Path(os.environ.get("PADLESS_NIGHT", ROOT / "night.jsonl"))
KILLS = int(os.environ.get("PADLESS_NIGHT_KILLS", "1000"))
KILLS_A_RUN = 10


def lines(event: str) -> list[dict[str, Any]]:
    """What has been counted so far; a line that a stop has cut off is no line."""
    found = TALLY.read_bytes().split(b"\n")[:-1] if TALLY.exists() else []
    return [line for line in map(json.loads, found) if (line["test"], line["event"]) == ("kill tally", event)]


def append(event: str, **figures: object) -> None:
    """One more line, on the disk when this returns; what a stop has cut off before it goes."""
    with TALLY.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        line = {"test": "kill tally", "event": event, "time": now, "revision": revision(), **figures}
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


@cache
def revision() -> str:
    """Of the whole test, whatever is edited meanwhile."""
    return run_command(["git", "describe", "--always", "--dirty"], 30, {}).stdout.strip()


@pytest.fixture
def folder() -> Path:
    """The runs of this revision; those of another one are gone."""
    folder = TALLY.parent / "night" / "kill-tally"
    if not (folder / revision() / "data" / "dataset.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        write_dataset(folder / revision() / "data", {"train": 1500, "validation": 300, "test": 300})
    return folder / revision()


def kill_once(process: Ranks, run: Path, instant: float) -> dict[str, object]:
    """Kill a run shortly after a step: whether it was alive, and what it was about to write."""
    wait_for_step(process, run, int(instant))
    time.sleep(instant % 1 * 0.2)
    alive = process.poll() is None
    process.kill()
    unfinished = sorted(path.name for path in run.rglob("*.tmp-*"))
    return {"step": steps_done(run), "alive": alive, "unfinished": unfinished}


def test_every_kill_leads_to_the_same_end(folder: Path) -> None:
    data, undisturbed = folder / "data", folder / "undisturbed" / "run"
    assert start(data, undisturbed).wait(600) == 0
    total = read_metrics(undisturbed, "train")[-1]["step"]
    while sum(line["alive"] for line in lines("kill")) < KILLS:
        number = len(lines("end"))
        run, dice = folder / str(number) / "run", random.Random(number)
        instants = sorted(dice.uniform(0, total) for _ in range(KILLS_A_RUN))
        before = sum((line["run"], line["revision"]) == (number, revision()) for line in lines("kill"))
        for instant in instants[before:]:
            append("kill", run=number, **kill_once(start(data, run), run, instant))
        assert start(data, run).wait(600) == 0, (run.parent / "log").read_text()[-3000:]
        equal = final(run) == final(undisturbed)
        append("end", run=number, equal=equal)
        assert equal, f"{run}, killed {KILLS_A_RUN} times, ended elsewhere than {undisturbed}"
        shutil.rmtree(run.parent)
    assert all(line["equal"] for line in lines("end"))
