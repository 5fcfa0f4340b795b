# SPDX-License-Identifier: Apache-2.0
"""The ONNX forms of a network, and what each of them is worth: fp32 beside torch, int8 on the validation split."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.inference.bundle import same_text
from harness.inference.onnx_scorer import onnx_logits
from harness.inference.scorer import in_batches
from harness.inference.torch_scorer import logits_of
from harness.model.classifier import Classifier
from harness.rundir.bundle_files import IDS, LENGTHS, LOGITS, PROBABILITIES, BundleInfo
from harness.scores.calibration import Decision
from harness.scores.metrics import log_loss_per_row, predicted_labels, probabilities
from preprocessing.base.atomic import TMPDIR, storing, temporary_folder
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.split_names import VALIDATION
from preprocessing.dataset.shards import MANIFEST, Manifest, Split, read_manifest
from preprocessing.text.vocabulary import UNK

MOST = 1e-4
"""The greatest difference of a probability with which an export is whole."""
RANDOM_BATCHES, MOST_ROWS = 8, 48
FEW = 40
"""Half of the random texts are made of so many ids, so that words and pairs come again within a text."""
OPERATORS = ["LSTM", "Gather", "MatMul"]
"""What is quantized: recurrent layers, as far as ONNX Runtime can (no GRU), the embedding and the wide part's table."""
READY = {"onnx.quant.pre_process": "onnxruntime.quant"}
"""What the quantizer looks for in a graph; without it, it warns that a graph should be shortened first. This one is."""


def compare(
    model: Classifier, session: Any, decision: Decision, vocabulary_size: int, longest: int, batch_rows: int
) -> dict[str, Any]:
    """Hold an ONNX Runtime session against torch on random ids: every length up to ``longest``, then mixed batches.

    Returns the greatest ``difference`` of a probability, over how many ``texts``, and the ``longest`` one. They are
    compared as the graph gives them and as they follow from its logits. Raises ``DataError`` where one differs by more
    than ``MOST``, or is no number.
    """
    random = np.random.default_rng(0)

    def drawn(lengths: np.ndarray) -> list[np.ndarray]:
        tops = np.where(np.arange(len(lengths)) % 2, vocabulary_size, min(vocabulary_size, UNK + FEW))
        return [random.integers(UNK, top, length).astype(np.int32) for top, length in zip(tops, lengths, strict=True)]

    def read(padded: np.ndarray, lengths: np.ndarray, places: np.ndarray) -> np.ndarray:
        return np.column_stack(session.run([PROBABILITIES, LOGITS], {IDS: padded, LENGTHS: lengths.astype(np.int32)}))

    classes = model.num_classes
    batches = [drawn(np.arange(1, longest + 1))]
    sizes = (random.integers(1, MOST_ROWS + 1) for _ in range(RANDOM_BATCHES))
    batches += [drawn(random.integers(1, longest + 1, size)) for size in sizes]
    worst = 0.0
    for number, texts in enumerate(batches):
        rows = batch_rows if number == 0 else len(texts)
        wanted = probabilities(decision.calibrated(logits_of(model, texts, rows)))
        both = in_batches(texts, rows, read)
        logits = both[:, classes] if classes == 2 else both[:, classes:]
        for found in (both[:, :classes], probabilities(decision.calibrated(logits))):
            difference = float(np.abs(found - wanted).max())
            worst = max(worst, difference if np.isfinite(difference) else np.inf)
    if worst > MOST:
        raise DataError(
            f"--onnx: a probability of the ONNX network differs from torch's by {worst:.2g}, more than {MOST:g}; "
            "nothing was exported: try another version of onnxruntime, or export without --onnx"
        )
    return {"difference": worst, "texts": sum(map(len, batches)), "longest": longest}


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

    Raises ``ConfigError`` if there is neither, ``DataError`` if its texts became ids in another way (law 1), or it
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


def cost_of(
    sessions: tuple[Any, Any], data: Path, manifest: Manifest, decision: Decision, batch_rows: int
) -> dict[str, Any]:
    """Measure a network and its int8 form, in this order, on the validation split of a dataset.

    Returns accuracy, log loss and rows per second, from ids, of both; ``changed`` rows have another label.
    """
    blocks = Split(data, manifest, VALIDATION).check().blocks
    texts = [
        np.asarray(ids[:length], np.int32)
        for block in blocks
        for ids, length in zip(block.ids, block.length, strict=True)
    ]
    labels = np.concatenate([block.label.astype(np.int64) for block in blocks])
    cost: dict[str, Any] = {"rows": len(labels), "dataset": manifest.fingerprint, "split": VALIDATION}
    predicted = []
    for ending, session in zip(("", "_int8"), sessions, strict=True):
        began = time.perf_counter()
        logits = decision.calibrated(onnx_logits(session, texts, batch_rows))
        cost["rows_per_s" + ending] = len(texts) / (time.perf_counter() - began)
        predicted.append(predicted_labels(logits, decision.threshold))
        cost["accuracy" + ending] = float(np.mean(predicted[-1] == labels))
        cost["log_loss" + ending] = float(log_loss_per_row(logits, labels).mean())
    return {**cost, "changed": int(np.sum(predicted[0] != predicted[1]))}
