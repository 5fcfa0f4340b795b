# SPDX-License-Identifier: Apache-2.0
"""The command line: a table of commands; arguments and YAML files become an instance of a configuration class.

Both packages have a table of commands in ``__main__``. It names functions and configuration classes as
``module:name``; a command imports only its own, so ``--help`` and a misspelt command do not wait for torch. An error is
one line with the file or key and the nearest key.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

from padless.core import atomic, configuration
from padless.core.arguments import (
    APP_SETTINGS,
    CONFIG,
    Arguments,
    app_of_options,
    hint_of_key,
    output_key,
    print_help,
    split_arguments,
    without_markup,
)
from padless.core.configuration import NULL, Option, build_config, groups_of, options_of
from padless.core.errors import ConfigError, UserError
from padless.core.installed import VERSION, load_object
from padless.core.signals import COMMAND
from padless.core.suggestions import suggestion
from padless.core.terminal import Guarded, print_stderr, unguarded

if TYPE_CHECKING:
    from cyclopts import App

Config = TypeVar("Config")
PROG = "padless"
NOTE = (
    "exit codes: 0 done, 1 another failure, 2 the configuration or the command is wrong, 3 the data is wrong, "
    "4 something cannot be written, 85 a training was stopped and the same command goes on, 130 or 143 stopped"
)
HELP = ("-h", "--help", "help")
SHELLS = ("bash", "zsh", "fish")
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
    if word in HELP and arguments_after and arguments_after[0] in command_by_name:
        word, *topic = arguments_after
        arguments_after = ["--help", *topic]
    if word in (*HELP, "--completion"):
        app = app_of_commands(commands, prog, note, has_options=word == "--completion")
        if word == "--completion":
            shell: Any = "".join(arguments_after[:1]) or SHELLS[0]
            if shell not in SHELLS:
                raise ConfigError(f"--completion {shell}: expected one of {', '.join(SHELLS)}")
            script = app.generate_completion(shell=shell)
            print(script.replace("complete -F", "complete -o default -F"))  # files, where nothing else is offered
        else:
            print_help(app)
            print(f"\ndocumentation: {configuration.DOCS / 'index.md'}")  # on one line, however long
        return 0 if argv else 2
    if word in ("-V", "--version"):
        print(f"padless {VERSION}")
        return 0
    if word not in command_by_name:
        hint = suggestion(
            word.removesuffix(".py").lstrip("-"), command_by_name, f"{prog} ", f"{prog} --help lists them"
        )
        raise ConfigError(f"{word}: no such command; {hint}")
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ConfigError("the current folder was removed; change to another") from None
    command = command_by_name[word]
    usage = " ".join(filter(None, (prog, word, command.words)))
    config = parse(load_object(command.config), arguments_after, prog=usage, command=command)
    return load_object(command.main)(config) or 0  # only now, since neither --help nor a refusal needs torch


def app_of_commands(commands: Sequence[Command], prog: str, note: str, *, has_options: bool) -> App:
    """The list of commands, with the options of each where completions need them."""
    from cyclopts import App

    app = App(prog, usage=f"{prog} COMMAND [options]; COMMAND --help says more", help_epilogue=note, **APP_SETTINGS)
    for rank, command in enumerate(commands):
        config_class = load_object(command.config) if has_options else None
        listed = app_of_options(config_class, options_of(config_class)) if config_class else App(**APP_SETTINGS)
        listed.help, listed.sort_key = command.summary, rank
        app.command(listed, name=command.name)
    return app


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
        print_topic("".join(argv[help_positions[0] + 1 :][:1]), config_class, usage, command)
        raise SystemExit(0)
    arguments = split_arguments(config_class, argv)
    files = arguments.texts_by_key.pop(CONFIG, [])
    prints_config = arguments.texts_by_key.pop("print_config", ["false"])[-1].lower() in ("true", "yes")
    value_by_key = {key: join_texts(config_class, key, texts) for key, texts in arguments.texts_by_key.items()}
    extra_words = fill_words(arguments, value_by_key, config_class)
    values, files = read_files(config_class, files)
    values |= value_by_key
    check_required(config_class, values, (command and command.example) or usage)
    config: Any = build_config(config_class, values)
    if hasattr(config_class, "files_read"):
        vars(config).update(files_read=files)
    if extra_words:
        raise ConfigError(
            f"{extra_words[0]!r} is one word too many: {usage}{hint_of_word(extra_words[0], config_class, values)}"
        )
    if prints_config:
        import yaml

        print(yaml.safe_dump(asdict(config), sort_keys=False), end="")
        raise SystemExit(0)
    return config


def check_required(config_class: type, values: Mapping[str, Any], example: str) -> None:
    """Raise ``ConfigError`` for a key without a default that has no value; ``example`` is a command that has it."""
    for key, option in options_of(config_class).items():
        if option.default is MISSING and key not in values:
            raise ConfigError(f"--{key} is missing, as in {example}")


def print_topic(topic: str, config_class: type, usage: str, command: Command | None) -> None:
    """Print the first screen of help, or that of a ``topic``: all keys, a group or a key.

    Raises ``ConfigError`` for another topic.
    """
    options, groups = options_of(config_class), groups_of(config_class)
    visible_keys = [key for key in options if topic.removeprefix("--") in (ALL_KEYS, key, *key.split("."))]
    about = [without_markup(config_class.__doc__ or "")]
    if not topic:
        visible_keys = [*(command.first if command and command.first else options), CONFIG, "print_config"]
        about += [f"for example: {command.example}"] if command and command.example else []
        about.append(f"--help {ALL_KEYS}: all {len(options)} keys; --help KEY: one; --help GROUP: {', '.join(groups)}")
    elif not visible_keys:
        hint = suggestion(topic, [*groups, *options], "--help ")
        raise ConfigError(f"--help {topic}: neither a key nor a group of keys; {hint}")
    app = app_of_options(config_class, visible_keys, read_files(config_class, [])[0])
    app.usage, app.help = usage, "\n\n".join(about)
    print_help(app)


def join_texts(config_class: type, key: str, texts: list[str]) -> Any:
    """The value of a key from its texts on the command line: those of a list add up.

    Raises ``ConfigError`` for several of a key that takes one.
    """
    option = options_of(config_class)[key]
    if len(texts) == 1:
        return texts[0]
    if list not in option.kinds:
        raise ConfigError(f"--{option.key}: given {len(texts)} times, and it takes one value; keep one of them")
    return [*itertools.chain.from_iterable(map(option.split_list, texts))]


def fill_words(arguments: Arguments, value_by_key: dict[str, Any], config_class: type) -> list[str]:
    """Add the keys of ``SUBJECT`` that are not given, with the words that fill them; returns the other words.

    A key that takes a list takes all; ``name_key`` of the class says which key words in front of ``--`` are, if it is
    another one. Raises ``ConfigError`` for a YAML file.
    """
    words, after_dashes = [*arguments.words], [*arguments.after_dashes]
    for word in words:
        if word.endswith((".yaml", ".yml")) and os.path.isfile(word):
            raise ConfigError(f"{word}: a configuration file; name it as --config {word}")
    for key in getattr(config_class, "SUBJECT", ()):
        if key in value_by_key:
            continue
        if list not in options_of(config_class)[key].kinds:
            value_by_key |= {key: (words or after_dashes).pop(0)} if words or after_dashes else {}
            continue
        words_key = getattr(config_class, "name_key", lambda _, key=key: key)(words)
        if words and words_key not in value_by_key:
            value_by_key[words_key], words = words, []
        if after_dashes:
            value_by_key[key], after_dashes = [*value_by_key.get(key, ()), *after_dashes], []
    return [*words, *after_dashes]


def hint_of_word(word: str, config_class: type, values: Mapping[str, Any]) -> str:
    """The end of the sentence about a word too many."""
    options, output = options_of(config_class), output_key(config_class)
    key = re.sub(r"^\W+|[=:\s].*", "", word)
    if key in options:
        return f"; did you mean --{key} VALUE?"
    return f"; did you mean -o {word}?" if output in options and output not in values else ""


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
    content, values = configuration.read_config(path), dict[str, Any]()
    content.pop(SECTIONS.get(section, ""), None)
    content |= content.pop(section) if isinstance(content.get(section), dict) else {}
    for name, value in content.items():
        texts = {} if value == NULL else value
        is_group = name in groups and isinstance(texts, dict)
        values_of_name = {f"{name}.{key}": text for key, text in texts.items()} if is_group else {name: value}
        for key in values_of_name.keys() & values.keys():
            raise ConfigError(f"{path}: the key {key!r} occurs twice, alone and in its group; remove one")
        values |= values_of_name
    for key in values:
        if key not in options and not (key == DEFAULT_RECIPE.key and hasattr(config_class, "DEFAULT")):
            raise ConfigError(f"{path}: unknown key {key!r}; {hint_of_key(config_class, key, dashes='')}")
    return values


def as_words(values: Iterable[tuple[str, Any]]) -> list[str]:
    """Keys and values as a command line has them; numbers may be numpy's, and texts paths."""
    words: list[str] = []
    for key, value in values:
        is_structured = isinstance(value, (bool, list, tuple, dict, NoneType))
        words.append(f"--{key}={json.dumps(value, default=str) if is_structured else value}")
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
    code = 1
    if isinstance(refusal, UserError):
        line, code = f"error: {refusal}", refusal.exit_code
    elif isinstance(error, MemoryError):
        line = f"error: not enough memory ({error}); reduce batch or processes, or use a machine with more"
    elif isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] not in OWN_PACKAGES:
        package = str(error.name).partition(".")[0]
        line = f"error: {package} is not installed here, which this command needs; pip install padless brings it"
        code = ConfigError.exit_code
    elif isinstance(error, BrokenPipeError):
        discard_output()
        return 0
    elif isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP) and error.filename is not None:
        line, code = f"error: {error.filename}: {error.strerror}; name another", ConfigError.exit_code
    else:
        raise error
    with contextlib.suppress(OSError):  # stderr is a log on a full disk
        print_stderr(line)
    try:
        sys.stdout.flush()
    except OSError:  # stdout is full; the line above says so
        discard_output()
    return code


def discard_output() -> None:
    """Discard buffered output; Python would report the failed flush at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
