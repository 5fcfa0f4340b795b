# SPDX-License-Identifier: Apache-2.0
"""A classifier as an ONNX graph with a free number of rows and of tokens, made of its weights node by node.

ONNX's recurrent operators take the rows' lengths, so padding changes nothing and nothing is reversed. The temperature
is part of the graph: it gives logits as the network does, and calibrated probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.export.nodes import Graph
from harness.export.wide_graph import wide_logits
from harness.model.classifier import Classifier
from harness.model.registry import CELLS, POOLINGS
from harness.rundir.bundle_files import IDS, LENGTHS, LOGITS, PROBABILITIES
from preprocessing.base.errors import ConfigError
from preprocessing.base.installed import VERSION

OPSET = 18
"""The first with bitwise operators."""
IR = 8
"""The format that goes with it; any newer runtime reads it."""
MOST_BYTES = 2**31 - 1
"""A file of protobuf holds no more."""
GATES = {"harness.model.recurrent:LSTM": (0, 3, 1, 2), "harness.model.recurrent:GRU": (1, 0, 2)}
"""Cells that ONNX has: for each gate in its order, which one it is in torch's (i f g o; r z n)."""
OPERATORS = {"harness.model.recurrent:LSTM": "LSTM", "harness.model.recurrent:GRU": "GRU"}
PARTS = {
    "harness.model.pooling:Last": ("last",),
    "harness.model.pooling:Maximum": ("max",),
    "harness.model.pooling:Mean": ("mean",),
    "harness.model.pooling:MaximumAndMean": ("max", "mean"),
}
"""Poolings that are written down here, by their code: a name that stands for other code is another pooling."""


def check_exportable(model: Classifier) -> None:
    """Raise ``ConfigError`` for a cell or a pooling that has no form here, and for a network too large for a file."""
    config = model.config
    known: dict[str, tuple[str, Mapping[str, Any]]]
    known = {"cell": (CELLS[config.cell].code, GATES), "pooling": (POOLINGS[config.pooling].code, PARTS)}
    for key, (code, forms) in known.items():
        if code not in forms:
            raise ConfigError(
                f"--onnx: model.{key} {getattr(config, key)!r} ({code}) has no ONNX form in harness/export/graph.py; "
                "export without --onnx, or write one there"
            )
    size = sum(tensor.numel() * 4 for tensor in model.state_dict().values())
    if size > MOST_BYTES:
        raise ConfigError(
            f"--onnx: the weights have {size:,} bytes, and an ONNX file holds 2 GB; export without --onnx"
        )


def onnx_model(model: Classifier, temperature: float, facts: Mapping[str, str]) -> bytes:
    """The network as the bytes of an ONNX file; ``facts`` travel with it as metadata.

    Inputs: ``ids`` int32 ``[rows, time]``, anything behind a row's end, and ``lengths`` int32 ``[rows]``. Outputs:
    ``logits`` ``[rows]`` for two classes, ``[rows, classes]`` for more, and ``probabilities`` ``[rows, classes]``.
    """
    from onnx import TensorProto, checker, helper

    check_exportable(model)
    graph = Graph()
    states, last, real = recurrent(graph, model)
    outputs = graph.add("Gemm", [pooled(graph, model, states, last, real), *linear(graph, model)], transB=1)
    if model.wide is not None:
        outputs = graph.add("Add", [outputs, wide_logits(graph, model.wide, graph.cast(IDS, np.int64), "lengths_long")])
    two = model.num_classes == 2
    if two:
        graph.add("Squeeze", [outputs, graph.constant([1])], name=LOGITS)
    else:
        graph.add("Identity", [outputs], name=LOGITS)
    calibrated = graph.add("Div", [outputs, graph.constant(temperature, np.float32)])
    if two:
        other = graph.add("Sigmoid", [graph.add("Neg", [calibrated])])
        graph.add("Concat", [other, graph.add("Sigmoid", [calibrated])], axis=1, name=PROBABILITIES)
    else:
        graph.add("Softmax", [calibrated], axis=1, name=PROBABILITIES)
    shape: list[str | int] = ["rows"] if two else ["rows", model.num_classes]
    made = helper.make_graph(
        graph.nodes,
        "padless",
        [
            helper.make_tensor_value_info(IDS, TensorProto.INT32, ["rows", "time"]),
            helper.make_tensor_value_info(LENGTHS, TensorProto.INT32, ["rows"]),
        ],
        [
            helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, shape),
            helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["rows", model.num_classes]),
        ],
        list(graph.constants.values()),
    )
    whole = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="padless",
        producer_version=VERSION,
    )
    helper.set_model_props(whole, dict(facts))
    checker.check_model(whole, full_check=True)
    return bytes(whole.SerializeToString())


def recurrent(graph: Graph, model: Classifier) -> tuple[str, str, str]:
    """The last layer's states ``[time, rows, features]``, its final ones ``[rows, features]``, and which are real,
    bool ``[time, rows, 1]``.
    """
    layers = model.recurrent
    code = CELLS[model.config.cell].code
    embedding = graph.constant(model.embedding.weight.detach().cpu().numpy(), np.float32, "embedding")
    ids = graph.add("Transpose", [IDS], perm=[1, 0])
    values = graph.add("Gather", [embedding, ids], name="vectors")
    long = graph.add("Cast", [LENGTHS], to=7, name="lengths_long")
    time = graph.add("Unsqueeze", [graph.count(graph.size(IDS, 1)), graph.constant([1])])
    real = graph.add("Unsqueeze", [graph.add("Less", [time, long]), graph.constant([2])])
    direction = "bidirectional" if layers.bidirectional else "forward"
    more: dict[str, Any] = {"linear_before_reset": 1} if OPERATORS[code] == "GRU" else {}
    final = ""
    for layer in layers.lstms():
        weights = [weights_of(layer, names, GATES[code], layers.hidden_size) for names in layer._all_weights]
        inputs = [graph.constant(np.stack(each), np.float32) for each in zip(*weights, strict=True)]
        every, final, *_ = graph.add(
            OPERATORS[code],
            [values, *inputs, LENGTHS],
            outputs=2,
            hidden_size=layers.hidden_size,
            direction=direction,
            **more,
        )
        beside = graph.add("Transpose", [every], perm=[0, 2, 1, 3])
        values = graph.add("Reshape", [beside, graph.constant([0, 0, layers.output_size])])
    rows_first = graph.add("Transpose", [final], perm=[1, 0, 2])
    return values, graph.add("Reshape", [rows_first, graph.constant([0, layers.output_size])]), real


def weights_of(layer: Any, names: list[str], gates: tuple[int, ...], hidden: int) -> tuple[np.ndarray, ...]:
    """Input matrix, state matrix and both biases in one vector, of one direction of a layer, gates as ONNX has them."""

    def in_order(name: str) -> np.ndarray:
        values: np.ndarray = getattr(layer, name).detach().cpu().numpy()
        return np.concatenate([values[gate * hidden : (gate + 1) * hidden] for gate in gates])

    inputs, states, *biases = (in_order(name) for name in names)
    return inputs, states, np.concatenate(biases)


def pooled(graph: Graph, model: Classifier, states: str, last: str, real: str) -> str:
    """One vector a row, ``[rows, vectors * features]``."""
    parts = []
    for kind in PARTS[POOLINGS[model.config.pooling].code]:
        if kind == "last":
            parts.append(last)
        elif kind == "max":
            lowest = graph.constant(-np.inf, np.float32)
            parts.append(
                graph.add("ReduceMax", [graph.add("Where", [real, states, lowest]), graph.constant([0])], keepdims=0)
            )
        else:
            zero = graph.constant(0.0, np.float32)
            total = graph.add("ReduceSum", [graph.add("Where", [real, states, zero]), graph.constant([0])], keepdims=0)
            tokens = graph.add("Unsqueeze", [graph.cast(LENGTHS, np.float32), graph.constant([1])])
            parts.append(graph.add("Div", [total, tokens]))
    return parts[0] if len(parts) == 1 else str(graph.add("Concat", parts, axis=1))


def linear(graph: Graph, model: Classifier) -> list[str]:
    """Weights and bias of the last layer."""
    return [graph.constant(part.detach().cpu().numpy(), np.float32) for part in (model.head.weight, model.head.bias)]
