# SPDX-License-Identifier: Apache-2.0
"""What ``--help`` shows: on the first screen the keys that matter and an example, all others by group on request.

``--help all``, ``--help model`` (a group) and ``--help optim.lr`` (a key) say more. The texts are the docstrings of
the fields, so nothing is written twice.
"""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any

from preprocessing.base.errors import ConfigError
from preprocessing.base.hints import nearest
from preprocessing.base.installed import as_typed
from preprocessing.base.options import Option, choices_of, groups_of, options_of

FIRST = 5
"""So many keys of a command that does not say which ones matter most."""
FEW = 12
"""Up to this many keys are all shown at once: there are no groups to ask for."""
WIDEST = 100
"""Longer lines are hard to read, whatever the terminal's width."""
INDENT = 31
"""Where texts begin, beside the keys."""
GENERAL, ALL = "general", "all"
"""The group of the keys without a dot, and the topic that is all groups."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """The first screen of a command."""

    usage: str
    about: str
    first: tuple[str, ...] = ()
    """The keys that matter most; none: the first ones. A command with few keys needs none: all are shown."""
    example: str = ""
    """A whole command to copy."""
    topics: Mapping[str, str] | None = None
    """Further words that ``--help`` takes here, each with what it shows; whoever names one shows it."""


def render(page: Page, topic: str, classes: Sequence[type], values: Mapping[str, Any]) -> str:
    """The first screen, or what ``topic`` names. Raises ``ConfigError`` for a topic that does not exist.

    ``classes``: the configuration classes of a command, its own one first. ``values`` replace defaults.
    """
    options = {key: option for one in classes for key, option in options_of(one).items()}
    shown = {
        key: two_columns(f"--{key} {_default(values.get(key, one.default))}", _text(one))
        for key, one in options.items()
    }
    if not topic:
        return _first_screen(page, options, shown, values)
    topic = topic.removeprefix("--")
    groups = list(dict.fromkeys(map(_group, options)))
    if topic == ALL or topic in groups:
        titles = {
            name: (kind.__doc__ or "").partition("\n\n")[0] for one in classes for name, kind in groups_of(one).items()
        }
        blocks = []
        for group in groups if topic == ALL else [topic]:
            title = paragraph(f"{group}: {titles.get(group, 'keys without a group')}")
            blocks.append("\n".join([title, *_lines(shown[key] for key in options if _group(key) == group)]))
        return "\n\n".join(blocks)
    found = [key for key in options if key == topic] or [key for key in options if key.rpartition(".")[2] == topic]
    if not found:
        near = nearest(topic, [ALL, *groups, *(page.topics or ()), *options])
        hint = f"did you mean --help {near}?" if near else f"there are {', '.join([ALL, *groups])} and every key"
        raise ConfigError(f"--help {topic}: neither a key nor a group of keys; {hint}")
    return "\n".join(_lines(shown[key] for key in found))


def _first_screen(
    page: Page, options: Mapping[str, Option], shown: Mapping[str, list[str]], values: Mapping[str, Any]
) -> str:
    few = len(options) <= FEW
    usage = textwrap.wrap(as_typed(f"usage: {page.usage}"), width(), subsequent_indent=" " * 7, break_on_hyphens=False)
    blocks = ["\n".join(usage), paragraph(page.about)]
    further = {}
    if page.example:
        blocks.append(as_typed(f"for example:\n  {page.example}"))
    if few:
        blocks.append("\n".join(["keys, each with its default:", *_lines(shown.values())]))
    else:
        keys = page.first or list(options)[:FIRST]
        short = {key: re.split(r"(?<=[\w)])[.;]\s|\.$", _text(options[key]), maxsplit=1)[0] for key in keys}
        lines = _lines(
            two_columns(f"--{key} {_default(values.get(key, options[key].default))}", short[key]) for key in keys
        )
        blocks.append("\n".join(["the keys that matter most, each with its default:", *lines]))
        further[f"--help {ALL}"] = f"all {len(options)} keys; --help KEY: one"
        further["--help GROUP"] = ", ".join(dict.fromkeys(map(_group, options)))
    further |= {f"--help {word}": what for word, what in (page.topics or {}).items()}
    further["--config FILE"] = "a YAML file with any of the keys; later ones win"
    further["--print_config"] = "the configuration that all this gives"
    blocks.append("\n".join(["more:", *_lines(two_columns(name, what, 21) for name, what in further.items())]))
    return "\n\n".join(blocks)


def two_columns(name: str, text: str, column: int = INDENT) -> list[str]:
    """``name`` and the wrapped ``text`` in the ``column`` beside it; below it, if the name is too long for that."""
    wrapped = textwrap.wrap(text, width() - column, break_on_hyphens=False) or [""]
    head, indent = f"  {name}", " " * column
    lines = [f"{head:<{column}}{wrapped[0]}"] if len(head) <= column - 2 else [head, indent + wrapped[0]]
    return [line.rstrip() for line in lines + [indent + line for line in wrapped[1:]]]


def plain(text: str) -> str:
    """A docstring's text without the marks of reStructuredText, in one line; what is quoted keeps single quotes."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "")
    return as_typed(" ".join(re.sub(r"`([^`]*)`", r"'\1'", text).split()))


def paragraph(text: str) -> str:
    """A docstring as wrapped paragraphs, without marks."""
    return "\n".join(textwrap.fill(plain(part), width(), break_on_hyphens=False) for part in text.split("\n\n"))


def width() -> int:
    """Characters a line: the terminal's, 80 where there is none."""
    return min(shutil.get_terminal_size((80, 24)).columns, WIDEST)


def _text(option: Option) -> str:
    """The text of a key, and the words that it takes unless the text names them all."""
    text = plain(option.text)
    words = [word for word in choices_of(option.kind) if word not in ("true", "false", "null")]
    if len(words) < 2 or all(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for word in words):
        return text
    return f"{text} ({', '.join(words[:-1])} or {words[-1]})"


def _default(value: Any) -> str:
    """A default as it is written in YAML."""
    if value is MISSING:
        return "…"
    if isinstance(value, str):
        return value or "''"
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return json.dumps(value)


def _group(key: str) -> str:
    return key.partition(".")[0] if "." in key else GENERAL


def _lines(blocks: Any) -> list[str]:
    return [line for block in blocks for line in block]
