# SPDX-License-Identifier: Apache-2.0
"""Completion in a shell: commands by name, then jsonargparse's keys, their words and recipes, by argcomplete.

The shell starts the program once for each press of TAB, with what was typed in ``COMP_LINE`` and ``_ARGCOMPLETE`` set.
docs/installing.md says how a shell is told to.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, get_args

from preprocessing.base import cli, config_files
from preprocessing.base.commands import Command
from preprocessing.base.installed import load

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

ASKED = "_ARGCOMPLETE"


def answer(commands: Sequence[Command]) -> None:
    """If a shell asks, print what may stand where the cursor is and end the process; else do nothing."""
    if ASKED not in os.environ:
        return
    import argcomplete

    _, _, _, typed, _ = argcomplete.lexers.split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))
    found, below, depth = follow(commands, typed[1:])
    os.environ[ASKED] = str(1 + depth)  # the words up to here stand for the name of the program
    if found is not None:
        parser_of(found).parse_args([])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=[command.name for command in below])
    argcomplete.autocomplete(parser, always_complete_options=False)


def follow(commands: Sequence[Command], typed: Sequence[str]) -> tuple[Command | None, Sequence[Command], int]:
    """The command that ``typed`` names, the commands that may come next, and how many words were used up."""
    for depth, word in enumerate(typed):
        command = next((one for one in commands if word in (one.name, *one.also)), None)
        if command is None:
            return None, (), depth
        if not command.parts:
            return command, (), depth + 1
        commands = command.parts
    return None, commands, len(typed)


def parser_of(command: Command) -> ArgumentParser:
    """A parser with every key that a command takes."""
    from jsonargparse import ActionConfigFile

    named = [*command.keys, *(one for one in (command.config, command.shared) if one)]
    classes = [load(name) for name in named]
    parser = cli.parser_for(classes[0], command.name)
    for more in classes[1:]:
        parser.add_class_arguments(more)
    kind = next((one.RECIPES for one in classes if hasattr(one, "RECIPES")), None)
    for action in parser._actions:
        taking: Any = action
        if isinstance(action, ActionConfigFile) and kind is not None:
            taking.completer = offer(config_files.names(kind), action.completer)
        elif hasattr(action, "_typehint"):  # jsonargparse leaves out words, and offers None where it knows no values
            taking.completer = offer(words_of(action._typehint))
    return parser


def offer(words: Sequence[str], files: Callable[..., list[str]] | None = None) -> Callable[..., list[str]]:
    """A completer of argcomplete: some words, and ``files`` beside them. Where there are none a shell has files."""
    return lambda prefix, **more: [*words, *(files(prefix, **more) if files else [])]


def words_of(typed: Any) -> list[str]:
    """The words that a value of this type may be, as they are written on a command line."""
    if typed is bool:
        return ["true", "false"]
    if typed is type(None):
        return ["null"]
    return [word for part in get_args(typed) for word in ([part] if isinstance(part, str) else words_of(part))]
