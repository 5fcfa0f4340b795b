# SPDX-License-Identifier: Apache-2.0
"""The mistakes of an evaluation: original texts with the important words marked.

Shards hold token ids: words after the text pipeline, without punctuation, perhaps as lemmas. The original text is read
from the source if that is unchanged and quick to read, since every run ends with a report. Token positions are found as
in ``padless explain``; text that the model did not see, such as a truncated end, is not marked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.inference.explanation import Piece, as_html, pieces_of
from preprocessing.base.errors import DataError, UserError
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus import addresses
from preprocessing.corpus.readers import open_reader
from preprocessing.corpus.sources import File, fingerprint_of, list_files
from preprocessing.dataset.shards import VOCABULARY, Manifest
from preprocessing.dataset.views import home_of
from preprocessing.text.encoder import Encoder, spans_of
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary

MOST_BYTES = 1 << 30
"""Larger files are not searched, since finding rows in a CSV file reads it from the start."""
MOST_PACKED_BYTES = 1 << 27
"""The same for compressed files."""


def mistakes_of(
    mistakes: Sequence[dict[str, Any]], manifest: Manifest | None, data: str
) -> tuple[list[dict[str, Any]], str | None]:
    """The ``mistakes`` of ``SPLIT.json`` on the dataset ``data``, each with its original ``text`` as HTML, None if it
    is missing, and what the model has ``read`` of it; and the reason why originals are missing, if some are.
    """
    texts, missing = find_originals(manifest, [mistake["row"] for mistake in mistakes])
    encoder, result = None, []
    if manifest is not None and texts:
        try:
            vocabulary = Vocabulary.read(home_of(data) / VOCABULARY)
            encoder = Encoder(TextPipeline.from_json(manifest.text), vocabulary)
        except UserError as error:  # a package is not installed
            missing = str(error)
    for mistake in mistakes:
        tokens, weights, original = mistake["tokens"], mistake["weights"], texts.get(mistake["row"])
        read = as_html([piece for pair in zip(tokens, weights, strict=True) for piece in (pair, (" ", 0.0))])
        text = None if encoder is None or original is None else as_html(placed(original, tokens, weights, encoder))
        result.append({**mistake, "read": read, "text": text})
    return result, missing


def placed(text: str, tokens: Sequence[str], weights: Sequence[float], encoder: Encoder) -> list[Piece]:
    """The text in pieces, with the weights of its tokens."""
    return pieces_of(text, spans_of(text, tokens, encoder.tokenizer), weights)


def find_originals(manifest: Manifest | None, rows: Iterable[int]) -> tuple[dict[int, str], str | None]:
    """The texts of ``rows``, with numbers as in the shards, from the sources in the manifest; and the reason, one
    clause, why some are missing.
    """
    if manifest is None:
        return {}, "there is no manifest of the dataset to say where they came from"
    wanted, found = set(rows), dict[int, str]()
    missing = None
    for entry in manifest.provenance.get("sources", []):
        here = sorted(wanted.intersection(range(entry["first_row"], entry["first_row"] + entry["rows"])))
        try:
            found |= texts_of(entry, manifest.provenance.get("config", {}), here) if here else {}
        except (UserError, OSError) as reason:
            missing = " ".join(str(reason).split())
    if missing is None and len(found) < len(wanted):
        missing = "the manifest does not say where they came from"
    return found, missing


def texts_of(entry: Mapping[str, Any], config: Mapping[str, Any], rows: list[int]) -> dict[int, str]:
    """The texts of ``rows``, which are all from the source of this ``entry`` of the manifest.

    Raises ``DataError`` with a clause, and the errors of reading a corpus.
    """
    file = file_of(entry, config)
    packed = file.format != "folder" and addresses.codec_of(file.address)
    if entry["bytes"] > (most := MOST_PACKED_BYTES if packed else MOST_BYTES):
        raise DataError(f"{file.name} has more than {most >> 20:,} MiB, which is not searched for a report")
    texts, num_rows = dict[int, str](), 0
    reader = open_reader(file)
    for batch in reader.batches():
        numbers = entry["first_row"] - 1 + batch.numbers
        is_wanted = np.isin(numbers, rows)
        if is_wanted.any():
            values = batch.select(is_wanted).texts().to_pylist()
            texts |= {number: text or "" for number, text in zip(numbers[is_wanted].tolist(), values, strict=True)}
        num_rows += len(batch)
    if (fingerprint_of(file, sha256=reader.sha256), num_rows) != (entry["fingerprint"], entry["rows"]):
        raise DataError(f"{file.name} has changed since the dataset was made of it")
    return texts


def file_of(entry: Mapping[str, Any], config: Mapping[str, Any]) -> File:
    """The file of an ``entry`` of the manifest, found again with the configuration in the manifest.

    Raises ``DataError``.
    """
    try:
        source, splits = SourceConfig(**config["source"]), SplitConfig(**config["splits"])
    except (KeyError, TypeError, ValueError, AttributeError):  # the manifest is untrusted: values may have any type
        raise DataError("another version of padless has written down where they came from") from None
    labelled = replace(source, unlabelled_path=[])
    if any(addresses.is_remote(address) for address, _ in labelled.addresses):
        raise DataError("they lie on a remote store, from which a report fetches nothing")
    for file in list_files(labelled, splits):
        if file.name == entry["name"]:
            return file
    raise DataError(f"{entry['name']} is no longer where it was when the dataset was made of it")
