# SPDX-License-Identifier: Apache-2.0
"""The language model from its definitions: row by row, prediction by prediction, candidate by candidate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from harness.batch import Masks
from harness.model.dropout import EMBEDDING, HEAD
from harness.model.language import LanguageModel
from padless.core.randomness import words
from preprocessing.text.vocabulary import UNK

BITS = 40


def shares(vocabulary_size: int) -> list[float]:
    """The chance of every id to be drawn: nothing for <pad>, then falling, in multiples of ``2 ** -BITS``."""
    tokens = vocabulary_size - 1
    ends = [0] + [round(math.log(token + 2) / math.log(tokens + 1) * 2**BITS) for token in range(tokens)]
    return [0.0] + [(high - low) / 2**BITS for low, high in itertools.pairwise(ends)]


def draw(vocabulary_size: int, candidates: int, seed: int, step: int) -> tuple[list[int], int]:
    """Distinct ids in the order in which they come, and how many numbers that took."""
    chances, chosen = shares(vocabulary_size), []
    for tries, number in enumerate(words(seed, step, 3, count=100_000), 1):
        remaining, token = int(number) >> (64 - BITS), 0
        while remaining >= round(chances[token] * 2**BITS):
            remaining -= round(chances[token] * 2**BITS)
            token += 1
        if token not in chosen:
            chosen.append(token)
        if len(chosen) == candidates:
            return chosen, tries
    raise AssertionError("too few numbers")


def log_expected(vocabulary_size: int, tries: int) -> list[float]:
    """The logarithm of each id's expected count among the candidates; <pad> has none."""
    return [-math.inf] + [math.log(-math.expm1(tries * math.log1p(-chance))) for chance in shares(vocabulary_size)[1:]]


def states_of(model: LanguageModel, ids: Sequence[int], masks: Masks | None) -> list[torch.Tensor]:
    """``[time, hidden]`` of each direction over one row, the backward one in the order of the row."""
    read = torch.tensor(ids)
    if masks is not None and masks.unknown_tokens is not None:
        read = torch.where(masks.unknown_tokens[0], UNK, read)
    inputs = model.embedding.weight[read]
    if masks is not None and masks.keep:
        inputs = inputs * masks.keep[EMBEDDING]
    layer = model.recurrent.layers[0]
    outputs = layer(inputs[None])[0][0]
    if masks is not None and masks.keep:
        outputs = outputs * masks.keep[HEAD]
    return list(outputs.split(model.recurrent.hidden_size, dim=1))


def row_losses(
    model: LanguageModel,
    ids: Sequence[int],
    candidates: Sequence[int],
    corrections: Sequence[float] | None,
    masks: Masks | None = None,
    distance: int = 1,
    counts: Sequence[float] | None = None,
) -> list[torch.Tensor]:
    """What a row costs in each direction, in nats: the sum over its predictions of tokens at a distance.

    ``corrections`` are the logarithms of expected counts, None for none; ``counts`` what predictions of a token count.
    """
    weight, bias = model.embedding.weight, model.language_model.bias
    totals = []
    for number, states in enumerate(states_of(model, ids, masks)):
        total = torch.zeros((), dtype=weight.dtype)
        for position in range(len(ids)):
            target = position + distance if number == 0 else position - distance
            if not 0 <= target < len(ids):
                continue
            projected = model.language_model.projection[number].weight @ states[position]
            among = [ids[target], *(token for token in candidates if token != ids[target])]
            logits = weight[among] @ projected + bias[among]
            if corrections is not None:
                logits = logits - torch.tensor([corrections[token] for token in among], dtype=logits.dtype)
            total = total + (torch.logsumexp(logits, 0) - logits[0]) * (1 if counts is None else counts[ids[target]])
        totals.append(total)
    return totals


def token_counts(counts: Sequence[int]) -> list[float]:
    """What the predictions of each token count: as word2vec keeps tokens, on average 1."""
    frequent = 3e-4
    shares = [(count + 1) / (sum(counts) + len(counts)) for count in counts]
    keep_chances = [min(1.0, math.sqrt(frequent / share) + frequent / share) for share in shares]
    mean = sum(share * chance for share, chance in zip(shares, keep_chances, strict=True))
    return [chance / mean for chance in keep_chances]
