# SPDX-License-Identifier: Apache-2.0
"""Datasets by path or address: their manifests, views of them with other splits, and the original texts of their rows,
read again from the sources that a manifest names, since shards hold ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from padless.core.errors import DataError, UserError
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.dataset import remote
from preprocessing.dataset.index import Totals
from preprocessing.dataset.shards import Manifest, read_manifest
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
    return read_manifest(remote.local(data))


def find_originals(
    manifest: Manifest | None, rows: Iterable[int], *, everywhere: bool = False
) -> tuple[dict[int, str], str | None]:
    """The texts of ``rows``, with numbers as in the shards, from the sources in the manifest: ``everywhere``, or in
    local ones of at most ``MAX_BYTES``; and the reason, one clause, why some are missing.
    """
    wanted, text_by_row = set(rows), dict[int, str]()
    provenance = {} if manifest is None else manifest.provenance
    reason = "no manifest of the dataset says where they came from"
    for entry in provenance.get("sources", []):
        first_row = entry["first_row"]
        rows_of_entry = [row for row in wanted if 0 <= row - first_row < entry["rows"]]
        try:
            if rows_of_entry:
                file = find_file(entry, provenance.get("config", {}), everywhere)
                for batch in open_reader(file).batches():
                    numbers = first_row - 1 + batch.numbers
                    is_wanted = np.isin(numbers, rows_of_entry)
                    texts = batch.select(is_wanted).texts().fill_null("").to_pylist()
                    text_by_row |= dict(zip(numbers[is_wanted].tolist(), texts, strict=True))
        except (UserError, OSError) as error:
            reason = " ".join(str(error).split())
    return text_by_row, reason if len(text_by_row) < len(wanted) else None


def find_file(entry: Mapping[str, Any], config: Mapping[str, Any], everywhere: bool) -> File:
    """The file of an ``entry`` of the manifest, found again with the configuration in the manifest.

    Raises ``DataError`` with a clause if it is gone, has changed, or is not looked for.
    """
    try:
        source, splits = SourceConfig(**config["source"]), SplitConfig(**config["splits"])
    except (KeyError, TypeError, ValueError, AttributeError):  # the manifest is untrusted: values may have any type
        raise DataError("another version of padless has written down where they came from") from None
    is_remote = any(addresses.is_remote(address) for address, _ in source.addresses)
    if not everywhere and (is_remote or entry["bytes"] > MAX_BYTES):
        raise DataError(f"a report reads no remote sources, and none of more than {MAX_BYTES >> 20:,} MiB")
    for file in list_files(source, splits):
        if file.name == entry["name"] and fingerprint_of(file) == entry["fingerprint"]:
            column = entry.get("text_column")
            return replace(file, source=replace(source, text_column=column)) if isinstance(column, str) else file
    raise DataError(f"{entry['name']} is not as it was when the dataset was made of it")
