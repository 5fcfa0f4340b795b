# SPDX-License-Identifier: Apache-2.0
"""From texts to explanations, with a bundle: its text code, its weights, its decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from harness.inference.explanation import Explanation, check_label
from harness.inference.torch_scorer import TorchScorer, logits_of
from harness.model.attribution import Attribution, attributions
from harness.scores.metrics import predicted_labels, probabilities
from preprocessing.text.encoder import Encoded, kept_at_head
from preprocessing.text.spans import Span, spans_of
from preprocessing.text.tokenizer import Tokens


class Explainer:
    """Explains texts with the weights of a scorer, on a device."""

    def __init__(self, scorer: TorchScorer, device: str = "cpu") -> None:
        """The weights of the scorer move to ``device``."""
        self.bundle, self.encoder = scorer.bundle, scorer.encoder
        self.labels, self.decision = scorer.labels, scorer.decision
        self.batch_rows = scorer.batch_rows
        self.model = scorer.bundle.model.to(torch.device(device))

    def __call__(self, texts: Sequence[str], label: str | None = None) -> list[Explanation]:
        """Each text with what its words add to ``label``, or to the class predicted for it.

        Raises ``ConfigError`` for a class that the model does not have.
        """
        if label is not None:
            check_label(label, self.labels)
        if not texts:
            return []
        tokens = self.encoder.tokens(list(texts))
        encoded = self.encoder.encode(tokens)
        ids = [part.astype(np.int64) for part in np.split(encoded.ids, encoded.offsets[1:-1])]
        calibrated = self.decision.calibrated(logits_of(self.model, ids, self.batch_rows))
        predicted = predicted_labels(calibrated, self.decision.threshold)
        classes = predicted if label is None else np.full(len(texts), self.labels.index(label))
        columns = classes if len(self.labels) > 2 else np.zeros_like(classes)
        found = attributions(self.model, ids, columns.tolist())
        chances = probabilities(calibrated)
        result = []
        for row, text in enumerate(texts):
            number, name = int(classes[row]), self.labels[int(classes[row])]
            one = Explanation(
                text=text,
                label=name,
                predicted=self.labels[int(predicted[row])],
                probability=float(chances[row, number]),
                tokens=tuple(self.bundle.vocabulary.tokens.take(ids[row]).to_pylist()),
                spans=tuple(self.places(text, row, tokens, encoded)),
                num_tokens=int(encoded.num_tokens[row]),
                **self.scores(found[row], number),
            )
            result.append(one)
        return result

    def scores(self, found: Attribution, number: int) -> dict[str, Any]:
        """An attribution as calibrated log-odds of the class with this number."""
        turned = -1 if len(self.labels) == 2 and number == 0 else 1  # the one logit is that of class 1
        raw = (found.scores, np.array(found.logit), np.array(found.baseline))
        scores, logit, baseline = (turned * self.decision.calibrated(value) for value in raw)
        return {
            "scores": tuple(scores.tolist()),
            "logit": float(logit),
            "baseline": float(baseline),
            "points": found.points,
        }

    def places(self, text: str, row: int, tokens: Tokens, encoded: Encoded) -> list[Span | None]:
        """Where the tokens that were read stand in their text."""
        codes = tokens.codes[tokens.offsets[row] : tokens.offsets[row + 1]]
        if not len(codes):
            return [None]
        length = int(encoded.offsets[row + 1] - encoded.offsets[row])
        at_head = kept_at_head(self.bundle.pipeline.spec) if len(codes) > length else length
        parts = (codes[:at_head], codes[len(codes) - (length - at_head) :])
        first, last = (tokens.types.take(part).to_pylist() for part in parts)
        strip_html = self.bundle.pipeline.spec.html
        return spans_of(text, first, last, lambda some: self.encoder.tokens(some).to_lists(), strip_html=strip_html)
