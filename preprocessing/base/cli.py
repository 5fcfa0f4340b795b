# SPDX-License-Identifier: Apache-2.0
"""Command lines from typed dataclasses: YAML files, dotted overrides, help from field docstrings, one-line errors.

jsonargparse does the parsing; it and yaml are imported when they are used, since an image that only predicts has
neither (``plain_options``). What is added here: unknown keys are found before it sees them, so that the sentence can
name the file and the nearest key, and every error of its own is folded into one line.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import itertools
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from preprocessing.base import aliases, familiar, help_page, stopping, storage
from preprocessing.base.config_files import ShapeError, compose, named, read_yaml
from preprocessing.base.errors import ConfigError, DataError, UserError, check_meant
from preprocessing.base.help_page import Page
from preprocessing.base.installed import as_typed, needed
from preprocessing.base.printable import guards, tell

Main = Callable[[list[str]], int | None]
UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP)
"""What a system says of a path that can name nothing, wherever it is first asked."""


def run(main: Main, argv: Sequence[str] | None = None) -> int:
    """Call ``main(argv)`` and turn what it raises into one line on stderr and a documented exit code."""
    with guards():
        try:
            stopping.armed()
            return stopping.settle(answered(main, list(sys.argv[1:] if argv is None else argv)))
        except KeyboardInterrupt:
            return stopping.told()


def answered(main: Main, argv: list[str]) -> int:
    """The exit code of ``main(argv)``. Errors on the way out of a stop signal are of no interest any more."""
    try:
        return printed(main, argv)
    except Exception as error:
        return stopping.told() if stopping.heard() is not None else said(error)


def printed(main: Main, argv: list[str]) -> int:
    """Call ``main``, and see that what it has printed arrives: at the exit nobody could say that it did not."""
    try:
        code = main(argv) or 0
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def said(error: Exception) -> int:
    """Say in one line what a command raised; its exit code. What is a fault of ours is raised again."""
    refusal = storage.told(error) if isinstance(error, OSError) else error
    if isinstance(refusal, UserError):
        return say(as_typed(f"error: {refusal}"), refusal.exit_code)
    if isinstance(error, MemoryError):
        return say(f"error: not enough memory ({error}); ask for less at once, or take a machine with more", 1)
    if isinstance(error, BrokenPipeError):
        print_nowhere()
        return 0
    if isinstance(error, OSError) and error.errno in UNUSABLE and error.filename is not None:
        return say(f"error: {error.filename}: {error.strerror}; name another", ConfigError.exit_code)
    raise error


def say(line: str, code: int) -> int:
    """Print the one line of an error; its exit code."""
    with contextlib.suppress(OSError):  # a log on a full disk
        tell(line)
    try:
        sys.stdout.flush()
    except OSError:  # it takes no more, which is said by now
        print_nowhere()
    return code


def print_nowhere() -> None:
    """Let what is still to be printed vanish; Python would complain of it at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Config = TypeVar("Config")
UNION = re.compile(
    r"(?P<key>.*?)Does not validate against any of the Union subtypes Subtypes: \[(?P<types>.*?)\] Errors: .* "
    r"Given value type: \S+ Given value: (?P<value>.*)"
)
"""What jsonargparse says, on one line, of a value that is none of a key's types."""
UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP)
"""What a system says of a path that can name nothing, wherever it is first asked."""
MOST_DIGITS = 1000
LONGEST_NAME = 4096
"""What a system takes for a path; other values are longer."""
NULL = "null"
"""How a value that is None is written in YAML and on a command line."""


def parser_for(config_class: type, prog: str | None = None, description: str = "") -> ArgumentParser:
    """A parser with one option per field of ``config_class`` (nested fields become dotted keys) and ``--config``."""
    from jsonargparse import ActionConfigFile, ArgumentParser, set_parsing_settings

    from preprocessing.base import verbatim

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    keys = set(verbatim.verbatim_keys(config_class))
    action = verbatim.config_action(keys) if keys else ActionConfigFile
    parser.add_argument("--config", action=action, help="A YAML file; when given several times, later ones win.")
    parser.add_class_arguments(config_class)
    return parser


def parse(
    config_class: type[Config],
    argv: Sequence[str],
    *,
    prog: str,
    page: Page | None = None,
    defaults: Mapping[str, Any] | None = None,
    in_front: Collection[str] = (),
) -> Config:
    """Read ``argv`` into an instance of ``config_class``; ``defaults`` replace those of some of its fields.

    A class attribute ``DEFAULT`` names the configuration file that is read when ``argv`` names none, and ``RECIPES``
    the kind of recipes that ``--config`` finds by name; ``HINT`` ends the sentence on a key that is not known. ``page``
    is what ``--help`` shows, which ends the program. ``in_front`` are options of a launcher, which stand before these.
    Raises ``ConfigError`` with one sentence for an unknown key (what it is called here, or the nearest known one), a
    value of the wrong type or out of range, or a configuration file that cannot be read.
    """
    needed("jsonargparse", prog)
    from jsonargparse import ArgumentError

    from preprocessing.base import verbatim

    parser = parser_for(config_class, prog, "")
    parser.set_defaults(dict(defaults or {}))
    topic = help_page.asked_for(argv)
    if topic is not None:
        page = page or Page(usage=f"{prog} [--key value …]", about=config_class.__doc__ or "")
        show_help(page, topic, [parser], [config_class])
    known = known_keys(parser)
    argv = aliases.joined(aliases.renamed(argv, config_class), config_class, known)
    argv = spelt_out(argv, switches(parser))
    if (kind := getattr(config_class, "RECIPES", None)) is not None:
        argv = named(argv, kind)
    default = getattr(config_class, "DEFAULT", None)
    if default is not None and not config_files(argv):
        argv = ["--config", str(default), *argv]
    argv.sort(key=lambda word: word.startswith("--print_config"))  # it prints what came before it, so it goes last
    try:
        check_arguments(argv, known, in_front)
        for path in config_files(argv):
            check_config_file(path, known)
        for key, path in part_files(argv, known):
            check_config_file(path, {name.removeprefix(f"{key}.") for name in known if name.startswith(f"{key}.")})
    except ConfigError as error:
        raise ConfigError(f"{error}{getattr(config_class, 'HINT', '')}") from None
    argv = verbatim.quoted_arguments(argv, set(verbatim.verbatim_keys(config_class)))
    try:
        namespace = parser.parse_args(argv)
        instance = parser.instantiate(namespace)
    except ArgumentError as error:
        raise ConfigError(one_line(str(error))) from None
    fields = {name: value for name, value in vars(instance).items() if name != "config"}
    config = config_class(**fields)
    check_meant(config)
    return config


def show_help(page: Page, topic: str, parsers: Sequence[ArgumentParser], classes: Sequence[type]) -> NoReturn:
    """Print the help on ``topic`` and end the program, as a parser does that is asked for help.

    The defaults that it shows are those of a command line without ``--config``.
    """
    import yaml

    for parser, one in zip(parsers, classes, strict=True):
        if (default := getattr(one, "DEFAULT", None)) is not None:
            parser.set_defaults(dict(leaves(yaml.safe_load(Path(default).read_text(encoding="utf-8")))))
    print(help_page.render(page, topic, parsers, classes))
    raise SystemExit(0)


def known_keys(parser: ArgumentParser) -> set[str]:
    """Every key the parser accepts, in dotted form without dashes."""
    return {option[2:] for action in parser._actions for option in action.option_strings if option.startswith("--")}


def switches(parser: ArgumentParser) -> set[str]:
    """Options that are on or off, with their dashes."""
    flags = [action for action in parser._actions if getattr(action, "_typehint", None) is bool]
    return {option for action in flags for option in action.option_strings}


def spelt_out(argv: Sequence[str], flags: set[str]) -> list[str]:
    """``argv`` with ``true`` after each switch that stands alone, so that ``--json`` means ``--json true``."""
    words: list[str] = []
    for word, following in itertools.zip_longest(argv, argv[1:]):
        words.append(word)
        if word in flags and following not in ("true", "false"):
            words.append("true")
    return words


def apart(argv: Sequence[str], flags: set[str]) -> tuple[list[str], list[list[str]]]:
    """Words that belong to no option, wherever they stand, and each option with its value.

    An option takes the word after it, but a switch (one of ``flags``) only ``true`` or ``false``. After ``--`` every
    word stands alone.
    """
    alone: list[str] = []
    options: list[list[str]] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            return alone + words, options
        if word.partition("=")[0] in ("-h", "--help"):
            topic = help_page.asked_for([word, *words[:1]])
            options.append(["--help", topic] if topic else ["--help"])
            words = words[1:] if topic and "=" not in word else words
        elif not word.startswith("--"):
            alone.append(word)
        elif is_whole(word, words[:1], flags):
            options.append([word])
        else:
            options.append([word, words.pop(0)])
    return alone, options


def is_whole(option: str, following: Sequence[str], flags: set[str]) -> bool:
    """Whether an option is complete without the word that follows it."""
    if "=" in option or option == "--print_config" or not following:
        return True
    return option in flags and following[0] not in ("true", "false")


def choose(
    names: Collection[str], argv: Sequence[str], prog: str, elsewhere: Mapping[str, str] | None = None
) -> tuple[str, list[str]]:
    """The command that ``argv`` begins with, and the rest. Raises ``ConfigError`` with the nearest one there is.

    ``elsewhere``: words that are no command here, and what is meant by them.
    """
    if argv and argv[0] in names:
        return argv[0], list(argv[1:])
    listed = f"there are {', '.join(names)}"
    if not argv or argv[0].startswith("-"):
        raise ConfigError(f"{prog}: {argv[0] if argv else 'nothing'}: a command comes first; {listed}")
    if meant := (elsewhere or {}).get(argv[0]):
        raise ConfigError(f"{prog}: {argv[0]}: no such command; it is {meant} here")
    near = difflib.get_close_matches(argv[0], names, n=1)
    raise ConfigError(f"{prog}: {argv[0]}: no such command; {f'did you mean {near[0]}?' if near else listed}")


def check_arguments(argv: Sequence[str], known: set[str], in_front: Collection[str] = ()) -> None:
    """Refuse an option that no field answers to, with the nearest one that exists.

    An open mapping takes any key below its own: ``--labels.positive 1`` is fine where ``labels`` is one. ``in_front``:
    options that belong before these.
    """
    expects_value = False
    for argument in argv:
        if argument.startswith("--") and len(argument) > 2:
            key = argument[2:].split("=", 1)[0]
            if key in in_front and key not in known:
                raise ConfigError(f"--{key}: an option of accelerate launch: put it before the keys of the training")
            if not is_known(key, known):
                raise ConfigError(f"--{key}: no such option{suggestion(key, {*known, *in_front}, '--')}")
            expects_value = "=" not in argument
        elif not expects_value and not re.fullmatch(r"-h", argument):
            raise ConfigError(f"{argument!r} belongs to no option: values follow a name, as in --config FILE")
        else:
            expects_value = False


def is_known(key: str, known: set[str]) -> bool:
    """Whether ``key`` is an option, or lies below one that has no fixed children (a mapping)."""
    if key in known:
        return True
    parent = key.rpartition(".")[0]
    return parent in known and not any(other.startswith(parent + ".") for other in known)


def config_files(argv: Sequence[str]) -> list[str]:
    """The values of every ``--config`` in ``argv``."""
    files = [argument.split("=", 1)[1] for argument in argv if argument.startswith("--config=")]
    files += [value for name, value in itertools.pairwise(argv) if name == "--config"]
    return files


def part_files(argv: Sequence[str], known: set[str]) -> Iterator[tuple[str, str]]:
    """Keys that have others below them and get the name of a file with those, as in ``--text FILE``.

    Raises ``ConfigError`` for a value that is deeper, or means more, than any parser should be given.
    """
    given = [word[2:].split("=", 1) for word in argv if word.startswith("--") and "=" in word]
    given += [[name[2:], value] for name, value in itertools.pairwise(argv) if name.startswith("--")]
    for key, value in given:
        check_shape(key, value)
        is_name = value and len(value) < LONGEST_NAME and "\0" not in value and os.path.exists(value)
        if is_name and any(name.startswith(f"{key}.") for name in known):
            yield key, value


def check_shape(key: str, value: str) -> None:
    """Refuse a list or mapping on the command line that a configuration file could not hold."""
    if "\0" in value:
        raise ConfigError(f"{key}: holds the character 0, which no name and no number has; leave it out")
    if len(value) > MOST_DIGITS and value.lstrip("+-").isdigit():
        raise ConfigError(f"{key}: a number of {len(value):,} digits, which nothing here counts to")
    if not set(value) & set("[{*&"):
        return
    import yaml

    try:
        compose(value)
    except ShapeError as error:
        raise ConfigError(f"{key}: {error}") from None
    except yaml.YAMLError:
        return  # a text, or what the parser refuses, naming the key


def check_config_file(path: str, known: set[str]) -> None:
    """Refuse a configuration file that is missing, is not YAML or holds a key that no field answers to."""
    try:
        _, content = read_yaml(path)
    except OSError as error:
        raise ConfigError(f"{path}: {os.strerror(error.errno or 0)}: name a configuration file that exists") from None
    except DataError as error:
        raise ConfigError(str(error)) from None
    except ValueError as error:
        raise ConfigError(f"{path}: not a YAML file: {error}") from None
    if content is None:
        raise ConfigError(f"{path}: holds nothing, expected keys and values")
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, expected keys and values")
    for key in flatten(content, known):
        raise ConfigError(f"{path}: unknown key {key!r}{suggestion(key, known, '')}")


def leaves(mapping: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a nested mapping with their values."""
    for name, value in mapping.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def flatten(mapping: dict[str, Any], known: set[str], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a nested mapping that are not known; a known key without known children may hold anything."""
    for name, value in mapping.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and any(other.startswith(key + ".") for other in known):
            yield from flatten(value, known, key + ".")
        elif key not in known:
            yield key


def suggestion(key: str, known: set[str], dashes: str) -> str:
    """``; it is … here`` for a name of other tools, else ``; did you mean …?`` with the known key nearest to ``key``,
    by whole name first, then by its last part.
    """
    if meant := familiar.meaning(key, known, dashes):
        return f"; {meant}"
    choices = sorted(known - {"help", "config", "print_config"})
    near = difflib.get_close_matches(key, choices, n=1, cutoff=0.6)
    if not near:
        last = {choice.rpartition(".")[2]: choice for choice in choices}
        near = [last[name] for name in difflib.get_close_matches(key.rpartition(".")[2], list(last), n=1, cutoff=0.6)]
    return f"; did you mean {dashes}{near[0]}?" if near else "; --help all lists them"


def one_line(message: str) -> str:
    """A parser's message of several lines as one sentence that names the key."""
    text = " ".join(message.split())
    if missing := re.fullmatch(r"the following arguments are required: (.*)", text):
        keys = [f"--{key}" for key in missing[1].split(", ")]
        return f"{' and '.join(keys)} {'is' if len(keys) == 1 else 'are'} missing: --help says what belongs there"
    text = re.sub(r"^(argument|Parser key) [\"']?(--)?([\w.]+)[\"']?:", r"\3:", text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"typing\.Literal\[([^\]]*)\]", r"one of \1", text)
    text = text.replace("Expected a one of", "expected one of").replace("Expected a ", "expected ")
    if union := UNION.fullmatch(text):
        parts = re.findall(r"one of '[^']*'(?:, '[^']*')*|[^\s,][^,]*", union["types"])
        kinds = [NULL if part == "NoneType" else part.removeprefix("one of ") for part in parts]
        return f"{union['key']}expected {' or '.join(kinds)}, got {union['value']}"
    return re.sub(r"\. Got value: (.*)$", r", got \1", text)
