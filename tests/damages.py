# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.damages``: every kind of file, damaged in every way, used again; a table of what was said.

One small run is made with all that belongs to it (``tests/stage.py``). Then one file at a time is damaged and used
as commands use it: by a disk (bits, cuts, another kind of file) and by a stranger, whose hashes agree (a pickle that
runs code, paths that lead out, numbers beyond all sense, labels that a terminal would obey). Each case ends with the
same result, with one project error, or is a FAULT; a file without a hash may also say something else in its range.
Exit code 1 with any fault.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from preprocessing.base.errors import UserError
from tests.artefacts import Artefact, artefacts
from tests.fuzz.damage import NASTY, REPLACEMENTS, doubled, flip, places, plant, sealed, swap, without
from tests.fuzz.outcome import outcome
from tests.stage import staged

FLIPS, VALUES = 4, 6
"""Of each file: bits, and places in its JSON for each kind of value."""
NUMBERS = ("NaN", "-1", "1e300", "10**15", "10**400")
PATHS = ("upward", "absolute", "null character")
LABELS = ("clear screen", "right to left", "half a pair", "long text")
KINDS = ("object", "list", "null", "deep")
LONGEST = 300
"""Characters of a sentence in the table."""


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    artefact: str
    damage: str
    outcome: str
    """``same``, ``other`` (no hash vouches for it), ``exit code 3``, or ``FAULT``."""
    said: str


Case = tuple[str, Callable[[], object]]


def cases_of(one: Artefact, trace: Path, random: random.Random) -> Iterator[Case]:
    """What is done to a file: what, and how."""
    data = one.path.read_bytes()

    def case(what: str, content: bytes) -> Case:
        return what, lambda: one.put(content)

    for bit in random.sample(range(8 * len(data)), FLIPS):
        yield f"bit {bit} flipped", lambda bit=bit: one.path.write_bytes(flip(data, bit))  # type: ignore[misc]
    for share in (0.1, 0.9):
        size = int(share * len(data))
        yield f"cut to {size} bytes", lambda size=size: one.path.write_bytes(data[:size])  # type: ignore[misc]
    yield case("last byte cut, hashes agree", data[:-1])
    yield case("zeros added, hashes agree", data + b"\0" * 64)
    yield case("halves swapped, hashes agree", swap(data, 0, len(data) // 2, len(data) // 2))
    yield case("a malicious pickle", pickle.dumps(Bomb(trace)))
    for what, replace in REPLACEMENTS.items():
        yield f"{what} in its place", lambda replace=replace: replace(one.path)  # type: ignore[misc]
    if one.path.suffix == ".json":
        yield from json_cases(one, json.loads(data), case, random)


def json_cases(
    one: Artefact, content: Any, case: Callable[[str, bytes], Case], random: random.Random
) -> Iterator[Case]:
    """Values that no reader hopes for, keys that are missing or stand twice; hashes agree."""
    every = [place for place in places(content) if place and place[-1] != "sha256"]
    top = [place for place in every if len(place) == 1]

    def finished(what: str, data: bytes) -> Case:
        return case(f"{what}, hashes agree", data if one.seal is None else sealed(data, one.seal))

    for kind, names in {"number": NUMBERS, "path": PATHS, "label": LABELS, "kind": KINDS}.items():
        for number in range(VALUES):
            name, place = names[number % len(names)], random.choice(every)
            yield finished(f"{kind} {name} at {spelt(place)}", plant(content, place, NASTY[name]))
    for place in random.sample(top, min(len(top), VALUES)):
        yield finished(f"{spelt(place)} missing", json.dumps(without(content, place)).encode())
    place = random.choice(top)
    yield finished(f"{spelt(place)} twice", doubled(content, place))


def spelt(place: Sequence[object]) -> str:
    """Where a value stands."""
    return ".".join(str(part)[:30] for part in place)


def tried(one: Artefact, damage: Callable[[], object], whole: Any, trace: Path, root: Path) -> tuple[str, str]:
    """What came of a case, and what was said."""
    said: list[str] = []
    found: list[Any] = []

    def use() -> Any:
        try:
            found.append(one.use())
        except UserError as error:
            said.append(f"exit code {error.exit_code}")
            said.append(str(error))
            raise
        return found[0]

    def fits(result: Any) -> bool:
        return one.free or result == whole or is_said(result)

    with one.undone(), silent():
        damage()
        try:
            outcome(use, fits)
        except AssertionError as error:
            return "FAULT", str(error)
    if trace.exists():
        trace.unlink()
        return "FAULT", "a pickle was executed"
    if said:
        return said[0], said[1]
    if is_said(found[0]):
        return "went on", " ".join(found[0][1])
    return ("same" if found[0] == whole else "other"), ""


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Nothing is printed."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def is_said(result: Any) -> bool:
    """Whether a run went on from what was whole, and told so."""
    return isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], tuple) and bool(result[1])


def run(root: Path, seed: int = 0) -> list[Row]:
    """Every case below ``root``."""
    trace, rows = root / "executed", []
    generator = random.Random(seed)
    with silent():
        stage = staged(root / "stage")
        made = stage.__enter__()
    try:
        for one in artefacts(made):
            whole = one.use()
            for what, damage in cases_of(one, trace, generator):
                found, said = tried(one, damage, whole, trace, root)
                rows.append(Row(one.name, what, found, said.replace(str(root / "stage"), "STAGE")))
            print(f"{one.name}: {Counter(row.outcome for row in rows if row.artefact == one.name)}", file=sys.stderr)
            if one.use() != whole:
                rows.append(Row(one.name, "all of them, undone", "FAULT", "the file is not what it was"))
    finally:
        stage.__exit__(None, None, None)
    return rows


def main(argv: Sequence[str]) -> int:
    """Try all cases and print the table; returns 1 if there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.damages", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.add_argument("--seed", type=int, default=0, help="which bits, and which places in JSON")
    asked = parser.parse_args(argv)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = run(Path(folder), asked.seed)
    if asked.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return int(any(row.outcome == "FAULT" for row in rows))
    for row in rows:
        print(f"{row.artefact:28} {row.damage:52} {row.outcome:12} {row.said[:LONGEST]}")
    faults = sum(row.outcome == "FAULT" for row in rows)
    print(f"{len(rows):,} cases in {time.monotonic() - began:.0f} s, {faults:,} faults")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
