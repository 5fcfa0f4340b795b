# SPDX-License-Identifier: Apache-2.0
"""The mistakes of an evaluation as people read them: original texts with the words marked that counted.

Shards hold token ids: words after the text pipeline, without punctuation, perhaps as lemmas. People want to read the
text that somebody wrote. It is taken from the source if that can still be read and is what the dataset was made of,
and only if that costs little: a report is written at the end of every run. Where the tokens stand in it is found as for
``padless explain``; what the model did not see, such as a truncated end, stays unmarked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.inference.explanation import Piece, as_html, pieces_of, places
from preprocessing.base.atomic import temporary_folder
from preprocessing.base.errors import DataError, UserError
from preprocessing.base.split_names import UNLABELLED
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus import addresses
from preprocessing.corpus.sources import File, files, numbered, scan
from preprocessing.corpus.tables import as_text, read_table
from preprocessing.dataset.shards import Manifest
from preprocessing.text.spec import TextPipeline
from preprocessing.text.tokenizer import Tokenizer

MOST_BYTES = 1 << 30
"""Larger files are not searched: the rows of a CSV file are found by counting its lines from the start."""
MOST_PACKED_BYTES = 1 << 27
"""The same for compressed files, which are unpacked."""


@dataclass(frozen=True)
class Originals:
    """Texts by the row's number in the source, and why there are not more of them."""

    texts: Mapping[int, str]
    missing: str | None
    """One clause; None if every row that was asked for is there."""


@dataclass(frozen=True)
class Mistake:
    """One wrong answer, ready to be shown."""

    entry: Mapping[str, Any]
    """As ``SPLIT.json`` has it."""
    text: str | None
    """The original text; None where it is not to be had."""
    marked: str
    """That text as HTML; empty where it is not to be had."""
    read: str
    """What the model saw, as HTML."""


def mistakes_of(figures: Mapping[str, Any], originals: Originals, manifest: Manifest | None) -> list[Mistake]:
    """The mistakes of an evaluation with their original texts, the most confident first."""
    tokenizer = tokenizer_of(manifest) if manifest is not None and originals.texts else None
    result = []
    for entry in figures["mistakes"]:
        tokens, weights = entry["tokens"], entry["weights"]
        read = as_html([piece for pair in zip(tokens, weights, strict=True) for piece in (pair, (" ", 0.0))])
        text = originals.texts.get(entry["row"])
        marked = "" if text is None else as_html(placed(text, tokens, weights, tokenizer))
        result.append(Mistake(entry, text, marked, read))
    return result


def tokenizer_of(manifest: Manifest) -> Tokenizer | None:
    """The dataset's tokenizer; None where what it needs is not installed."""
    try:
        return Tokenizer(TextPipeline.from_json(manifest.text))
    except UserError:
        return None


def placed(text: str, tokens: Sequence[str], weights: Sequence[float], tokenizer: Tokenizer | None) -> list[Piece]:
    """The text in pieces, with the weights of the tokens that stand there."""
    if tokenizer is None:
        return [(text, 0.0)]
    spans = places(text, tokens, tokenizer, tokenizer.pipeline.spec)
    return pieces_of(text, spans, weights)


def find_originals(manifest: Manifest | None, rows: Iterable[int]) -> Originals:
    """The texts of ``rows``, numbered as shards number them, from the sources that the manifest names.

    What cannot be read is said in ``missing``; nothing is raised for it.
    """
    if manifest is None:
        return Originals({}, "there is no manifest of the dataset to say where they came from")
    wanted, provenance = sorted(set(rows)), manifest.provenance
    found: dict[int, str] = {}
    missing = None
    for entry in provenance.get("sources", []):
        first = entry["first_row"]
        here = [row for row in wanted if first <= row < first + entry["rows"]]
        try:
            found |= texts_of(entry, provenance.get("config", {}), here) if here else {}
        except (UnavailableError, UserError, OSError) as reason:
            missing = " ".join(str(reason).split())
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
    """The file that an ``entry`` of the manifest speaks of, as the configuration beside it finds it today.

    Raises ``UnavailableError``, also for a file that has changed, or whose search would take long.
    """
    try:
        source, splits = SourceConfig(**config["source"]), SplitConfig(**config["splits"])
    except (KeyError, TypeError, ValueError, AttributeError):  # values of any type, as a stranger wrote them
        raise UnavailableError("another version of padless has written down where they came from") from None
    named = [address for address, split in source.addresses if split != UNLABELLED]
    if any(map(addresses.is_remote, named)):
        raise UnavailableError("they lie on a remote store, from which a report fetches nothing")
    for address in named:
        alone = replace(source, path=[address], validation_path=[], test_path=[], unlabelled_path=[])
        with suppress(DataError):  # of several files some may be gone
            for file in files(alone, splits):
                if file.name == entry["name"]:
                    check_cost(file, entry)
                    return file
    raise UnavailableError(f"{entry['name']} is no longer where it was when the dataset was made of it")


def check_cost(file: File, entry: Mapping[str, Any]) -> None:
    """Raise ``UnavailableError`` for a file that has changed, or whose search would take long."""
    most = MOST_PACKED_BYTES if addresses.is_compressed(file.address) else MOST_BYTES
    if entry["bytes"] > most:
        raise UnavailableError(f"{file.name} has more than {most >> 20:,} MiB, which is not searched for a report")
    if file.format != "folder" and addresses.identity(file.address)["bytes"] != entry["bytes"]:
        raise UnavailableError(f"{file.name} has changed since the dataset was made of it")
