# SPDX-License-Identifier: Apache-2.0
"""Options of one flat dataclass, read without jsonargparse: for an image that predicts and has little installed.

The same words mean the same as for ``cli``; what needs more than plain keys (YAML files, recipes, keys below keys) is
refused with a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from preprocessing.base import aliases, cli
from preprocessing.base.errors import ConfigError, check_meant
from preprocessing.base.help_page import asked_for

Config = TypeVar("Config")
MISSING_HERE = "jsonargparse, which is not installed here; pip install jsonargparse brings it"
PLAIN: dict[type, Any] = {str: str, int: int, float: float}


def read(config_class: type[Config], argv: Sequence[str], prog: str) -> tuple[Config, list[str]]:
    """An instance of a flat configuration class, and the words that belong to no option.

    Raises ``ConfigError`` for an unknown key, a value of the wrong type, and what only jsonargparse can read; ends the
    program after ``--help``.
    """
    hints = get_type_hints(config_class)
    entries = {entry.name: entry for entry in fields(config_class)}  # type: ignore[arg-type]
    flags = {f"--{name}" for name in entries if hints[name] is bool}
    alone, options = cli.apart(aliases.renamed(argv, config_class), flags)
    if asked_for([option[0] for option in options]) is not None:
        show(entries, hints, prog)
    values = {}
    for option in options:
        key, equals, value = option[0][2:].partition("=")
        if key in ("config", "print_config"):
            raise ConfigError(f"--{key}: YAML is read by {MISSING_HERE}; give the keys as options")
        if key not in entries:
            raise ConfigError(f"--{key}: no such option{cli.suggestion(key, set(entries), '--')}")
        given = value if equals else option[1] if len(option) > 1 else "true" if hints[key] is bool else None
        if given is None:
            raise ConfigError(f"--{key}: a value follows it, as in --{key} VALUE")
        values[key] = converted(key, given, hints[key])
    missing = [name for name, one in entries.items() if one.default is one.default_factory is MISSING]
    if absent := [f"--{name}" for name in missing if name not in values]:
        raise ConfigError(f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing; {prog} --help")
    config = config_class(**values)
    check_meant(config)
    return config, alone


def converted(key: str, text: str, kind: Any) -> Any:
    """A value as its field wants it. Raises ``ConfigError``."""
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ConfigError(f"{key}: expected one of {', '.join(map(str, get_args(kind)))}, got {text}")
        return text
    if kind is bool:
        if text not in ("true", "false"):
            raise ConfigError(f"{key}: expected true or false, got {text}")
        return text == "true"
    if NoneType in get_args(kind):
        if text == cli.NULL:
            return None
        others = [one for one in get_args(kind) if one is not NoneType]  # of several, the one that a word can be
        kind = others[0] if len(others) == 1 else next((one for one in others if one in PLAIN), others[0])
        return converted(key, text, kind)
    if kind not in PLAIN:
        raise ConfigError(f"--{key}: is read by {MISSING_HERE}")
    try:
        return PLAIN[kind](text)
    except ValueError:
        raise ConfigError(f"{key}: expected {kind.__name__}, got {text}") from None


def show(entries: dict[str, Any], hints: dict[str, Any], prog: str) -> None:
    """Print the keys and end the program."""
    print(f"usage: {prog} [--key value …]; with jsonargparse installed --help says more\n")
    for name, entry in entries.items():
        choices = get_args(hints[name]) if get_origin(hints[name]) is Literal else ()
        default = "" if entry.default is MISSING else f"  ({cli.NULL if entry.default is None else entry.default})"
        print(f"  --{name}{default}{'  ' + ', '.join(choices) if choices else ''}")
    raise SystemExit(0)
