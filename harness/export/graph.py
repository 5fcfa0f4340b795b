# SPDX-License-Identifier: Apache-2.0
"""A classifier as an ONNX graph for any number of rows and tokens, built node by node from its weights.

ONNX's recurrent operators take the rows' lengths, so padding has no effect and rows are not reversed. The outputs are
the network's logits, and probabilities calibrated by the temperature. The wide part uses the same hashes, feature
weights and table as ``harness.model.wide``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from harness.model.classifier import Classifier
from harness.model.registry import GATES, POOLINGS, SHARED_UP_TO
from harness.model.wide import END, FIRST, MASK, OF_END, ROUNDS, SECOND, WORD, WidePart
from harness.rundir.bundle_files import IDS, LENGTHS, LOGITS, OF_WEIGHTS, PROBABILITIES, BundleInfo
from preprocessing.base.errors import ConfigError
from preprocessing.base.installed import VERSION
from preprocessing.text.vocabulary import UNK

OPSET = 18
"""The first version with bitwise operators."""
IR = 8
"""The file format of that version; newer runtimes read it."""
MOST_BYTES = 2**31 - 1
"""Maximum size of a protobuf file."""
INT32, INT64, FLOAT, BOOL = 6, 7, 1, 9
"""ONNX's numbers of dtypes."""
END_OF_AXIS = 1 << 62
IN_ORDER = (0, 3, 1, 2)
"""Torch's index (i f g o) of each gate in ONNX's order."""
PARTS = {
    "harness.model.pooling:Last": ("last",),
    "harness.model.pooling:Maximum": ("max",),
    "harness.model.pooling:Mean": ("mean",),
    "harness.model.pooling:MaximumAndMean": ("max", "mean"),
}
"""Supported poolings, by their code: the same name with other code is another pooling."""

Value = str | int | float | list[Any] | np.ndarray | torch.Tensor
"""The name of a value of the graph, or a constant: integers become int64, others float32."""


class Graph:
    """Builds the nodes of a graph: ``graph.Add(a, b)`` adds a node and returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __getattr__(self, operator: str) -> Callable[..., str]:
        return partial(self.add, operator)

    def add(self, operator: str, *inputs: Value, name: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns its name, which is ``name`` if given."""
        return self.several(operator, 1, *inputs, name=name, **attributes)[0]

    def several(self, operator: str, outputs: int, *inputs: Value, name: str = "", **attributes: Any) -> list[str]:
        """Add a node with several outputs; returns their names."""
        from onnx import helper

        names = [name or f"{operator.lower()}_{len(self.nodes)}"]
        names += [f"{names[0]}_{number}" for number in range(1, outputs)]
        given = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(helper.make_node(operator, given, names, name=f"node_{names[0]}", **attributes))
        return names

    def constant(self, value: Value) -> str:
        """Add a constant; returns its name."""
        from onnx import numpy_helper

        array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        array = np.ascontiguousarray(array, np.float32) if array.dtype == np.float64 else np.ascontiguousarray(array)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def size(self, value: str, axis: int) -> str:
        """Size of an axis of a value, int64 ``[1]``."""
        return self.Shape(value, start=axis, end=axis + 1)

    def count(self, size: str) -> str:
        """Numbers from 0 to a size int64 ``[1]``, exclusive; int64 ``[size]``."""
        return self.Range(0, self.Squeeze(size, [0]), 1)

    def part(self, value: str, start: int, end: int = END_OF_AXIS) -> str:
        """A slice of a value along axis 1."""
        return self.Slice(value, [start], [end], [1])


def check_exportable(model: Classifier) -> None:
    """Raise ``ConfigError`` for an unsupported pooling, and for a network too large for a file."""
    pooling = model.config.pooling
    if (code := POOLINGS[pooling].code) not in PARTS:
        raise ConfigError(
            f"--onnx: model.pooling {pooling!r} ({code}) has no ONNX form in harness/export/graph.py; export without "
            "--onnx, or write one there"
        )
    size = sum(tensor.numel() * 4 for tensor in model.state_dict().values())
    if size > MOST_BYTES:
        raise ConfigError(
            f"--onnx: the weights have {size:,} bytes, and an ONNX file holds 2 GB; export without --onnx"
        )


def onnx_model(model: Classifier, info: BundleInfo) -> bytes:
    """The network of a bundle as the bytes of an ONNX file, whose metadata name the bundle's weights and text pipeline.

    Inputs: ``ids`` int32 ``[rows, time]``, arbitrary beyond a row's length, and ``lengths`` int32 ``[rows]``. Outputs:
    ``logits`` ``[rows]`` for two classes, ``[rows, classes]`` for more, and ``probabilities`` ``[rows, classes]``.
    """
    from onnx import checker, helper

    graph = Graph()
    lengths = graph.Cast(LENGTHS, to=INT64)
    outputs = graph.Gemm(pooled(graph, model, lengths), model.head.weight, model.head.bias, transB=1)
    if model.wide is not None:
        outputs = graph.Add(outputs, wide_logits(graph, model.wide, graph.Cast(IDS, to=INT64), lengths))
    if model.prior is not None:
        outputs = graph.Where(has_known_word(graph, lengths), outputs, model.prior.float())
    calibrated = graph.Div(outputs, info.temperature)
    if model.num_classes == 2:
        graph.Squeeze(outputs, [1], name=LOGITS)
        other = graph.Sigmoid(graph.Neg(calibrated))
        graph.Concat(other, graph.Sigmoid(calibrated), axis=1, name=PROBABILITIES)
    else:
        graph.Identity(outputs, name=LOGITS)
        graph.Softmax(calibrated, axis=1, name=PROBABILITIES)
    every: list[str | int] = ["rows", model.num_classes]
    shapes = {LOGITS: ["rows"] if model.num_classes == 2 else every, PROBABILITIES: every}
    given = {IDS: ["rows", "time"], LENGTHS: ["rows"]}
    made = helper.make_graph(
        graph.nodes,
        "padless",
        [helper.make_tensor_value_info(name, INT32, shape) for name, shape in given.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in shapes.items()],
        graph.constants,
    )
    opset = helper.make_opsetid("", OPSET)
    whole = helper.make_model(
        made, opset_imports=[opset], ir_version=IR, producer_name="padless", producer_version=VERSION
    )
    helper.set_model_props(whole, {OF_WEIGHTS: info.weights_sha256, "text_hash": info.text_hash})
    checker.check_model(whole, full_check=True)
    return bytes(whole.SerializeToString())


def has_known_word(graph: Graph, lengths: str) -> str:
    """Bool ``[rows, 1]``; see ``harness.model.classifier.has_known_word``."""
    real = graph.Less(graph.count(graph.size(IDS, 1)), graph.Unsqueeze(lengths, [1]))
    known = graph.And(real, graph.Greater(graph.Cast(IDS, to=INT64), UNK))
    return graph.Cast(graph.ReduceMax(graph.Cast(known, to=INT32), [1]), to=BOOL)


def pooled(graph: Graph, model: Classifier, lengths: str) -> str:
    """Embedding, recurrent layers and pooling: one vector per row, ``[rows, vectors * features]``."""
    layers = model.recurrent
    values = graph.Gather(model.embedding.weight, graph.Transpose(IDS, perm=[1, 0]))
    direction = "bidirectional" if layers.bidirectional else "forward"
    options: dict[str, Any] = {"hidden_size": layers.hidden_size, "direction": direction}
    final = ""
    for layer in layers.lstms():
        weights = [weights_of(layer, names) for names in layer._all_weights]
        inputs = [np.stack(each) for each in zip(*weights, strict=True)]
        every, final = graph.several("LSTM", 2, values, *inputs, LENGTHS, **options)
        values = graph.Reshape(graph.Transpose(every, perm=[0, 2, 1, 3]), [0, 0, layers.output_size])
    time = graph.Unsqueeze(graph.count(graph.size(IDS, 1)), [1])
    real = graph.Unsqueeze(graph.Less(time, lengths), [2])
    parts = []
    for kind in PARTS[POOLINGS[model.config.pooling].code]:
        if kind == "last":
            parts.append(graph.Reshape(graph.Transpose(final, perm=[1, 0, 2]), [0, layers.output_size]))
        elif kind == "max":
            parts.append(graph.ReduceMax(graph.Where(real, values, -np.inf), [0], keepdims=0))
        else:
            total = graph.ReduceSum(graph.Where(real, values, 0.0), [0], keepdims=0)
            parts.append(graph.Div(total, graph.Unsqueeze(graph.Cast(lengths, to=FLOAT), [1])))
    return graph.Concat(*parts, axis=1)


def weights_of(layer: Any, names: list[str]) -> tuple[np.ndarray, ...]:
    """Input matrix, state matrix and both biases in one vector, for one direction of a layer, gates in ONNX's order."""
    parts = [np.split(getattr(layer, name).detach().cpu().numpy(), GATES) for name in names]
    inputs, states, *biases = (np.concatenate([some[gate] for gate in IN_ORDER]) for some in parts)
    return inputs, states, np.concatenate(biases)


def wide_logits(graph: Graph, wide: WidePart, ids: str, lengths: str) -> str:
    """Logits ``[rows, outputs]`` times the share, for int64 ``ids`` ``[rows, time]`` and ``lengths`` ``[rows]``."""
    bucket, value = features(graph, wide, ids, lengths)
    taken = graph.Gather(wide.share * wide.table, bucket)
    total = graph.ReduceSum(graph.Mul(taken, graph.Unsqueeze(value, [2])), [1], keepdims=0)
    return graph.Add(total, wide.share * wide.bias)


def features(graph: Graph, wide: WidePart, ids: str, lengths: str) -> tuple[str, str]:
    """Buckets int64 and values, both ``[rows, places]``; see ``WidePart.features``."""
    places = places_of(graph, wide, ids, lengths)
    ordered, _ = graph.several("TopK", 2, places, graph.size(places, 1), axis=1, largest=0, sorted=1)
    begins = graph.Not(graph.Equal(graph.part(ordered, 1), graph.part(ordered, 0, -1)))
    first = graph.Equal(graph.part(ordered, 0, 1), graph.part(ordered, 0, 1))
    real = graph.And(graph.Concat(first, begins, axis=1), graph.Less(ordered, wide.buckets))
    bucket = graph.Min(ordered, wide.buckets - 1)
    value = graph.Where(real, graph.Gather(wide.weights, bucket), 0.0)
    return bucket, graph.Div(value, graph.Max(graph.ReduceL2(value, [1], keepdims=1), 1e-12))


def places_of(graph: Graph, wide: WidePart, ids: str, lengths: str) -> str:
    """The bucket of each n-gram, int64 ``[rows, places]``, or ``buckets`` for none; see ``WidePart.places``."""
    lengths, divisor = graph.Unsqueeze(lengths, [1]), 1 << wide.shift
    texts = [(ids, lengths, wide.longest)]
    if wide.owners is not None:
        time = graph.size(ids, 1)
        place = graph.Add(graph.Max(graph.Sub(lengths, END), 0), graph.count(graph.Min(time, END)))
        end = graph.GatherElements(ids, graph.Min(place, graph.Sub(time, 1)), axis=1)
        texts.append((graph.Add(end, OF_END), graph.Min(lengths, END), SHARED_UP_TO))
    keys, there = list[str](), list[str]()
    for tokens, real, longest in texts:
        keys += keys_of(graph, tokens, longest)
        inside = graph.Less(graph.count(graph.size(tokens, 1)), real)
        there += [graph.part(inside, number) for number in range(longest)]
    key, found = graph.Concat(*keys, axis=1), graph.Concat(*there, axis=1)
    bucket = graph.Div(key, divisor)
    if wide.owners is not None:
        name = graph.Cast(graph.Mod(key, divisor), to=INT32)
        found = graph.And(found, graph.Equal(graph.Gather(wide.owners, bucket), name))
    return graph.Where(found, bucket, wide.buckets)


def keys_of(graph: Graph, ids: str, longest: int) -> list[str]:
    """The key of each word, pair and so on, int64 ``[rows, time - n + 1]`` for each n; see ``harness.model.wide``."""
    keys = [mixed(graph, graph.BitwiseAnd(graph.Mul(ids, WORD), MASK))]
    before = ids
    for number in range(1, longest):
        both = graph.Add(graph.Mul(graph.part(before, 0, -1), FIRST), graph.Mul(graph.part(ids, number), SECOND))
        before = mixed(graph, graph.BitwiseAnd(graph.Add(both, WORD), MASK))
        keys.append(before)
    return keys


def mixed(graph: Graph, key: str) -> str:
    """``harness.model.wide.mixed``."""
    for shift, factor in ROUNDS:
        key = graph.BitwiseXor(key, graph.Div(key, 1 << shift))
        key = graph.BitwiseAnd(graph.Mul(key, factor), MASK)
    return key
