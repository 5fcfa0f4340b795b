# SPDX-License-Identifier: Apache-2.0
"""The arguments of a command: keys, words and texts; and by cyclopts the pages of ``--help``, and completions for
shells. Values stay texts, which ``padless.core.configuration`` converts.
"""

from __future__ import annotations

import inspect
import re
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from padless.core.configuration import Option, groups_of, names, options_of
from padless.core.errors import ConfigError
from padless.core.suggestions import suggestion
from padless.core.terminal import unguarded

if TYPE_CHECKING:
    from cyclopts import App

ANSWERS = ("true", "false", "yes", "no")
"""Arguments that are the value of the switch before them."""
CONFIG = "config"
MAX_COLUMNS = 100
"""Longer lines of help are hard to read, whatever the terminal's width."""
APP_SETTINGS: dict[str, Any] = {"help_flags": (), "version_flags": (), "help_format": "plaintext"}
"""Of every App; ``--help`` and ``--version`` are read before it."""


@dataclass(frozen=True)
class Arguments:
    """What stands on a command line."""

    texts_by_key: dict[str, list[str]]
    """The texts of each key, in their order; ``true`` for a switch alone."""
    words: list[str]
    """What belongs to no key."""
    after_dashes: list[str]
    """What follows ``--``, as it stands."""


def split_arguments(config_class: type, arguments: Sequence[str]) -> Arguments:
    """Keys with the texts after them, and words. A switch takes the next argument only if it is one of ``ANSWERS``.

    An argument with a blank, and a dash alone, are no keys but words. Raises ``ConfigError`` for a key that the
    class does not have, and for one without its value.
    """
    options = {**options_of(config_class), **common_options(config_class)}
    split = Arguments({}, [], [])
    waiting = [*reversed(arguments)]
    while waiting:
        argument = waiting.pop()
        if argument == "--":
            split.after_dashes.extend(reversed(waiting))
            break
        name, equals, text = argument.partition("=")
        if not is_key(argument):
            split.words.append(argument)
            continue
        key = output_key(config_class) if name == "-o" else name.removeprefix("--")
        if key not in options:
            raise ConfigError(f"{name}: no such option of this command; {hint_of_key(config_class, name)}")
        if not equals and options[key].kind is bool:
            text = waiting.pop() if waiting and waiting[-1].lower() in ANSWERS else "true"
        elif not equals:
            if not waiting or (waiting[-1].startswith("--") and is_key(waiting[-1])):
                raise ConfigError(f"{name}: its value is missing; --help {key} says what it takes")
            text = waiting.pop()
        split.texts_by_key.setdefault(key, []).append(text)
    return split


def is_key(argument: str) -> bool:
    """Whether an argument is spelt as a key: with a dash in front, and without a blank in its name."""
    return argument[:1] == "-" != argument and " " not in argument.partition("=")[0]


def hint_of_key(config_class: type, key: str, dashes: str = "--") -> str:
    """The end of the sentence about a key that a class does not have."""
    options, name = options_of(config_class), key.lstrip("-")
    if keys := [dashes + option for option in options if option.startswith(f"{name}.")]:
        return f"its keys are {', '.join(keys)}"
    for mapping in options:
        if name.startswith(f"{mapping}.") and dict in options[mapping].kinds:
            entry = name.removeprefix(f"{mapping}.")
            return f"{dashes}{mapping} takes a mapping, as in {dashes}{mapping} '{{{entry}: …}}'"
    return suggestion(name, options, dashes)


def output_key(config_class: type) -> str:
    """The key that ``-o`` means."""
    return getattr(config_class, "OUTPUT", "output")


def app_of_options(config_class: type, visible_keys: Collection[str], values: Mapping[str, Any] | None = None) -> App:
    """What cyclopts knows of a command. Its help has ``visible_keys``, with ``values`` in place of their defaults."""
    from cyclopts import App, Group, Parameter

    def collect(*words: str, **text_by_key: Any) -> None:
        """Never called; its signature says which arguments there are."""

    group_by_name = {"": Group("keys", sort_key=0)}
    for rank, (name, group_class) in enumerate(groups_of(config_class).items(), 1):
        group_by_name[name] = Group(name, help=without_markup(group_class.__doc__ or ""), sort_key=rank)
    parameters = [inspect.Parameter("words", inspect.Parameter.VAR_POSITIONAL, annotation=str)]
    for key, option in {**options_of(config_class), **common_options(config_class)}.items():
        default = (values or {}).get(key, None if option.default is MISSING else option.default)
        parameter = Parameter(
            name=f"--{key}",
            help=without_markup(option.text) + " (-o)" * (key == output_key(config_class)),
            group=group_by_name[key.rpartition(".")[0]],
            show=key in visible_keys,
            show_default=bool(default),
            negative=(),
            accepts_keys=False,
        )
        kind, name = Annotated[option.kind, parameter], key.replace(".", "__")
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))
    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app = App(group_arguments=Group("words", show=False), **APP_SETTINGS)
    app.default(collect)
    return app


def common_options(config_class: type) -> dict[str, Option]:
    """The options that every command has beside the keys of its class."""
    kind = getattr(config_class, "RECIPES", "")
    recipes = f", or a recipe: {', '.join(names(kind))}" if kind else ""
    about = f"A YAML file with any of the keys{recipes}; keys beside it win."
    return {
        CONFIG: Option(CONFIG, list[str], None, about),
        "print_config": Option("print_config", bool, False, "Print the resulting configuration."),
    }


def print_help(app: App) -> None:
    """Print the page of a command, as wide as the terminal."""
    from rich.console import Console

    columns = min(shutil.get_terminal_size((80, 24)).columns, MAX_COLUMNS)
    stream = unguarded(sys.stdout)
    console = Console(file=stream, width=columns)
    with console.capture() as page:
        app.help_print([], console=console)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = page.get()  # cannot hang: rich's text
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def without_markup(text: str) -> str:
    """The first paragraph of a docstring in one line, without the markup of reStructuredText."""
    return " ".join(re.sub(r":\w+:`~?([^`]+)`", r"\1", text.partition("\n\n")[0]).replace("`", "").split())
