# SPDX-License-Identifier: Apache-2.0
"""Datasets by path or address: their manifests and splits, and views of them with other splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padless.core.errors import ConfigError
from preprocessing.dataset import remote
from preprocessing.dataset.index import Totals
from preprocessing.dataset.shards import Manifest, Split, read_manifest
from preprocessing.sources import addresses


@dataclass(frozen=True)
class View(Manifest):
    """A manifest with other splits."""

    dataset: str = ""
    fold: int | None = None
    """The fold used for validation."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the dataset on disk."""
        return self.dataset


def with_splits(manifest: Manifest, splits: dict[str, list[Totals]], **fields: Any) -> View:
    """The view with these splits and ``fields``."""
    return View(**{**vars(manifest), "splits": splits, "dataset": manifest.fingerprint, **fields})


def read_data(data: str | Path) -> Manifest:
    """The manifest of a dataset, local or remote. Raises ``DataError`` as ``read_manifest`` does."""
    return read_manifest(home_of(data))


def home_of(data: str | Path) -> Path:
    """The directory of a dataset, from ``remote.local``."""
    return remote.local(str(data))


def folder_for(output: str | None, data: str | Path, name: str) -> Path:
    """``output``, else a folder in the dataset directory. Raises ``ConfigError`` for a remote one."""
    if output is None and addresses.is_remote(str(data)):
        raise ConfigError(f"output: {data} has no directory here, where this is kept; name one with -o")
    return Path(output or Path(data, name))


def open_split(data: str | Path, manifest: Manifest, name: str) -> Split:
    """Map a split of a dataset. Raises ``DataError`` as ``Split`` does."""
    return remote.split_of(home_of(data), manifest, name)
