# SPDX-License-Identifier: Apache-2.0
"""``metrics.jsonl``: one JSON object a line, flushed line by line; the truth that every tracker is a copy of."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


class MetricsLog:
    """What is in the file has happened, whatever dies next."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending."""
        self.file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, kind: str, values: dict[str, Any]) -> None:
        """Append a line; a number that JSON cannot hold is written as a string, never as an invalid token."""
        self.file.write(json.dumps({"kind": kind, **{key: jsonable(value) for key, value in values.items()}}) + "\n")

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def jsonable(value: Any) -> Any:
    """``value``, with nan and infinities spelt as strings: hidden neither in the file nor as a broken line."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
