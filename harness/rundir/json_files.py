# SPDX-License-Identifier: Apache-2.0
"""How JSON is read back: one object from a file, or one object from each line, with one rule for what is damaged.

A process that is killed while it appends leaves a last line without an end. Such a line never counts. Anything else
that is not a JSON object is damage and raises, unless several processes append to the file: then the next writer ends
the torn line and goes on below it, so that torn lines may stand anywhere and are left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from preprocessing.base.errors import DataError

Line = dict[str, Any]


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no such file. Raises ``DataError`` for a damaged one."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); restore it, or name another run") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); restore it, or name another run") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no JSON object; restore it, or name another run")
    return content


def read_lines(path: Path, *, several_writers: bool = False) -> list[Line]:
    """The objects of a file with one JSON object a line, in order; none where there is no such file.

    ``several_writers`` leaves out every torn line, not only the last one. Raises ``DataError`` that names the line.
    """
    try:
        texts = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable ({error}); restore it, or name another run") from None
    lines = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError:
            if several_writers or number == len(texts):
                continue
            raise DataError(f"{path}: line {number} is not JSON; remove it, or restore the file") from None
        if isinstance(line, dict):
            lines.append(line)
        elif not several_writers:
            raise DataError(f"{path}: line {number} is no JSON object; remove it, or restore the file")
    return lines
