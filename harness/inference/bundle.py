# SPDX-License-Identifier: Apache-2.0
"""A model with the text→ids code it was trained with, to and from the files of a bundle (``rundir.bundle_files``).

Nothing in a bundle is executed when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from harness.config import ModelConfig, model_from_dict, to_dict
from harness.model.classifier import Classifier
from harness.rundir.bundle_files import INDEX, BundleInfo, read_info, read_weights, write_info, write_weights
from harness.rundir.training_facts import write_training
from harness.scores.calibration import Decision
from preprocessing.base.errors import DataError
from preprocessing.dataset.shards import VOCABULARY, Manifest
from preprocessing.text.encoder import Encoder
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary

NEUTRAL = Decision()


def write_bundle(
    directory: Path,
    model: Classifier,
    manifest: Manifest,
    step: int,
    decision: Decision = NEUTRAL,
    vectors: dict[str, Any] | None = None,
    soft_labels: dict[str, Any] | None = None,
) -> None:
    """Write the weights of ``model`` as the bundle's only ones; ``write_vocabulary`` has run before.

    ``vectors``: what is known of the word vectors that it started from; ``soft_labels``: of those that it learned.
    """
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
        vectors=vectors,
        soft_labels=soft_labels,
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

    @property
    def decision(self) -> Decision:
        """How the logits of these weights become probabilities and labels."""
        return Decision(self.info.temperature, self.info.threshold)

    def encoder(self) -> Encoder:
        """The text→ids function; raises ``DataError`` where its resources are not those of the training (law 1)."""
        return Encoder(self.pipeline, self.vocabulary)


def read_bundle(directory: str | Path) -> Bundle:
    """Load and verify a bundle. Raises ``DataError`` if any part is missing, damaged or does not belong to the rest."""
    directory = Path(directory)
    info = read_info(directory)
    vocabulary = Vocabulary.read(directory / VOCABULARY)
    if vocabulary.hash != info.vocabulary_hash:
        raise DataError(
            f"{directory / VOCABULARY}: its hash is not the one the weights were trained with; "
            "restore the bundle's own vocabulary"
        )
    data = read_weights(directory, info)
    config: ModelConfig = model_from_dict(info.model)
    model = Classifier(config, info.vocabulary_size, len(info.labels))
    try:
        model.load_state_dict(load(data))
    except (SafetensorError, RuntimeError) as error:
        path = directory / info.weights
        raise DataError(f"{path}: not the weights of the model in {INDEX} ({' '.join(str(error).split())})") from None
    return Bundle(info, model.eval(), vocabulary, TextPipeline.from_json(info.text))


def same_text(info: BundleInfo, manifest: Manifest, data: str | Path) -> None:
    """Refuse to evaluate weights on a dataset whose texts became ids in another way (law 1)."""
    if info.text_hash != manifest.text_hash:
        part = "vocabulary" if info.vocabulary_hash != manifest.vocabulary_hash else "text pipeline"
        raise DataError(
            f"{data}: its {part} is not the one the weights were trained with (text hash {manifest.text_hash[:12]}, "
            f"weights {info.text_hash[:12]}); evaluate on the dataset of the training or one built with its vocabulary"
        )


def cpu_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a model's weights on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
