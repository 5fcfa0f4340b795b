# SPDX-License-Identifier: Apache-2.0
"""The wide part as ONNX nodes: the same hashes, the same weights of features, the same table (``model.wide``)."""

from __future__ import annotations

import numpy as np

from harness.export.nodes import Graph
from harness.model.wide import FIRST, MASK, ROUNDS, SECOND, WORD, WidePart


def wide_logits(graph: Graph, wide: WidePart, ids: str, lengths: str) -> str:
    """Logits ``[rows, outputs]``, times the share, of int64 ``ids`` ``[rows, time]`` and ``lengths`` ``[rows]``."""
    bucket, value = features(graph, wide, ids, lengths)
    table = graph.constant((wide.share * wide.table).cpu().numpy(), np.float32, "wide_table")
    taken = graph.add("Gather", [table, bucket], name="wide_rows")
    each = graph.add("Mul", [taken, graph.add("Unsqueeze", [value, graph.constant([2])])])
    total = graph.add("ReduceSum", [each, graph.constant([1])], keepdims=0)
    bias = graph.constant((wide.share * wide.bias).cpu().numpy(), np.float32)
    return str(graph.add("Add", [total, bias]))


def features(graph: Graph, wide: WidePart, ids: str, lengths: str) -> tuple[str, str]:
    """Buckets int64 and weights, both ``[rows, places]``, each bucket of a row once; see ``WidePart.features``.

    Sorted, a bucket that a row has several times is a run; the number of a run is the place that its bucket and its
    count are put at.
    """
    places = places_of(graph, wide, ids, lengths)
    none = graph.constant(wide.buckets)
    width = graph.size(places, 1)
    ordered, _ = graph.add("TopK", [places, width], outputs=2, axis=1, largest=0, sorted=1)
    following, before = graph.part(ordered, 1, 1 << 62, 1), graph.part(ordered, 0, -1, 1)
    begins = graph.cast(graph.add("Not", [graph.add("Equal", [following, before])]), np.int64)
    first = graph.add("Expand", [graph.constant([[0]]), joined(graph, graph.size(places, 0), graph.constant([1]))])
    run = graph.add("CumSum", [graph.add("Concat", [first, begins], axis=1), graph.constant(1)])
    shape = graph.add("Shape", [places])
    empty = graph.add("Expand", [none, shape])
    ones = graph.add("Expand", [graph.constant(1.0, np.float32), shape])
    zeros = graph.add("Expand", [graph.constant(0.0, np.float32), shape])
    bucket = graph.add("ScatterElements", [empty, run, ordered], axis=1)
    times = graph.add("ScatterElements", [zeros, run, ones], axis=1, reduction="add")
    real = graph.add("Less", [bucket, none])
    bucket = graph.add("Min", [bucket, graph.constant(wide.buckets - 1)])
    damped = graph.add("Add", [graph.add("Log", [graph.add("Max", [times, ones])]), ones])
    weights = graph.constant(wide.weights.cpu().numpy(), np.float32, "wide_weights")
    weight = graph.add("Gather", [weights, bucket], name="wide_weight")
    value = graph.add("Where", [real, graph.add("Mul", [damped, weight]), zeros])
    norm = graph.add("ReduceL2", [value, graph.constant([1])], keepdims=1)
    smallest = graph.constant(1e-12, np.float32)
    return bucket, str(graph.add("Div", [value, graph.add("Max", [norm, smallest])]))


def places_of(graph: Graph, wide: WidePart, ids: str, lengths: str) -> str:
    """The bucket of each word and pair, int64 ``[rows, 2 * time - 1]``; ``buckets`` behind a row's length."""
    time = graph.count(graph.size(ids, 1))
    real = graph.add("Less", [time, graph.add("Unsqueeze", [lengths, graph.constant([1])])])
    mask = graph.constant(MASK)

    def product(value: str, factor: int) -> str:
        return str(graph.add("Mul", [value, graph.constant(factor)]))

    def bucket_of(key: str) -> str:
        for shift, factor in ROUNDS:
            mixed = graph.add("BitwiseXor", [key, graph.add("Div", [key, graph.constant(1 << shift)])])
            key = graph.add("BitwiseAnd", [product(mixed, factor), mask])
        return str(graph.add("Div", [key, graph.constant(1 << wide.shift)]))

    none = graph.constant(wide.buckets)
    word = bucket_of(graph.add("BitwiseAnd", [product(ids, WORD), mask]))
    before, after = graph.part(ids, 0, -1, 1), graph.part(ids, 1, 1 << 62, 1)
    both = graph.add("Add", [product(before, FIRST), product(after, SECOND)])
    pair = bucket_of(graph.add("BitwiseAnd", [graph.add("Add", [both, graph.constant(WORD)]), mask]))
    words = graph.add("Where", [real, word, none])
    pairs = graph.add("Where", [graph.part(real, 1, 1 << 62, 1), pair, none])
    return str(graph.add("Concat", [words, pairs], axis=1))


def joined(graph: Graph, *sizes: str) -> str:
    """A shape of several sizes."""
    return str(graph.add("Concat", list(sizes), axis=0))
