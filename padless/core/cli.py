# SPDX-License-Identifier: Apache-2.0
"""The command line: a table of commands, whose words and YAML files become an instance of a configuration class.

The table names functions and configuration classes as ``module:name``; a command imports only its own, so ``--help``
and a misspelt command do not wait for torch. An error is one line with the file or key and the nearest key.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import MISSING, asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import yaml

from padless.core import atomic
from padless.core.completion import SCRIPTS, complete_line
from padless.core.configuration import (
    DOCS,
    Option,
    build_config,
    describe_kind,
    options_of,
    read_files,
    recipe_names,
    suggest_key,
)
from padless.core.errors import ConfigError, UserError
from padless.core.installed import VERSION, load_object
from padless.core.signals import COMMAND
from padless.core.terminal import Guarded, print_stderr, unguarded
from padless.core.untrusted import quote_value

Config = TypeVar("Config")
PROG = "padless"
NOTE = (
    "exit codes: 0 done, 1 another failure, 2 the configuration or the command is wrong, 3 the data is wrong, "
    "4 something cannot be written, 85 a training was stopped and the same command goes on, 130 or 143 stopped"
)
HELP = ("-h", "--help")
SPINS = "10000"
"""How often a thread of OpenMP looks for work before it sleeps."""
ALL_KEYS = "all"
"""The topic of ``--help`` with all keys."""
ANSWERS = ("true", "false")
"""Arguments that are the value of the switch before them."""
CONFIG, PRINT_CONFIG = "config", "print_config"
MAX_COLUMNS = 100
"""Longer lines of help are hard to read, whatever the terminal's width."""
INDENT = 14


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
    first: tuple[str, ...] = ()
    """The most important keys, for the first screen of ``--help``; none: the command has few, and all are shown."""
    example: str = ""
    """A complete command for the same screen."""


def dispatch(commands: Sequence[Command], argv: Sequence[str], prog: str = PROG) -> int:
    """Run the command that ``argv`` begins with; returns its exit code.

    Without a command, print the list of commands, and return 2. ``--completion SHELL`` prints a script for a shell,
    which calls ``--complete`` then. Raises ``ConfigError`` for an unknown command.
    """
    word, *arguments = argv or ["--help"]
    command_by_name = {command.name: command for command in commands}
    if word in HELP:
        usage = f"Usage: {prog} COMMAND [--key value …]; COMMAND --help says more"
        print_page([usage], [(command.name, command.summary) for command in commands])
        print_page(["", NOTE, f"documentation: {DOCS / 'tutorial.md'}"], [])
        return 0 if argv else 2
    if word == "--version":
        print(f"padless {VERSION}")
        return 0
    if word == "--completion":
        shell = "".join(arguments)
        if shell not in SCRIPTS:
            raise ConfigError(f"--completion {shell}: expected one of {', '.join(SCRIPTS)}")
        print(SCRIPTS[shell])
        return 0
    if word == "--complete":
        classes = {command.name: partial(load_object, command.config) for command in commands}
        print("\n".join(complete_line(os.environ.get("COMP_LINE", ""), classes)))
        return 0
    if word not in command_by_name:
        raise ConfigError(f"{word}: no such command; {suggest_key(word, command_by_name, f'{prog} ')}")
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ConfigError("the current folder was removed; change to another") from None
    command = command_by_name[word]
    usage = " ".join(filter(None, (prog, word, command.words)))
    config = parse(load_object(command.config), arguments, prog=usage, command=command)
    return load_object(command.main)(config) or 0  # only now, since neither --help nor a refusal needs torch


def parse(config_class: type[Config], argv: Sequence[str], *, prog: str, command: Command | None = None) -> Config:
    """Read ``argv`` into an instance of ``config_class``; the help of a ``command`` has an example.

    Attributes of the class: ``SUBJECT``, the keys that positional arguments fill, in their order; ``name_key``, which
    key words in front of ``--`` are, if it is another one; ``OUTPUT``, the key that ``-o`` means, if it is not
    ``output``; ``DEFAULT`` and ``RECIPES``, as ``read_files`` has them. ``--help`` ends the program. Raises
    ``ConfigError``.
    """
    usage = f"{prog} [--key value …]"
    words_before_dashes = argv[: argv.index("--")] if "--" in argv else argv
    for position, argument in enumerate(words_before_dashes):
        if argument in HELP:
            topic = "".join(argv[position + 1 : position + 2])
            print_topic(topic.removeprefix("--"), config_class, usage, command)
            raise SystemExit(0)
    options = command_options(config_class)
    texts_by_key, words, texts_after_dashes = split_arguments(config_class, options, argv)
    files = texts_by_key.pop(CONFIG, [])
    is_printed = texts_by_key.pop(PRINT_CONFIG, ["false"])[-1].lower() == "true"
    value_by_key = {key: options[key].join(texts) for key, texts in texts_by_key.items()}
    value_by_key = fill_subject(config_class, value_by_key, words, texts_after_dashes, usage)
    config: Any = build_config(config_class, read_files(config_class, files) | value_by_key)
    if is_printed:
        print(yaml.safe_dump(asdict(config), sort_keys=False), end="")
        raise SystemExit(0)
    return config


def split_arguments(
    config_class: type, options: Mapping[str, Option], argv: Sequence[str]
) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """The texts of each key, in their order; the words that belong to no key; and what follows ``--``, as it stands.

    A switch takes the next argument only if it is one of ``ANSWERS``. An argument with a blank, and a dash alone, are
    no keys but words. Raises ``ConfigError`` for a key that the class does not have, for one without its value, and for
    bytes that are not UTF-8.
    """
    texts_by_key: dict[str, list[str]] = {}
    words = list[str]()
    arguments_left = [*reversed(argv)]
    while arguments_left and (argument := arguments_left.pop()) != "--":
        if re.search("[\ud800-\udfff]", argument):  # stand for bytes; no file can be written that names them
            raise ConfigError(f"{quote_value(argument)} is not UTF-8; give a file another name or a link")
        if not is_key(argument):
            words.append(argument)
            continue
        name, equals, text = argument.partition("=")
        key = getattr(config_class, "OUTPUT", "output") if name == "-o" else name.removeprefix("--")
        if key not in options:
            raise ConfigError(f"{name}: no such key of this command; {suggest_key(key, options)}")
        if not equals and options[key].kind is bool:
            text = arguments_left.pop() if arguments_left and arguments_left[-1].lower() in ANSWERS else "true"
        elif not equals:
            if not arguments_left or (arguments_left[-1].startswith("--") and is_key(arguments_left[-1])):
                raise ConfigError(f"{name}: its value is missing; --help {key} says what it takes")
            text = arguments_left.pop()
        texts_by_key.setdefault(key, []).append(text)
    return texts_by_key, words, arguments_left[::-1]


def is_key(argument: str) -> bool:
    """Whether an argument is spelt as a key: with a dash in front, and without a blank in its name."""
    return argument[:1] == "-" != argument and " " not in argument.partition("=")[0]


def fill_subject(
    config_class: Any, value_by_key: dict[str, Any], words: list[str], texts_after_dashes: list[str], usage: str
) -> dict[str, Any]:
    """The value of each key, also of those that words fill; a key that takes a list takes all. Raises ``ConfigError``
    for a word that is left.
    """
    options, values, words_left = options_of(config_class), {**value_by_key}, [*words, *texts_after_dashes]
    for key in getattr(config_class, "SUBJECT", ()):
        if not words_left or key in value_by_key:
            continue
        if list not in options[key].kinds:
            values[key], *words_left = words_left
            continue
        words_key = key
        if hasattr(config_class, "name_key"):
            num_before_dashes = max(len(words_left) - len(texts_after_dashes), 0)
            words_key = config_class.name_key(words_left[:num_before_dashes])
        if words_key not in value_by_key and (words_key == key or not texts_after_dashes):
            values[words_key], words_left = words_left, []
    if words_left:
        raise ConfigError(f"{words_left[0]!r} is one word too many: {usage}")
    return values


def command_options(config_class: type) -> dict[str, Option]:
    """The keys of the class, and the options that every command has."""
    names = recipe_names(getattr(config_class, "RECIPES", ""))
    recipes = f", or a recipe: {', '.join(names)}" if names else ""
    about = f"A YAML file with any of the keys{recipes}; keys beside it win."
    return options_of(config_class) | {
        CONFIG: Option(CONFIG, list[str], None, about),
        PRINT_CONFIG: Option(PRINT_CONFIG, bool, False, "Print the resulting configuration."),
    }


def print_topic(topic: str, config_class: type, usage: str, command: Command | None) -> None:
    """Print the first screen of help, or that of a ``topic``: all keys, or those with this word in their name.

    Raises ``ConfigError`` for another topic.
    """
    options, about = command_options(config_class), [f"Usage: {usage}", config_class.__doc__ or ""]
    option_by_key = {key: option for key, option in options.items() if topic == ALL_KEYS or topic in key}
    if not topic:
        first = (*command.first, CONFIG, PRINT_CONFIG) if command and command.first else options
        option_by_key = {key: options[key] for key in first}
        about += [f"for example: {command.example}"] if command and command.example else []
        about.append(f"--help {ALL_KEYS}: all {len(options)} keys; --help WORD: those with this word, such as optim")
    elif not option_by_key:
        raise ConfigError(f"--help {topic}: no key has this word; {suggest_key(topic, options, '')}")
    defaults, rows = read_files(config_class, []), list[tuple[str, str]]()
    for key, option in option_by_key.items():
        default = defaults.get(key, option.default)
        has_default = default not in (MISSING, None, False, "", [], {})
        default_text = f"; default: {default}" if has_default else ""
        rows.append((f"--{key}", f"{option.text} [{describe_kind(option.kind)}{default_text}]"))
    print_page(about, rows)


def print_page(paragraphs: Iterable[str], rows: Iterable[tuple[str, str]]) -> None:
    """Print paragraphs, then names with their texts beside them, as wide as the terminal."""
    columns = min(shutil.get_terminal_size((80, 24)).columns, MAX_COLUMNS)
    # a path or an address stays whole
    wrapper = textwrap.TextWrapper(columns, break_long_words=False, break_on_hyphens=False)
    for paragraph in paragraphs:
        print(wrapper.fill(without_markup(paragraph)) + "\n")
    wrapper.subsequent_indent = " " * INDENT
    for name, text in rows:
        wrapper.initial_indent = f"{name:{INDENT - 1}} "
        print(wrapper.fill(without_markup(text)))


def without_markup(docstring: str) -> str:
    """The first paragraph in one line, without backticks."""
    return " ".join(docstring.partition("\n\n")[0].replace("`", "").split())


def run(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Call ``main(argv)`` and turn an exception into one line on stderr and a documented exit code."""
    # How often an OpenMP thread looks for work before it sleeps, read when torch is imported. By default it spins for
    # milliseconds, which on a machine with other work makes two threads slower than one.
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    with (
        open(os.devnull, "w") as nowhere,  # where the shell has closed a stream, as by >&-, which is None then
        redirect_stdout(Guarded(unguarded(sys.stdout or nowhere))),
        redirect_stderr(Guarded(unguarded(sys.stderr or nowhere))),
    ):
        try:
            try:
                code = main(list(sys.argv[1:] if argv is None else argv)) or 0
            finally:
                sys.stdout.flush()  # a failure at interpreter exit could not be reported
        except Exception as error:
            COMMAND.fix_exit_code()  # after a signal, files vanish under the main thread
            code = describe_failure(error)
        COMMAND.fix_exit_code()
        return code


OWN_PACKAGES = ("harness", "padless", "preprocessing")


def describe_failure(error: Exception) -> int:
    """Print an exception of a command as one line; returns the exit code. Raises again what is a bug."""
    refusal = atomic.as_storage_error(error) if isinstance(error, OSError) else error
    if isinstance(error, BrokenPipeError):
        discard_output()
        return 0
    if isinstance(refusal, UserError):
        line, code = str(refusal), refusal.exit_code
    elif isinstance(error, MemoryError):
        line, code = f"not enough memory ({error}); reduce batch or processes, or use a machine with more", 1
    elif isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] not in OWN_PACKAGES:
        line, code = f"{error.name} is not installed here, which this command needs", ConfigError.exit_code
    elif isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        line, code = f"{error.filename}: {error.strerror}; name another", ConfigError.exit_code
    else:
        raise error
    with contextlib.suppress(OSError):  # stderr is a log on a full disk
        print_stderr(f"error: {line}")
    try:
        sys.stdout.flush()
    except OSError:  # stdout is full; the line above says so
        discard_output()
    return code


def discard_output() -> None:
    """Discard buffered output; Python would report the failed flush at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
