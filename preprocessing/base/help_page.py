# SPDX-License-Identifier: Apache-2.0
"""What ``--help`` shows: on the first screen the keys that matter and an example, all others by group on request.

``--help all``, ``--help model`` (a group) and ``--help optim.lr`` (a key) say more. The texts are the docstrings of
the fields, so nothing is written twice.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from preprocessing.base.errors import ConfigError
from preprocessing.base.installed import as_typed

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

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
OWN = {"help", "config", "print_config"}
"""Options that every command has."""


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


@dataclass(frozen=True)
class Entry:
    """One key."""

    key: str
    default: str
    text: str

    @property
    def in_short(self) -> Entry:
        """The same with the first sentence of its text, or the part before its first semicolon."""
        return replace(self, text=re.split(r"(?<=[\w)])[.;]\s|\.$", self.text, maxsplit=1)[0])

    @property
    def group(self) -> str:
        """The part of the configuration that it belongs to."""
        first, dot, _ = self.key.partition(".")
        return first if dot else GENERAL


def asked_for(argv: Sequence[str]) -> str | None:
    """The word after ``--help`` or ``-h``, an empty one if there is none; None if no help was asked for."""
    for place, word in enumerate(argv):
        name, equals, topic = word.partition("=")
        if name in ("-h", "--help"):
            following = argv[place + 1] if place + 1 < len(argv) else ""
            return topic if equals else "" if following.startswith("-") else following
    return None


def render(page: Page, topic: str, parsers: Sequence[ArgumentParser], classes: Sequence[type]) -> str:
    """The first screen, or what ``topic`` names. Raises ``ConfigError`` for a topic that does not exist.

    ``parsers`` and the configuration ``classes`` that they read: those of a command, its own one first.
    """
    entries = entries_of(parsers)
    if topic:
        return about_topic(topic, entries, group_titles(classes), page)
    return first_screen(page, entries)


def first_screen(page: Page, entries: Sequence[Entry]) -> str:
    """Usage, what the command does, an example, the keys that matter, and where the others are."""
    few = len(entries) <= FEW
    by_key = {entry.key: entry for entry in entries}
    shown = list(entries) if few else [by_key[key] for key in page.first or list(by_key)[:FIRST]]
    usage = textwrap.wrap(as_typed(f"usage: {page.usage}"), width(), subsequent_indent=" " * 7, break_on_hyphens=False)
    blocks = ["\n".join(usage), paragraph(page.about)]
    if page.example:
        blocks.append(as_typed(f"for example:\n  {page.example}"))
    if entries:
        title = "keys, each with its default:" if few else "the keys that matter most, each with its default:"
        lines = [one for entry in shown for one in lines_of(entry if few else entry.in_short)]
        blocks.append("\n".join([title, *lines]))
    groups = [] if few else list(dict.fromkeys(entry.group for entry in entries))
    further = {
        **({f"--help {ALL}": f"all {len(entries)} keys; --help KEY: one"} if groups else {}),
        **({"--help GROUP": ", ".join(groups)} if groups else {}),
        **{f"--help {word}": what for word, what in (page.topics or {}).items()},
        "--config FILE": "a YAML file with any of the keys; later ones win",
        "--print_config": "the configuration that all this gives",
    }
    blocks.append("\n".join(["more:", *(one for name, what in further.items() for one in two_columns(name, what, 21))]))
    return "\n\n".join(blocks)


def about_topic(topic: str, entries: Sequence[Entry], titles: Mapping[str, str], page: Page) -> str:
    """All groups, one group, or the keys that end in ``topic``."""
    topic = topic.removeprefix("--")
    groups = list(dict.fromkeys(entry.group for entry in entries))
    if topic == ALL and len(groups) < 2:
        return "\n".join(["keys, each with its default:", *(one for entry in entries for one in lines_of(entry))])
    if topic == ALL or topic in groups:
        blocks = []
        for group in groups if topic == ALL else [topic]:
            members = [one for entry in entries if entry.group == group for one in lines_of(entry)]
            title = paragraph(f"{group}: {titles.get(group, 'keys without a group')}")
            blocks.append("\n".join([title, *members]))
        return "\n\n".join(blocks)
    found = [entry for entry in entries if entry.key == topic]
    found = found or [entry for entry in entries if entry.key.rpartition(".")[2] == topic]
    if not found:
        known = [ALL, *groups, *(page.topics or ()), *(entry.key for entry in entries)]
        last = {name.rpartition(".")[2]: name for name in known}
        near = difflib.get_close_matches(topic, known, n=1)
        near = near or [last[name] for name in difflib.get_close_matches(topic, list(last), n=1)]
        hint = f"did you mean --help {near[0]}?" if near else f"there are {', '.join([ALL, *groups])} and every key"
        raise ConfigError(f"--help {topic}: neither a key nor a group of keys; {hint}")
    return "\n".join(one for entry in found for one in lines_of(entry))


def entries_of(parsers: Sequence[ArgumentParser]) -> list[Entry]:
    """Every key of the parsers, in their order; those of a group stand together."""
    found: dict[str, Entry] = {}
    for parser in parsers:
        for action in parser._actions:
            key = action.option_strings[0][2:] if action.option_strings else ""
            typed = getattr(action, "_typehint", None)
            if key and key not in OWN and typed is not None:
                default = "…" if action.required else spelt(action.default)
                found.setdefault(key, Entry(key, default, plain(action.help or "") + choices(typed, action.help or "")))
    return list(found.values())


def group_titles(classes: Sequence[type]) -> dict[str, str]:
    """Group -> the first paragraph of the docstring of its configuration class."""
    titles = {}
    for one in classes:
        hints = get_type_hints(one)
        for entry in fields(one):
            if is_dataclass(hints[entry.name]):
                titles[entry.name] = (hints[entry.name].__doc__ or "").partition("\n\n")[0]
    return titles


def lines_of(entry: Entry) -> list[str]:
    """A key with its default, and its text beside it or below."""
    return two_columns(f"--{entry.key} {entry.default}", entry.text)


def two_columns(name: str, text: str, column: int = INDENT) -> list[str]:
    """``name`` and the wrapped ``text`` in the ``column`` beside it; below it, if the name is too long for that."""
    wrapped = textwrap.wrap(text, width() - column, break_on_hyphens=False) or [""]
    head, indent = f"  {name}", " " * column
    lines = [f"{head:<{column}}{wrapped[0]}"] if len(head) <= column - 2 else [head, indent + wrapped[0]]
    return [line.rstrip() for line in lines + [indent + line for line in wrapped[1:]]]


def spelt(default: Any) -> str:
    """A default as it is written in YAML."""
    if isinstance(default, str):
        return default if default else "''"
    if isinstance(default, list | tuple) and all(isinstance(value, str) for value in default) and default:
        return ", ".join(default)
    return json.dumps(default)


def choices(typed: Any, text: str) -> str:
    """`` (a, b or c)`` for an option that takes one of a few words, unless its text names them all."""
    words = [word for word in get_args(typed) if isinstance(word, str)]
    words = words or [word for part in get_args(typed) for word in get_args(part) if isinstance(word, str)]
    if not words or all(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for word in words):
        return ""
    return f" ({', '.join(words[:-1])} or {words[-1]})" if len(words) > 1 else ""


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
