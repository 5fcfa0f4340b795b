# SPDX-License-Identifier: Apache-2.0
"""An export folder as a repository of the hub. The token is huggingface_hub's own: ``hf auth login``, or HF_TOKEN."""

from __future__ import annotations

import warnings
from pathlib import Path

from harness.inference.engines import without_bars
from preprocessing.base.errors import ConfigError, StorageError
from preprocessing.base.installed import needed


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
        with (
            without_bars(),
            warnings.catch_warnings(),
        ):  # old versions take the vocabulary, an .arrow file, for somebody's data
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="A model of padless")
    except Exception as error:  # its errors share no class, and nothing of ours is called
        said = " ".join(str(error).split())[:300]
        again = f"`python -m harness export {folder} --push {repository}` tries again"
        raise StorageError(
            f"--push {repository}: the hub did not take it ({said}); {folder} is whole: {again}"
        ) from None
    return str(commit.commit_url)
