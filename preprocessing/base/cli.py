# SPDX-License-Identifier: Apache-2.0
"""A command line: words and YAML files become an instance of a configuration class, errors become one line.

The options are those of ``preprocessing.base.options``. An error names the file or the key, and the nearest key there
is.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field
from typing import Any, TypeVar

from preprocessing.base import atomic, help_page, options, processes
from preprocessing.base.errors import ConfigError, UserError
from preprocessing.base.help_page import Page, nearest, paragraph, suggestion, two_columns
from preprocessing.base.installed import SCRIPTS, VERSION, as_typed, load
from preprocessing.base.options import NULLS, RENAME, build, choices_of, groups_of, is_utf8, options_of, parsed
from preprocessing.base.terminal import guards, tell

Config = TypeVar("Config")
Main = Callable[[list[str]], int | None]
Given = tuple[str, list[str]]
"""A key, and the words of a command line that give it."""
OWN = ("config", "help", "print_config")
"""Options that every command has."""


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

    A class attribute ``DEFAULT`` names the configuration file that is read when ``argv`` names none, ``RECIPES`` the
    kind of recipes that ``--config`` finds by name; ``HINT`` ends the sentence on an unknown key. ``page`` is what
    ``--help`` shows, which ends the program. ``in_front`` are options of a launcher, which stand before these. Raises
    ``ConfigError`` with one sentence.
    """
    page = page or Page(usage=f"{prog} [--key value …]", about=config_class.__doc__ or "")
    (config,), alone = parse_all((config_class,), argv, page, defaults or {}, in_front)
    refuse_words(alone)
    return config


def parse_all(
    classes: Sequence[type],
    argv: Sequence[str],
    page: Page,
    defaults: Mapping[str, Any],
    in_front: Collection[str] = (),
) -> tuple[list[Any], list[str]]:
    """An instance of each class, whose options stand in any order, and the words that belong to no option."""
    alone, given = apart(argv, *classes)
    values: dict[str, Any] = dict(defaults)
    files = [file for one in classes if (file := getattr(one, "DEFAULT", None)) is not None]
    if not any(key == "config" for key, _ in given):
        given = [*(("config", ["--config", str(file)]) for file in files), *given]
    reader = Reader(classes, in_front)
    topic = next((words[1:] for key, words in given if key == "help"), None)
    if topic is not None:
        for file in files:
            values |= reader.from_file(str(file))
        print(help_page.render(page, "".join(topic), classes, values))
        raise SystemExit(0)
    for key, words in given:
        reader.take(values, key, words)
    missing = [key for one in classes for key, option in options_of(one).items() if option.default is MISSING]
    if absent := [f"--{key}" for key in missing if key not in values]:
        hint = f", as in {as_typed(page.example)}" if page.example else "; see --help"
        raise ConfigError(f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing{hint}")
    found = [build(one, values) for one in classes]
    if any(key == "print_config" for key, _ in given):
        import yaml

        print(
            yaml.safe_dump(as_plain(dict(item for one in found for item in asdict(one).items())), sort_keys=False),
            end="",
        )
        raise SystemExit(0)
    return found, alone


class Reader:
    """Reads values of some classes' options from files and words."""

    def __init__(self, classes: Sequence[type], in_front: Collection[str]) -> None:
        self.options = {key: option for one in classes for key, option in options_of(one).items()}
        self.groups = {key for one in classes for key in groups_of(one)}
        self.kind = next((one.RECIPES for one in classes if hasattr(one, "RECIPES")), None)
        self.hint = next((one.HINT for one in classes if hasattr(one, "HINT")), "")
        self.in_front = in_front

    def take(self, values: dict[str, Any], key: str, words: Sequence[str]) -> None:
        """Put what the words of one option say into ``values``. Raises ``ConfigError``."""
        if key == "print_config":
            return
        option = self.options.get(key)
        first, equals, value = words[0].partition("=")
        if not equals and len(words) == 1:
            value = "true" if option is not None and option.is_switch else ""
        if key == "config":
            file = value or (words[1] if len(words) > 1 else "")
            values |= self.from_file(options.find(file, self.kind) if self.kind else file)
            return
        parent = key.rpartition(".")[0]
        is_open = parent in self.options and self.options[parent].is_mapping
        if option is None and not is_open and key not in self.groups:
            if key in self.in_front:
                raise ConfigError(f"{first}: an option of accelerate launch: put it before the keys of the training")
            raise ConfigError(f"{first}: no such option{suggestion(key, {*self.options, *self.in_front})}{self.hint}")
        if len(words) > 1:
            value = words[1]
        elif not equals and not value:
            raise ConfigError(f"{first}: a value follows it, as in {first} VALUE")
        if key in self.groups:
            values |= dict(self.leaves({key: mapping(key, value)}, f"--{key}"))
        elif option is None:
            values[parent] = {**mapping(parent, values.get(parent, {})), key[len(parent) + 1 :]: value}
        else:
            values[key] = value

    def from_file(self, path: str) -> dict[str, Any]:
        """The values of a YAML file by their dotted keys. Raises ``ConfigError``."""
        return dict(self.leaves(options.read_config(path), path))

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


def apart(argv: Sequence[str], *classes: type) -> tuple[list[str], list[Given]]:
    """Words that belong to no option, wherever they stand, and every option with its words.

    An option takes the word after it, but a switch only ``true`` or ``false``, and none takes another option. After
    ``--`` every word stands alone. Other names of a key (``also``) are replaced by it.
    """
    options = {key: option for one in classes for key, option in options_of(one).items()}
    also = {other: key for key, option in options.items() for other in option.metadata.get("also", ())}
    alone: list[str] = []
    given: list[Given] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            return alone + words, given
        if word != "-h" and not word.startswith("--"):
            alone.append(word)
            continue
        name, equals, value = ("help", "", "") if word == "-h" else word[2:].partition("=")
        key = also.get(name, name)
        found = [f"--{key}{equals}{value}"]
        if key == "help" and equals:
            found = ["--help", value]
        elif words and not equals and key != "print_config":
            following, option = words[0], options.get(key)
            if option is not None and option.is_switch:
                takes = following in ("true", "false")
            elif key == "help":
                takes = not following.startswith("-")
            else:
                dashed = option is not None and option.metadata.get("dashed")
                is_key = following[2:].partition("=")[0] in {*options, *also, *OWN}
                takes = not following.startswith("--") or bool(dashed and not is_key)
            found += [words.pop(0)] if takes else []
        given.append((key, found))
    return alone, given


def known_keys(*classes: type) -> set[str]:
    """Every key that a command with these classes takes, without dashes."""
    return {*OWN, *(key for one in classes for key in (*options_of(one), *groups_of(one)))}


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


def as_plain(value: Any) -> Any:
    """Values as YAML and JSON have them: tuples become lists."""
    if isinstance(value, dict):
        return {key: as_plain(part) for key, part in value.items()}
    return [as_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


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
    """``module:class`` of its options, a dataclass as ``parse`` reads it."""
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
    if command.parts:
        return dispatch(command.parts, argv, prog)
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
    found, alone = parse_all(classes, argv, page, command.shared_defaults)
    if command.words is None:
        refuse_words(alone)
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
    command: Command | None = None
    used = 1
    for word in line[3][1:]:
        following = named(commands, word)
        if following is None:
            break
        command, commands, used = following, following.parts, used + 1
        if not commands:
            break
    parser = argparse.ArgumentParser()
    if command is not None and not command.parts:
        add_options(parser, [load(name) for name in (*command.keys, command.config, command.shared) if name])
    else:
        parser.add_argument("command", choices=[one.name for one in commands])
    os.environ["_ARGCOMPLETE"] = str(used)  # the words up to here stand for the name of the program
    argcomplete.autocomplete(parser, always_complete_options=not commands)


def add_options(parser: Any, classes: Sequence[type]) -> None:
    """Give a parser of argparse every option of some classes, with what a shell offers as their values."""
    kind = next((one.RECIPES for one in classes if hasattr(one, "RECIPES")), None)
    files = options.names(kind) if kind else []
    parser.add_argument("--config").completer = lambda **more: files
    for key, option in {key: option for one in classes for key, option in options_of(one).items()}.items():
        words = choices_of(option.kind)
        parser.add_argument(f"--{key}").completer = lambda words=words, **more: words
    parser.add_argument("words", nargs="*")
