# SPDX-License-Identifier: Apache-2.0
"""The arguments of a command: keys with their texts, and words. Values stay texts, which
``padless.core.configuration`` converts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from padless.core.configuration import Option, names, options_of, suggest_key
from padless.core.errors import ConfigError
from padless.core.untrusted import quote_value

ANSWERS = ("true", "false")
"""Arguments that are the value of the switch before them."""
CONFIG, PRINT_CONFIG = "config", "print_config"


@dataclass(frozen=True)
class Arguments:
    """What stands on a command line."""

    texts_by_key: dict[str, list[str]]
    """The texts of each key, in their order; ``true`` for a switch alone."""
    words: list[str]
    """What belongs to no key."""
    after_dashes: list[str]
    """What follows ``--``, as it stands."""

    def fill_keys(self, config_class: type) -> tuple[dict[str, Any], list[str]]:
        """The value of each key, and the words that are left by those that fill keys of ``SUBJECT``.

        A key that takes a list takes all; ``name_key`` of the class says which key words in front of ``--`` are, if it
        is another one. Raises ``ConfigError``.
        """
        options = options_of(config_class)
        value_by_key = {key: options[key].join(texts) for key, texts in self.texts_by_key.items() if key in options}
        words, after_dashes = [*self.words], [*self.after_dashes]
        for key in getattr(config_class, "SUBJECT", ()):
            if key in value_by_key:
                continue
            if list not in options[key].kinds:
                value_by_key |= {key: (words or after_dashes).pop(0)} if words or after_dashes else {}
                continue
            words_key = getattr(config_class, "name_key", lambda _, key=key: key)(words)
            if words and words_key not in value_by_key:
                value_by_key[words_key], words = words, []
            if after_dashes:
                value_by_key[key], after_dashes = [*value_by_key.get(key, ()), *after_dashes], []
        return value_by_key, [*words, *after_dashes]


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
        key = getattr(config_class, "OUTPUT", "output") if name == "-o" else name.removeprefix("--")
        if key not in options:
            raise ConfigError(f"{name}: no such option of this command; {suggest_key(name.lstrip('-'), options)}")
        if not equals and options[key].kind is bool:
            text = waiting.pop() if waiting and waiting[-1].lower() in ANSWERS else "true"
        elif not equals:
            if not waiting or (waiting[-1].startswith("--") and is_key(waiting[-1])):
                raise ConfigError(f"{name}: its value is missing; --help {key} says what it takes")
            text = waiting.pop()
        split.texts_by_key.setdefault(key, []).append(text)
    return split


def check_texts(arguments: Sequence[str]) -> None:
    """Raise ``ConfigError`` for an argument with a zero, or with bytes that are not UTF-8 (surrogates stand for them).

    No file can be written that names it.
    """
    for argument in arguments:
        if re.search("[\0\ud800-\udfff]", argument):
            raise ConfigError(f"{quote_value(argument)} is not UTF-8 without zeros; give a file another name or a link")


def is_key(argument: str) -> bool:
    """Whether an argument is spelt as a key: with a dash in front, and without a blank in its name."""
    return argument[:1] == "-" != argument and " " not in argument.partition("=")[0]


def common_options(config_class: type) -> dict[str, Option]:
    """The options that every command has beside the keys of its class."""
    kind = getattr(config_class, "RECIPES", "")
    recipes = f", or a recipe: {', '.join(names(kind))}" if kind else ""
    about = f"A YAML file with any of the keys{recipes}; keys beside it win."
    return {
        CONFIG: Option(CONFIG, list[str], None, about),
        PRINT_CONFIG: Option(PRINT_CONFIG, bool, False, "Print the resulting configuration."),
    }
