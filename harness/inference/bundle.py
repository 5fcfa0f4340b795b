# SPDX-License-Identifier: Apache-2.0
"""Writes a model and its text→ids code to a bundle (``rundir.bundle_files``), reads them back, and computes logits.

Reading a bundle executes nothing in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from harness.batch import Batch
from harness.distributed.precision import (
    DTYPES,
    choose_device,
    choose_precision,
    keep_memory,
    recurrent_dtype,
    set_tf32,
)
from harness.distributed.stopping import HEARTBEAT
from harness.inference.scorer import PADDED_TOKENS, Scorer, score_in_batches
from harness.metrics.calibration import Decision
from harness.model.attribution import Attribution, attribute
from harness.model.classifier import Classifier
from harness.model.networks import AnyNetwork, read_network
from harness.rundir.bundle_files import BundleInfo, source_of, split_facts, write_info, write_weights
from padless.core.split_names import TRAIN
from preprocessing.dataset.shards import Manifest
from preprocessing.dataset.views import View

NEUTRAL = Decision()
PADDED_TOKENS_CUDA = 1 << 19
"""Maximum tokens of a batch on a GPU, padding included."""


def write_bundle(
    directory: Path,
    model: AnyNetwork,
    manifest: Manifest,
    step: int,
    decision: Decision = NEUTRAL,
    *,
    vectors: dict[str, Any] | None = None,
    started_from: dict[str, Any] | None = None,
    **_: Any,
) -> None:
    """Write the weights of ``model`` and delete older ones; call ``write_vocabulary`` first. Facts of their origin that
    ``BundleInfo`` has no field for are left out.
    """
    with HEARTBEAT.watch_wait("the device to copy the best weights"):
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    name, digest = write_weights(directory, save(weights))
    info = BundleInfo(
        weights=name,
        weights_sha256=digest,
        model=model.config,
        vocabulary_size=manifest.vocabulary_size,
        vocabulary_hash=manifest.vocabulary_hash,
        text=manifest.text,
        text_hash=manifest.text_hash,
        labels=manifest.labels,
        temperature=decision.temperature,
        threshold=decision.threshold,
        step=step,
        dataset=manifest.fingerprint,
        task=model.task,
        vectors=vectors,
        started_from=started_from,
        fold=manifest.fold if isinstance(manifest, View) else None,
        label_type=manifest.label_type,
        source=source_of(manifest),
        splits=split_facts(manifest),
        thresholds=list(decision.thresholds),
    )
    write_info(directory, info)


class Bundle(Scorer):
    """A bundle's model, computed by torch."""

    engine = "torch"
    model: Classifier
    dtype: torch.dtype
    """Dtype of the recurrent layers."""

    def load(self, device: str, precision: str) -> dict[str, str]:
        """See ``Scorer.load``."""
        kind = choose_device(device).value
        choose_precision(precision, kind)  # type: ignore[arg-type]
        recurrent_precision = recurrent_dtype(precision, kind, "padded").value
        network = read_network(self.directory, self.info)
        assert isinstance(network, Classifier)
        self.model = network.eval()
        self.model.prior = torch.from_numpy(np.asarray(prior_logits(self.info)))
        if self.threads:
            keep_memory()
        if kind == "cuda":
            set_tf32(False)
        self.model.to(kind)
        self.dtype = DTYPES[recurrent_precision]
        return {"device": kind, "precision": recurrent_precision}

    def score(self, encoded: list[np.ndarray]) -> np.ndarray:
        """See ``Scorer.score``. Texts of similar length are computed together, on the device where the model is; on a
        CPU by as many threads as torch has, which it has again afterwards.
        """
        device = self.model.head.weight.device
        is_cuda = device.type == "cuda"

        @torch.inference_mode()
        def score_batch(padded: np.ndarray, lengths: np.ndarray) -> np.ndarray:
            if not is_cuda:
                torch.set_num_threads(1)  # of this thread
            batch = Batch.without_labels(torch.from_numpy(padded), torch.from_numpy(lengths), device)
            logits: np.ndarray = self.model(batch, None, self.dtype).double().cpu().numpy()
            return logits

        with restore_threads() as num_threads:
            tokens, threads = (PADDED_TOKENS_CUDA, 1) if is_cuda else (PADDED_TOKENS, self.threads or num_threads)
            name = self.directory / self.info.weights
            return score_in_batches(encoded, score_batch, tokens, name, threads)

    def attribute(self, ids: np.ndarray, label: int) -> Attribution:
        """What each word of a text adds to the logit of a class; on a CPU by one thread, as in ``score``."""
        with restore_threads():
            if self.model.head.weight.device.type == "cpu":
                torch.set_num_threads(1)
            return attribute(self.model, ids.astype(np.int64), label)


@contextmanager
def restore_threads() -> Iterator[int]:
    """Give torch its number of threads back after the block, which gets that number."""
    number = torch.get_num_threads()
    try:
        yield number
    finally:
        torch.set_num_threads(number)


def prior_logits(info: BundleInfo) -> np.ndarray:
    """Logits whose calibrated probabilities are the shares of the classes among the training rows and one row more of
    each class: float64 ``[]`` for two classes, else ``[classes]``; with several labels to a text, and one row more
    without each class.
    """
    train = info.splits.get(TRAIN)
    num_rows, rows_by_label = (train["rows"], train["labels"]) if train else (0, {})
    counts = np.array([1 + rows_by_label.get(label, 0) for label in info.labels])
    if info.has_label_sets:
        return np.asarray(info.temperature * np.log(counts / (2 + num_rows - counts)))
    logits = info.temperature * np.log(counts / counts.sum())
    return logits[1] - logits[0] if len(logits) == 2 else logits
