# SPDX-License-Identifier: Apache-2.0
"""What a shell may complete a command line of ``padless`` with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args, get_origin

from padless.core.configuration import alternatives, options_of

COMPLETE = "padless --complete"
SCRIPTS = {
    "bash": f"complete -o default -C '{COMPLETE}' padless",
    "zsh": f"autoload -U +X bashcompinit && bashcompinit\ncomplete -o default -C '{COMPLETE}' padless",
    "fish": f"complete -c padless -a '(COMP_LINE=(commandline -cp) {COMPLETE})'",
}
"""Shell -> what makes it ask ``padless --complete``, which finds the line in ``COMP_LINE``."""


def complete_line(line: str, class_by_command: Mapping[str, Callable[[], Any]]) -> list[str]:
    """What the last word of a command line may become: a command, a key, or the value of the key before it.

    ``class_by_command``: command -> the function that imports its configuration class.
    """
    *words, prefix = line.split(" ")
    candidates: Iterable[str] = class_by_command if len(words) == 1 else ()
    if len(words) > 1 and words[1] in class_by_command:
        option_by_word = {f"--{key}": option for key, option in options_of(class_by_command[words[1]]()).items()}
        if prefix.startswith("-"):
            candidates = option_by_word
        elif option := option_by_word.get(words[-1]):
            kinds = [kind for kind in alternatives(option.kind) if get_origin(kind) is Literal]
            candidates = [str(value) for kind in kinds for value in get_args(kind)]
    return [candidate for candidate in candidates if candidate.startswith(prefix)]
