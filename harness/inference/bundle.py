# SPDX-License-Identifier: Apache-2.0
"""A model with the text→ids code it was trained with, to and from the files of a bundle (``rundir.bundle_files``).

Nothing in a bundle is executed when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.torch import save

from harness.config import model_from_dict, to_dict
from harness.data.views import fold_of
from harness.inference.scorer import encoder_of, read_vocabulary
from harness.model.classifier import Classifier
from harness.model.networks import AnyNetwork, read_tensors, task_of
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
