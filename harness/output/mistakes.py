# SPDX-License-Identifier: Apache-2.0
"""The mistakes of an evaluation: original texts with the important words marked.

Shards hold token ids: words after the text pipeline, without punctuation, perhaps as lemmas. The original text is read
from the source if that is unchanged and quick to read, since every run ends with a report. Token positions are found as
in ``padless explain``; text that the model did not see, such as a truncated end, is not marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.inference.explanation import as_html, split_text
from padless.core.errors import UserError
from preprocessing.dataset.shards import VOCABULARY, Manifest
from preprocessing.dataset.views import find_originals, home_of
from preprocessing.text.encoder import Encoder, spans_of
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary


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
