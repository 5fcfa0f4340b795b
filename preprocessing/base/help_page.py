# SPDX-License-Identifier: Apache-2.0
"""The pages of ``--help``: the first screen has the most important keys and an example.

``--help all``, ``--help model`` (a group) and ``--help optim.lr`` (a key) show more. The texts are the docstrings of
the fields. For an unknown name, ``suggestion`` gives the key that other tools call so, or the nearest name. Names of
other tools are not accepted as aliases, since they seldom mean the same: their ``--batch_size`` counts rows of one
process, ``--global_batch`` rows over all processes.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from preprocessing.base.configuration import Option, choices_of, groups_of, names, options_of
from preprocessing.base.errors import ConfigError
from preprocessing.base.terminal import wrapped

WIDEST = 100
"""Longer lines are hard to read, whatever the terminal's width."""
INDENT = 31
"""Column where the texts begin."""
ALL = "all"
"""The topic with all keys."""
LETTERS_A_SLIP, MOST_SLIPS = 5, 3
"""A word of three letters may have one slip of the fingers, one of eight two, one of thirteen three."""


@dataclass(frozen=True)
class Page:
    """The first screen of a command."""

    usage: str
    first: tuple[str, ...] = ()
    """The most important keys; none: all."""
    example: str = ""
    """A complete command."""
    command_by_key: Callable[[], Mapping[str, str]] = dict
    """The keys of other commands, and the first command that has each."""


def render(page: Page, topic: str, config_class: type, values: Mapping[str, Any]) -> str:
    """The first screen, or the page of a ``topic``: all keys, a group or a key. Raises ``ConfigError`` for another.

    ``values`` replace defaults.
    """
    options, groups = options_of(config_class), groups_of(config_class)

    def described(title: str, keys: Iterable[str]) -> str:
        lines = [
            block(f"--{key} {_default(values.get(key, options[key].default))}", _text(options[key])) for key in keys
        ]
        return "\n".join([title, *lines] if title else lines)

    if topic := topic.removeprefix("--"):
        found = [key for key in options if topic in (ALL, key, *key.split("."))]
        if not found and topic != ALL:
            hint = suggestion(topic, [*groups, *options], dashes="--help ")
            raise ConfigError(f"--help {topic}: neither a key nor a group of keys{hint}")
        about = (groups[topic].__doc__ or "").partition("\n\n")[0] if topic in groups else ""
        return described(paragraph(f"{topic}: {about}") if about else "", found)
    output = getattr(config_class, "OUTPUT", "output")
    kind = getattr(config_class, "RECIPES", "")
    recipe = f", or a recipe: {', '.join(names(kind))}" if kind else ""
    more = {
        "-o PATH": f"the same as --{output}" if output in options else "",
        f"--help {ALL}": f"all {len(options)} keys; --help KEY: one",
        "--help GROUP": ", ".join(groups),
        "--config FILE": f"a YAML file with any of the keys{recipe}; keys beside it win",
        "--print_config": "print the resulting configuration",
    }
    blocks = [
        "\n".join(wrapped(f"usage: {page.usage}", width(), 7)),
        paragraph(config_class.__doc__ or ""),
        f"for example:\n  {page.example}" if page.example else "",
        described("the most important keys, with their defaults:", page.first or options) if options else "",
        "\n".join(["more:", *(block(name, what, 21) for name, what in more.items() if what)]),
    ]
    return "\n\n".join(filter(None, blocks))


def block(name: str, text: str, column: int = INDENT) -> str:
    """``name``, and ``text`` beside it, from ``column`` on."""
    return "\n".join(wrapped(text, width(), column, first=f"  {name} ".ljust(column)))


def plain(text: str) -> str:
    """A docstring in one line, without the markup of reStructuredText; code in single backticks gets single quotes."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "").replace("`", "'")
    return " ".join(text.split())


def paragraph(text: str) -> str:
    """A docstring as wrapped paragraphs, without markup."""
    return "\n".join(line for part in text.split("\n\n") for line in wrapped(plain(part), width(), 0))


def width() -> int:
    """Characters per line: the terminal's, or 80."""
    return min(shutil.get_terminal_size((80, 24)).columns, WIDEST)


def _text(option: Option) -> str:
    """The text of a key, with its choices unless the text names them all."""
    text, words = plain(option.text), choices_of(option.kind)
    return text if all(word in text for word in words) else f"{text} ({', '.join(words)})"


def _default(value: Any) -> str:
    """A default as it is written in YAML."""
    if isinstance(value, str):
        return value or "''"
    return "…" if value is MISSING else json.dumps(value)


ELSEWHERE = Path(__file__).with_name("elsewhere.csv")
"""Our key, its names in scikit-learn, Keras, Hugging Face, fastText, spaCy and PyTorch Lightning, and how it differs;
without a key, what decides instead. If several keys have a name, the first that the command takes is suggested."""


def suggestion(name: str, keys: Collection[str], dashes: str, command_by_key: Mapping[str, str] | None = None) -> str:
    """The end of a sentence about an unknown name: ``; did you mean --optim.lr?``, ``; it is --global_batch here (…)``.

    One of ``keys`` is suggested, else one of other commands. The name may be misspelt, in our words or in others'.
    """
    with open(ELSEWHERE, encoding="utf-8", newline="") as file:
        rows = [(row["key"], row["names"].split(), row["remark"]) for row in csv.DictReader(file)]
    words_by_key = {key: words for key, words, _ in rows}
    ends = [([last_part(key)], f"did you mean {dashes}{key}?") for key in keys]
    ends += [(words, f"it is {dashes}{key} here {remark}".rstrip()) for key, words, remark in rows if key in keys]
    ends += [(words, remark) for key, words, remark in rows if not key]
    for key, command in (command_by_key or {}).items():
        words = [last_part(key), *words_by_key.get(key, ())]
        ends.append((words, f"{dashes}{key} is a key of padless {command}"))
    end_by_word: dict[str, str] = {}
    for words, end in reversed(ends):  # the first is the best
        end_by_word |= dict.fromkeys(words, end)
    near = nearest(name.replace("-", "_").lower(), end_by_word)
    return f"; {end_by_word[near]}" if near else "; --help all lists them"


def beside(path: str | Path) -> str:
    """``; did you mean data/mine?``, with the nearest name in the folder of a path that does not exist, or nothing."""
    place, names = Path(path), dict[str, str]()
    for one in [] if place.exists() else place.parent.glob("*"):
        names |= {one.stem: one.name, without_dots(one.name): one.name}
    near = nearest(without_dots(place.name), names)
    return f"; did you mean {place.with_name(names[near])}?" if near else ""


def without_dots(name: str) -> str:
    """A file name as ``nearest`` compares it whole."""
    return name.lower().replace(".", "_")


def last_part(name: str) -> str:
    """``lr`` of ``optim.lr``."""
    return name.rpartition(".")[2]


def nearest(name: str, names: Collection[str]) -> str | None:
    """The name whose last part differs from that of ``name`` in the fewest letters, of those that a slip explains."""
    word = last_part(name)
    alike = [one for one in sorted(names) if word[:1] in last_part(one)[:2]]
    for slips in range(min(MOST_SLIPS, (len(word) + 2) // LETTERS_A_SLIP) + 1):
        for one in alike:
            if is_within(slips, word, last_part(one)):
                return one
    return None


def is_within(slips: int, left: str, right: str) -> bool:
    """Whether so many slips make one word of another: a letter too many, too few or another one, or two exchanged."""
    if left and left[0] == right[:1]:
        return is_within(slips, left[1:], right[1:])
    if not (slips and left and right):
        return len(left + right) <= slips
    rests = [(left[1:], right), (left, right[1:]), (left[1:], right[1:])]
    if left[:2] == right[1::-1]:
        rests.append((left[2:], right[2:]))
    return any(is_within(slips - 1, *rest) for rest in rests)
