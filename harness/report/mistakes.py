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

from harness.inference.explanation import as_html, split_text
from harness.rundir.results import Measured, probability_column, read_predictions
from harness.scores.label_errors import find_label_errors
from preprocessing.base.errors import DataError, UserError
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus import addresses
from preprocessing.corpus.readers import open_reader
from preprocessing.corpus.sources import File, fingerprint_of, list_files
from preprocessing.dataset.shards import VOCABULARY, Manifest
from preprocessing.dataset.views import home_of
from preprocessing.labels import name_label_value
from preprocessing.text.encoder import Encoder, spans_of
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary

MAX_BYTES = 1 << 28
"""Larger files are not searched, since finding rows in a CSV file reads it from the start."""
MAX_SUSPECTS = 100


def describe_suspects(measured: Measured, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a split whose label is probably wrong, the worst first, at most ``MAX_SUSPECTS``, and the most
    probable row of each class as its example: in the form of the mistakes in ``SPLIT.json``, without marked words.

    Raises ``DataError`` without predictions.
    """
    columns = [*map(probability_column, labels)]
    frame = read_predictions(measured.directory, measured.split, ["label", *columns]).to_pandas()
    numbers = frame["label"].map(name_label_value).map(labels.index).to_numpy()
    chances = frame[columns].to_numpy()
    is_error, predicted = find_label_errors(numbers, chances), chances.argmax(axis=1)
    frame = frame.assign(chance=chances[np.arange(len(frame)), numbers], number=numbers)
    examples = frame.groupby("number")["chance"].idxmax()
    return [
        {
            "row": int(frame["row"][position]),
            "label": labels[numbers[position]],
            "predicted": labels[predicted[position]],
            "probability": float(chances[position].max()),
            "is_suspect": bool(is_error[position]),
            "tokens": [],
            "weights": [],
        }
        for position in (*frame["chance"][is_error].nsmallest(MAX_SUSPECTS).index, *examples)
    ]


def mistakes_of(
    mistakes: Sequence[dict[str, Any]], manifest: Manifest | None, data: str
) -> tuple[list[dict[str, Any]], str | None]:
    """The ``mistakes`` of ``SPLIT.json`` on the dataset ``data``, each with its original ``text`` as HTML, None if it
    is missing, and what the model has ``read`` of it; and the reason why originals are missing, if some are.
    """
    text_by_row, reason = find_originals(manifest, [mistake["row"] for mistake in mistakes])
    encoder, described = None, []
    if manifest is not None and text_by_row:
        try:
            vocabulary = Vocabulary.read(home_of(data) / VOCABULARY)
            encoder = Encoder(TextPipeline.from_json(manifest.text), vocabulary)
        except UserError as error:  # a package is not installed
            reason = str(error)
    for mistake in mistakes:
        tokens, weights, text = mistake["tokens"], mistake["weights"], None
        if encoder is not None and mistake["row"] in text_by_row:
            original = text_by_row[mistake["row"]]
            text = as_html(split_text(original, spans_of(original, tokens, encoder.tokenizer), weights))
        words = [segment for pair in zip(tokens, weights, strict=True) for segment in (pair, (" ", 0.0))]
        described.append({**mistake, "read": as_html(words), "text": text})
    return described, reason


def find_originals(
    manifest: Manifest | None, rows: Iterable[int], max_bytes: float = MAX_BYTES
) -> tuple[dict[int, str], str | None]:
    """The texts of ``rows``, with numbers as in the shards, from the sources in the manifest, of at most ``max_bytes``
    each; and the reason, one clause, why some are missing.
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
            if entry["bytes"] > max_bytes:
                too_large = f"has more than {MAX_BYTES >> 20:,} MiB, which is not searched for a report"
                raise DataError(f"{entry['name']} {too_large}")
            text_by_row |= read_originals(entry, manifest.provenance.get("config", {}), of_entry)
        except (UserError, OSError) as error:
            reason = " ".join(str(error).split())
    if reason is None and len(text_by_row) < len(wanted):
        reason = "the manifest does not say where they came from"
    return text_by_row, reason


def read_originals(entry: Mapping[str, Any], config: Mapping[str, Any], rows: list[int]) -> dict[int, str]:
    """The texts of ``rows``, which are all from the source of this ``entry`` of the manifest.

    Raises ``DataError`` with a clause, and the errors of reading a corpus.
    """
    file = find_file(entry, config)
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


def find_file(entry: Mapping[str, Any], config: Mapping[str, Any]) -> File:
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
