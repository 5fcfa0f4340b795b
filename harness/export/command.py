# SPDX-License-Identifier: Apache-2.0
"""``padless export RUN --output DIR``: a folder that can be handed on, and pushed to the hub.

The token of the hub is huggingface_hub's own: ``hf auth login``, or HF_TOKEN.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from harness.export.card import Place
from harness.export.config import ExportConfig
from harness.inference.engines import SCHEME, without_bars
from preprocessing.base.errors import ConfigError, StorageError
from preprocessing.base.installed import needed
from preprocessing.base.terminal import Screen


def main(config: ExportConfig, words: list[str]) -> int:
    """Write an export folder, and push it if that was asked for."""
    named, screen = words[0], Screen(quiet=config.quiet)
    if named.startswith(SCHEME):
        raise ConfigError(f"{named}: is exported already; name the run that it came from")
    place = Place.of(Path(named))
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


def check_push(repository: str | None) -> None:
    """Raise ``ConfigError``, before anything is written, where there is no library or no token to push with."""
    if repository is not None:
        needed("huggingface_hub", f"--push {repository}", "hub")
        from huggingface_hub import get_token

        if get_token() is None:
            raise ConfigError("--push: no token of the hub; log in with `hf auth login`, or set HF_TOKEN")


def push(folder: Path, repository: str) -> str:
    """Upload an export folder in one commit; the address of it. A repository that is new is made private.

    Raises ``StorageError`` where the hub does not take it.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        with without_bars(), warnings.catch_warnings():
            # old versions take the vocabulary, an .arrow file, for somebody's data
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="A model of padless")
    except Exception as error:  # its errors share no class, and nothing of ours is called
        said = " ".join(str(error).split())[:300]
        again = f"`padless export {folder} --push {repository}` tries again"
        raise StorageError(
            f"--push {repository}: the hub did not take it ({said}); {folder} is whole: {again}"
        ) from None
    return str(commit.commit_url)
