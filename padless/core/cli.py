# SPDX-License-Identifier: Apache-2.0
"""The command line: a table of commands; arguments and YAML files become an instance of a configuration class.

Both packages have a table of commands in ``__main__``. It names functions and configuration classes as
``module:name``; a command imports only its own, so ``--help`` and a misspelt command do not wait for torch. An error is
one line with the file or key and the nearest key.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

import yaml

from padless.core import atomic, configuration
from padless.core.arguments import CONFIG, PRINT_CONFIG, check_texts, common_options, split_arguments
from padless.core.configuration import NULL, Option, build_config, groups_of, options_of, suggest_key
from padless.core.errors import ConfigError, UserError
from padless.core.help_pages import SCRIPTS, complete_line, describe_option, print_page
from padless.core.installed import VERSION, load_object
from padless.core.signals import COMMAND
from padless.core.terminal import Guarded, print_stderr, unguarded
from padless.core.untrusted import unique

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
DEFAULT_RECIPE = Option("default_recipe", bool, True, "")
"""A key of YAML files alone: ``false`` in a recipe that says all it needs, so that none stands below it."""
SECTIONS = {"prepare": "train", "train": "prepare"}
"""Key of a YAML file for one command, and for the other."""


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


def dispatch(commands: Sequence[Command], argv: Sequence[str], prog: str = PROG, note: str = NOTE) -> int:
    """Run the command that ``argv`` begins with; returns its exit code.

    Without a command, print the list of commands and ``note``, and return 2. ``--completion SHELL`` prints a script for
    bash, zsh or fish. Raises ``ConfigError`` for an unknown command.
    """
    word, *arguments_after = argv or ["--help"]
    command_by_name = {command.name: command for command in commands}
    if word in HELP:
        usage = f"Usage: {prog} COMMAND [--key value …]; COMMAND --help says more"
        print_page([usage], [(command.name, command.summary) for command in commands])
        print_page(["", note, f"documentation: {configuration.DOCS / 'tutorial.md'}"], [])
        return 0 if argv else 2
    if word == "--completion":
        shell = "".join(arguments_after[:1]) or "bash"
        if shell not in SCRIPTS:
            raise ConfigError(f"--completion {shell}: expected one of {', '.join(SCRIPTS)}")
        print(SCRIPTS[shell])
        return 0
    if word == "--complete":
        class_by_command = {command.name: partial(load_object, command.config) for command in commands}
        print("\n".join(complete_line(os.environ.get("COMP_LINE", ""), class_by_command)))
        return 0
    if word == "--version":
        print(f"padless {VERSION}")
        return 0
    if word not in command_by_name:
        raise ConfigError(f"{word}: no such command; {suggest_key(word, command_by_name, f'{prog} ')}")
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ConfigError("the current folder was removed; change to another") from None
    command = command_by_name[word]
    usage = " ".join(filter(None, (prog, word, command.words)))
    config = parse(load_object(command.config), arguments_after, prog=usage, command=command)
    return load_object(command.main)(config) or 0  # only now, since neither --help nor a refusal needs torch


def parse(config_class: type[Config], argv: Sequence[str], *, prog: str, command: Command | None = None) -> Config:
    """Read ``argv`` into an instance of ``config_class``; the help of a ``command`` has an example.

    Attributes of the class: ``SUBJECT``, the keys that positional arguments fill, in their order; ``OUTPUT``, the key
    that ``-o`` means, if it is not ``output``; ``DEFAULT``, the configuration file that all others stand on;
    ``RECIPES``, the kind of recipes that ``--config`` finds by name; ``SECTION``, its key in a file of ``SECTIONS``.
    ``--help`` ends the program. Raises ``ConfigError``.
    """
    usage = f"{prog} [--key value …]"
    keys_end = argv.index("--") if "--" in argv else len(argv)
    help_positions = [position for position, argument in enumerate(argv[:keys_end]) if argument in ("-h", "--help")]
    if help_positions:
        print_topic("".join(argv[help_positions[0] + 1 :][:1]).removeprefix("--"), config_class, usage, command)
        raise SystemExit(0)
    check_texts(argv)
    arguments = split_arguments(config_class, argv)
    value_by_key, words_left = arguments.fill_keys(config_class)
    values, files = read_files(config_class, arguments.texts_by_key.get(CONFIG, []))
    values |= value_by_key
    if words_left:
        raise ConfigError(f"{words_left[0]!r} is one word too many: {usage}")
    config: Any = build_config(config_class, values)
    if hasattr(config_class, "files_read"):
        vars(config).update(files_read=files)
    if arguments.texts_by_key.get(PRINT_CONFIG, ["false"])[-1].lower() == "true":
        print(yaml.safe_dump(asdict(config), sort_keys=False), end="")
        raise SystemExit(0)
    return config


def print_topic(topic: str, config_class: type, usage: str, command: Command | None) -> None:
    """Print the first screen of help, or that of a ``topic``: all keys, a group or a key.

    Raises ``ConfigError`` for another topic.
    """
    options, groups = options_of(config_class), groups_of(config_class)
    option_by_key = {key: option for key, option in options.items() if topic in (ALL_KEYS, key, *key.split("."))}
    about = [f"Usage: {usage}", config_class.__doc__ or ""]
    if not topic:
        first = command.first if command and command.first else options
        option_by_key = {key: options[key] for key in first} | common_options(config_class)
        about += [f"for example: {command.example}"] if command and command.example else []
        about.append(f"--help {ALL_KEYS}: all {len(options)} keys; --help KEY: one; --help GROUP: {', '.join(groups)}")
    elif topic in groups:
        about.append(groups[topic].__doc__ or "")
    elif not option_by_key:
        raise ConfigError(f"--help {topic}: neither a key nor a group; {suggest_key(topic, [*groups, *options], '')}")
    defaults = read_files(config_class, [])[0]
    rows = [describe_option(option, defaults.get(key, option.default)) for key, option in option_by_key.items()]
    print_page(about, rows)


def read_files(config_class: type, files: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The values of configuration files, of which a later one wins, and the names of these files.

    They stand on the class's ``DEFAULT``, unless one of them says ``default_recipe: false``. Raises ``ConfigError``.
    """
    default, values = getattr(config_class, "DEFAULT", None), dict[str, Any]()
    for file in files:
        values |= read_values(config_class, configuration.find_config(file, getattr(config_class, "RECIPES", "")))
    stands_on_default = DEFAULT_RECIPE.parse(values.pop(DEFAULT_RECIPE.key, "true"))
    if default is None or not stands_on_default:
        return values, [*files]
    return read_values(config_class, default) | values, [default.stem, *files]


def read_values(config_class: type, path: str | Path) -> dict[str, Any]:
    """The values of a YAML file, or of this command's section in it, by their dotted keys. Raises ``ConfigError``."""
    options, groups, section = options_of(config_class), groups_of(config_class), getattr(config_class, "SECTION", "")
    content, pairs = configuration.read_config(path), list[tuple[str, Any]]()
    content.pop(SECTIONS.get(section, ""), None)
    content |= content.pop(section) if isinstance(content.get(section), dict) else {}
    for name, value in content.items():
        entries = {} if value == NULL else value
        is_group = name in groups and isinstance(entries, dict)
        if is_group:
            pairs += [(f"{name}.{key}", entry) for key, entry in entries.items()]
        else:
            pairs.append((name, value))
    try:
        values = unique(pairs)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}, alone and in its group; remove one") from None
    for key in values:
        if key not in options and not (key == DEFAULT_RECIPE.key and hasattr(config_class, "DEFAULT")):
            raise ConfigError(f"{path}: unknown key {key!r}; {suggest_key(key, options, '')}")
    return values


def as_words(values: Iterable[tuple[str, Any]]) -> list[str]:
    """Keys and values as a command line has them; numbers may be numpy's, and texts paths."""
    words: list[str] = []
    for key, value in values:
        is_structured = isinstance(value, (bool, list, tuple, dict, NoneType))
        words.append(f"--{key}={json.dumps(value, default=str, ensure_ascii=False) if is_structured else value}")
    return words


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
