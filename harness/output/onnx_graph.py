# SPDX-License-Identifier: Apache-2.0
"""A classifier as an ONNX graph for any number of rows and tokens, by torch's exporter.

The recurrent layers become ONNX's LSTM operators, which take the rows' lengths, so padding has no effect and rows are
not reversed. All else is exported from the network's own code. The outputs are the network's logits, and probabilities
calibrated by the temperature.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional

from harness.model.classifier import Classifier
from harness.model.pooling import Last
from harness.model.registry import GATES
from harness.rundir.bundle_files import IDS, LENGTHS, LOGITS, ONNX, PROBABILITIES, BundleInfo
from padless.core.atomic import temporary_folder
from preprocessing.text.vocabulary import PAD, UNK

OPSET = 18
"""The first version with bitwise operators."""
IR = 10
"""The file format that onnxruntime 1.18 reads."""
ONNX_GATES = (0, 3, 1, 2)
"""Torch's index (i f g o) of each gate in ONNX's order."""
QUANTIZED = ["LSTM", "MatMul", "Gather"]
"""Operators whose weights become 8-bit integers."""
SHORT_BITS = 16
"""Lower key bits of an n-gram that fit into int16, so that the owners of buckets take half the bytes."""
NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class LstmOperator(nn.Module):
    """A recurrent layer as ONNX's operator; only an exporter can call it."""

    def __init__(self, layer: nn.RNNBase) -> None:
        """Weights ``[directions, …]``, gates in ONNX's order."""
        super().__init__()
        suffixes = ("", "_reverse") if layer.bidirectional else ("",)
        inputs, states, *biases = (
            torch.stack([reorder_gates(getattr(layer, name + suffix).detach()) for suffix in suffixes])
            for name in NAMES
        )
        self.weights = nn.ParameterList([inputs, states, torch.cat(biases, dim=1)]).requires_grad_(False)

    def forward(self, values: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs ``[time, rows, output_size]`` in text order, and final states ``[rows, output_size]``, of ``values``
        ``[time, rows, features]`` with int32 ``lengths`` ``[rows]``.
        """
        (time, rows, _), (directions, _, hidden) = values.shape, self.weights[1].shape
        state = [directions, rows, hidden]
        outputs, final, _ = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            [values, *self.weights, lengths],
            attrs={"hidden_size": hidden, "direction": "bidirectional" if directions == 2 else "forward"},
            dtypes=[values.dtype] * 3,
            shapes=[[time, *state], state, state],
            version=OPSET,
        )
        size = directions * hidden
        return outputs.transpose(1, 2).reshape(time, rows, size), final.transpose(0, 1).reshape(rows, size)


def reorder_gates(weights: torch.Tensor) -> torch.Tensor:
    """The gates of a weight or bias ``[4 * hidden, …]``, in ONNX's order."""
    gates = weights.chunk(GATES)
    return torch.cat([gates[gate] for gate in ONNX_GATES])


class ExportedClassifier(nn.Module):
    """What the graph computes, from padded ids."""

    def __init__(self, model: Classifier, info: BundleInfo) -> None:
        """``model`` is in evaluation mode, on the CPU."""
        super().__init__()
        self.model, self.info = model, info
        if (
            model.wide is not None and model.wide.owners is not None and model.wide.shift < SHORT_BITS
        ):  # a shift leaves as many bits
            model.wide.owners = model.wide.owners.short()
        self.layers = nn.ModuleList(LstmOperator(layer) for layer in model.recurrent.lstms())

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[rows]`` for two classes, ``[rows, classes]`` for more, and probabilities ``[rows, classes]``, of
        int32 ``ids`` ``[rows, time]`` with int32 ``lengths`` ``[rows]``.
        """
        model = self.model
        is_token = torch.arange(ids.shape[1]) < lengths[:, None]
        ids, num_tokens = ids.long().masked_fill(~is_token, PAD), lengths.long()
        values = pooled = model.embedding(ids.t())
        for layer in self.layers:
            values, pooled = layer(values, lengths)
        if not isinstance(model.pooling, Last):
            pooled = model.pooling.dense(values, is_token.t()[:, :, None])
        logits = model.head(pooled)
        if model.wide is not None:
            bucket, value = model.wide.features(ids, num_tokens)
            total = torch.bmm(value[:, None], functional.embedding(bucket, model.wide.table))[:, 0]
            logits = logits + model.wide.share * (total + model.wide.bias)
        if model.prior is not None:
            logits = torch.where((ids > UNK).any(1, keepdim=True), logits, model.prior.float())
        calibrated = logits / self.info.temperature
        if model.outputs == 1:
            return logits.squeeze(1), torch.sigmoid(torch.cat((-calibrated, calibrated), dim=1))
        return logits, torch.sigmoid(calibrated) if self.info.has_label_sets else calibrated.softmax(1)


def quantize_weights(network: bytes) -> bytes:
    """An ONNX file with 8-bit weights, by ONNX Runtime's dynamic quantization: recurrent layers, head and tables."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    with temporary_folder() as folder, silence("root"):
        quantize_dynamic(onnx.load_from_string(network), folder / ONNX, op_types_to_quantize=QUANTIZED)
        return (folder / ONNX).read_bytes()


def export_onnx(model: Classifier, info: BundleInfo) -> bytes:
    """The network of a bundle as an ONNX file; inputs and outputs as in ``ExportedClassifier``."""
    example = (torch.full((2, 3), UNK, dtype=torch.int32), torch.tensor([3, 2], dtype=torch.int32))
    rows, time = Dim("rows", min=1), Dim("time", min=1)
    with torch.no_grad(), silence("torch.onnx"):
        program = torch.onnx.export(
            ExportedClassifier(model, info).eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=[IDS, LENGTHS],
            output_names=[LOGITS, PROBABILITIES],
            dynamic_shapes=({0: rows, 1: time}, {0: rows}),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    proto.ir_version = IR
    for node in proto.graph.node:
        del node.metadata_props[:]  # they name files of this machine
    return bytes(proto.SerializeToString())


@contextlib.contextmanager
def silence(logger_name: str) -> Iterator[None]:
    """Keep an exporter's remarks on packages and graphs, which are for its authors, from the terminal."""
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
