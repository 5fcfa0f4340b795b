# SPDX-License-Identifier: Apache-2.0
"""``bench limits``: how far rows, classes, texts, words, shards, files, epochs, checkpoints and ranks go here.

Each size of each kind is tried in a process of its own, so that its memory can be read when it ends. A line of the
output says how long it took and how much memory its largest process had, or with which sentence it was refused. What a
line is there for is not tried again: the measurement goes on where it was stopped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.bench.limits_cases import CASES
from harness.config import require
from preprocessing.base.errors import ConfigError
from preprocessing.base.screen import Screen
from preprocessing.base.version import VERSION

MODULE = "harness.bench.limits_cases"


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """Sizes that grow until something gives way: seconds and peak memory of each, appended to a file."""

    output: str = "limits.jsonl"
    """File of results, a JSON line each; what it holds is not tried again."""
    only: list[str] = field(default_factory=list)
    """Kinds to try: rows, classes, text_bytes, vocabulary, shards, files, epochs, checkpoints, ranks. Empty: all."""
    full: bool = False
    """Try the sizes of docs/security.md, which take minutes and gigabytes; else small ones, which take seconds each."""
    timeout_s: float = 900.0
    """Most seconds for one size."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        """Check names and ranges."""
        for name in self.only:
            require(name in CASES, "only", name, f"one of {', '.join(CASES)}")
        require(self.timeout_s > 0, "timeout_s", self.timeout_s, "above 0")


def main(config: LimitsConfig) -> None:
    """Try what is not there yet, then show all. Raises ``ConfigError`` for a file that is no file of results."""
    output, screen = Path(config.output), Screen(errors=True, quiet=config.json)
    found = read(output)
    for name in config.only or CASES:
        case = CASES[name]
        for size in case.full if config.full else case.small:
            if not any((line["kind"], line["size"]) == (name, size) for line in found):
                screen.say(f"{name}: {size:,}")
                found.append(attempt(name, size, config.timeout_s))
                with output.open("a") as file:
                    file.write(json.dumps(found[-1]) + "\n")
    print(json.dumps(found, indent=2) if config.json else render(found))


def read(output: Path) -> list[dict[str, Any]]:
    """The lines that are there; one that was cut off is no line."""
    try:
        whole = output.read_text().rpartition("\n")[0]
        lines = [json.loads(line) for line in whole.splitlines()]
        output.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return [line for line in lines if line["kind"] and line["size"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"output: {output} is no file of results of bench limits; name another") from None


def attempt(name: str, size: int, timeout_s: float) -> dict[str, Any]:
    """One size of a kind, in a process and a folder of its own."""
    line: dict[str, Any] = {"kind": name, "size": size, "version": VERSION}
    line["time"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="padless-limits-") as folder:
        command = [sys.executable, "-m", MODULE, name, str(size), folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return {**line, "failed": f"not done after {timeout_s:g} s"}
    try:
        return {**line, **json.loads(done.stdout.splitlines()[-1])}
    except (ValueError, IndexError):
        said = [text for text in done.stderr.splitlines() if text.strip()] or ["nothing was said"]
        return {**line, "failed": f"exit code {done.returncode}: {said[-1][:300]}"}


def render(lines: list[dict[str, Any]]) -> str:
    """A line for each size."""
    rows = [f"{'kind':<12} {'size':>13} {'seconds':>9} {'peak MB':>9}  end"]
    for line in lines:
        seconds, peak = (f"{line[key]:,.1f}" if key in line else "" for key in ("seconds", "peak_mb"))
        end = line.get("refused") or line.get("failed") or "done"
        rows.append(f"{line['kind']:<12} {line['size']:>13,} {seconds:>9} {peak:>9}  {end}")
    return "\n".join(rows)
