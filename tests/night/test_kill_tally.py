# SPDX-License-Identifier: Apache-2.0
"""Law 6, counted: preprocessing, training and prediction are killed again and again at random instants, and every job
that was killed must end, bit for bit, where an undisturbed one ends.

Every kill, and every end, appends a line to ``night.jsonl``. So the tally can be stopped at any time and goes on from
there: that is one more kill. ``PADLESS_NIGHT_KILLS`` says how many there are to be, ``PADLESS_NIGHT_KINDS`` a word in
the names of the only kinds of a sitting.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests import tally
from tests.killed import KINDS, LOG, Kind, killed_to_its_end, prepare, undisturbed

pytestmark = pytest.mark.night

TEST = "kill tally"
WORD = os.environ.get("PADLESS_NIGHT_KINDS", "")
KILLS = int(os.environ.get("PADLESS_NIGHT_KILLS", "1000"))


@pytest.fixture
def folder() -> Path:
    """The jobs of this revision; those of another one are gone."""
    folder = tally.folder_of("kill-tally")
    if not (folder / "ready").exists():
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.mkdir(parents=True)
        prepare(folder)
        (folder / "ready").touch()
    return folder


def of_this_revision(event: str, kind: Kind) -> list[dict]:
    """The lines of one kind of jobs."""
    wanted = (kind.name, tally.revision())
    return [line for line in tally.lines(TEST, event) if (line["kind"], line["revision"]) == wanted]


def usual_time(kind: Kind, folder: Path) -> float:
    """Seconds of an undisturbed job of this kind, which is made where there is none."""
    if known := of_this_revision("undisturbed", kind):
        return known[-1]["seconds"]
    place = folder / kind.name / "undisturbed"
    shutil.rmtree(place, ignore_errors=True)
    undisturbed(kind, folder, place)  # the first one also pays for what is imported once
    shutil.rmtree(place)
    seconds = undisturbed(kind, folder, place)
    tally.append(TEST, "undisturbed", kind=kind.name, seconds=seconds)
    return seconds


def kill_one(kind: Kind, folder: Path) -> None:
    """One job, killed until it ends; it goes on where an earlier sitting was stopped."""
    usual_s, number = usual_time(kind, folder), len(of_this_revision("end", kind))
    place = folder / kind.name / str(number)
    if not place.exists():
        begun = folder / kind.name / "begun"
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir()
        kind.before(folder, begun)
        begun.rename(place)
    before = sum(line["job"] == number for line in of_this_revision("kill", kind))
    dice = random.Random(f"{kind.name} {number} {before}")
    note = partial(tally.append, TEST, "kill", kind=kind.name, job=number)
    codes = killed_to_its_end(kind, folder, place, usual_s, dice, note)
    equal = codes == [0] * kind.processes and kind.end(place) == kind.end(place.parent / "undisturbed")
    tally.append(TEST, "end", kind=kind.name, job=number, codes=codes, equal=equal)
    said = (place / LOG).read_text()[-3000:]
    assert equal, f"{place}: ended with {codes}, elsewhere than the undisturbed job beside it\n{said}"
    shutil.rmtree(place)


def test_every_kill_leads_to_the_same_end(folder: Path) -> None:
    while True:
        kills = Counter(line["kind"] for line in tally.lines(TEST, "kill") if "kind" in line)
        if kills.total() >= KILLS:
            break
        wanted = [kind for kind in KINDS if WORD in kind.name]
        kill_one(min(wanted, key=lambda kind: kills[kind.name] / kind.share), folder)
    ends = [line for line in tally.lines(TEST, "end") if line["revision"] == tally.revision()]
    assert all(line["equal"] for line in ends)
