# SPDX-License-Identifier: Apache-2.0
"""The command line: a table of commands; words and YAML files become an instance of a configuration class.

Both packages have a table of commands in ``__main__``. Functions and configuration classes stand in it as
``module:name`` and are imported when their command is asked for, so that ``--help`` and a misspelt word do not wait for
torch. The options are those of ``preprocessing.base.configuration``. What is wrong becomes one line, which names the
file or the key, and the nearest key there is.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass
from typing import Any, TypeVar

from preprocessing.base import atomic, configuration, processes
from preprocessing.base.configuration import (
    NULLS,
    RENAME,
    Option,
    build,
    choices_of,
    groups_of,
    is_utf8,
    options_of,
    parsed,
)
from preprocessing.base.errors import ConfigError, UserError
from preprocessing.base.help_page import Page, block, nearest, paragraph, render, suggestion
from preprocessing.base.installed import SCRIPTS, VERSION, as_typed, load
from preprocessing.base.terminal import guards, tell

Config = TypeVar("Config")
Main = Callable[[list[str]], int | None]
OWN = ("config", "help", "print_config")
"""Options that every command has."""


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
    """``module:function``. It is called with an instance of ``config``, and the list of ``words`` if the command takes
    some, and returns the exit code or None. Without ``config`` it gets all words as typed.
    """
    config: str | None = None
    """``module:class`` of its options, a dataclass as ``parse`` reads it."""
    words: Words | None = None
    first: tuple[str, ...] = ()
    """The keys that matter most, for the first screen of ``--help``; none: the command has few, and all are shown."""
    example: str = ""
    """A whole command to copy, for the same place."""
    keys: str | None = None
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
    heads = [", ".join((one.name, *one.also)) + (f" {one.words.spelling}" if one.words else "") for one in commands]
    column = max(map(len, heads)) + 4
    lines = [block(head, one.summary, column) for head, one in zip(heads, commands, strict=True)]
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
    assert command.config is not None
    config_class = load(command.config)
    usage = f"{prog} {command.words.spelling if command.words else ''}".strip()
    about = config_class.__doc__ or ""
    page = Page(usage=f"{usage} [--key value …]", about=about, first=command.first, example=command.example)
    config, alone = parse_all(config_class, argv, page)
    if command.words is None:
        refuse_words(alone)
        return [config]
    words = command.words
    if len(alone) < words.least:
        raise ConfigError(f"no {words.noun} named: {prog} {words.spelling} takes {words.takes}")
    if words.most is not None and len(alone) > words.most:
        raise ConfigError(f"{alone[words.most]!r}: {prog} {words.spelling} takes {words.takes}")
    for word in alone:
        if not words.texts and not is_utf8(word):
            raise ConfigError(f"{words.noun} {word!r} is not UTF-8, which configurations and records are; {RENAME}")
    return [config, alone]


def parse(
    config_class: type[Config],
    argv: Sequence[str],
    *,
    prog: str,
    page: Page | None = None,
    in_front: Collection[str] = (),
) -> Config:
    """Read ``argv`` into an instance of ``config_class``.

    A class attribute ``DEFAULT`` names the configuration file that is read when ``argv`` names none, ``RECIPES`` the
    kind of recipes that ``--config`` finds by name; ``HINT`` ends the sentence on an unknown key. ``page`` is what
    ``--help`` shows, which ends the program. ``in_front`` are options of a launcher, which stand before these. Raises
    ``ConfigError`` with one sentence.
    """
    page = page or Page(usage=f"{prog} [--key value …]", about=config_class.__doc__ or "")
    config: Config
    config, alone = parse_all(config_class, argv, page, in_front)
    refuse_words(alone)
    return config


def parse_all(
    config_class: type, argv: Sequence[str], page: Page, in_front: Collection[str] = ()
) -> tuple[Any, list[str]]:
    """An instance of the class, whose options stand in any order, and the words that belong to no option."""
    alone, given = apart(argv, config_class)
    reader, values = Reader(config_class, in_front), dict[str, Any]()
    default = getattr(config_class, "DEFAULT", None)
    topic = next((value_of(words) or "" for key, words in given if key == "help"), None)
    if default is not None and (topic is not None or not any(key == "config" for key, _ in given)):
        values |= reader.from_file(str(default))
    if topic is not None:
        print(render(page, topic, config_class, values))
        raise SystemExit(0)
    for key, words in given:
        reader.take(values, key, words)
    missing = [key for key, option in reader.options.items() if option.default is MISSING and key not in values]
    if missing:
        hint = f", as in {as_typed(page.example)}" if page.example else "; see --help"
        keys = " and ".join(f"--{key}" for key in missing)
        raise ConfigError(f"{keys} {'is' if len(missing) == 1 else 'are'} missing{hint}")
    config = build(config_class, values)
    if any(key == "print_config" for key, _ in given):
        import yaml

        print(yaml.safe_dump(asdict(config), sort_keys=False), end="")
        raise SystemExit(0)
    return config, alone


class Reader:
    """Reads values of a class's options from files and words."""

    def __init__(self, config_class: Any, in_front: Collection[str]) -> None:
        self.options, self.groups = options_of(config_class), groups_of(config_class)
        self.kind = getattr(config_class, "RECIPES", None)
        self.hint = getattr(config_class, "HINT", "")
        self.in_front = in_front

    def take(self, values: dict[str, Any], key: str, words: Sequence[str]) -> None:
        """Put what the words of one option say into ``values``. Raises ``ConfigError``."""
        if key == "print_config":
            return
        option, value = self.options.get(key), value_of(words)
        parent = key.rpartition(".")[0]
        is_open = parent in self.options and self.options[parent].is_mapping
        if option is None and not is_open and key not in (*self.groups, "config"):
            if key in self.in_front:
                raise ConfigError(f"--{key}: an option of accelerate launch: put it before the keys of the training")
            raise ConfigError(f"--{key}: no such option{suggestion(key, {*self.options, *self.in_front})}{self.hint}")
        if value is None and option is not None and option.is_switch:
            value = "true"
        if value is None:
            raise ConfigError(f"--{key}: a value follows it, as in --{key} VALUE")
        if key == "config":
            values |= self.from_file(configuration.find(value, self.kind) if self.kind else value)
        elif key in self.groups:
            values |= dict(self.leaves({key: mapping(key, value)}, f"--{key}"))
        elif option is None:
            values[parent] = {**mapping(parent, values.get(parent, {})), key[len(parent) + 1 :]: value}
        else:
            values[key] = value

    def from_file(self, path: str) -> dict[str, Any]:
        """The values of a YAML file by their dotted keys. Raises ``ConfigError``."""
        return dict(self.leaves(configuration.read_config(path), path))

    def leaves(self, content: Mapping[str, Any], where: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in content.items():
            key = prefix + name
            if key in self.groups and isinstance(value, dict):
                yield from self.leaves(value, where, f"{key}.")
            elif key in self.options:
                yield key, value
            elif key not in self.groups or value not in NULLS:
                hint = suggestion(key, set(self.options), "")
                raise ConfigError(f"{where}: unknown key {key!r}{hint}{self.hint}")


def apart(argv: Sequence[str], config_class: type) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Words that belong to no option, wherever they stand, and the key of every option with its words.

    An option takes the word after it, but a switch only ``true`` or ``false``, and none takes another option. After
    ``--`` every word stands alone.
    """
    options = options_of(config_class)
    alone: list[str] = []
    given: list[tuple[str, list[str]]] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            return alone + words, given
        word = "--help" if word == "-h" else word
        if not word.startswith("--"):
            alone.append(word)
            continue
        key, equals, _ = word[2:].partition("=")
        follows = bool(words) and not equals and takes(key, options.get(key), words[0])
        given.append((key, [word, words.pop(0)] if follows else [word]))
    return alone, given


def takes(key: str, option: Option | None, following: str) -> bool:
    """Whether an option takes the word after it; one with a blank in it is no other option."""
    if key == "print_config":
        return False
    if option is not None and option.is_switch:
        return following in ("true", "false")
    return not following.startswith("--") or " " in following


def value_of(words: Sequence[str]) -> str | None:
    """The value of an option, after an equals sign or in a word of its own; None if there is none."""
    _, equals, value = words[0].partition("=")
    return words[1] if len(words) > 1 else value if equals else None


def known_keys(config_class: type) -> set[str]:
    """Every key that a command with this class takes, without dashes."""
    return {*OWN, *options_of(config_class), *groups_of(config_class)}


def mapping(key: str, value: Any) -> dict[str, Any]:
    """A mapping, also one that is written as YAML. Raises ``ConfigError``."""
    found = parsed(key, value) if isinstance(value, str) and value.startswith("{") else value
    if isinstance(found, dict):
        return found
    raise ConfigError(f"{key}: expected a mapping, as in {{a: b}}, got {found}")


def refuse_words(alone: Sequence[str]) -> None:
    """Raise ``ConfigError`` for a word that belongs to no option."""
    if alone:
        raise ConfigError(f"{alone[0]!r} belongs to no option: values follow a name, as in --config FILE")


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
    if command is None:
        parser.add_argument("command", choices=[one.name for one in commands])
    elif name := command.config or command.keys:
        os.environ["_ARGCOMPLETE"] = "2"  # both words stand for the name of the program
        config_class = load(name)
        kind = getattr(config_class, "RECIPES", None)
        offered = {key: choices_of(option.kind) for key, option in options_of(config_class).items()}
        offered["config"] = configuration.names(kind) if kind else []
        for key, words in offered.items():
            action: Any = parser.add_argument(f"--{key}")
            action.completer = lambda words=words, **more: words
        parser.add_argument("words", nargs="*")
    argcomplete.autocomplete(parser, always_complete_options=command is not None)


def run(main: Main, argv: Sequence[str] | None = None) -> int:
    """Call ``main(argv)`` and turn what it raises into one line on stderr and a documented exit code."""
    with guards():
        try:
            processes.armed()
            return processes.settle(_code_of(main, list(sys.argv[1:] if argv is None else argv)))
        except KeyboardInterrupt:
            return processes.told()


def _code_of(main: Main, argv: list[str]) -> int:
    try:
        try:
            return main(argv) or 0
        finally:
            sys.stdout.flush()  # at the exit nobody could say that it does not arrive
    except Exception as error:
        return processes.told() if processes.heard() is not None else _said(error)


def _said(error: Exception) -> int:
    """Say in one line what a command raised; its exit code. A fault of ours is raised again."""
    refusal = atomic.told(error) if isinstance(error, OSError) else error
    code = 1
    if isinstance(refusal, UserError):
        line, code = as_typed(f"error: {refusal}"), refusal.exit_code
    elif isinstance(error, MemoryError):
        line = f"error: not enough memory ({error}); ask for less at once, or take a machine with more"
    elif isinstance(error, BrokenPipeError):
        _print_nowhere()
        return 0
    elif isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP) and error.filename is not None:
        line, code = f"error: {error.filename}: {error.strerror}; name another", ConfigError.exit_code
    else:
        raise error
    with contextlib.suppress(OSError):  # a log on a full disk
        tell(line)
    try:
        sys.stdout.flush()
    except OSError:  # it takes no more, which is said by now
        _print_nowhere()
    return code


def _print_nowhere() -> None:
    """Let what is still to be printed vanish; Python would complain of it at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
