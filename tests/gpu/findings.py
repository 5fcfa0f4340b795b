# SPDX-License-Identifier: Apache-2.0
"""What a stage of the proof is given, and what it finds: lines for a reader and figures, on the disk at once."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

COMPARED_STEPS = 30
"""Losses are compared over so many steps: what rounding changes grows from step to step without a bound."""


@dataclass(frozen=True)
class Setting:
    """Where a stage runs."""

    out: Path
    """Directory of the proof; what a stage finds goes to ``out/stages/NAME.json``."""
    scratch: Path
    """For runs and other large things, one directory for each stage."""
    data: Path
    """The dataset that the driver has made."""
    device: str
    """``cuda`` or ``cpu``."""
    cards: int = 1
    """How many cards, or processes on a CPU, a training of several ranks may take; with one, two ranks share it."""

    @property
    def ranks(self) -> int:
        """Of a training of several."""
        return max(2, self.cards)

    @property
    def small(self) -> bool:
        """On a CPU only the script is proved, with sizes that take seconds there."""
        return self.device == "cpu"


@dataclass(frozen=True)
class Line:
    """One claim."""

    what: str
    value: str
    ok: bool | None = None
    """Whether it holds; None for a figure that can be neither right nor wrong."""


@dataclass
class Findings:
    """What a stage has found so far; every addition is written, so that a crash loses nothing."""

    path: Path
    lines: list[Line] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    state: str = "running"
    """running, done, failed, timed out or not run; the driver sets the last three."""
    error: str | None = None
    seconds: float = 0.0

    def add(self, what: str, value: object, ok: bool | None = None) -> None:
        """One line of the table."""
        self.lines.append(Line(what, str(value), None if ok is None else bool(ok)))  # numpy has a bool of its own
        self.write()

    def figure(self, name: str, value: Any) -> None:
        """Figures for a program; not in the table."""
        self.figures[name] = value
        self.write()

    def write(self) -> None:
        """Replace the file as a whole."""
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self) | {"path": str(self.path)}, indent=1), encoding="utf-8")
        os.replace(temporary, self.path)

    @classmethod
    def read(cls, path: Path) -> Findings:
        """What a stage wrote; nothing found if it did not come so far."""
        if not path.is_file():
            return cls(path)
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**values | {"path": path, "lines": [Line(**line) for line in values["lines"]]})

    @property
    def failures(self) -> int:
        """Claims that do not hold; a stage that did not come to its end counts as one."""
        return sum(line.ok is False for line in self.lines) + (self.state != "done")


def markdown(device: str, stages: list[tuple[str, Findings]]) -> str:
    """The table of the proof."""
    failures = sum(found.failures for _, found in stages)
    seconds = sum(found.seconds for _, found in stages)
    verdict = "every claim holds" if not failures else f"{failures} claims do not hold"
    lines = [f"Proof on {device}: {verdict}; stages took {seconds:.0f} s in all.", ""]
    lines += ["| stage | what | found | holds |", "|---|---|---|---|"]
    for title, found in stages:
        heading = f"{title} ({found.state}, {found.seconds:.0f} s)"
        rows = [*found.lines, *([Line("stopped by", found.error, False)] if found.error else [])]
        for number, line in enumerate(rows or [Line("", "nothing found")]):
            holds = {True: "yes", False: "**no**", None: ""}[line.ok]
            lines.append(f"| {'' if number else heading} | {cell(line.what)} | {cell(line.value)} | {holds} |")
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """A text as it can stand in a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
