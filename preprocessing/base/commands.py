# SPDX-License-Identifier: Apache-2.0
"""Commands as a table: what each is called, the options and words it takes, and the function that does it.

Both packages have one such table in ``__main__``. Functions and configuration classes stand in it as ``module:name``
and are imported when their command is asked for, so that ``--help`` and a misspelt word do not wait for torch.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from preprocessing.base import cli, config_files
from preprocessing.base.errors import ConfigError
from preprocessing.base.help_page import Page, paragraph, two_columns
from preprocessing.base.hints import nearest
from preprocessing.base.installed import SCRIPTS, VERSION, as_typed, load
from preprocessing.base.options import RENAME, choices_of, is_utf8, options_of


@dataclass(frozen=True, kw_only=True)
class Words:
    """Words that a command takes beside its options, as ``RUN`` in ``checkpoint RUN --json``."""

    spelling: str
    """As the usage line shows them."""
    noun: str
    """What one of them is, for the sentence that says that none was given."""
    takes: str
    """All of them in words, as in "one run directory"."""
    least: int = 1
    most: int | None = 1
    """None: any number."""
    texts: bool = False
    """Some are texts, which may hold any bytes; names are UTF-8."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A line of the table."""

    name: str
    also: tuple[str, ...] = ()
    """Other words for it."""
    summary: str
    """One line of the list of commands."""
    main: str = ""
    """``module:function``. It is called with an instance of ``config``, one of ``shared`` and the list of ``words``, as
    far as the command has them, and returns the exit code or None. Without ``config`` it gets all words as typed.
    """
    config: str | None = None
    """``module:class`` of its options, a dataclass as ``cli.parse`` reads it."""
    shared: str | None = None
    """``module:class`` whose keys, and whose YAML files by ``--config``, are taken beside the options."""
    shared_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Keys of ``shared`` that have another default here, or none of their own that would do."""
    words: Words | None = None
    first: tuple[str, ...] = ()
    """The keys that matter most, for the first screen of ``--help``; none: the command has few, and all are shown."""
    example: str = ""
    """A whole command to copy, for the same place."""
    keys: tuple[str, ...] = ()
    """``module:class`` of the keys of a command without ``config``, for completion in a shell."""


def dispatch(
    commands: Sequence[Command],
    argv: Sequence[str],
    prog: str,
    note: str = "",
    elsewhere: Mapping[str, str] | None = None,
) -> int:
    """Run the command that ``argv`` begins with; returns its exit code.

    Without a command the list of them is printed, with ``note`` below it, and the exit code is 2. Raises
    ``ConfigError`` for a command that does not exist, naming the nearest, or what ``elsewhere`` says of this word.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview(commands, prog, note))
        return 0 if argv else 2
    word, *rest = argv
    if word in ("-V", "--version", "version"):
        print(f"padless {VERSION}")
        return 0
    command = named(commands, word)
    if command is not None:
        return call(command, rest, f"{prog} {command.name}")
    names = [one.name for one in commands]
    if word.startswith("-"):
        raise ConfigError(f"{prog}: {word}: a command comes first; there are {', '.join(names)}")
    if meant := (elsewhere or {}).get(word):
        raise ConfigError(f"{prog}: {word}: no such command; it is {meant} here")
    near = nearest(word, names)
    hint = f"did you mean {near}?" if near else f"there are {', '.join(names)}"
    raise ConfigError(f"{prog}: {word}: no such command; {hint}")


def named(commands: Sequence[Command], word: str) -> Command | None:
    """The command that a word names."""
    return next((one for one in commands if word in (one.name, *one.also)), None)


def overview(commands: Sequence[Command], prog: str, note: str) -> str:
    """Every command with its words and what it does."""
    spelt = [", ".join((one.name, *one.also)) for one in commands]
    heads = [f"{name} {one.words.spelling}" if one.words else name for name, one in zip(spelt, commands, strict=True)]
    column = max(map(len, heads)) + 4
    lines = [line for head, one in zip(heads, commands, strict=True) for line in two_columns(head, one.summary, column)]
    usage = as_typed(f"usage: {prog} COMMAND [options]; COMMAND --help says more")
    return "\n".join([usage, "", *lines, *(["", paragraph(note)] if note else [])])


def call(command: Command, argv: Sequence[str], prog: str) -> int:
    """Read a command's options and words, then run it. Raises ``ConfigError`` for what it does not take."""
    try:
        arguments = [list(argv)] if command.config is None else read(command, argv, prog)  # --help waits for no torch
        return load(command.main)(*arguments) or 0
    except ModuleNotFoundError as missing:
        root = (missing.name or "").partition(".")[0]
        if root in SCRIPTS:
            raise
        raise ConfigError(f"{prog}: needs {root}, which is not installed here; pip install padless brings it") from None


def read(command: Command, argv: Sequence[str], prog: str) -> list[Any]:
    """What ``main`` of a command is called with, from what was typed."""
    classes = [load(name) for name in (command.config, command.shared) if name]
    spelling = f" {command.words.spelling}" if command.words else ""
    page = Page(
        usage=f"{prog}{spelling} [--key value …]",
        about=classes[0].__doc__ or "",
        first=command.first,
        example=command.example,
    )
    found, alone = cli.parse_all(classes, argv, page, command.shared_defaults)
    if command.words is None:
        cli.refuse_words(alone)
        return found
    check_words(command.words, alone, prog)
    return [*found, alone]


def check_words(words: Words, given: Sequence[str], prog: str) -> None:
    """Raise ``ConfigError`` for too few words or too many, or one that should be a name and cannot be written down."""
    if len(given) < words.least:
        raise ConfigError(f"no {words.noun} named: {prog} {words.spelling} takes {words.takes}")
    if words.most is not None and len(given) > words.most:
        raise ConfigError(f"{given[words.most]!r}: {prog} {words.spelling} takes {words.takes}")
    for word in given:
        if not words.texts and not is_utf8(word):
            raise ConfigError(f"{words.noun} {word!r} is not UTF-8, which configurations and records are; {RENAME}")


def complete(commands: Sequence[Command]) -> None:
    """If a shell asks what may stand where the cursor is, print it and end the process; else do nothing.

    The shell starts the program once for each press of TAB, with what was typed in ``COMP_LINE`` and ``_ARGCOMPLETE``
    set; docs/installing.md says how a shell is told to.
    """
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    line = argcomplete.lexers.split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))
    command = named(commands, line[3][1]) if line[3][1:] else None
    parser = argparse.ArgumentParser()
    if command is not None:
        add_options(parser, [load(name) for name in (*command.keys, command.config, command.shared) if name])
    else:
        parser.add_argument("command", choices=[one.name for one in commands])
    if command is not None:
        os.environ["_ARGCOMPLETE"] = "2"  # both words stand for the name of the program
    argcomplete.autocomplete(parser, always_complete_options=command is not None)


def add_options(parser: Any, classes: Sequence[type]) -> None:
    """Give a parser of argparse every option of some classes, with what a shell offers as their values."""
    kind = next((one.RECIPES for one in classes if hasattr(one, "RECIPES")), None)
    files = config_files.names(kind) if kind else []
    parser.add_argument("--config").completer = lambda **more: files
    for key, option in {key: option for one in classes for key, option in options_of(one).items()}.items():
        words = choices_of(option.kind)
        parser.add_argument(f"--{key}").completer = lambda words=words, **more: words
    parser.add_argument("words", nargs="*")
