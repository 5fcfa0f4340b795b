# SPDX-License-Identifier: Apache-2.0
"""Griffe extension: converts docstrings to Markdown. Roles of reStructuredText become code; ``<unk>`` is escaped."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":\w+:`~?([^`]+)`")
CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
LITERAL_BLOCK = re.compile(r"::\n\n(?=    )")


def as_markdown(text: str) -> str:
    """``text`` with roles as code, literal blocks as Markdown code blocks, and ``<`` outside code escaped."""
    text = LITERAL_BLOCK.sub(":\n\n", ROLE.sub(r"`\1`", text))
    pieces, end = [], 0
    for match in CODE.finditer(text):
        pieces += [escaped(text[end : match.start()]), f"`{match[2]}`"]
        end = match.end()
    return "".join([*pieces, escaped(text[end:])])


def escaped(text: str) -> str:
    """Prose with ``<``, ``[``, ``*`` and ``_`` escaped; indented lines are code and unchanged."""
    lines = text.split("\n")
    return "\n".join(line if line.startswith("    ") else re.sub(r"([<*_[])", r"\\\1", line) for line in lines)


class Docstrings(Extension):
    """Rewrites every docstring as it is collected."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
