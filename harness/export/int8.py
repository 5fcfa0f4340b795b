# SPDX-License-Identifier: Apache-2.0
"""The network with 8-bit weights, and what that costs on the validation split."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.inference.bundle import same_text
from harness.inference.onnx_scorer import onnx_logits
from harness.rundir.bundle_files import BundleInfo
from harness.scores.calibration import Decision
from harness.scores.metrics import log_loss_per_row, predicted_labels
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.split_names import VALIDATION
from preprocessing.base.storage import TMPDIR, storing, temporary_folder
from preprocessing.dataset.shards import MANIFEST, Manifest, Split, read_manifest

OPERATORS = ["LSTM", "Gather", "MatMul"]
"""What is quantized: recurrent layers, as far as ONNX Runtime can (no GRU), the embedding and the wide part's table."""
READY = {"onnx.quant.pre_process": "onnxruntime.quant"}
"""What the quantizer looks for in a graph; without it, it warns that a graph should be shortened first. This one is."""


@dataclass(frozen=True)
class Cost:
    """Two networks on the same rows."""

    rows: int
    accuracy: float
    accuracy_int8: float
    log_loss: float
    log_loss_int8: float
    changed: int
    """Rows with another predicted label."""
    rows_per_s: float
    """From ids, on this machine."""
    rows_per_s_int8: float
    dataset: str
    """Fingerprint of the dataset whose validation split it is."""
    split: str = VALIDATION

    def to_json(self) -> dict[str, Any]:
        """For the index."""
        return asdict(self)


def quantized(network: bytes) -> bytes:
    """An ONNX network with int8 weights whose activations are quantized as they come (dynamic quantization)."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load_from_string(network)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**facts, **READY})
    with temporary_folder() as folder, storing(folder, otherwise=TMPDIR):  # the quantizer makes another beside it
        path = folder / "network.onnx"
        quantize_dynamic(model, path, op_types_to_quantize=OPERATORS, weight_type=QuantType.QInt8)
        made = onnx.load_from_string(path.read_bytes())
    onnx.helper.set_model_props(made, facts)
    return bytes(made.SerializeToString())


def dataset_for(info: BundleInfo, asked: str | None, config: Mapping[str, Any]) -> tuple[Path, Manifest]:
    """The dataset to measure on: the one that was asked for, or the run's own.

    Raises ``ConfigError`` if neither is to be had, ``DataError`` if its texts became ids in another way (law 1), or it
    has no validation split.
    """
    place = asked or config.get("data")
    if place is None or (asked is None and not Path(place, MANIFEST).is_file()):
        where = f"the dataset of the run, {place}, is not there" if place else "a bundle does not say where its data is"
        raise ConfigError(f"--int8: its cost is measured on a validation split, and {where}; name one with --data")
    manifest = read_manifest(place)
    same_text(info, manifest, place)
    if not manifest.splits.get(VALIDATION):
        raise DataError(f"{place}: has no split {VALIDATION}, on which --int8 is measured; name another --data")
    return Path(place), manifest


def rows_of(data: Path, manifest: Manifest) -> tuple[list[np.ndarray], np.ndarray]:
    """The ids of each row of the validation split, and the labels int64 ``[rows]``."""
    texts: list[np.ndarray] = []
    labels = []
    for shard in Split(data, manifest, VALIDATION).check().shards:
        for block in shard.blocks:
            pairs = zip(block.ids, block.length, strict=True)
            texts += [np.asarray(ids[:length], np.int32) for ids, length in pairs]
            labels.append(block.label.astype(np.int64))
    return texts, np.concatenate(labels)


def cost_of(sessions: tuple[Any, Any], data: Path, manifest: Manifest, decision: Decision, batch_rows: int) -> Cost:
    """Measure the network and its int8 form, in this order."""
    texts, labels = rows_of(data, manifest)
    found, speed = [], []
    for session in sessions:
        began = time.perf_counter()
        found.append(decision.calibrated(onnx_logits(session, texts, batch_rows)))
        speed.append(len(texts) / (time.perf_counter() - began))
    predicted = [predicted_labels(logits, decision.threshold) for logits in found]
    accuracy = [float(np.mean(said == labels)) for said in predicted]
    losses = [float(log_loss_per_row(logits, labels).mean()) for logits in found]
    changed = int(np.sum(predicted[0] != predicted[1]))
    return Cost(
        rows=len(labels),
        accuracy=accuracy[0],
        accuracy_int8=accuracy[1],
        log_loss=losses[0],
        log_loss_int8=losses[1],
        changed=changed,
        rows_per_s=speed[0],
        rows_per_s_int8=speed[1],
        dataset=manifest.fingerprint,
    )
