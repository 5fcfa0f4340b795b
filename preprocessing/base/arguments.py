# SPDX-License-Identifier: Apache-2.0
"""The arguments of a command, by cyclopts: it splits them into keys and words, prints the pages of ``--help``, and
writes completions for shells. Values stay texts, which ``preprocessing.base.configuration`` converts.
"""

from __future__ import annotations

import inspect
import re
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING
from typing import TYPE_CHECKING, Annotated, Any

from preprocessing.base.configuration import Option, groups_of, names, options_of
from preprocessing.base.terminal import unguarded

if TYPE_CHECKING:
    from cyclopts import App

ANSWERS = ("true", "false", "yes", "no")
"""Arguments that are the value of the switch before them."""
CONFIG = "config"
DASH = "\0-"
"""Stands for the dash of an argument with a blank, or of a dash alone, which are no options but texts."""
MAX_COLUMNS = 100
"""Longer lines of help are hard to read, whatever the terminal's width."""
APP_SETTINGS: dict[str, Any] = {"help_flags": (), "version_flags": (), "help_format": "plaintext"}
"""Of every App; ``--help`` and ``--version`` are read before it."""


def split_arguments(config_class: type, arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The words, and the text of each key, the last where it is given twice; all of ``config``.

    A switch takes the next argument only if it is one of ``ANSWERS``; after ``--`` all are words. Raises
    ``CycloptsError``.
    """
    options = options_of(config_class)
    tokens: list[str] = []
    for argument in arguments:
        option = options.get(tokens[-1].removeprefix("--")) if tokens else None
        is_after_switch = option is not None and option.kind is bool
        is_value = option is not None and not is_after_switch
        if is_after_switch and argument.lower() in ANSWERS:
            tokens[-1] += f"={argument}"
        elif argument == "-" or (argument[:1] == "-" and " " in (argument if is_value else argument.partition("=")[0])):
            tokens.append(DASH + argument[1:])
        else:
            tokens.append(re.sub("^-o(?==|$)", f"--{output_key(config_class)}", argument))
    app = app_of_options(config_class)
    _, bound, _ = app.parse_args(tokens, print_error=False, exit_on_error=False)
    text_by_key = {name.replace("__", "."): value for name, value in bound.arguments.items()}
    words = [word.replace(DASH, "-") for word in text_by_key.pop("words", ())]
    return words, text_by_key


def output_key(config_class: type) -> str:
    """The key that ``-o`` means."""
    return getattr(config_class, "OUTPUT", "output")


def app_of_options(
    config_class: type, visible_keys: Collection[str] = (), values: Mapping[str, Any] | None = None
) -> App:
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
            json_list=False,
            json_dict=False,
            allow_repeating=True,
            converter=None if key == CONFIG else text_of_tokens,
            n_tokens=None if option.kind is bool or key == CONFIG else 1,
        )
        # where pydantic is imported, cyclopts would hold texts and the default None against the type
        annotation = option.kind if visible_keys or option.kind is bool else Any
        annotation = list[str] | None if key == CONFIG and not visible_keys else annotation
        kind, name = Annotated[annotation, parameter], key.replace(".", "__")
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


def text_of_tokens(_: Any, tokens: Sequence[Any]) -> str:
    """What stands on the command line; ``true`` for a switch alone."""
    return "true" if tokens[-1].implicit_value is True else str(tokens[-1].value).replace(DASH, "-")


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
