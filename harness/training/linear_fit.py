# SPDX-License-Identifier: Apache-2.0
"""The linear part is learned before the first step, to the optimum of its convex loss: a logistic regression by L-BFGS.

Rank 0 does it on one thread and sends the result, so it is the same however many ranks there are, and it has no
learning rate. Two models trained separately make different errors, and their sum is better than a model trained
jointly: once the linear part fits the training rows, the network would have nothing left to learn.

Words that are spelled alike share weight: the weight of a word in the table is its own plus those of its
*pieces*, three to five neighbouring letters (as in fastText; Bojanowski et al., 2017). Pieces exist only while the
table is learned, so they cost nothing afterwards. Long texts, where buckets have owners, are better without.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import minimize
from scipy.sparse.linalg import norm
from scipy.special import log_softmax

from harness.data.targets import SoftTargets
from harness.model.linear_part import BITS, MASK, NONE, UNOWNED, WidePart, sort_distinct
from preprocessing.dataset.shards import Split

C = 6.0
"""Inverse regularisation strength."""
C_OF_SETS, TOLERANCE_OF_SETS = 2.0, 1e-5
"""``C`` and ``TOLERANCE`` of a class against the rest, where a text may have several labels."""
FLOOR, POWER, POWER_OWNED = 0.05, 0.5, 0.7
"""A feature's weight grows with ``(FLOOR + its log-count ratio) ** POWER``, or the second power where buckets have
owners; without the floor, a word without association with the label would be ignored."""
MIN_ROWS = 2
"""N-grams of fewer rows are ignored, but not words, since others may have their pieces."""
MAX_MIN_ROWS, ROWS_PER_MIN = 8, 2500
"""Where buckets have owners, an n-gram needs one row of so many, at least ``MIN_ROWS`` and at most the first."""
PIECE_LETTERS, PIECE_BUCKETS = (3, 5), 1 << 18
"""The pieces are hashed."""
MAX_NGRAMS, MAX_TARGETS = 80_000_000, 30_000_000
"""Most n-grams, and rows times classes, to learn from, about 1.5 GB; of larger corpora evenly spaced rows are taken."""
MAX_WEIGHTS = 5_000_000
"""Most features times outputs; the solver needs about 300 bytes for each."""
MIN_SOLVER_STEPS, MAX_SOLVER_STEPS, SOLVER_WORK = 50, 200, 10_000_000_000
"""``SOLVER_WORK``: features of all rows times outputs times steps, about a minute."""
TOLERANCE = 1e-7
"""The solver stops when a step improves the loss by less than this share."""
READ_TOKENS = 1 << 18


def fit_wide(
    wide: WidePart, split: Split, factors: np.ndarray, tokens: Sequence[str], soft_targets: SoftTargets | None = None
) -> str:
    """Learn a linear part on the CPU from labelled rows, or from the targets of a teacher; returns what was learned, in
    words.

    ``factors`` ``[classes]``: weight of the loss of each class. ``tokens``: the word of each id, as a person reads it;
    empty for ``<pad>`` and ``<unk>``.
    """
    started, ngrams = time.monotonic(), wide.longest * split.manifest.tokens(split.name)
    stride = max(1, -(-ngrams // MAX_NGRAMS), -(-len(split) * len(factors) // MAX_TARGETS))
    if wide.owners is not None:
        wide.owners.copy_(choose_owners(wide, split, stride))
    features, labels = read_features(wide, split, stride), split.column("label")[::stride]
    soft = None if soft_targets is None else soft_targets.look_up(split.column("row")[::stride]).astype(np.float64)
    if soft is not None:
        labels = soft.argmax(axis=1)
    buckets_pieces = count_bucket_pieces(wide, tokens if wide.owners is None else ())
    columns = choose_columns(features, buckets_pieces, MAX_WEIGHTS // wide.table.shape[1])
    power, members = POWER if wide.owners is None else POWER_OWNED, split.manifest.members
    members = np.eye(len(factors), dtype=bool) if members is None else members
    values, pieces = features[:, columns], buckets_pieces[columns]
    num_rows, rows_by_class = values.getnnz(axis=0), values.T @ members[labels].astype(np.float64)
    weights = weigh_features(num_rows, rows_by_class, len(labels), power)
    wide.weights[torch.from_numpy(columns)] = torch.from_numpy(weights).to(wide.weights.dtype)
    values.data = weights[values.indices]  # as in ``WidePart.features``
    values.data /= np.repeat(np.maximum(norm(values, axis=1), 1e-12), np.diff(values.indptr))
    num_buckets = pieces.getnnz(axis=0)
    frequent = np.argsort(-num_buckets, kind="stable")[: MAX_WEIGHTS // wide.table.shape[1] // 4]
    pieces = pieces[:, frequent[num_buckets[frequent] > 1]]
    piece_weights = weigh_features(pieces.T @ num_rows, pieces.T @ rows_by_class, len(labels), power)
    pieces = scale_pieces(values, sparse.diags(1 / weights) @ pieces @ sparse.diags(piece_weights), pieces)
    if split.manifest.has_label_sets:
        table, bias = solve_classes(values, pieces, members[labels], factors)
    else:
        targets = (np.eye(len(factors))[labels] if soft is None else soft) * (factors / len(labels))
        table, bias = solve(values, pieces, targets, 1 / (C * len(labels)), TOLERANCE)
    wide.table[torch.from_numpy(columns)] = torch.from_numpy(table).to(wide.table.dtype)
    wide.bias.copy_(torch.from_numpy(bias))
    rows = f"one row in {stride}" if stride > 1 else f"{values.shape[0]:,} rows"
    return f"{len(columns):,} n-grams of {rows}, {time.monotonic() - started:.1f} s"


def read_rows(split: Split, stride: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids int64 ``[rows, time]`` and lengths of one row in ``stride``, in the order of the blocks."""
    first_row = 0
    for block in split.blocks:
        rows_in_block = np.arange(-first_row % stride, len(block.row), stride)
        size = max(1, READ_TOKENS // block.ids.shape[1])
        for start in range(0, len(rows_in_block), size):
            rows = rows_in_block[start : start + size]
            lengths = block.length[rows].astype(np.int64)
            ids = block.ids[rows, : lengths.max()].astype(np.int64)
            yield torch.from_numpy(ids), torch.from_numpy(lengths)
        first_row += len(block.row)


def read_features(wide: WidePart, split: Split, stride: int) -> sparse.csr_matrix:
    """A 1 for each bucket that a row has, as scipy's CSR ``[rows, buckets]``."""
    parts = []
    for ids, lengths in read_rows(split, stride):
        bucket, is_first = sort_distinct(wide.places(ids, lengths), wide.buckets)
        ends = np.concatenate(([0], is_first.sum(1).cumsum(0).numpy()))
        entries = np.ones(ends[-1]), bucket[is_first].to(torch.int32).numpy(), ends
        parts.append(sparse.csr_matrix(entries, (len(ids), wide.buckets)))
    return sparse.vstack(parts, "csr")


def count_bucket_pieces(wide: WidePart, tokens: Sequence[str]) -> sparse.csr_matrix:
    """How often the words of each bucket have each piece, as scipy's CSR ``[buckets, PIECE_BUCKETS]``."""
    from sklearn.feature_extraction.text import HashingVectorizer

    if not tokens:
        return sparse.csr_matrix((wide.buckets, PIECE_BUCKETS))
    pieces = HashingVectorizer(
        n_features=PIECE_BUCKETS,
        analyzer="char_wb",
        ngram_range=PIECE_LETTERS,
        lowercase=False,
        alternate_sign=False,
        norm=None,
    ).transform(tokens)
    ids = torch.arange(len(tokens))
    bucket = wide.places(ids[:, None], torch.ones_like(ids))[:, 0].numpy()
    words = np.flatnonzero(bucket < wide.buckets)
    entries = np.ones(len(words)), (bucket[words], words)
    return (sparse.csr_matrix(entries, (wide.buckets, len(tokens))) @ pieces).tocsr()


def choose_columns(features: sparse.csr_matrix, buckets_pieces: sparse.csr_matrix, max_columns: int) -> np.ndarray:
    """The buckets to learn, int64 ``[features]``, ascending: those that most rows have."""
    num_rows = np.bincount(features.indices, minlength=features.shape[1])
    num_rows[(num_rows < MIN_ROWS) & (np.diff(buckets_pieces.indptr) == 0)] = 0
    columns = np.sort(np.argsort(-num_rows, kind="stable")[:max_columns])
    return columns[num_rows[columns] > 0]


def weigh_features(num_rows: np.ndarray, rows_by_class: np.ndarray, total_rows: int, power: float) -> np.ndarray:
    """The weight of each feature, float64 ``[features]``: from its frequency, and from its association with the labels
    of the rows.

    The first factor is scikit-learn's idf, ``1 + ln((1 + rows) / (1 + rows with it))``; the second is
    ``(FLOOR + r) ** power``, where r is the largest absolute log-count ratio of a class against all others. For a
    feature that a single row has, r is 0.

    ``num_rows`` ``[features]``: the rows that have a feature; ``rows_by_class`` ``[features, classes]``: those of a
    class.
    """
    is_frequent = num_rows >= MIN_ROWS
    in_class = 1 + rows_by_class[is_frequent]
    in_others = 2 + num_rows[is_frequent, None] - in_class
    log_ratios = np.log((in_class / in_class.sum(axis=0)) / (in_others / in_others.sum(axis=0)))
    ratios = np.zeros(len(num_rows))
    ratios[is_frequent] = np.abs(log_ratios).max(axis=1)
    return (1 + np.log((1 + total_rows) / (1 + np.minimum(num_rows, total_rows)))) * (FLOOR + ratios) ** power


def scale_pieces(
    values: sparse.csr_matrix, pieces: sparse.csr_matrix, buckets_pieces: sparse.csr_matrix
) -> sparse.csr_matrix:
    """``pieces`` times a factor, so that in a sample of rows they have the mean norm of the words that have them."""
    sample = values[:: max(1, values.shape[0] // 1000)]
    of_words = norm(sample[:, np.diff(buckets_pieces.indptr) > 0], axis=1).mean()
    of_pieces = norm(sample @ pieces, axis=1).mean()
    return (pieces * (of_words / max(of_pieces, 1e-12))).tocsr()


def solve(
    values: sparse.csr_matrix, pieces: sparse.csr_matrix, targets: np.ndarray, penalty: float, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """The table ``[features, outputs]`` and bias ``[outputs]`` with the lowest loss: the cross entropy of ``values @
    table + bias`` (CSR ``[rows, features]``) against ``targets`` ``[rows, classes]``, each share times the weight of
    its row, plus ``penalty / 2`` times the sum of the weights' squares. The table is a weight of each feature plus
    ``pieces`` (CSR ``[features, pieces]``) times a weight of each piece. Two classes have one output, the logit of
    class 1. ``tolerance`` is as ``TOLERANCE``.
    """
    outputs = targets.shape[1] if targets.shape[1] > 2 else 1
    values_by_feature, features_by_piece = values.T.tocsr(), pieces.T.tocsr()
    row_weights = targets.sum(axis=1, keepdims=True)
    features, size = values.shape[1] * outputs, sum(pieces.shape) * outputs

    def table_of(flat: np.ndarray) -> np.ndarray:
        return flat[:features].reshape(-1, outputs) + pieces @ flat[features:size].reshape(-1, outputs)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss, and its gradient, at the weights and the bias in one vector."""
        logits = values @ table_of(flat) + flat[size:]
        logs = log_softmax(logits if outputs > 1 else np.hstack((np.zeros_like(logits), logits)), axis=1)
        error = (row_weights * np.exp(logs) - targets)[:, -outputs:]
        slope = values_by_feature @ error
        slopes = np.concatenate((slope.ravel(), (features_by_piece @ slope).ravel(), error.sum(axis=0)))
        slopes[:size] += penalty * flat[:size]
        return penalty / 2 * float((flat[:size] ** 2).sum()) - float((targets * logs).sum()), slopes

    steps = int(np.clip(SOLVER_WORK // max(values.nnz * outputs, 1), MIN_SOLVER_STEPS, MAX_SOLVER_STEPS))
    limits = {"maxiter": steps, "ftol": tolerance, "gtol": 1e-8}
    optimum = minimize(loss, np.zeros(size + outputs), jac=True, method="L-BFGS-B", options=limits).x
    return table_of(optimum), optimum[size:]


def solve_classes(
    values: sparse.csr_matrix, pieces: sparse.csr_matrix, labels: np.ndarray, factors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As ``solve``, a logistic regression of each class against the rest, for rows with several labels, bool ``[rows,
    classes]``. ``factors`` ``[classes]``: weight of the loss of rows with the class.
    """
    penalty, tables, biases = 1 / (C_OF_SETS * len(labels)), [], []
    for is_labelled, factor in zip(labels.T, factors, strict=True):
        targets = np.column_stack((~is_labelled, is_labelled * factor)) / len(labels)
        table, bias = solve(values, pieces, targets, penalty, TOLERANCE_OF_SETS)
        tables.append(table)
        biases.append(bias)
    return np.hstack(tables), np.concatenate(biases)


def choose_owners(wide: WidePart, split: Split, stride: int) -> torch.Tensor:
    """int32 ``[buckets]``: for each bucket, the name (lower key bits) of its n-gram with the most rows, if these are at
    least ``MIN_ROWS``, or more of many rows (``ROWS_PER_MIN``).

    Ties go to the largest name.
    """
    min_rows = int(np.clip(len(split) // stride // ROWS_PER_MIN, MIN_ROWS, MAX_MIN_ROWS))
    parts = []
    for ids, lengths in read_rows(split, stride):
        key, is_first = sort_distinct(wide.keys(ids, lengths), NONE)
        parts.append(key[is_first].numpy().astype(np.uint32))
    ngrams, counts = np.unique(np.concatenate(parts), return_counts=True)
    is_frequent = counts >= min_rows
    key, num_rows = (torch.from_numpy(values[is_frequent].astype(np.int64)) for values in (ngrams, counts))
    best = torch.zeros(wide.buckets, dtype=torch.int64)
    best.scatter_reduce_(0, wide.bucket_of(key), num_rows << BITS | wide.name_of(key), "amax")
    return torch.where(best > 0, best & MASK, UNOWNED).to(torch.int32)
