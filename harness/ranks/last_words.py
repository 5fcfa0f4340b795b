# SPDX-License-Identifier: Apache-2.0
"""Why a rank leaves, in a file that its own launcher reads, so that the reason is a sentence and no exit code.

torch's elastic agent names the file and reads it when a rank has left with another code than 0; it is on the machine of
the rank, so it needs no shared file system and no other rank.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable with the name of the file; empty or missing under no launcher."""
MESSAGE, TIMESTAMP, FOLLOWS = "message", "timestamp", "follows"


def leave_words(sentence: str, *, follows: bool = False) -> None:
    """Write why this rank leaves; the first reason stays. ``follows``: only because another rank is gone or silent."""
    path = os.environ.get(FILE)
    if not path or Path(path).exists():
        return
    words = {MESSAGE: sentence, TIMESTAMP: time.time(), FOLLOWS: follows}
    with contextlib.suppress(OSError):  # a full disk must not change how a rank ends
        Path(f"{path}.part").write_text(json.dumps(words), encoding="utf-8")
        os.replace(f"{path}.part", path)
