# SPDX-License-Identifier: Apache-2.0
"""Models that lie in a repository of the hub: ``hf://owner/name``, and ``hf://owner/name@revision``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.installed import needed
from preprocessing.base.printable import Guarded

SCHEME = "hf://"
FILES = ["*.json", "*.arrow", "*.safetensors", "*.onnx", "*.md"]
"""What an export has: nothing else of a repository is brought here."""


def local(place: str | Path) -> Path:
    """A folder on this machine: ``place`` itself, or the copy of a repository of the hub, brought here if it must be.

    Raises ``ConfigError`` for an address that is none, ``DataError`` for a repository that cannot be had.
    """
    text = str(place)
    if not text.startswith(SCHEME):
        return Path(place)
    repository, _, revision = text.removeprefix(SCHEME).rstrip("/").partition("@")
    if repository.count("/") != 1:
        raise ConfigError(f"{text}: a model of the hub is named hf://OWNER/NAME, or hf://OWNER/NAME@REVISION")
    needed("huggingface_hub", text, "hub")
    import huggingface_hub

    try:
        with without_bars():
            return Path(huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=FILES))
    except Exception as error:  # its errors share no class, and nothing of ours is called
        raise DataError(f"{text}: cannot be had ({' '.join(str(error).split())[:300]})") from None


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of the hub's inside the block, in a command: its stderr spells out what moves the cursor.

    Whoever has set HF_HUB_DISABLE_PROGRESS_BARS has decided, and in a notebook they stay.
    """
    from huggingface_hub import constants, utils

    decided = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None
    if decided or not isinstance(sys.stderr, Guarded) or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
