# SPDX-License-Identifier: Apache-2.0
"""Datasets by path or address: their manifests and splits, views of them with other splits, and the original texts of
their rows, read again from the sources that a manifest names, since shards hold ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from padless.core.errors import ConfigError, DataError, UserError
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.dataset import remote
from preprocessing.dataset.index import Totals
from preprocessing.dataset.shards import Manifest, Split, read_manifest
from preprocessing.sources import addresses
from preprocessing.sources.readers import open_reader
from preprocessing.sources.sources import File, fingerprint_of, list_files

MAX_BYTES = 1 << 28
"""Larger files are not searched for a report, since finding rows in a CSV file reads it from the start."""


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


def find_originals(
    manifest: Manifest | None, rows: Iterable[int], *, everywhere: bool = False
) -> tuple[dict[int, str], str | None]:
    """The texts of ``rows``, with numbers as in the shards, from the sources in the manifest: ``everywhere``, or in
    local ones of at most ``MAX_BYTES``; and the reason, one clause, why some are missing.
    """
    if manifest is None:
        return {}, "there is no manifest of the dataset to say where they came from"
    wanted, text_by_row = set(rows), dict[int, str]()
    reason = None
    for entry in manifest.provenance.get("sources", []):
        of_entry = sorted(wanted.intersection(range(entry["first_row"], entry["first_row"] + entry["rows"])))
        if not of_entry:
            continue
        try:
            if entry["bytes"] > MAX_BYTES and not everywhere:
                too_large = f"has more than {MAX_BYTES >> 20:,} MiB, which is not searched for a report"
                raise DataError(f"{entry['name']} {too_large}")
            file = find_file(entry, manifest.provenance.get("config", {}), fetches=everywhere)
            text_by_row |= read_originals(file, entry, np.array(of_entry))
        except (UserError, OSError) as error:
            reason = " ".join(str(error).split())
    if reason is None and len(text_by_row) < len(wanted):
        reason = "the manifest does not say where they came from"
    return text_by_row, reason


def read_originals(file: File, entry: Mapping[str, Any], rows: np.ndarray) -> dict[int, str]:
    """The texts of ``rows``, which are all from the ``file`` of this ``entry`` of the manifest.

    Raises ``DataError`` with a clause if it has changed, and the errors of reading a corpus.
    """
    text_by_row, num_rows = dict[int, str](), 0
    for batch in open_reader(file).batches():
        numbers = entry["first_row"] - 1 + batch.numbers
        is_wanted = np.isin(numbers, rows)
        if is_wanted.any():
            texts = batch.select(is_wanted).texts().to_pylist()
            text_by_row |= dict(zip(numbers[is_wanted].tolist(), (text or "" for text in texts), strict=True))
        num_rows += len(batch)
    if (fingerprint_of(file), num_rows) != (entry["fingerprint"], entry["rows"]):
        raise DataError(f"{file.name} has changed since the dataset was made of it")
    return text_by_row


def find_file(entry: Mapping[str, Any], config: Mapping[str, Any], *, fetches: bool) -> File:
    """The file of an ``entry`` of the manifest, found again with the configuration in the manifest.

    Raises ``DataError``.
    """
    try:
        source, splits = SourceConfig(**config["source"]), SplitConfig(**config["splits"])
    except (KeyError, TypeError, ValueError, AttributeError):  # the manifest is untrusted: values may have any type
        raise DataError("another version of padless has written down where they came from") from None
    if not fetches and any(addresses.is_remote(address) for address, _ in source.addresses):
        raise DataError("they lie on a remote store, from which a report fetches nothing")
    for file in list_files(source, splits):
        if file.name == entry["name"] and file.split == entry.get("split", file.split):
            column = entry.get("text_column")
            return replace(file, source=replace(source, text_column=column)) if isinstance(column, str) else file
    raise DataError(f"{entry['name']} is no longer where it was when the dataset was made of it")
