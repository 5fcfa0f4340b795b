# SPDX-License-Identifier: Apache-2.0
"""The mistakes of an evaluation: original texts with the important words marked.

Shards hold token ids: words after the text pipeline, without punctuation, perhaps as lemmas. The original text is read
from the source if that is unchanged and quick to read, since every run ends with a report. Token positions are found as
in ``padless explain``; text that the model did not see, such as a truncated end, is not marked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.inference.explanation import as_html, split_text
from preprocessing.base.errors import DataError, UserError
from preprocessing.corpus.originals import iter_originals
from preprocessing.dataset.shards import VOCABULARY, Manifest
from preprocessing.dataset.views import home_of
from preprocessing.text.encoder import Encoder, spans_of
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary

MAX_BYTES = 1 << 28
"""Larger files are not searched, since finding rows in a CSV file reads it from the start."""


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


def find_originals(manifest: Manifest | None, rows: Iterable[int]) -> tuple[dict[int, str], str | None]:
    """The texts of ``rows``, with numbers as in the shards, from the sources in the manifest; and the reason, one
    clause, why some are missing.
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
    if entry["bytes"] > MAX_BYTES:
        raise DataError(f"{entry['name']} has more than {MAX_BYTES >> 20:,} MiB, which is not searched for a report")
    text_by_row = dict[int, str]()
    for numbers, texts in iter_originals(entry, config, np.array(rows)):
        text_by_row |= dict(zip(numbers.tolist(), texts, strict=True))
    return text_by_row
