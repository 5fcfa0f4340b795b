# SPDX-License-Identifier: Apache-2.0
"""Contribution of each token of a text to a logit. Contributions add up to the logit minus the baseline's logit.

The network: integrated gradients (Sundararajan, Taly and Yan, 2017, Axiomatic Attribution for Deep Networks) along the
straight line from zero vectors, a blank text of the same length, to the text's vectors. The linear part is linear in
n-grams: the contribution of an n-gram is divided evenly among its occurrences, and among its words; its baseline is its
bias.

The gradient is averaged over the middles of ``NUM_STEPS`` equal steps of the line. What the sum of the contributions
then misses of the change of the logit is known, since the logits at both ends are computed too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from harness.batch import Batch
from harness.model.classifier import Classifier
from harness.model.linear_part import END, WidePart
from harness.model.registry import SHARED_UP_TO
from preprocessing.text.vocabulary import UNK

NUM_STEPS = 50
"""Steps of the line."""
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


def attribute(model: Classifier, ids: np.ndarray, label: int) -> Attribution:
    """The contribution of each token of a text to the logit of a class, before calibration: none if the text has no
    known word.

    ``ids`` int64 ``[tokens]`` has at least one. ``model`` is in evaluation mode, in fp32 or wider, and does not change.
    """
    sign, column = (2 * label - 1, 0) if model.outputs == 1 else (1, label)  # the single logit is that of class 1
    if model.prior is not None and (ids <= UNK).all():
        prior = sign * float(model.prior.flatten()[column])
        return Attribution(np.zeros(len(ids)), prior, prior)
    points = np.concatenate(([0.0, 1.0], (np.arange(NUM_STEPS) + 0.5) / NUM_STEPS))
    num_rows = max(1, MAX_BATCH_TOKENS // len(ids))
    batches = np.split(points, range(num_rows, len(points), num_rows))
    results = [read_line(model, ids, column, batch) for batch in batches]
    logits, growths = (np.concatenate(parts) for parts in zip(*results, strict=True))
    baseline, logit, scores = float(logits[0]), float(logits[1]), growths[2:].mean(axis=0)
    if model.wide is not None:
        added, bias = wide_scores(model.wide, ids, column), float(model.wide.share * model.wide.bias[column])
        baseline, logit, scores = baseline + bias, logit + bias + float(added.sum()), scores + added
    return Attribution(sign * scores, sign * logit, sign * baseline)


def read_line(model: Classifier, ids: np.ndarray, column: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The network's logit at points of the line, ``[points]``, 0 the baseline and 1 the text; and its derivative along
    the line through each token, ``[points, tokens]``; both float64.
    """
    device, dtype = model.head.weight.device, model.head.weight.dtype
    repeated = torch.from_numpy(ids.astype(np.int32)).repeat(len(points), 1)
    batch = Batch.without_labels(repeated, torch.full((len(points),), len(ids)), device)
    shares = torch.from_numpy(points).to(device, dtype)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        vectors_of_text = model.embed(batch).detach()
        vectors = (vectors_of_text * shares[:, None]).requires_grad_()
        logits = model.read_embedded(vectors, batch).reshape(len(points), -1)[:, column]
        (gradient,) = torch.autograd.grad(logits.sum(), vectors)
    growth = (gradient.double() * vectors_of_text.double()).sum(-1).T
    return logits.detach().double().cpu().numpy(), growth.cpu().numpy()


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
