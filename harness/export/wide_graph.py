# SPDX-License-Identifier: Apache-2.0
"""The wide part as ONNX nodes: the same hashes, the same weights of features, the same table (``model.wide``)."""

from __future__ import annotations

import numpy as np

from harness.export.nodes import Graph
from harness.model.ngrams import FIRST, MASK, ROUNDS, SECOND, WORD
from harness.model.wide import WidePart


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
    """The bucket of each n-gram, int64 ``[rows, places]``; ``buckets`` where there is none: ``WidePart.places``."""
    time = graph.count(graph.size(ids, 1))
    real = graph.add("Less", [time, graph.add("Unsqueeze", [lengths, graph.constant([1])])])
    none, divisor = graph.constant(wide.buckets), graph.constant(1 << wide.shift)
    owners = None if wide.owners is None else graph.constant(wide.owners.cpu().numpy(), np.int32, "wide_owners")
    places = []
    for number, key in enumerate(keys_of(graph, ids, wide.longest)):
        bucket, there = graph.add("Div", [key, divisor]), graph.part(real, number, 1 << 62, 1)
        if owners is not None:
            owner = graph.add("Gather", [owners, bucket])
            mine = graph.add("Equal", [owner, graph.cast(graph.add("Mod", [key, divisor]), np.int32)])
            there = graph.add("And", [there, mine])
        places.append(graph.add("Where", [there, bucket, none]))
    return str(graph.add("Concat", places, axis=1))


def keys_of(graph: Graph, ids: str, longest: int) -> list[str]:
    """The key of each word, pair and so on, int64 ``[rows, time - n + 1]`` for each n: ``harness.model.ngrams``."""
    mask = graph.constant(MASK)

    def product(value: str, factor: int) -> str:
        return str(graph.add("Mul", [value, graph.constant(factor)]))

    def mixed(key: str) -> str:
        for shift, factor in ROUNDS:
            key = graph.add("BitwiseXor", [key, graph.add("Div", [key, graph.constant(1 << shift)])])
            key = graph.add("BitwiseAnd", [product(key, factor), mask])
        return key

    keys = [mixed(graph.add("BitwiseAnd", [product(ids, WORD), mask]))]
    before = ids
    for number in range(1, longest):
        both = [product(graph.part(before, 0, -1, 1), FIRST), product(graph.part(ids, number, 1 << 62, 1), SECOND)]
        total = graph.add("Add", [graph.add("Add", both), graph.constant(WORD)])
        before = mixed(graph.add("BitwiseAnd", [total, mask]))
        keys.append(before)
    return keys


def joined(graph: Graph, *sizes: str) -> str:
    """A shape of several sizes."""
    return str(graph.add("Concat", list(sizes), axis=0))
