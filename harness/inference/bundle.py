# SPDX-License-Identifier: Apache-2.0
"""A model with the text→ids code it was trained with, to and from the files of a bundle (``rundir.bundle_files``); and
its logits of texts, by torch.

Nothing in a bundle is executed when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from harness.batch import Batch, send
from harness.config import model_from_dict, to_dict
from harness.data.views import fold_of
from harness.inference.scorer import PADDED_TOKENS, Scorer, encoder_of, in_batches, read_vocabulary
from harness.model.classifier import Classifier
from harness.model.networks import AnyNetwork, read_tensors, task_of
from harness.model.registry import CELLS
from harness.ranks.precision import (
    DTYPES,
    as_arithmetic,
    choose_device,
    choose_precision,
    full_fp32,
    keep_memory,
    recurrent_dtype,
)
from harness.ranks.stopping import HEARTBEAT
from harness.rundir.bundle_files import INDEX, BundleInfo, write_info, write_weights
from harness.rundir.training_facts import write_training
from harness.scores.calibration import Decision
from preprocessing.base.errors import DataError
from preprocessing.dataset.shards import VOCABULARY, Manifest
from preprocessing.text.encoder import Encoder
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary

NEUTRAL = Decision()
FEW = 5
"""Classes that a sentence names."""
PADDED_TOKENS_CUDA = 1 << 19
"""Tokens of a batch on a GPU, padding included."""


def write_bundle(
    directory: Path,
    model: AnyNetwork,
    manifest: Manifest,
    step: int,
    decision: Decision = NEUTRAL,
    facts: Mapping[str, dict[str, Any] | None] = MappingProxyType({}),
) -> None:
    """Write the weights of ``model`` as the bundle's only ones; ``write_vocabulary`` has run before.

    ``facts``: what is known of where they come from, by the names that ``BundleInfo`` has for it.
    """
    with HEARTBEAT.waiting("the device to copy the best weights"):
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    name, digest = write_weights(directory, save(weights))
    info = BundleInfo(
        weights=name,
        weights_sha256=digest,
        model=to_dict(model.config),
        vocabulary_size=manifest.vocabulary_size,
        vocabulary_hash=manifest.vocabulary_hash,
        text=manifest.text,
        text_hash=manifest.text_hash,
        labels=manifest.labels,
        temperature=decision.temperature,
        threshold=decision.threshold,
        step=step,
        dataset=manifest.fingerprint,
        task=task_of(model),
        vectors=facts.get("vectors"),
        started_from=facts.get("started_from"),
        soft_labels=facts.get("soft_labels"),
        fold=fold_of(manifest),
        label_type=manifest.label_type,
    )
    write_training(directory, manifest)
    write_info(directory, info)


@dataclass(frozen=True)
class Bundle:
    """A model that can predict."""

    info: BundleInfo
    model: Classifier
    vocabulary: Vocabulary
    pipeline: TextPipeline
    directory: Path
    """Where it was read."""

    @property
    def decision(self) -> Decision:
        """How the logits of these weights become probabilities and labels."""
        return Decision(self.info.temperature, self.info.threshold)

    def encoder(self) -> Encoder:
        """The text→ids function; raises ``DataError`` where it is not that of the training (law 1)."""
        return encoder_of(self.info, self.vocabulary, self.directory)


def read_bundle(directory: str | Path) -> Bundle:
    """Load and verify a classifier's bundle.

    Raises ``DataError`` if any part is missing, damaged or does not belong to the rest, ``ConfigError`` if it holds a
    language model.
    """
    directory = Path(directory)
    return with_weights(directory, *read_vocabulary(directory))


def with_weights(directory: Path, info: BundleInfo, vocabulary: Vocabulary) -> Bundle:
    """The bundle whose index and vocabulary were read before. Raises ``DataError`` for weights that do not belong."""
    config = model_from_dict(info.model, str(directory / INDEX))
    if len(vocabulary) != info.vocabulary_size:
        wrong = f"vocabulary_size is {info.vocabulary_size}, and {VOCABULARY} has {len(vocabulary):,} entries"
        raise DataError(f"{directory / INDEX}: {wrong}: edited or damaged; restore it")
    weights = read_tensors(directory, info, config)
    model = Classifier(config, info.vocabulary_size, len(info.labels))
    model.load_state_dict(weights)
    return Bundle(info, model.eval(), vocabulary, TextPipeline.from_json(info.text, directory / INDEX), directory)


def same_text(info: BundleInfo, manifest: Manifest, data: str | Path) -> None:
    """Refuse to evaluate weights on a dataset whose texts became ids in another way (law 1), or has other classes."""
    if info.text_hash != manifest.text_hash:
        part = "vocabulary" if info.vocabulary_hash != manifest.vocabulary_hash else "text pipeline"
        raise DataError(
            f"{data}: its {part} is not the one the weights were trained with (text hash {manifest.text_hash[:12]}, "
            f"weights {info.text_hash[:12]}); evaluate on the dataset of the training or one built with its vocabulary "
            "(vocabulary.base)"
        )
    if info.labels != manifest.labels:
        here, known = (", ".join(names[:FEW]) + ", …" * (len(names) > FEW) for names in (manifest.labels, info.labels))
        raise DataError(
            f"{data}: its {len(manifest.labels)} classes ({here}) are not the {len(info.labels)} of the weights "
            f"({known}), in the same order; build it with source.labels that names those"
        )


def logits_of(
    model: Classifier, texts: Sequence[np.ndarray], batch_rows: int, dtype: torch.dtype | None = None
) -> np.ndarray:
    """float64 ``[texts]`` for two classes, ``[texts, classes]`` for more; ``texts`` are ids, one array for each text.

    Texts of similar length are computed together, at most ``batch_rows`` of them, on the device where ``model`` is; it
    must be in evaluation mode. ``dtype`` is what the recurrent layers compute in, that of the weights unless given.
    """
    device = model.head.weight.device

    def read(padded: np.ndarray, lengths: np.ndarray, places: np.ndarray) -> np.ndarray:
        labels, own = torch.zeros(len(places), dtype=torch.int64), torch.from_numpy(lengths)
        batch = Batch(send(torch.from_numpy(padded), device), own, labels, places, sent_lengths=send(own, device))
        found: np.ndarray = model(batch, None, dtype).double().cpu().numpy()
        return found

    with torch.inference_mode():
        return in_batches(texts, batch_rows, read, PADDED_TOKENS_CUDA if device.type == "cuda" else PADDED_TOKENS)


class TorchScorer(Scorer):
    """A bundle. One of many processes computes with one thread on a CPU: no figure depends on how many there are."""

    dtype: torch.dtype | None = None
    """What the recurrent layers compute in; None: that of the weights."""

    @staticmethod
    def settle(device: str, precision: str) -> dict[str, str]:
        """See ``Scorer.settle``."""
        place = choose_device(device).value
        return {"device": place, "precision": choose_precision(precision, place).value}  # type: ignore[arg-type]

    def open(self) -> None:
        """See ``Scorer.open``."""
        self.bundle = with_weights(self.directory, self.info, self.vocabulary)
        if self.settled is None:
            return
        device = torch.device(self.settled["device"])
        if device.type == "cpu":
            torch.set_num_threads(1)
            keep_memory()
        full_fp32()
        self.bundle.model.to(device)
        arithmetic = as_arithmetic(choose_precision(self.settled["precision"], device.type))  # type: ignore[arg-type]
        able = CELLS[self.bundle.model.config.cell].bf16_on_cpu
        chosen = recurrent_dtype(arithmetic, device.type, "padded", bf16_on_cpu=able)
        self.dtype = None if chosen.value == "fp32" else DTYPES[chosen.value]

    def score(self, encoded: list[np.ndarray]) -> np.ndarray:
        """See ``Scorer.score``."""
        if self.settled is not None and self.settled["device"] == "cpu":
            torch.set_num_threads(1)  # a thread's own: Dask's are not the one that opened the bundle
        return logits_of(self.bundle.model, encoded, self.batch_rows, self.dtype)
