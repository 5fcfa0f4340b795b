# SPDX-License-Identifier: Apache-2.0
"""The pages of ``--help``, and what a shell may complete a command line with."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING
from typing import Any, Literal, get_args, get_origin

from padless.core.arguments import common_options
from padless.core.configuration import Option, alternatives, describe_kind, options_of

MAX_COLUMNS = 100
"""Longer lines of help are hard to read, whatever the terminal's width."""
INDENT = 14
COMPLETE = "padless --complete"
SCRIPTS = {
    "bash": f"complete -o default -C '{COMPLETE}' padless",
    "zsh": f"autoload -U +X bashcompinit && bashcompinit\ncomplete -o default -C '{COMPLETE}' padless",
    "fish": f"complete -c padless -a '(COMP_LINE=(commandline -cp) {COMPLETE})'",
}
"""Shell -> what makes it ask ``padless --complete``, which finds the line in ``COMP_LINE``."""


def print_page(paragraphs: Iterable[str], rows: Iterable[tuple[str, str]]) -> None:
    """Print paragraphs, then names with their texts beside them, as wide as the terminal."""
    columns = min(shutil.get_terminal_size((80, 24)).columns, MAX_COLUMNS)
    for paragraph in paragraphs:
        print(textwrap.fill(without_markup(paragraph), columns, break_long_words=False, break_on_hyphens=False) + "\n")
    for name, text in rows:
        separator = "" if len(name) < INDENT else "\n" + " " * INDENT
        print(f"{name:{INDENT}}" + separator, end="")
        print(textwrap.fill(without_markup(text), columns - INDENT).replace("\n", "\n" + " " * INDENT))


def describe_option(option: Option, default: Any) -> tuple[str, str]:
    """An option for a page: its key; its text, its values, and its default where there is one."""
    shown = f"; default: {default}" if default not in (MISSING, None, False, "", [], {}) else ""
    return f"--{option.key}", f"{option.text} [{describe_kind(option.kind)}{shown}]"


def without_markup(text: str) -> str:
    """The first paragraph of a docstring in one line, without the markup of reStructuredText."""
    return " ".join(re.sub(r":\w+:`~?([^`]+)`", r"\1", text.partition("\n\n")[0]).replace("`", "").split())


def complete_line(line: str, class_by_command: Mapping[str, Callable[[], Any]]) -> list[str]:
    """What the last word of a command line may become: a command, a key, or the value of the key before it.

    ``class_by_command``: command -> the function that imports its configuration class.
    """
    *words, prefix = line.split(" ")
    candidates: Iterable[str] = class_by_command if len(words) == 1 else ()
    if len(words) > 1 and words[1] in class_by_command:
        config_class = class_by_command[words[1]]()
        option_by_word = {f"--{key}": option for key, option in options_of(config_class).items()}
        if prefix.startswith("-"):
            candidates = [*option_by_word, *(f"--{key}" for key in common_options(config_class))]
        elif option := option_by_word.get(words[-1]):
            kinds = [kind for kind in alternatives(option.kind) if get_origin(kind) is Literal]
            candidates = [str(value) for kind in kinds for value in get_args(kind)]
    return [candidate for candidate in candidates if candidate.startswith(prefix)]
