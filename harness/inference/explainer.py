# SPDX-License-Identifier: Apache-2.0
"""Explains texts with the weights of a bundle: what each word adds, as calibrated log-odds of a class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.inference.explanation import Explanation, check_label
from harness.inference.torch_scorer import TorchScorer
from harness.model.attribution import attributions
from harness.scores.metrics import predicted_labels, probabilities
from preprocessing.text.encoder import Encoded, Encoder, Span, kept_at_head, spans_of
from preprocessing.text.tokenizer import Tokens


def explain(scorer: TorchScorer, texts: Sequence[str], label: str | None = None) -> list[Explanation]:
    """Each text with what its words add to ``label``, or to the class predicted for it, computed where the model is.

    Raises ``ConfigError`` for a class that the model does not have.
    """
    labels, decision, model = scorer.labels, scorer.decision, scorer.bundle.model
    if label is not None:
        check_label(label, labels)
    if not texts:
        return []
    tokens = scorer.encoder.tokens(list(texts))
    encoded = scorer.encoder.encode(tokens)
    ids = [part.astype(np.int64) for part in np.split(encoded.ids, encoded.offsets[1:-1])]
    calibrated = decision.calibrated(scorer.score(ids))
    predicted, chances = predicted_labels(calibrated, decision.threshold), probabilities(calibrated)
    classes = predicted if label is None else np.full(len(texts), labels.index(label))
    columns = classes if len(labels) > 2 else np.zeros_like(classes)
    result = []
    for row, found in enumerate(attributions(model, ids, columns.tolist())):
        number = int(classes[row])
        sign = -1 if len(labels) == 2 and number == 0 else 1  # the one logit is that of class 1
        one = Explanation(
            text=texts[row],
            label=labels[number],
            predicted=labels[int(predicted[row])],
            probability=float(chances[row, number]),
            tokens=tuple(scorer.vocabulary.tokens.take(ids[row]).to_pylist()),
            spans=tuple(places(scorer.encoder, texts[row], row, tokens, encoded)),
            num_tokens=int(encoded.num_tokens[row]),
            scores=tuple((sign * decision.calibrated(found.scores)).tolist()),
            logit=float(sign * decision.calibrated(np.array(found.logit))),
            baseline=float(sign * decision.calibrated(np.array(found.baseline))),
            points=found.points,
        )
        result.append(one)
    return result


def places(encoder: Encoder, text: str, row: int, tokens: Tokens, encoded: Encoded) -> list[Span | None]:
    """Where the tokens that were read stand in the text of this row."""
    codes, spec = tokens.codes[tokens.offsets[row] : tokens.offsets[row + 1]], encoder.pipeline.spec
    if not len(codes):
        return [None]
    length = int(encoded.offsets[row + 1] - encoded.offsets[row])
    at_head = kept_at_head(spec) if len(codes) > length else length
    parts = (codes[:at_head], codes[len(codes) - (length - at_head) :])
    first, last = (tokens.types.take(part).to_pylist() for part in parts)
    return spans_of(text, first, last, lambda some: encoder.tokens(some).to_lists(), strip_html=spec.html)
