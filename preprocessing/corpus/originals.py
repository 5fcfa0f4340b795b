# SPDX-License-Identifier: Apache-2.0
"""Reads the original texts of a dataset's rows again, from the sources that its manifest names: shards hold ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from preprocessing.base.errors import DataError
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus import addresses
from preprocessing.corpus.readers import open_reader
from preprocessing.corpus.sources import File, fingerprint_of, list_files


def iter_originals(
    entry: Mapping[str, Any], config: Mapping[str, Any], rows: np.ndarray, *, fetches: bool = False
) -> Iterator[tuple[np.ndarray, list[str]]]:
    """The numbers, int64, and texts of those of the ``rows`` that are from the source of this ``entry`` of the
    manifest, batch by batch; ``config``: that of the manifest. A remote source is read only if ``fetches``.

    Raises ``DataError`` with a clause if the source is gone or has changed, and the errors of reading a corpus.
    """
    file, num_rows = find_file(entry, config, fetches), 0
    for batch in open_reader(file).batches():
        numbers = entry["first_row"] - 1 + batch.numbers
        is_wanted = np.isin(numbers, rows)
        if is_wanted.any():
            texts = batch.select(is_wanted).texts().to_pylist()
            yield numbers[is_wanted], [text or "" for text in texts]
        num_rows += len(batch)
    if (fingerprint_of(file), num_rows) != (entry["fingerprint"], entry["rows"]):
        raise DataError(f"{file.name} has changed since the dataset was made of it")


def find_file(entry: Mapping[str, Any], config: Mapping[str, Any], fetches: bool) -> File:
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
