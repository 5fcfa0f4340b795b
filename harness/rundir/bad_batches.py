# SPDX-License-Identifier: Apache-2.0
"""``bad_batches/``: the rows of every step that was skipped because its gradient was not finite."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.rundir.layout import BAD_BATCHES
from preprocessing.base import atomic


def write_bad_rows(run: str | Path, step: int, rank: int, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write what is known of the rows that a rank had in a skipped step, one JSON object a line."""
    path = Path(run, BAD_BATCHES, f"step-{step:08d}-rank{rank}.jsonl")
    atomic.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
