# SPDX-License-Identifier: Apache-2.0
"""Contribution of each token of a text to a logit. Contributions add up to the logit minus the baseline's logit.

The network: integrated gradients (Sundararajan, Taly and Yan, 2017, Axiomatic Attribution for Deep Networks) along the
straight line from zero vectors, a blank text of the same length, to the text's vectors. The linear part is linear in
n-grams: the contribution of an n-gram is divided evenly among its occurrences, and among its words; its baseline is its
bias.

The line is integrated in pieces by Simpson's rule. On each piece the exact change of the logit is known, so the error
is too, and pieces with a large error are halved. So there are more points where the maximum over time moves from one
token to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from harness.batch import Batch
from harness.model.classifier import Classifier
from harness.model.registry import SHARED_UP_TO
from harness.model.wide import END, WidePart
from preprocessing.text.vocabulary import UNK

MAX_RELATIVE_ERROR = 1e-3
"""Allowed error of the sum over tokens, relative to the difference of the two logits."""
MIN_ERROR = 1e-5
"""Error of a logit that is always accepted: the precision of fp32."""
MAX_ERROR_RATIO = 10
"""The sum of absolute errors of all pieces may be this many times larger, since most errors cancel."""
FIRST_PIECES = 4
"""Initial number of pieces of the line."""
MAX_POINTS, MIN_PIECE = 1025, 2.0**-20
"""Maximum points per text, and the length of a piece that is not halved any more, since the logit jumps there; after
that the remaining error is accepted and reported."""
MAX_BATCH_TOKENS = 8192
"""Tokens per batch; limits the memory for gradients."""


@dataclass(frozen=True)
class Attribution:
    """Contribution of each token of a text to one logit."""

    scores: np.ndarray
    """float64 ``[tokens]``."""
    logit: float
    baseline: float
    """The logit of the baseline."""


class Line:
    """The line from the baseline to one text, with the points evaluated so far."""

    def __init__(self, ids: np.ndarray, column: int, scores_of_wide: np.ndarray) -> None:
        """``ids`` int64 ``[tokens]``; ``column``: the explained logit; ``scores_of_wide`` float64 ``[tokens]``:
        contribution of each token through the linear part.
        """
        self.ids, self.column, self.wide_scores = ids, column, scores_of_wide
        self.points: dict[float, tuple[float, np.ndarray]] = {}
        """Point from 0 to 1 -> the logit there, and its derivative through each token, float64 ``[tokens]``."""
        self.pieces = [(number / FIRST_PIECES, (number + 1) / FIRST_PIECES) for number in range(FIRST_PIECES)]

    def missing_points(self) -> set[float]:
        """Points to evaluate next."""
        points = {point for start, end in self.pieces for point in (start, (start + end) / 2, end)}
        return points - self.points.keys()

    def integrals(self) -> np.ndarray:
        """Contribution of each token on each piece of the line, by Simpson's rule, ``[pieces, tokens]``."""
        growth = {point: growth for point, (_, growth) in self.points.items()}
        return np.array(
            [
                (growth[start] + 4 * growth[(start + end) / 2] + growth[end]) * ((end - start) / 6)
                for start, end in self.pieces
            ]
        )

    def refine(self) -> bool:
        """Halve the pieces whose error is above the mean; False if the error is small enough or the limit is reached.

        The error of the sum must be small, but not because large errors of opposite sign cancel.
        """
        changes = [self.points[end][0] - self.points[start][0] for start, end in self.pieces]
        errors = self.integrals().sum(1) - changes
        error, absolute_error = abs(errors.sum()), np.abs(errors).sum()
        difference = self.points[1.0][0] + self.wide_scores.sum() - self.points[0.0][0]
        allowed = max(MAX_RELATIVE_ERROR * abs(difference), MIN_ERROR)
        if (error <= allowed and absolute_error <= MAX_ERROR_RATIO * allowed) or len(self.points) >= MAX_POINTS:
            return False
        halved = np.array([end - start > MIN_PIECE for start, end in self.pieces])
        worst = np.flatnonzero((np.abs(errors) >= np.abs(errors).mean()) & halved)
        for number in worst[: (MAX_POINTS - len(self.points) + 1) // 2].tolist():
            start, end = self.pieces[number]
            middle = (start + end) / 2
            self.pieces[number] = (start, middle)
            self.pieces.append((middle, end))
        return len(worst) > 0


def attributions(model: Classifier, texts: Sequence[np.ndarray], classes: Sequence[int]) -> list[Attribution]:
    """For each text, the contribution of each token to the logit of its class, before calibration: none if the text has
    no known word.

    ``texts`` are ids, at least one each. ``model`` is in evaluation mode, in fp32 or wider, and does not change.
    """
    wide, lines = model.wide, []
    for text, label in zip(texts, classes, strict=True):
        ids, column = text.astype(np.int64), 0 if model.outputs == 1 else label
        lines.append(Line(ids, column, np.zeros(len(ids)) if wide is None else wide_scores(wide, ids, column)))
    open_lines = lines
    while open_lines:
        points = [(line, point) for line in open_lines for point in line.missing_points()]
        points.sort(key=lambda point: -len(point[0].ids))
        while points:
            size = max(1, MAX_BATCH_TOKENS // len(points[0][0].ids))
            read(model, points[:size])
            points = points[size:]
        open_lines = [line for line in open_lines if line.refine()]
    results = []
    for line, label in zip(lines, classes, strict=True):
        sign = -1 if model.outputs == 1 and label == 0 else 1  # the single logit is that of class 1
        if model.prior is not None and (line.ids <= UNK).all():
            prior = sign * float(model.prior.flatten()[line.column])
            results.append(Attribution(np.zeros(len(line.ids)), prior, prior))
            continue
        bias = 0.0 if wide is None else float(wide.share * wide.bias[line.column])
        scores, logit = line.integrals().sum(0) + line.wide_scores, line.points[1.0][0] + float(line.wide_scores.sum())
        results.append(Attribution(sign * scores, sign * (logit + bias), sign * (line.points[0.0][0] + bias)))
    return results


def read(model: Classifier, line_points: list[tuple[Line, float]]) -> None:
    """Evaluate the network at points of lines, longest texts first, and store the results in the lines."""
    device, dtype = model.head.weight.device, model.head.weight.dtype
    batch = make_batch([line.ids for line, _ in line_points], device)
    shares = torch.tensor([point for _, point in line_points], dtype=dtype, device=device)
    columns = torch.tensor([line.column for line, _ in line_points], device=device)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        vectors_of_texts = model.embed(batch).detach()
        vectors = (vectors_of_texts * shares[:, None]).requires_grad_()
        logits = model.read_embedded(vectors, batch)
        chosen = logits.reshape(len(line_points), -1).gather(1, columns[:, None]).squeeze(1)
        (gradient,) = torch.autograd.grad(chosen.sum(), vectors)
    growth = (gradient.double() * vectors_of_texts.double()).sum(-1).cpu().numpy()
    values = chosen.tolist()
    for row, (line, point) in enumerate(line_points):
        line.points[point] = (values[row], growth[: len(line.ids), row])


def make_batch(texts: Sequence[np.ndarray], device: torch.device) -> Batch:
    """Ids as a padded batch without labels; ``texts`` are sorted longest first."""
    ids = nn.utils.rnn.pad_sequence([torch.from_numpy(text.astype(np.int32)) for text in texts], batch_first=True)
    return Batch.without_labels(ids, torch.tensor([len(text) for text in texts]), device)


def wide_scores(wide: WidePart, ids: np.ndarray, column: int) -> np.ndarray:
    """Contribution of each token of ``ids`` int64 ``[tokens]`` through the linear part, float64 ``[tokens]``. The sum
    is the part's logit without bias, times its share.
    """
    device = wide.table.device
    buckets_of_ngrams = wide.places(torch.from_numpy(ids)[None].to(device), torch.tensor([len(ids)], device=device))[0]
    bucket, index, counts = torch.unique(buckets_of_ngrams, return_inverse=True, return_counts=True)
    has_bucket, bucket = bucket < wide.buckets, bucket.clamp(max=wide.buckets - 1)
    value = has_bucket * wide.weights[bucket].double()
    value = value / value.square().sum().sqrt().clamp_min(1e-12)
    score_of_ngram = (wide.share.double() * value * wide.table[bucket, column].double() / counts)[index].cpu().numpy()
    scores, start = np.zeros(len(ids)), 0
    ends = [] if wide.owners is None else [(ids[-END:], SHARED_UP_TO)]
    for tokens, longest in [(ids, wide.longest), *ends]:  # as in ``WidePart.keys``
        part_scores = scores[-len(tokens) :]
        for number in range(1, min(longest, len(tokens)) + 1):
            shares = score_of_ngram[start : start + len(tokens) - number + 1] / number  # divided evenly among the words
            part_scores += np.convolve(shares, np.ones(number))
            start += len(shares)
    return scores
