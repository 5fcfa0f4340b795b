# SPDX-License-Identifier: Apache-2.0
"""Weights, vocabulary, text pipeline, temperature and threshold in one directory: all that prediction needs.

Nothing in it is executed when it is read.

::

    bundle/weights-<sha256>.safetensors
    bundle/vocabulary.arrow
    bundle/bundle.json        written last; names the two with their hashes

New weights get a new name and ``bundle.json`` is replaced in one step, so a reader sees one bundle or the next (law 2).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from harness.config import ModelConfig, model_from_dict, to_dict
from harness.model.classifier import Classifier
from harness.scores.calibration import Decision
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.dataset.shards import VOCABULARY, Manifest
from preprocessing.text.encoder import Encoder
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary

FORMAT = "padless-bundle"
FORMAT_VERSION = 2
INDEX = "bundle.json"
NEUTRAL = Decision()


@dataclass(frozen=True)
class BundleInfo:
    """``bundle.json``."""

    weights: str
    """File name of the safetensors file."""
    weights_sha256: str
    model: dict[str, Any]
    """The ``ModelConfig``."""
    vocabulary_size: int
    vocabulary_hash: str
    text: dict[str, Any]
    text_hash: str
    labels: list[str]
    temperature: float
    """Logits are divided by it before they become probabilities; fitted on the validation split."""
    threshold: float
    """Probability of class 1 from which on it is predicted; two classes only."""
    step: int
    """Optimizer steps behind these weights."""
    dataset: str
    """Fingerprint of the dataset they were trained on."""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    @property
    def decision(self) -> Decision:
        """How the logits of these weights become probabilities and labels."""
        return Decision(self.temperature, self.threshold)


def write_vocabulary(directory: Path, dataset: Path) -> None:
    """Copy the dataset's vocabulary into a bundle that is about to be written."""
    atomic.write_bytes(directory / VOCABULARY, (dataset / VOCABULARY).read_bytes())


def write_bundle(
    directory: Path, model: Classifier, manifest: Manifest, step: int, decision: Decision = NEUTRAL
) -> None:
    """Write the weights of ``model`` as the bundle's only ones; ``write_vocabulary`` has run before."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    data = save(weights)
    digest = hashlib.sha256(data).hexdigest()
    name = f"weights-{digest[:16]}.safetensors"
    atomic.write_bytes(directory / name, data)
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
    )
    atomic.write_json(directory / INDEX, asdict(info))
    for old in directory.glob("weights-*.safetensors"):
        if old.name != name:
            old.unlink()


def read_info(directory: Path) -> BundleInfo:
    """Read ``bundle.json``. Raises ``DataError`` for a missing, damaged or foreign one."""
    path = directory / INDEX
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        hint = "this run has not finished an epoch, or is not a run directory"
        raise DataError(f"{path}: missing: {hint}; name a run whose training got that far") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path}: not a padless bundle")
    if content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version")
        raise DataError(
            f"{path}: format version {found}, this padless reads version {FORMAT_VERSION} (which holds a temperature): "
            "train again, or use the padless that wrote it"
        )
    try:
        return BundleInfo(**content)
    except TypeError as error:
        raise DataError(f"{path}: damaged ({error})") from None


@dataclass(frozen=True)
class Bundle:
    """A model that can predict, with the text→ids code it was trained with."""

    info: BundleInfo
    model: Classifier
    vocabulary: Vocabulary
    pipeline: TextPipeline

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
    path = directory / info.weights
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: the bundle names these weights") from None
    if hashlib.sha256(data).hexdigest() != info.weights_sha256:
        raise DataError(f"{path}: its sha256 is not the one in {INDEX}: bytes were changed")
    config: ModelConfig = model_from_dict(info.model)
    model = Classifier(config, info.vocabulary_size, len(info.labels))
    try:
        model.load_state_dict(load(data))
    except (SafetensorError, RuntimeError) as error:
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
