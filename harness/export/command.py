# SPDX-License-Identifier: Apache-2.0
"""``python -m harness export RUN --output DIR``: a folder that can be handed on."""

from __future__ import annotations

from pathlib import Path

from harness.export.config import ExportConfig
from harness.export.push import check_push, push
from harness.export.records import Place, place_of
from harness.inference.engines import SCHEME
from preprocessing.base.errors import ConfigError
from preprocessing.base.screen import Screen


def main(config: ExportConfig, words: list[str]) -> int:
    """Write an export folder, and push it if that was asked for."""
    named, screen = words[0], Screen(quiet=config.quiet)
    if named.startswith(SCHEME):
        raise ConfigError(f"{named}: is exported already; name the run that it came from")
    place = place_of(Path(named))
    folder = folder_of(config, place)
    check_push(config.push)
    if config.output is None:
        from harness.inference.bundle import read_bundle

        read_bundle(folder)  # which holds its files against its index
    else:
        from harness.export.folder import write

        write(config, place, folder, screen)
    if config.push is not None:
        screen.say(f"pushed: {push(folder, config.push)}")
    return 0


def folder_of(config: ExportConfig, place: Place) -> Path:
    """The folder to write, or the export folder that is to be pushed as it is. Raises ``ConfigError``."""
    if config.output is None:
        if not place.is_export:
            raise ConfigError(f"output: missing: {place.bundle} is no export folder yet; name the folder to write")
        return place.bundle
    folder = Path(config.output)
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"output: {folder} is there already; name another folder, or remove it")
    if place.is_export:
        raise ConfigError(f"{place.bundle}: is an export already; name the run that it came from")
    return folder
