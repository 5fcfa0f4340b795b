# SPDX-License-Identifier: Apache-2.0
"""How much each token of a text adds to a logit, so that the sum over tokens is the logit less that of the baseline.

The network: integrated gradients (Sundararajan, Taly and Yan, 2017, Axiomatic Attribution for Deep Networks) along the
straight line from vectors of zeros, a text of as many tokens that say nothing, to the text's own. The wide part is
linear in n-grams: what each adds is shared evenly by the places where it stands, and by its words; its baseline is a
text without words, its bias.

The integral is taken piece by piece. On each piece of the line the network also says by how much its logit really
changes, so Simpson's rule is known to be right or wrong there, and pieces where it is wrong are halved: where the
maximum over time changes from one token to another, more points are computed than where nothing happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from harness.batch import Batch, send
from harness.model.classifier import Classifier
from harness.model.wide import END_LONGEST, WidePart

TOLERANCE = 1e-3
"""Share of the difference of two logits by which the sum over tokens may miss it."""
SMALLEST = 1e-5
"""A logit: what misses by no more is complete in any case, since fp32 knows it no better."""
APART = 10
"""How many times that the errors of all pieces may be, each as an absolute value: most of them cancel."""
PIECES = 4
"""Pieces of the line at first."""
MOST_POINTS = 1025
"""Points at which one text is read at most; then it is as complete as it is, and that is said."""
BATCH_TOKENS = 8192
"""Tokens computed at once: the gradients of so many lie in memory together."""


@dataclass(frozen=True)
class Attribution:
    """What each token of a text adds to one logit."""

    scores: np.ndarray
    """float64 ``[tokens]``."""
    logit: float
    baseline: float
    """The logit where the scores begin to count."""
    points: int
    """At how many points the network was read."""


class Line:
    """The way of one text from its baseline, as far as it has been read."""

    def __init__(self, ids: np.ndarray, column: int, beside: np.ndarray) -> None:
        """``ids`` int64 ``[tokens]``; ``column`` of the logits is the one that is looked at, and what stands ``beside``
        the network adds so much to it by each token, float64 ``[tokens]``.
        """
        self.ids, self.column, self.beside = ids, column, beside
        self.known: dict[float, tuple[float, np.ndarray]] = {}
        """Place from 0 to 1 -> the logit there, and how fast it grows through each token, float64 ``[tokens]``."""
        self.pieces = [(number / PIECES, (number + 1) / PIECES) for number in range(PIECES)]

    def wanted(self) -> set[float]:
        """Where it must be read next."""
        places = {place for start, end in self.pieces for place in (start, (start + end) / 2, end)}
        return places - self.known.keys()

    def integrals(self) -> np.ndarray:
        """What each token adds on each piece of the line, by Simpson's rule, ``[pieces, tokens]``."""
        growth = {place: growth for place, (_, growth) in self.known.items()}
        return np.array(
            [
                (growth[start] + 4 * growth[(start + end) / 2] + growth[end]) * ((end - start) / 6)
                for start, end in self.pieces
            ]
        )

    def refine(self) -> bool:
        """Halve the pieces that are worse than the mean; False where none needs it, or no more points are allowed.

        The sum over all pieces must be complete, and not because large errors of different signs happen to cancel.
        """
        changes = [self.known[end][0] - self.known[start][0] for start, end in self.pieces]
        errors = self.integrals().sum(1) - changes
        missed, apart = abs(errors.sum()), np.abs(errors).sum()
        difference = self.known[1.0][0] + self.beside.sum() - self.known[0.0][0]
        allowed = max(TOLERANCE * abs(difference), SMALLEST)
        if (missed <= allowed and apart <= APART * allowed) or len(self.known) >= MOST_POINTS:
            return False
        worst = np.flatnonzero(np.abs(errors) >= np.abs(errors).mean())
        for place in worst[: (MOST_POINTS - len(self.known) + 1) // 2].tolist():
            start, end = self.pieces[place]
            middle = (start + end) / 2
            self.pieces[place] = (start, middle)
            self.pieces.append((middle, end))
        return True


def attributions(model: Classifier, texts: Sequence[np.ndarray], columns: Sequence[int]) -> list[Attribution]:
    """What each token adds to the logit in ``columns`` (0 for two classes), for each text.

    ``texts`` are ids, at least one each. ``model`` is in evaluation mode, in fp32 or wider, and does not change.
    """
    wide, lines = model.wide, []
    for text, column in zip(texts, columns, strict=True):
        ids = text.astype(np.int64)
        lines.append(Line(ids, column, np.zeros(len(ids)) if wide is None else wide_scores(wide, ids, column)))
    open_lines = lines
    while open_lines:
        places = [(line, place) for line in open_lines for place in line.wanted()]
        places.sort(key=lambda place: -len(place[0].ids))
        while places:
            size = max(1, BATCH_TOKENS // len(places[0][0].ids))
            read(model, places[:size])
            places = places[size:]
        open_lines = [line for line in open_lines if line.refine()]
    found = []
    for line in lines:
        bias = 0.0 if wide is None else float(wide.share * wide.bias[line.column])
        scores, logit = line.integrals().sum(0) + line.beside, line.known[1.0][0] + float(line.beside.sum())
        found.append(Attribution(scores, logit + bias, line.known[0.0][0] + bias, len(line.known)))
    return found


def read(model: Classifier, places: list[tuple[Line, float]]) -> None:
    """Read the network at some places, longest texts first, and let their lines know."""
    device, dtype = model.head.weight.device, model.head.weight.dtype
    batch = batch_of([line.ids for line, _ in places], device)
    shares = torch.tensor([place for _, place in places], dtype=dtype, device=device)
    columns = torch.tensor([line.column for line, _ in places], device=device)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        embedded = model.embed(batch)
        whole = embedded.vectors.detach()
        vectors = (whole * shares[:, None]).requires_grad_()
        logits = model.read_embedded(replace(embedded, vectors=vectors), batch)
        chosen = logits.reshape(len(places), -1).gather(1, columns[:, None]).squeeze(1)
        (gradient,) = torch.autograd.grad(chosen.sum(), vectors)
    growth = (gradient.double() * whole.double()).sum(-1).cpu().numpy()
    values = chosen.tolist()
    for row, (line, place) in enumerate(places):
        line.known[place] = (values[row], growth[: len(line.ids), row])


def batch_of(texts: Sequence[np.ndarray], device: torch.device) -> Batch:
    """Ids as a padded batch without labels; ``texts`` come longest first."""
    ids = nn.utils.rnn.pad_sequence([torch.from_numpy(text.astype(np.int32)) for text in texts], batch_first=True)
    lengths = torch.tensor([len(text) for text in texts])
    labels = torch.zeros(len(texts), dtype=torch.int64)
    return Batch(send(ids, device), lengths, labels, np.arange(len(texts)), sent_lengths=send(lengths, device))


def wide_scores(wide: WidePart, ids: np.ndarray, column: int) -> np.ndarray:
    """What each token of ``ids`` int64 ``[tokens]`` adds to a logit by the wide part, float64 ``[tokens]``: together
    the part's logit without its bias, times its share.
    """
    device = wide.table.device
    places = wide.places(torch.from_numpy(ids)[None].to(device), torch.tensor([len(ids)], device=device))[0]
    bucket, place, times = torch.unique(places, return_inverse=True, return_counts=True)
    there, bucket = bucket < wide.buckets, bucket.clamp(max=wide.buckets - 1)
    value = there * wide.damped(times.double()) * wide.weights[bucket].double()
    value = value / value.square().sum().sqrt().clamp_min(1e-12)
    each = (wide.share.double() * value * wide.table[bucket, column].double() / times)[place].cpu().numpy()
    scores, start = np.zeros(len(ids)), 0
    last = scores[max(0, len(ids) - wide.tail) :]
    for words, longest in ((scores, wide.longest), (last, END_LONGEST if wide.tail else 0)):
        for number in range(1, min(longest, len(words)) + 1):
            count = len(words) - number + 1
            for offset in range(number):  # what an n-gram adds is its words', evenly
                words[offset : offset + count] += each[start : start + count] / number
            start += count
    return scores
