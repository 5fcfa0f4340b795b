# SPDX-License-Identifier: Apache-2.0
"""The wide part as ONNX nodes: the same hashes, the same weights of features, the same table (``model.wide``)."""

from __future__ import annotations

import numpy as np

from harness.export.nodes import Graph
from harness.model.wide import END, END_LONGEST, FIRST, MASK, ROUNDS, SECOND, WORD, WidePart


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
    real = graph.add("Less", [bucket, none])
    bucket = graph.add("Min", [bucket, graph.constant(wide.buckets - 1)])
    weights = graph.constant(wide.weights.cpu().numpy(), np.float32, "wide_weights")
    value = graph.add("Gather", [weights, bucket], name="wide_weight")
    if not wide.binary:
        times = graph.add("ScatterElements", [zeros, run, ones], axis=1, reduction="add")
        damped = graph.add("Add", [graph.add("Log", [graph.add("Max", [times, ones])]), ones])
        value = graph.add("Mul", [damped, value])
    value = graph.add("Where", [real, value, zeros])
    norm = graph.add("ReduceL2", [value, graph.constant([1])], keepdims=1)
    smallest = graph.constant(1e-12, np.float32)
    return bucket, str(graph.add("Div", [value, graph.add("Max", [norm, smallest])]))


def places_of(graph: Graph, wide: WidePart, ids: str, lengths: str) -> str:
    """The bucket of each n-gram, int64 ``[rows, places]``; ``buckets`` where there is none: ``WidePart.places``."""
    beside = graph.add("Unsqueeze", [lengths, graph.constant([1])])
    real = graph.add("Less", [graph.count(graph.size(ids, 1)), beside])
    none, divisor = graph.constant(wide.buckets), graph.constant(1 << wide.shift)
    owners = None if wide.owners is None else graph.constant(wide.owners.cpu().numpy(), np.int32, "wide_owners")

    def places_among(keys: list[str], real: str) -> list[str]:
        """Of n-grams of 1, 2 and more words, where ``real`` says which words there are."""
        places = []
        for number, key in enumerate(keys):
            bucket, there = graph.add("Div", [key, divisor]), graph.part(real, number, 1 << 62, 1)
            if owners is not None:
                owner = graph.add("Gather", [owners, bucket])
                mine = graph.add("Equal", [owner, graph.cast(graph.add("Mod", [key, divisor]), np.int32)])
                there = graph.add("And", [there, mine])
            places.append(graph.add("Where", [there, bucket, none]))
        return places

    places = places_among(keys_of(graph, ids, wide.longest), real)
    if wide.tail:
        last = last_tokens(graph, ids, beside, wide.tail)
        keys = [mixed(graph, graph.add("BitwiseXor", [key, graph.constant(END)])) for key in last]
        places += places_among(keys, graph.add("Less", [graph.constant(np.arange(wide.tail)), beside]))
    return str(graph.add("Concat", places, axis=1))


def last_tokens(graph: Graph, ids: str, lengths: str, tail: int) -> list[str]:
    """The keys of the last ``tail`` tokens of each row, words and pairs; ``lengths`` int64 ``[rows, 1]``."""
    start = graph.add("Max", [graph.add("Sub", [lengths, graph.constant(tail)]), graph.constant(0)])
    position = graph.add("Add", [start, graph.constant(np.arange(tail))])
    end = graph.add("Sub", [graph.size(ids, 1), graph.constant([1])])
    return keys_of(graph, graph.add("GatherElements", [ids, graph.add("Min", [position, end])], axis=1), END_LONGEST)


def keys_of(graph: Graph, ids: str, longest: int) -> list[str]:
    """The key of each word, pair and so on, int64 ``[rows, time - n + 1]`` for each n: ``harness.model.wide``."""
    mask = graph.constant(MASK)
    keys = [mixed(graph, graph.add("BitwiseAnd", [product(graph, ids, WORD), mask]))]
    before = ids
    for number in range(1, longest):
        both = [
            product(graph, graph.part(before, 0, -1, 1), FIRST),
            product(graph, graph.part(ids, number, 1 << 62, 1), SECOND),
        ]
        total = graph.add("Add", [graph.add("Add", both), graph.constant(WORD)])
        before = mixed(graph, graph.add("BitwiseAnd", [total, mask]))
        keys.append(before)
    return keys


def product(graph: Graph, value: str, factor: int) -> str:
    """A value times a constant."""
    return str(graph.add("Mul", [value, graph.constant(factor)]))


def mixed(graph: Graph, key: str) -> str:
    """``harness.model.wide.mixed``."""
    for shift, factor in ROUNDS:
        key = graph.add("BitwiseXor", [key, graph.add("Div", [key, graph.constant(1 << shift)])])
        key = graph.add("BitwiseAnd", [product(graph, key, factor), graph.constant(MASK)])
    return key


def joined(graph: Graph, *sizes: str) -> str:
    """A shape of several sizes."""
    return str(graph.add("Concat", list(sizes), axis=0))
