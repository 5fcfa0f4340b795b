# SPDX-License-Identifier: Apache-2.0
"""Commands as a table: what each is called, the options and words it takes, and the function that does it.

Both packages have one such table in ``__main__``. Functions and configuration classes stand in it as ``module:name``
and are imported when their command is asked for, so that ``--help`` and a misspelt word do not wait for torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from preprocessing.base import cli, plain_options
from preprocessing.base.errors import RENAME, ConfigError, is_utf8
from preprocessing.base.help_page import Page, paragraph, two_columns
from preprocessing.base.installed import SCRIPTS, VERSION, as_typed, is_importable, load


@dataclass(frozen=True, kw_only=True)
class Words:
    """Words that a command takes beside its options, as ``RUN`` in ``checkpoint list RUN --json``."""

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


NO_WORDS = Words(spelling="", noun="word", takes="options only", least=0, most=0)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A line of the table: a command with its own ``main``, or with ``parts``, which are commands below it."""

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
    parts: tuple[Command, ...] = ()


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
    if argv[0] in ("-V", "--version", "version"):
        print(f"padless {VERSION}")
        return 0
    by_name = {command.name: command for command in commands}
    others = {word: command.name for command in commands for word in command.also}
    argv = [others.get(argv[0], argv[0]), *argv[1:]]
    name, rest = cli.choose(by_name, argv, prog, elsewhere or {})
    return call(by_name[name], rest, f"{prog} {name}")


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
    if command.parts:
        return dispatch(command.parts, argv, prog)
    try:
        if command.config is None:
            return load(command.main)(list(argv)) or 0
        arguments = read(command, argv, prog)  # before its code is loaded: --help waits for no torch
        return load(command.main)(*arguments) or 0
    except ModuleNotFoundError as missing:
        root = (missing.name or "").partition(".")[0]
        if root in SCRIPTS:
            raise
        raise ConfigError(f"{prog}: needs {root}, which is not installed here; pip install padless brings it") from None


def read(command: Command, argv: Sequence[str], prog: str) -> list[Any]:
    """What ``main`` of a command is called with, from what was typed."""
    own = load(command.config or "")
    if command.shared is None and not is_importable("jsonargparse"):
        config, alone = plain_options.read(own, argv, prog)
        check_words(command.words or NO_WORDS, alone, prog)
        return [config] if command.words is None else [config, alone]
    shared = load(command.shared) if command.shared else None
    classes = [one for one in (own, shared) if one is not None]
    parsers = [cli.parser_for(one, prog) for one in classes]
    alone, options = cli.apart(argv, set().union(*map(cli.switches, parsers)))
    topic = next((" ".join(rest) for name, *rest in options if name == "--help"), None)
    if topic is not None:
        parsers[-1].set_defaults(dict(command.shared_defaults))
        cli.show_help(page_of(command, prog, own.__doc__ or ""), topic, parsers, classes)
    if command.words is None:
        options += [[word] for word in alone]  # refused by the parser, in its words
    else:
        check_words(command.words, alone, prog)
    mine, theirs = options, []
    if shared is not None:
        cli.check_arguments(list(chain(*options)), set().union(*map(cli.known_keys, parsers)))
        names = cli.known_keys(parsers[0]) - {"config", "print_config"}
        mine = [option for option in options if option[0][2:].partition("=")[0] in names]
        theirs = [option for option in options if option not in mine]
    found = [cli.parse(own, list(chain(*mine)), prog=prog)]
    if shared is not None:
        found.append(cli.parse(shared, list(chain(*theirs)), prog=prog, defaults=command.shared_defaults))
    return found if command.words is None else [*found, alone]


def page_of(command: Command, prog: str, about: str) -> Page:
    """The first screen of a command's ``--help``."""
    words = f" {command.words.spelling}" if command.words else ""
    return Page(usage=f"{prog}{words} [--key value …]", about=about, first=command.first, example=command.example)


def check_words(words: Words, given: Sequence[str], prog: str) -> None:
    """Raise ``ConfigError`` for too few words or too many, or one that should be a name and cannot be written down."""
    if len(given) < words.least:
        raise ConfigError(f"no {words.noun} named: {prog} {words.spelling} takes {words.takes}")
    if words.most is not None and len(given) > words.most:
        raise ConfigError(f"{given[words.most]!r}: {prog} {words.spelling} takes {words.takes}")
    for word in given:
        if not words.texts and not is_utf8(word):
            raise ConfigError(f"{words.noun} {word!r} is not UTF-8, which configurations and records are; {RENAME}")
