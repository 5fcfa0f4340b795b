# SPDX-License-Identifier: Apache-2.0
"""``padless export RUN --output DIR``: a folder that can be handed on, and pushed to the hub.

The token of the hub is huggingface_hub's own: ``hf auth login``, or HF_TOKEN. Nothing here imports torch.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from harness.inference.scorer import SCHEME, hush_bars
from harness.rundir.bundle_files import EXPORT, bundle_directory
from harness.rundir.layout import BUNDLE, holds_run
from preprocessing.base.errors import ConfigError, StorageError
from preprocessing.base.installed import needed
from preprocessing.base.schema import AtLeast1
from preprocessing.base.terminal import Screen

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a run's model into a folder for others: weights, text pipeline, ONNX, a model card. Or push such a folder
    to the hub."""

    output: str | None = None
    """Folder to write, which must not be there yet. Without one, RUN is an export folder that --push takes."""
    onnx: bool = False
    """Write the network for ONNX Runtime too, and hold it against torch."""
    int8: bool = False
    """Write it with 8-bit weights too, and measure on the validation split what that costs; means --onnx."""
    data: str | None = None
    """Dataset whose validation split --int8 is measured on; null: the one that the run was trained on."""
    license: str = "unknown"
    """Licence of the model, by the name that the hub has for it, as in cc-by-4.0: what the texts' owners allow."""
    language: str | None = None
    """Language of the texts for the model card, as in en; null: the one of the text pipeline."""
    name: str | None = None
    """What the model card calls the model; null: the name of the run's folder."""
    push: str | None = None
    """Repository of the hub to upload the folder to, as in OWNER/NAME; one that is new is made private."""
    batch: AtLeast1 = 64
    """Rows computed at once."""
    quiet: bool = False
    """Say nothing but errors."""

    def __post_init__(self) -> None:
        """Check ranges, and that there is something to do."""
        if self.output is None and self.push is None:
            raise ConfigError("output: missing: name the folder to write, as in --output exports/mine")
        if self.push is not None and not REPOSITORY.fullmatch(self.push):
            raise ConfigError(f"push: {self.push!r} names no repository of the hub; it is OWNER/NAME")
        if self.data is not None and not self.int8:
            raise ConfigError("data: only --int8 is measured on a dataset; leave --data out, or add --int8")


@dataclass(frozen=True)
class Place:
    """What was named on the command line."""

    bundle: Path
    run: Path | None
    """The run directory around the bundle, if there is one."""

    @classmethod
    def of(cls, named: Path) -> Place:
        """Run and bundle of a path; a bundle in its run is known as that run's."""
        bundle = bundle_directory(named)
        around = bundle.parent if bundle.name == BUNDLE else bundle
        return cls(bundle, around if holds_run(around) else None)


def main(config: ExportConfig, words: list[str]) -> int:
    """Write an export folder, and push it if that was asked for."""
    named, screen = words[0], Screen(quiet=config.quiet)
    if named.startswith(SCHEME):
        raise ConfigError(f"{named}: is exported already; name the run that it came from")
    place = Place.of(Path(named))
    is_export = (place.bundle / EXPORT).is_file()
    folder = place.bundle if config.output is None else Path(config.output)
    if config.output is None and not is_export:
        raise ConfigError(f"output: missing: {place.bundle} is no export folder yet; name the folder to write")
    if config.output is not None and (folder.exists() or folder.is_symlink()):
        raise ConfigError(f"output: {folder} is there already; name another folder, or remove it")
    if config.output is not None and is_export:
        raise ConfigError(f"{place.bundle}: is an export already; name the run that it came from")
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
        hush_bars()
        with warnings.catch_warnings():
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
