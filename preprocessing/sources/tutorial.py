# SPDX-License-Identifier: Apache-2.0
"""``padless tutorial``: the two files that the tutorial works on, which stand beside this module."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from padless.core import atomic
from padless.core.atomic import storage_errors
from padless.core.errors import ConfigError
from padless.core.schema import LocalPath
from padless.core.terminal import Screen


@dataclass(frozen=True, kw_only=True)
class TutorialConfig:
    """Write the tutorial's files, to try padless on: messages.csv to learn from, later.csv to evaluate on."""

    output: LocalPath = "."
    """Folder to write to."""


def main(config: TutorialConfig) -> None:
    """Write the two files. Raises ``ConfigError`` before anything is written if one was changed there."""
    source_by_target = {Path(config.output, file.name): file for file in sorted(Path(__file__).parent.glob("*.csv"))}
    for target, source in source_by_target.items():
        is_same = target.is_file() and target.read_bytes() == source.read_bytes()
        if os.path.lexists(target) and not is_same:
            raise ConfigError(f"{target}: is there already and differs; remove it, or name another --output")
    screen = Screen()
    for target, source in source_by_target.items():
        with storage_errors(target, otherwise="name another --output"):
            atomic.write_bytes(target, source.read_bytes())
        screen.print_text(str(target))
    screen.print_text(f"next: padless prepare {Path(config.output, 'messages.csv')} -o data/messages")
