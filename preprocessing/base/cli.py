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
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import MISSING, asdict, dataclass
from functools import partial
from types import NoneType
from typing import Any, TypeVar

from preprocessing.base import atomic, configuration, processes
from preprocessing.base.configuration import NULL, build, choices_of, groups_of, options_of, takes_list
from preprocessing.base.errors import ConfigError, UserError
from preprocessing.base.help_page import Page, block, nearest, paragraph, render, suggestion
from preprocessing.base.installed import VERSION, load
from preprocessing.base.terminal import Guarded, bare, tell

Config = TypeVar("Config")
PROG = "padless"
NOTE = (
    "exit codes: 0 done, 1 the machine failed, 2 the configuration or the command is wrong, 3 the data is wrong, "
    "4 something cannot be written, 85 a training was stopped and the same command goes on, 130 or 143 stopped"
)
OWN = ("config", "help", "print_config")
"""Options that every command has."""
SECTIONS = {"prepare": "train", "train": "prepare"}
"""Key of a YAML file for one command, and for the other."""
OPTION = re.compile(r"-(-|[A-Za-z])[\w.-]*(=.*)?", re.DOTALL)
"""An argument that is no word; one with a blank before its value is."""


@dataclass(frozen=True)
class Command:
    """A line of the table."""

    name: str
    words: str
    """How its positional arguments are spelled in the usage line; ``SUBJECT`` of the class says which keys they are."""
    summary: str
    """One line, for the list of commands."""
    main: str
    """``module:function``, called with an instance of ``config``. Returns the exit code or None."""
    config: str
    """``module:class`` of its options, a dataclass for ``parse``."""
    heading: str = ""
    """Of the part of the list that begins with this command."""
    elsewhere: str = ""
    """Its names in other tools, with commas; one may be followed by what it takes here, as in ``pretrain --task …``."""
    first: tuple[str, ...] = ()
    """The most important keys, for the first screen of ``--help``; none: the command has few, and all are shown."""
    example: str = ""
    """A complete command for the same screen."""


def dispatch(commands: Sequence[Command], argv: Sequence[str], prog: str = PROG, note: str = NOTE) -> int:
    """Run the command that ``argv`` begins with; returns its exit code.

    Without a command, print the list of commands and ``note``, and return 2. Raises ``ConfigError`` for an unknown
    command; the sentence names the nearest, by its names here and in other tools.
    """
    word, *rest = argv or ["help"]
    if len(argv) == 2 and "help" in argv:
        word, rest = argv[word == "help"], ["--help"]
    if word in ("-h", "--help", "help"):
        print(overview(commands, prog, note))
        return 0 if argv else 2
    if word in ("-V", "--version", "version"):
        print(f"padless {VERSION}")
        return 0
    meant: dict[str, str] = {}
    for command in commands:
        if word == command.name:
            return call(command, rest, prog, commands)
        for other in (command.name, *filter(None, command.elsewhere.split(", "))):
            name, _, options = other.partition(" ")
            meant[name] = f"{prog} {command.name} {options}".strip()
    if near := nearest(word.lstrip("-").removesuffix(".py").replace("-", "_").lower(), meant):
        raise ConfigError(f"{word}: no such command; did you mean {meant[near]}?")
    if word.startswith("-"):
        raise ConfigError(f"{word}: a command comes first, as in {commands[0].example}")
    raise ConfigError(f"{word}: no such command; {prog} --help lists them")


def overview(commands: Sequence[Command], prog: str, note: str) -> str:
    """The list of commands, with arguments and summaries."""
    heads = [f"{one.name} {one.words}".strip() for one in commands]
    column = max(map(len, heads)) + 4
    lines = [f"usage: {prog} COMMAND [options]; COMMAND --help says more", ""]
    for head, one in zip(heads, commands, strict=True):
        lines += ["", f"{one.heading}:"] if one.heading else []
        lines.append(block(head, one.summary, column))
    return "\n".join([*lines, "", paragraph(note), "", f"documentation: {configuration.DOCS / 'index.md'}"])


def call(command: Command, argv: Sequence[str], prog: str, commands: Sequence[Command]) -> int:
    """Read a command's options and arguments, then run it. Raises ``ConfigError`` for what it does not take."""
    usage = " ".join(filter(None, (prog, command.name, command.words, "[--key value …]")))
    page = Page(usage, command.first, command.example, partial(command_by_key, commands))
    config = parse_all(load(command.config), argv, page)
    return load(command.main)(config) or 0  # only now, since neither --help nor a refusal needs torch


def command_by_key(commands: Sequence[Command]) -> dict[str, str]:
    """Every key and group of keys, and the first command that has it."""
    names: dict[str, str] = {}
    for command in commands:
        config_class = load(command.config)
        for key in (*options_of(config_class), *groups_of(config_class)):
            names.setdefault(key, command.name)
    return names


def parse(config_class: type[Config], argv: Sequence[str], *, prog: str) -> Config:
    """Read ``argv`` into an instance of ``config_class``.

    Attributes of the class: ``SUBJECT``, the keys that positional arguments fill, in their order; ``OUTPUT``, the key
    that ``-o`` means, if it is not ``output``; ``DEFAULT``, the configuration file if ``argv`` names none; ``RECIPES``,
    the kind of recipes that ``--config`` finds by name; ``SECTION``, its key in a file of ``SECTIONS``; ``HINT``, the
    end of the sentence about an unknown key. ``--help`` ends the program. Raises ``ConfigError``.
    """
    config: Config = parse_all(config_class, argv, Page(f"{prog} [--key value …]"))
    return config


def parse_all(config_class: type, argv: Sequence[str], page: Page) -> Any:
    """``parse`` with a page for ``--help``."""
    alone, given = apart(argv, config_class)
    options, keys, values = options_of(config_class), dict(given), dict[str, Any]()
    if "config" not in keys and (default := getattr(config_class, "DEFAULT", None)):
        values = from_file(config_class, default)
    if "help" in keys:
        print(render(page, keys["help"] or "", config_class, values))
        raise SystemExit(0)
    for key, value in given:
        if key not in options and key not in OWN:
            raise ConfigError(
                f"{'' if key[:1] == '-' else '--'}{key}: no such option{unknown(config_class, key, page)}"
            )
        if value is None:
            raise ConfigError(f"--{key}: a value follows it, as in --{key} VALUE")
    words, left = filled(alone, keys, config_class)
    every = [*given, *words]
    for path in (value for key, value in every if key == "config"):
        values |= from_file(config_class, configuration.find(path, getattr(config_class, "RECIPES", "")), page)
    values |= {key: value for key, value in every if key in options}
    if missing := next((key for key, one in options.items() if one.default is MISSING and key not in values), None):
        raise ConfigError(f"--{missing} is missing, as in {page.example or page.usage}")
    config = build(config_class, values)
    if left:
        key = re.sub(r"^\W+|[=:\s].*", "", left[0])
        hint = f"; did you mean -o {left[0]}?" if output_of(config_class) in {*options} - {*values} else ""
        if key in options:
            hint = f"; did you mean --{key} VALUE?"
        raise ConfigError(f"{left[0]!r} is one word too many: {page.usage}{hint}")
    if "print_config" in keys:
        import yaml

        print(yaml.safe_dump(asdict(config), sort_keys=False), end="")
        raise SystemExit(0)
    return config


ANSWERS = ("true", "false", "yes", "no", "on", "off", "1", "0")
"""What is taken for the value of a switch; of these, ``true``, ``false``, 1 and 0 are valid."""


def output_of(config_class: type) -> str:
    """The key that ``-o`` means."""
    return getattr(config_class, "OUTPUT", "output")


def filled(words: list[str], taken: Collection[str], config_class: type) -> tuple[list[tuple[str, Any]], list[str]]:
    """The keys that positional arguments fill, with their values: those of ``SUBJECT`` that are not ``taken`` already;
    and the arguments that are left. A key that takes a list takes all.
    """
    found: list[tuple[str, Any]] = []
    for key in getattr(config_class, "SUBJECT", ()):
        if words and key not in taken:
            several = takes_list(options_of(config_class)[key])
            found.append((key, words if several else words[0]))
            words = [] if several else words[1:]
    return found, words


def as_words(given: Iterable[tuple[str, Any]]) -> list[str]:
    """Keys and values as a command line has them; numbers may be numpy's, and texts paths."""
    plain = (bool, list, tuple, dict, NoneType)
    return [f"--{key}={json.dumps(value, default=str) if isinstance(value, plain) else value}" for key, value in given]


def apart(argv: Sequence[str], config_class: type) -> tuple[list[str], list[tuple[str, str | None]]]:
    """The positional arguments, and every option's key with its value, None without one.

    An option takes the next argument as its value, a switch only one of ``ANSWERS``. No option takes another option
    as its value; an argument with a blank is no option. After ``--`` every argument is positional. Raises
    ``ConfigError`` for a YAML file among the positional ones.
    """
    options, short = options_of(config_class), {"-h": "help", "-o": output_of(config_class)}
    switches = {"print_config", *(key for key, one in options.items() if one.is_switch)}
    alone, given, words = list[str](), list[tuple[str, str | None]](), list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            return alone + words, given
        if not OPTION.fullmatch(word):
            if word.endswith((".yaml", ".yml")) and os.path.isfile(word):
                raise ConfigError(f"{word}: a configuration file; name it as --config {word}")
            alone.append(word)
            continue
        name, equals, rest = word.partition("=")
        key = short.get(name, name.removeprefix("--"))
        value = rest if equals else "true" if key in switches else None
        if words and not equals:
            text = " " in words[0] or not OPTION.fullmatch(words[0])
            if words[0].lower() in ANSWERS if key in switches else text:
                value = words.pop(0)
        given.append((key, value))
    return alone, given


def from_file(config_class: type, path: str, page: Page | None = None) -> dict[str, Any]:
    """The values of a YAML file, or of this command's section in it, by their dotted keys. Raises ``ConfigError``."""
    options, groups, own = options_of(config_class), groups_of(config_class), getattr(config_class, "SECTION", "")
    content, values = configuration.read_config(path), dict[str, Any]()
    content.pop(SECTIONS.get(own, ""), None)
    mine = content.pop(own) if isinstance(content.get(own), dict) else {}
    for name, value in (*content.items(), *mine.items()):
        nested = {} if value == NULL else value
        if name in groups and isinstance(nested, dict):
            values |= {f"{name}.{key}": one for key, one in nested.items()}
        else:
            values[name] = value
    for key in values:
        if key not in options:
            what = "no value follows" if key in groups else "unknown key"
            raise ConfigError(f"{path}: {what} {key!r}{unknown(config_class, key, page, dashes='')}")
    return values


def unknown(config_class: type, key: str, page: Page | None, dashes: str = "--") -> str:
    """The end of the sentence about a key that a class does not have."""
    options, name = options_of(config_class), key.lstrip("-")
    if dashes and name[:3] in ("o", "out") and output_of(config_class) in options:
        return "; did you mean -o?"
    if group := [dashes + one for one in options if one.startswith(f"{name}.")]:
        column = "source.text_column" if name == "text" else ""
        return f"{f'; a column is {dashes}{column}' * (column in options)}; its keys are {', '.join(group)}"
    return suggestion(name, options, dashes, page.command_by_key() if page else {}) + getattr(config_class, "HINT", "")


def complete(commands: Sequence[Command]) -> None:
    """If a shell asks for completions, print them and end the process; else do nothing.

    The shell starts the program at each press of TAB, with what was typed in ``COMP_LINE`` and with ``_ARGCOMPLETE``
    set; docs/installing.md shows the setup. Where there is nothing to offer, argcomplete offers files.
    """
    if "COMP_LINE" not in os.environ:
        return
    import argcomplete

    parser, typed = argparse.ArgumentParser(), {*os.environ["COMP_LINE"].split()}
    every = parser.add_subparsers()
    for command in commands:
        one = every.add_parser(command.name)
        if command.name not in typed:
            continue
        config_class = load(command.config)
        options, recipes = options_of(config_class), getattr(config_class, "RECIPES", None)
        offers = {one.add_argument("--config"): configuration.names(recipes) if recipes else []}
        for key, option in options.items():
            short = ["-o"] if key == output_of(config_class) else []
            offers[one.add_argument(*short, f"--{key}", nargs="?" if option.is_switch else None)] = choices_of(
                option.kind
            )
        for key in getattr(config_class, "SUBJECT", ()):
            several = "*" if takes_list(options[key]) else "?"
            offers[one.add_argument(f"word {key}", nargs=several)] = choices_of(options[key].kind)
        for action, words in offers.items():
            if words:
                action.completer = argcomplete.ChoicesCompleter(words)  # type: ignore[arg-type, attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False)


def run(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Call ``main(argv)`` and turn an exception into one line on stderr and a documented exit code."""
    with (
        open(os.devnull, "w") as nowhere,  # where the shell has closed a stream, as by >&-, which is None then
        redirect_stdout(Guarded(bare(sys.stdout or nowhere))),
        redirect_stderr(Guarded(bare(sys.stderr or nowhere))),
    ):
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
