# SPDX-License-Identifier: Apache-2.0
"""The linear part is learned before the first step, to the optimum of its convex loss: a logistic regression by L-BFGS.

Rank 0 does it on one thread and sends the result, so it is the same however many ranks there are, and it has no
learning rate. Two models trained separately make different errors, and their sum is better than a model trained
jointly: once the linear model fits the training rows, the network would have nothing left to learn.

Words that are spelled alike share what they tell: the weight of a word in the table is its own plus those of its
*pieces*, three to five neighbouring letters (as in fastText; Bojanowski et al., 2017). Pieces exist only while the
table is learned, so they cost nothing afterwards. Long texts, where buckets have owners, are better without.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from harness.model.wide import BITS, MASK, NONE, UNOWNED, WidePart, distinct, mixed
from harness.ranks.distributed import World
from preprocessing.dataset.shards import Split

C = 6.0
"""Inverse regularisation strength."""
FLOOR, POWER, POWER_OWNED = 0.05, 0.5, 0.7
"""A feature's weight grows with ``(FLOOR + its log-count ratio) ** POWER``, or the second power where buckets have
owners; without the floor, a word without association with the label would be ignored."""
MIN_ROWS = 2
"""N-grams of fewer rows are ignored, but not words, since others may have their pieces."""
MOST_MIN_ROWS, ROWS_A_MIN = 8, 2500
"""Where buckets have owners, an n-gram needs one row of so many, at least ``MIN_ROWS`` and at most the first."""
PIECES, PIECE_BUCKETS = (3, 5), 1 << 18
"""Letters of a piece; the pieces are hashed."""
MOST_PLACES, MOST_TARGETS = 80_000_000, 30_000_000
"""Most n-grams, and rows times classes, to learn from, about 1.5 GB; of larger corpora evenly spaced rows are taken."""
MOST_WEIGHTS = 5_000_000
"""Most features times outputs; the solver needs about 300 bytes for each."""
FEWEST_STEPS, MOST_STEPS, WORK = 50, 200, 10_000_000_000
"""Limits of the solver's steps; ``WORK``: features of all rows times outputs times steps, about a minute."""
TOLERANCE = 1e-7
"""The solver stops when a step improves the loss by less than this share."""
PIECE_TOKENS = 1 << 18
SLOTS_A_BUCKET, MOST_SLOTS = 1 << 3, 1 << 25
"""Width of the sketch that finds the most frequent n-gram of each bucket; at most 256 MiB, temporarily."""


def pieces(split: Split, every: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids int64 ``[rows, time]`` and lengths of one row in ``every``, in the order of the blocks."""
    seen = 0
    for block in split.blocks:
        chosen = np.arange(-seen % every, len(block.row), every)
        size = max(1, PIECE_TOKENS // block.ids.shape[1])
        for start in range(0, len(chosen), size):
            rows = chosen[start : start + size]
            lengths = block.length[rows].astype(np.int64)
            ids = block.ids[rows, : lengths.max()].astype(np.int64)
            yield torch.from_numpy(ids), torch.from_numpy(lengths)
        seen += len(block.row)


def learn(wide: WidePart, split: Split, factors: np.ndarray, tokens: Sequence[str], world: World) -> str:
    """Learn a wide part from labelled rows.

    ``factors`` ``[classes]``: weight of the loss of each class. ``tokens``: the word of each id, as a person reads it;
    empty for ``<pad>`` and ``<unk>``. Returns what was learned, in words, on rank 0.
    """
    said = ""
    with world.together("learning the linear part"):
        if world.is_main:
            own = WidePart(wide.buckets, wide.table.shape[1], wide.longest).to(wide.table.dtype)
            with threadpool_limits(1):  # products of sparse matrices use one, and idle ones would disturb it
                said = fit(own, split, factors, tokens)
            wide.load_state_dict(own.state_dict())
    for values in (wide.table, wide.weights, wide.bias, wide.owners):
        if values is not None:
            if not world.is_main:
                values.zero_()
            world.sum_on_device(values, "the linear part")
    return said


def fit(wide: WidePart, split: Split, factors: np.ndarray, tokens: Sequence[str]) -> str:
    """``learn`` in this process, for a wide part on the CPU."""
    from scipy import sparse
    from scipy.sparse.linalg import norm

    began, classes, places = time.monotonic(), len(factors), places_of(wide, split)
    every = max(1, -(-places // MOST_PLACES), -(-len(split) * classes // MOST_TARGETS))
    if wide.owners is not None:
        wide.owners.copy_(owners_of(wide, split, every))
    values, labels = features_of(wide, split, every), split.column("label")[::every]
    words = words_of(wide, tokens if wide.owners is None else ())
    held = np.bincount(values.indices, minlength=wide.buckets)
    held[(held < MIN_ROWS) & (np.diff(words.indptr) == 0)] = 0
    most = MOST_WEIGHTS // wide.table.shape[1]
    kept = np.sort(np.argsort(-held, kind="stable")[:most])
    kept = kept[held[kept] > 0]
    power = POWER if wide.owners is None else POWER_OWNED
    weights = weights_of(values, labels, classes, power)[kept]
    wide.weights[torch.from_numpy(kept)] = torch.from_numpy(weights).to(wide.weights.dtype)
    values = values[:, kept]
    values.data = weights[values.indices]  # as in ``WidePart.features``
    values.data /= np.repeat(np.maximum(norm(values, axis=1), 1e-12), np.diff(values.indptr))
    spelled = words[kept]
    known = np.argsort(-np.bincount(spelled.indices, minlength=PIECE_BUCKETS), kind="stable")[: most // 4]
    spelled = spelled[:, known[np.bincount(spelled.indices, minlength=PIECE_BUCKETS)[known] > 1]]
    pieces = sparse.diags(1 / weights) @ spelled @ sparse.diags(weights_of(values, labels, classes, power, spelled.T))
    sample = values[:: max(1, values.shape[0] // 1000)]  # in it, pieces get the mean norm of the words that have them
    known_words, of_pieces = sample[:, np.diff(spelled.indptr) > 0], sample @ pieces
    scale = norm(known_words, axis=1).mean() / max(norm(of_pieces, axis=1).mean(), 1e-12)
    targets = (np.diag(factors) * (1 / len(labels)))[labels]
    table, bias = solve(values, (pieces * scale).tocsr(), targets, penalty=1 / (C * len(labels)))
    wide.table[torch.from_numpy(kept)] = torch.from_numpy(table).to(wide.table.dtype)
    wide.bias.copy_(torch.from_numpy(bias))
    some = f"one row in {every}" if every > 1 else f"{values.shape[0]:,} rows"
    return f"{len(kept):,} n-grams of {some}, {time.monotonic() - began:.1f} s"


def words_of(wide: WidePart, tokens: Sequence[str]) -> Any:
    """How often the words of each bucket have each piece, as scipy's CSR ``[buckets, PIECE_BUCKETS]``."""
    from scipy import sparse
    from sklearn.feature_extraction.text import HashingVectorizer

    if not tokens:
        return sparse.csr_matrix((wide.buckets, PIECE_BUCKETS))
    how = {"analyzer": "char_wb", "ngram_range": PIECES, "lowercase": False, "alternate_sign": False, "norm": None}
    pieces = HashingVectorizer(n_features=PIECE_BUCKETS, **how).transform(tokens)
    ids = torch.arange(len(tokens))
    bucket = wide.places(ids[:, None], torch.ones_like(ids))[:, 0].numpy()
    owners = np.flatnonzero(bucket < wide.buckets)
    ones = np.ones(len(owners))
    return (sparse.csr_matrix((ones, (bucket[owners], owners)), (wide.buckets, len(tokens))) @ pieces).tocsr()


def places_of(wide: WidePart, split: Split) -> int:
    """Number of n-grams of all rows, about; a million take half a second or more."""
    return wide.longest * split.manifest.tokens(split.name)


def features_of(wide: WidePart, split: Split, every: int) -> Any:
    """A 1 for each bucket that a row has, as scipy's CSR ``[rows, buckets]``."""
    from scipy import sparse

    parts = []
    for ids, lengths in pieces(split, every):
        bucket, first = distinct(wide.places(ids, lengths), wide.buckets)
        ends = np.concatenate(([0], first.sum(1).cumsum(0).numpy()))
        entries = np.ones(ends[-1]), bucket[first].to(torch.int32).numpy(), ends
        parts.append(sparse.csr_matrix(entries, (len(ids), wide.buckets)))
    return sparse.vstack(parts, "csr")


def weights_of(features: Any, labels: np.ndarray, classes: int, power: float, parts: Any = None) -> np.ndarray:
    """The weight of each feature, float64 ``[features]``: from its frequency, and from its association with the labels
    of the rows.

    The first factor is scikit-learn's idf, ``1 + ln((1 + rows) / (1 + rows with it))``; the second is
    ``(FLOOR + r) ** power``, where r is the largest absolute log-count ratio of a class against all others. For a
    feature that a single row has, r is 0.

    ``parts`` ``[features, columns]``: a feature is these columns of ``features`` ``[rows, columns]`` together; None:
    each column is one.
    """
    rows, columns = features.shape
    label_of = np.repeat(labels, np.diff(features.indptr))

    def rows_with(chosen: Any) -> Any:
        """How many rows have each feature, of those whose entries are chosen."""
        found = np.bincount(features.indices[chosen], minlength=columns)
        return found if parts is None else parts @ found

    total = rows_with(slice(None))
    kept = total >= MIN_ROWS
    ratios = np.zeros(len(total))
    for label in range(classes):
        own = rows_with(np.flatnonzero(label_of == label))[kept]
        inside, outside = ((1 + side) / (1 + side).sum() for side in (own, total[kept] - own))
        ratios[kept] = np.maximum(ratios[kept], np.abs(np.log(inside / outside)))
    return (1 + np.log((1 + rows) / (1 + np.minimum(total, rows)))) * (FLOOR + ratios) ** power


def solve(values: Any, pieces: Any, targets: np.ndarray, penalty: float) -> tuple[Any, np.ndarray]:
    """The table ``[features, outputs]`` and bias ``[outputs]`` with the lowest loss: the cross entropy of ``values @
    table + bias`` (CSR ``[rows, features]``) against ``targets`` ``[rows, classes]``, each share times the weight of
    its row, plus ``penalty / 2`` times the sum of the weights' squares. The table is a weight of each feature plus
    ``pieces`` (CSR ``[features, pieces]``) times a weight of each piece. Two classes have one output, the logit of
    class 1.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    outputs = targets.shape[1] if targets.shape[1] > 2 else 1
    columns, members, row_weights = values.T.tocsr(), pieces.T.tocsr(), targets.sum(axis=1, keepdims=True)
    features, size = values.shape[1] * outputs, sum(pieces.shape) * outputs

    def table_of(flat: np.ndarray) -> Any:
        return flat[:features].reshape(-1, outputs) + pieces @ flat[features:size].reshape(-1, outputs)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss, and its gradient, at the weights and the bias in one vector."""
        logits = values @ table_of(flat) + flat[size:]
        logs = log_softmax(logits if outputs > 1 else np.hstack((np.zeros_like(logits), logits)), axis=1)
        error = (row_weights * np.exp(logs) - targets)[:, -outputs:]
        slope = columns @ error
        slopes = np.concatenate((slope.ravel(), (members @ slope).ravel(), error.sum(axis=0)))
        slopes[:size] += penalty * flat[:size]
        return penalty / 2 * float((flat[:size] ** 2).sum()) - float((targets * logs).sum()), slopes

    steps = int(np.clip(WORK // max(values.nnz * outputs, 1), FEWEST_STEPS, MOST_STEPS))
    limits = {"maxiter": steps, "ftol": TOLERANCE, "gtol": 1e-8}
    found = minimize(loss, np.zeros(size + outputs), jac=True, method="L-BFGS-B", options=limits).x
    return table_of(found), found[size:]


def owners_of(wide: WidePart, split: Split, every: int) -> torch.Tensor:
    """int32 ``[buckets]``: for each bucket, the name (lower key bits) of its n-gram with the most rows, if these are at
    least ``MIN_ROWS``, or more of many rows (``ROWS_A_MIN``).

    Rows are counted in a count-min sketch (Cormode and Muthukrishnan, 2005), since most n-grams occur only once: each
    n-gram has two counters, and the lower one is the estimate. Ties go to the largest name.
    """
    least = int(np.clip(len(split) // every // ROWS_A_MIN, MIN_ROWS, MOST_MIN_ROWS))
    slots = max(wide.buckets, min(wide.buckets * SLOTS_A_BUCKET, MOST_SLOTS))
    shift = BITS - (slots.bit_length() - 1)
    sketch = torch.zeros(2, slots, dtype=torch.int32)

    def places_in_sketch(key: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(sketch[0], key >> shift), (sketch[1], mixed(key ^ MASK) >> shift)]

    def of_rows() -> Iterator[torch.Tensor]:
        for ids, lengths in pieces(split, every):
            key, first = distinct(wide.keys(ids, lengths), NONE)
            yield key[first]

    for key in of_rows():
        for counts, slot in places_in_sketch(key):
            counts.index_add_(0, slot, torch.ones_like(slot, dtype=torch.int32))
    best = torch.zeros(wide.buckets, dtype=torch.int64)
    for key in of_rows():
        rows_with = torch.minimum(*(counts[slot] for counts, slot in places_in_sketch(key))).to(torch.int64)
        claim = torch.where(rows_with >= least, rows_with << BITS | wide.name_of(key), 0)
        best.scatter_reduce_(0, wide.bucket_of(key), claim, "amax")
    return torch.where(best > 0, best & MASK, UNOWNED).to(torch.int32)
