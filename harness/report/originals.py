# SPDX-License-Identifier: Apache-2.0
"""The texts of some rows as they stand in the corpus, found by what the dataset's manifest says of its source.

Shards hold token ids: words after the text pipeline, without punctuation, perhaps as lemmas. People want to read the
text that somebody wrote. It is taken from the source if that can still be read and is what the dataset was made of,
and only if that costs little: a report is written at the end of every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from preprocessing.base.errors import DataError, UserError
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.storage import temporary_folder
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus import addresses
from preprocessing.corpus.sources import File, files, numbered, scan
from preprocessing.corpus.tables import as_text, read_table

MOST_BYTES = 1 << 30
"""Larger files are not searched: the rows of a CSV file are found by counting its lines from the start."""
MOST_PACKED_BYTES = 1 << 27
"""The same for compressed files, which are unpacked."""
NOT_LOOKED = "there is no manifest of the dataset to say where they came from"


@dataclass(frozen=True)
class Originals:
    """Texts by the row's number in the source, and why there are not more of them."""

    texts: Mapping[int, str]
    missing: str | None
    """One clause; None if every row that was asked for is there."""


def find_originals(provenance: Mapping[str, Any], rows: Iterable[int]) -> Originals:
    """The texts of ``rows``, numbered as shards number them; ``provenance`` is the manifest's.

    What cannot be read is said in ``missing``; nothing is raised for it.
    """
    wanted = sorted(set(rows))
    found: dict[int, str] = {}
    missing = None
    for entry in provenance.get("sources", []):
        first = entry["first_row"]
        here = [row for row in wanted if first <= row < first + entry["rows"]]
        if not here:
            continue
        try:
            found |= texts_of(entry, provenance.get("config", {}), here)
        except UnavailableError as reason:
            missing = str(reason)
        except (UserError, OSError) as error:
            missing = " ".join(str(error).split())
    if missing is None and len(found) < len(wanted):
        missing = "the manifest does not say where they came from"
    return Originals(found, missing)


class UnavailableError(Exception):
    """Why the texts of a source are not to be had, as a clause."""


def texts_of(entry: Mapping[str, Any], config: Mapping[str, Any], rows: list[int]) -> dict[int, str]:
    """The texts of ``rows``, all of which lie in the source of this ``entry`` of the manifest.

    Raises ``UnavailableError``, and what reading a corpus raises.
    """
    file = file_of(entry, config)
    check_cost(file, entry)
    with temporary_folder() as stage:
        plan = scan(file, stage)
        if plan.fingerprint != entry["fingerprint"] or plan.rows != entry["rows"]:
            raise UnavailableError(f"{file.name} has changed since the dataset was made of it")
        found: dict[int, str] = {}
        for part in numbered([plan]):
            offset = entry["first_row"] - 1
            numbers = np.arange(part.cut.first_row, part.cut.first_row + part.cut.rows)
            places = np.flatnonzero(np.isin(numbers + offset, rows))
            if len(places):
                column = file.source.text_column
                texts = as_text(part, read_table(part, [column])[column], numbers, column)
                found |= {int(numbers[at] + offset): texts[int(at)].as_py() or "" for at in places}
    return found


def file_of(entry: Mapping[str, Any], config: Mapping[str, Any]) -> File:
    """The file that an ``entry`` of the manifest speaks of, as the configuration beside it finds it today."""
    try:
        source, splits = SourceConfig(**config["source"]), SplitConfig(**config["splits"])
    except (KeyError, TypeError, ValueError, AttributeError):  # values of any type, as a stranger wrote them
        raise UnavailableError("another version of padless has written down where they came from") from None
    without = entry.get("split") == UNLABELLED
    named = [(address, split) for address, split in source.addresses if (split == UNLABELLED) == without]
    if any(addresses.is_remote(address) for address, _ in named):
        raise UnavailableError("they lie on a remote store, from which a report fetches nothing")
    for address, split in named:
        alone = replace(source, path=[address], validation_path=[], test_path=[], unlabelled_path=[])
        with suppress(DataError):  # of several files some may be gone
            for file in files(alone, splits):
                if file.name == entry["name"]:
                    return of_its_own(file, split, entry)
    raise UnavailableError(f"{entry['name']} is no longer where it was when the dataset was made of it")


def of_its_own(file: File, split: str | None, entry: Mapping[str, Any]) -> File:
    """A file with the split that it was named for; one without labels may call its text otherwise than the others."""
    source = replace(file.source, text_column=entry.get("text_column", file.source.text_column))
    return replace(file, split=UNLABELLED, source=source) if split == UNLABELLED else file


def check_cost(file: File, entry: Mapping[str, Any]) -> None:
    """Raise ``UnavailableError`` for a file that has changed, or whose search would take long."""
    most = MOST_PACKED_BYTES if addresses.is_compressed(file.address) else MOST_BYTES
    if entry["bytes"] > most:
        raise UnavailableError(f"{file.name} has more than {most >> 20:,} MiB, which is not searched for a report")
    if file.format != "folder" and addresses.identity(file.address)["bytes"] != entry["bytes"]:
        raise UnavailableError(f"{file.name} has changed since the dataset was made of it")
