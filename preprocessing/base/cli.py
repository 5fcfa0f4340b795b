# SPDX-License-Identifier: Apache-2.0
"""The command line: a table of commands; arguments and YAML files become an instance of a configuration class.

Both packages have a table of commands in ``__main__``. It names functions and configuration classes as
``module:name``; a command imports only its own, so ``--help`` and a misspelt command do not wait for torch. The options
are those of ``preprocessing.base.configuration``. An error is one line with the file or key and the nearest known key.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass
from typing import Any, TypeVar

from preprocessing.base import atomic, configuration, processes
from preprocessing.base.configuration import NULLS, RENAME, build, choices_of, groups_of, is_utf8, options_of
from preprocessing.base.errors import ConfigError, UserError
from preprocessing.base.help_page import Page, block, paragraph, render, suggestion
from preprocessing.base.installed import VERSION, load
from preprocessing.base.terminal import guards, tell

Config = TypeVar("Config")
OWN = ("config", "help", "print_config")
"""Options that every command has."""


@dataclass(frozen=True)
class Words:
    """Positional arguments of a command, such as ``RUN`` in ``checkpoint RUN --json``."""

    spelling: str = ""
    """For the usage line."""
    takes: str = "options alone, as in --config FILE"
    """For error messages, as in "one run directory"."""
    least: int = 1
    most: int | None = 1
    """None: any number."""
    texts: bool = False
    """Whether some are texts, which may hold any bytes; others must be UTF-8."""


NO_WORDS = Words(least=0, most=0)


@dataclass(frozen=True)
class Command:
    """A line of the table."""

    name: str
    summary: str = ""
    """One line, for the list of commands."""
    also: tuple[str, ...] = ()
    """Aliases."""
    main: str = ""
    """``module:function``, called with an instance of ``config`` and, if the command takes ``words``, their list;
    without ``config``, with the arguments as typed. Returns the exit code or None.
    """
    config: str | None = None
    """``module:class`` of its options, a dataclass for ``parse``."""
    words: Words = NO_WORDS
    first: tuple[str, ...] = ()
    """The most important keys, for the first screen of ``--help``; none: the command has few, and all are shown."""
    example: str = ""
    """A complete command for the same screen."""
    keys: str | None = None
    """``module:class`` of the keys of a command without ``config``, for completion in a shell."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name and aliases."""
        return self.name, *self.also


def dispatch(
    commands: Sequence[Command], argv: Sequence[str], prog: str, note: str, elsewhere: Mapping[str, str]
) -> int:
    """Run the command that ``argv`` begins with; returns its exit code.

    Without a command, print the list of commands and ``note``, and return 2. Raises ``ConfigError`` for an unknown
    command; the sentence names the nearest command, or the one that ``elsewhere`` has for this word.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview(commands, prog, note))
        return 0 if argv else 2
    word, *rest = argv
    if word in ("-V", "--version", "version"):
        print(f"padless {VERSION}")
        return 0
    for command in commands:
        if word in command.names:
            return call(command, rest, f"{prog} {command.name}")
    names = [one.name for one in commands]
    hint = suggestion(word, names, otherwise=f"there are {', '.join(names)}", dashes="", elsewhere=elsewhere)
    raise ConfigError(f"{prog}: {word}: no such command{hint}")


def overview(commands: Sequence[Command], prog: str, note: str) -> str:
    """The list of commands, with arguments and summaries."""
    heads = [f"{', '.join(one.names)} {one.words.spelling}".strip() for one in commands]
    column = max(map(len, heads)) + 4
    lines = [block(head, one.summary, column) for head, one in zip(heads, commands, strict=True)]
    usage = f"usage: {prog} COMMAND [options]; COMMAND --help says more"
    return "\n".join([usage, "", *lines, "", paragraph(note)]).rstrip()


def call(command: Command, argv: Sequence[str], prog: str) -> int:
    """Read a command's options and arguments, then run it. Raises ``ConfigError`` for what it does not take."""
    try:
        arguments = [list(argv)] if command.config is None else read(command, argv, prog)  # --help needs no torch
        return load(command.main)(*arguments) or 0
    except ModuleNotFoundError as missing:
        root = (missing.name or "").partition(".")[0]
        if root in ("harness", "preprocessing"):
            raise
        raise ConfigError(f"{prog}: needs {root}, which is not installed here; pip install padless brings it") from None


def read(command: Command, argv: Sequence[str], prog: str) -> list[Any]:
    """The arguments for ``main`` of a command, from what was typed."""
    config_class, words = load(command.config or ""), command.words
    spelt = f"{prog} {words.spelling}".strip()
    page = Page(f"{spelt} [--key value …]", config_class.__doc__, command.first, command.example)
    config, alone = parse_all(config_class, argv, page)
    too_many = alone[words.most :] if words.most is not None else []
    if too_many or len(alone) < words.least:
        wrong = repr(too_many[0]) if too_many else "nothing named"
        raise ConfigError(f"{wrong}: {spelt} takes {words.takes}")
    for word in alone:
        if not words.texts and not is_utf8(word):
            raise ConfigError(f"{word!r} is not UTF-8, as configurations and records must be; {RENAME}")
    return [config] if words is NO_WORDS else [config, alone]


def parse(
    config_class: type[Config],
    argv: Sequence[str],
    *,
    prog: str,
    usage: str = "[--key value …]",
    about: str | None = None,
    first: tuple[str, ...] = (),
    example: str = "",
) -> Config:
    """Read ``argv`` into an instance of ``config_class``.

    Attributes of the class: ``DEFAULT``, the configuration file if ``argv`` names none; ``RECIPES``, the kind of
    recipes that ``--config`` finds by name; ``IN_FRONT``, options of the launcher, which come before these; ``HINT``,
    the end of the sentence about an unknown key. The other parameters are for ``--help``, which ends the program.
    Raises ``ConfigError``.
    """
    config: Config
    config, alone = parse_all(
        config_class, argv, Page(f"{prog} {usage}", about or config_class.__doc__ or "", first, example)
    )
    if alone:
        raise ConfigError(f"{alone[0]!r} belongs to no option: values follow a name, as in --config FILE")
    return config


def parse_all(config_class: type, argv: Sequence[str], page: Page) -> tuple[Any, list[str]]:
    """An instance of the class, and the arguments that belong to no option."""
    alone, given = apart(argv, config_class)
    options, topics = options_of(config_class), [value for key, value in given if key == "help"]
    default, recipes = getattr(config_class, "DEFAULT", None), getattr(config_class, "RECIPES", None)
    values: dict[str, Any] = {}
    if default is not None and (topics or not any(key == "config" for key, _ in given)):
        values |= from_file(config_class, default)
    if topics:
        print(render(page, topics[0] or "", config_class, values))
        raise SystemExit(0)
    for key, value in given:
        if key not in options and key not in OWN:
            raise ConfigError(f"--{key}: no such option{unknown(config_class, key)}")
        if value is None and key != "print_config":
            raise ConfigError(f"--{key}: a value follows it, as in --{key} VALUE")
        if key == "config":
            values |= from_file(config_class, configuration.find(str(value), recipes) if recipes else str(value))
        elif key in options:
            values[key] = value
    if missing := next((key for key, one in options.items() if one.default is MISSING and key not in values), None):
        raise ConfigError(f"--{missing} is missing" + (f", as in {page.example}" if page.example else ""))
    config = build(config_class, values)
    if any(key == "print_config" for key, _ in given):
        import yaml

        print(yaml.safe_dump(asdict(config), sort_keys=False), end="")
        raise SystemExit(0)
    return config, alone


def apart(argv: Sequence[str], config_class: type) -> tuple[list[str], list[tuple[str, str | None]]]:
    """The positional arguments, and every option's key with its value, None without one.

    An option takes the next argument as its value, a switch only ``true`` or ``false``. No option takes another option
    as its value; an argument with a blank is no option. After ``--`` every argument is positional.
    """
    options = options_of(config_class)
    alone: list[str] = []
    given: list[tuple[str, str | None]] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            return alone + words, given
        if not word.startswith("--") and word != "-h":
            alone.append(word)
            continue
        key, equals, rest = ("help" if word == "-h" else word[2:]).partition("=")
        is_switch = key == "print_config" or (key in options and options[key].is_switch)
        value = rest if equals else "true" if is_switch else None
        following = words[0] if words and not equals else "--"
        if following in ("true", "false") if is_switch else not following.startswith("--") or " " in following:
            value = words.pop(0)
        given.append((key, value))
    return alone, given


def from_file(config_class: type, path: str) -> dict[str, Any]:
    """The values of a YAML file by their dotted keys. Raises ``ConfigError``."""

    def leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in content.items():
            key = prefix + name
            if key in groups and isinstance(value, dict):
                yield from leaves(value, f"{key}.")
            elif key in options:
                yield key, value
            elif key not in groups or value not in NULLS:
                what = f"no value follows {key!r}" if key in groups else f"unknown key {key!r}"
                raise ConfigError(f"{path}: {what}{unknown(config_class, key, dashes='')}")

    options, groups = options_of(config_class), groups_of(config_class)
    return dict(leaves(configuration.read_config(path)))


def unknown(config_class: type, key: str, dashes: str = "--") -> str:
    """The end of the sentence about a key that a class does not have."""
    in_front = getattr(config_class, "IN_FRONT", ())
    if group := [one for one in options_of(config_class) if one.startswith(f"{key}.")]:
        return f"; its keys are {', '.join(dashes + one for one in group)}"
    if key in in_front:
        return "; accelerate launch has it: put it before the keys of the training"
    return suggestion(key, {*options_of(config_class), *in_front}, dashes=dashes) + getattr(config_class, "HINT", "")


def known_keys(config_class: type) -> set[str]:
    """Every key that a command with this class takes, without dashes."""
    return {*OWN, *options_of(config_class), *groups_of(config_class)}


def complete(commands: Sequence[Command]) -> None:
    """If a shell asks for completions, print them and end the process; else do nothing.

    The shell starts the program at each press of TAB, with what was typed in ``COMP_LINE`` and with ``_ARGCOMPLETE``
    set; docs/installing.md shows the setup.
    """
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    parser, typed = argparse.ArgumentParser(), os.environ["COMP_LINE"].split()
    every = parser.add_subparsers()
    for command in commands:
        one = every.add_parser(command.name, aliases=command.also)
        one.add_argument("words", nargs="*")
        if (name := command.config or command.keys) and {*command.names} & {*typed}:
            config_class = load(name)
            recipes = getattr(config_class, "RECIPES", None)
            one.add_argument("--config", choices=configuration.names(recipes) if recipes else None)
            for key, option in options_of(config_class).items():
                one.add_argument(f"--{key}", choices=choices_of(option.kind) or None)
    argcomplete.autocomplete(parser)


def run(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Call ``main(argv)`` and turn an exception into one line on stderr and a documented exit code."""
    with guards():
        try:
            processes.armed()
            try:
                try:
                    code = main(list(sys.argv[1:] if argv is None else argv)) or 0
                finally:
                    sys.stdout.flush()  # a failure at interpreter exit could not be reported
            except Exception as error:
                code = processes.told() if processes.heard() is not None else _said(error)
            return processes.settle(code)
        except KeyboardInterrupt:
            return processes.told()


def _said(error: Exception) -> int:
    """Print an exception of a command as one line; returns the exit code. Raises again what is a bug."""
    refusal = atomic.told(error) if isinstance(error, OSError) else error
    code = 1
    if isinstance(refusal, UserError):
        line, code = f"error: {refusal}", refusal.exit_code
    elif isinstance(error, MemoryError):
        line = f"error: not enough memory ({error}); reduce batch or processes, or use a machine with more"
    elif isinstance(error, BrokenPipeError):
        _print_nowhere()
        return 0
    elif isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP) and error.filename is not None:
        line, code = f"error: {error.filename}: {error.strerror}; name another", ConfigError.exit_code
    else:
        raise error
    with contextlib.suppress(OSError):  # stderr is a log on a full disk
        tell(line)
    try:
        sys.stdout.flush()
    except OSError:  # stdout is full; the line above says so
        _print_nowhere()
    return code


def _print_nowhere() -> None:
    """Discard buffered output; Python would report the failed flush at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
