# SPDX-License-Identifier: Apache-2.0
"""The command line: a table of commands, whose words and YAML files become an instance of a configuration class.

The table names functions and configuration classes as ``module:name``; a command imports only its own, so ``--help``
and a misspelt command do not wait for torch. An error is one line with the file or key and the nearest key.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import MISSING, asdict, dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml

from padless.core import atomic
from padless.core.configuration import (
    DOCS,
    Option,
    alternatives,
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
from padless.core.terminal import Guarded, Screen, print_stderr, unguarded, wrap_text
from padless.core.untrusted import quote_value

Config = TypeVar("Config")
PROG = "padless"
NOTE = (
    "exit codes: 0 done, 1 another failure, 2 the configuration or the command is wrong, 3 the data is wrong, "
    "4 something cannot be written, 85 a training was stopped and the same command goes on, 130 or 143 stopped"
)
HELP = ("-h", "--help")
COMPLETE = "padless --complete"
SCRIPTS = {
    "bash": f"complete -o default -C '{COMPLETE}' padless",
    "zsh": f"autoload -U +X bashcompinit && bashcompinit\ncomplete -o default -C '{COMPLETE}' padless",
    "fish": f"complete -c padless -a '(COMP_LINE=(commandline -cp) {COMPLETE})'",
}
"""Shell -> what makes it ask ``padless --complete``, which finds the line in ``COMP_LINE``."""
SPINS = "10000"
"""How often a thread of OpenMP looks for work before it sleeps."""
ALL_KEYS = "all"
"""The topic of ``--help`` with all keys."""
ANSWERS = ("true", "false")
"""Arguments that are the value of the switch before them."""
CONFIG, PRINT_CONFIG = "config", "print_config"
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
    """The most important keys, for the first screen of ``--help``; none: those outside of groups."""
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
        print("\n".join(complete_line(os.environ.get("COMP_LINE", ""), command_by_name)))
        return 0
    if word not in command_by_name:
        raise ConfigError(f"{word}: no such command; {suggest_key(word, command_by_name, f'{prog} ')}")
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ConfigError("the current folder was removed; change to another") from None
    command = command_by_name[word]
    usage = f"{prog} {word} {command.words}".rstrip()
    config_class = load_object(command.config)
    config = parse(config_class, arguments, prog=usage, first=command.first, example=command.example)
    return load_object(command.main)(config) or 0  # only now, since neither --help nor a refusal needs torch


def complete_line(line: str, command_by_name: Mapping[str, Command]) -> list[str]:
    """What the last word of a command line may become: a command, a key, or the value of the key before it."""
    *words, prefix = line.split(" ")
    candidates: Iterable[str] = command_by_name if len(words) == 1 else ()
    if len(words) > 1 and words[1] in command_by_name:
        options = options_of(load_object(command_by_name[words[1]].config))
        option = options.get(words[-1].removeprefix("--"))
        if prefix.startswith("-"):
            candidates = [f"--{key}" for key in options]
        elif option:
            kinds = [kind for kind in alternatives(option.kind) if get_origin(kind) is Literal]
            candidates = [str(value) for kind in kinds for value in get_args(kind)]
    return [candidate for candidate in candidates if candidate.startswith(prefix)]


def parse(
    config_class: type[Config], argv: Sequence[str], *, prog: str, first: Sequence[str] = (), example: str = ""
) -> Config:
    """Read ``argv`` into an instance of ``config_class``, whose help has ``first`` and ``example`` of its ``Command``.

    Attributes of the class: ``SUBJECT``, the keys that words fill, in their order, of which the last one has what
    follows ``--``, as it stands; ``name_key``, which key words fill in place of the last one; ``OUTPUT``, the key that
    ``-o`` means, if it is not ``output``; ``DEFAULT`` and ``RECIPES``, as ``read_files`` has them. ``--help`` ends the
    program. Raises ``ConfigError``.
    """
    usage, end = f"{prog} [--key value …]", argv.index("--") if "--" in argv else len(argv)
    arguments, texts_after_dashes = argv[:end], argv[end + 1 :]
    for position, argument in enumerate(arguments):
        if argument in HELP:
            topic = "".join(arguments[position + 1 : position + 2])
            print_topic(topic.removeprefix("--"), config_class, usage, first, example)
            raise SystemExit(0)
    options = command_options(config_class)
    texts_by_key, words = split_arguments(config_class, options, arguments)
    files = texts_by_key.pop(CONFIG, [])
    is_printed = texts_by_key.pop(PRINT_CONFIG, ["false"])[-1].lower() == "true"
    value_by_key = {key: options[key].join(texts) for key, texts in texts_by_key.items()}
    value_by_key = fill_subject(config_class, value_by_key, words, texts_after_dashes, usage)
    config: Any = build_config(config_class, read_files(config_class, files) | value_by_key, example=example)
    if is_printed:
        print(yaml.safe_dump(asdict(config), sort_keys=False), end="")
        raise SystemExit(0)
    return config


def split_arguments(
    config_class: type, options: Mapping[str, Option], arguments: Sequence[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """The texts of each key, in their order, and the words that belong to no key.

    A switch takes the next argument only if it is one of ``ANSWERS``. An argument with a blank, and a dash alone, are
    no keys but words. Raises ``ConfigError`` for a key that the class does not have, for one without its value, and for
    bytes that are not UTF-8.
    """
    texts_by_key, words = dict[str, list[str]](), list[str]()
    arguments_left = [*reversed(arguments)]
    while arguments_left:
        argument = arguments_left.pop()
        if re.search("[\ud800-\udfff]", argument):  # stand for bytes; no file can be written that names them
            raise ConfigError(f"{quote_value(argument)} is not UTF-8; give a file another name or a link")
        if not is_key(argument):
            words.append(argument)
            continue
        name, equals, text = argument.partition("=")
        key = getattr(config_class, "OUTPUT", "output") if name == "-o" else name.removeprefix("--")
        if key not in options:
            raise ConfigError(f"{name}: no such key of this command; {suggest_key(key, options)}")
        following = arguments_left[-1] if arguments_left else "--"
        if not equals and options[key].kind is bool:
            text = arguments_left.pop() if following.lower() in ANSWERS else "true"
        elif not equals:
            if following.startswith("--") and is_key(following):
                raise ConfigError(f"{name}: its value is missing; --help {key} says what it takes")
            text = arguments_left.pop()
        texts_by_key.setdefault(key, []).append(text)
    return texts_by_key, words


def is_key(argument: str) -> bool:
    """Whether an argument is spelt as a key: with a dash in front, and without a blank in its name."""
    return argument[:1] == "-" != argument and " " not in argument.partition("=")[0]


def fill_subject(
    config_class: Any, value_by_key: Mapping[str, Any], words: list[str], texts_after_dashes: Sequence[str], usage: str
) -> dict[str, Any]:
    """The value of each key, also of those that words fill; a key that takes a list takes all. Raises ``ConfigError``
    for a word that is left.
    """
    options, values = options_of(config_class), {**value_by_key}
    subject: Sequence[str] = getattr(config_class, "SUBJECT", ())
    if texts_after_dashes:
        values[subject[-1]] = texts_after_dashes
    for key in subject:
        if not words or key in values:
            continue
        if list in options[key].kinds:
            words_key = config_class.name_key(words) if hasattr(config_class, "name_key") else key
            values[words_key], words = words, []
        else:
            values[key], *words = words
    if words:
        raise ConfigError(f"{words[0]!r} is one word too many: {usage}")
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


def print_topic(topic: str, config_class: type, usage: str, first: Sequence[str], example: str) -> None:
    """Print the first screen of help, or that of a ``topic``: all keys, or those with this word in their name.

    Raises ``ConfigError`` for another topic.
    """
    options, about = command_options(config_class), [f"Usage: {usage}", config_class.__doc__ or ""]
    keys = [key for key in options if topic == ALL_KEYS or topic in key]
    if not topic:
        first = first or [key for key in options_of(config_class) if "." not in key]
        keys = [*first, CONFIG, PRINT_CONFIG]
        about += [f"for example: {example}"] if example else []
        about.append(f"--help {ALL_KEYS}: all {len(options)} keys; --help WORD: those with this word, such as optim")
    elif not keys:
        raise ConfigError(f"--help {topic}: no key has this word; {suggest_key(topic, options, '')}")
    defaults, rows = read_files(config_class, []), list[tuple[str, str]]()
    for key in keys:
        option = options[key]
        default = defaults.get(key, option.default)
        has_default = default not in (MISSING, None, False, "", [], {})
        default_text = f"; default: {default}" if has_default else ""
        rows.append((f"--{key}", f"{option.text} [{describe_kind(option.kind)}{default_text}]"))
    print_page(about, rows)


def print_page(paragraphs: Iterable[str], rows: Iterable[tuple[str, str]]) -> None:
    """Print paragraphs, then names with their texts beside them, as wide as the terminal."""
    screen = Screen()
    for paragraph in paragraphs:
        screen.write([*wrap_text(first_paragraph(paragraph), screen.width, 0), ""])
    for name, text in rows:
        screen.write(wrap_text(first_paragraph(text), screen.width, INDENT, f"{name:{INDENT - 1}} "))


def first_paragraph(docstring: str) -> str:
    """The first paragraph of a docstring on one line, without backticks."""
    return " ".join(docstring.partition("\n\n")[0].replace("`", "").split())


def print_json(values: Mapping[str, Any]) -> None:
    """Print the figures of a command as one JSON object, as ``--json`` asks."""
    print(json.dumps(values, indent=2, ensure_ascii=False))


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
    elif isinstance(error, ModuleNotFoundError):
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
