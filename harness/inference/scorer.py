# SPDX-License-Identifier: Apache-2.0
"""A classifier's weights with the text→ids code of their training: where they lie, what computes them, and what all
engines have in common.

They lie in a run, a bundle, an export or a repository of the Hugging Face hub. An engine is one line of ``ENGINES`` and
a subclass of ``Scorer``. Nothing here imports torch, and nothing in a bundle is executed when it is read.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from harness.rundir.bundle_files import (
    INDEX,
    INT8,
    ONNX,
    BundleInfo,
    bundle_directory,
    check_classifier,
    read_export,
    read_info,
)
from harness.rundir.results import prediction_columns
from harness.scores.calibration import Decision
from harness.scores.metrics import predicted_labels, probabilities
from preprocessing.base.errors import ConfigError, DataError, require
from preprocessing.base.installed import is_importable, load, needed
from preprocessing.base.terminal import Guarded
from preprocessing.dataset.shards import VOCABULARY
from preprocessing.text.encoder import Encoder
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import UNK, Vocabulary

Engine: TypeAlias = Literal["auto", "torch", "onnx", "onnx-int8"]
ENGINES = {
    "torch": "harness.inference.bundle:TorchScorer",
    "onnx": "harness.inference.onnx_scorer:OnnxScorer",
    "onnx-int8": "harness.inference.onnx_scorer:Int8Scorer",
}
"""Engine -> ``module:class`` of its ``Scorer``."""
SCHEME = "hf://"
FILES = ["*.json", "*.arrow", "*.safetensors", "*.onnx", "*.md"]
"""What an export has: nothing else of a repository is downloaded."""
PADDED_TOKENS = 8192
"""Tokens of a batch on a CPU, padding included: so many that the gates of a layer stay in the cache."""


class Scorer(ABC):
    """Logits of texts. Encoding and scoring are two steps, since one thread encodes while another scores."""

    def __init__(self, directory: Path, batch_rows: int = 128, settled: Mapping[str, str] | None = None) -> None:
        """Load and verify a bundle directory, which an export is too; at most ``batch_rows`` texts are computed at
        once.

        ``settled`` is what ``settle`` gave, for one of many processes, which then computes with one thread on a CPU.
        Raises ``UserError``.
        """
        self.directory, self.batch_rows, self.settled = directory, batch_rows, settled
        self.info, self.vocabulary = read_vocabulary(directory)
        self.labels, self.label_type = self.info.labels, self.info.label_type
        self.decision = Decision(self.info.temperature, self.info.threshold)
        self.open()
        self.encoder = encoder_of(self.info, self.vocabulary, directory)

    @abstractmethod
    def open(self) -> None:
        """Load and verify the weights. Raises ``UserError``."""

    @staticmethod
    @abstractmethod
    def settle(device: str, precision: str) -> dict[str, str]:
        """The ``device`` and the ``precision`` that this machine has for what was asked; they decide the figures.

        Raises ``ConfigError``.
        """

    @abstractmethod
    def score(self, encoded: list[np.ndarray]) -> np.ndarray:
        """Logits of what ``encode`` gave, before calibration: float64 ``[texts]`` for two classes, else ``[texts,
        classes]``.
        """

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """The ids of each text; another thread may score meanwhile."""
        return self.encoder.each(texts)

    def predict(self, encoded: list[np.ndarray]) -> dict[str, Any]:
        """Columns ``predicted`` and ``probability_LABEL``, calibrated, with the temperature and threshold of the
        weights.
        """
        logits = self.decision.calibrated(self.score(encoded))
        found = predicted_labels(logits, self.decision.threshold), probabilities(logits)
        return prediction_columns(*found, self.labels, self.label_type)


def open_scorer(
    place: str | Path, engine: str = "auto", batch_rows: int = 128, settled: Mapping[str, str] | None = None
) -> Scorer:
    """Load and verify the model of a run, a bundle, an export folder, or a repository of the hub (``hf://owner/name``).

    ``settled`` is what the engine's ``settle`` gave. Raises ``UserError`` with one sentence.
    """
    directory = bundle_directory(local(place))
    return scorer_class(engine_of(directory, engine))(directory, batch_rows, settled)


def scorer_class(engine: str) -> type[Scorer]:
    """The class that computes with this engine."""
    found: type[Scorer] = load(ENGINES[engine])
    return found


def engine_of(directory: Path, engine: str) -> str:
    """The engine that reads a bundle directory on this machine: a key of ``ENGINES``.

    ``auto`` is torch, and ONNX Runtime where torch cannot be imported. Raises ``UserError`` with one sentence.
    """
    require(engine in ("auto", *ENGINES), "engine", engine, f"one of {', '.join(('auto', *ENGINES))}")
    read_info(directory)  # what a place lacks is said before what this machine lacks
    if engine == "auto" and is_importable("torch"):
        return "torch"
    if engine == "torch" and not is_importable("torch"):
        raise ConfigError("engine: torch cannot be imported here; pip install torch brings it")
    if engine != "auto":
        return engine
    forms = [name for name in (ONNX, INT8) if (directory / name).is_file()]
    if not forms:
        without = f"torch cannot be imported here, and {directory} holds no {ONNX}"
        raise ConfigError(f"{without}: install torch, or export the run with `python -m harness export --onnx`")
    return "onnx-int8" if forms == [INT8] else "onnx"


def local(place: str | Path) -> Path:
    """A folder on this machine: ``place`` itself, or the copy of a repository of the hub, which is downloaded if need
    be.

    Raises ``ConfigError`` for a wrong address, ``DataError`` for a repository that cannot be had.
    """
    text = str(place)
    if not text.startswith(SCHEME):
        return Path(place)
    repository, _, revision = text.removeprefix(SCHEME).rstrip("/").partition("@")
    if repository.count("/") != 1:
        raise ConfigError(f"{text}: a model of the hub is named hf://OWNER/NAME, or hf://OWNER/NAME@REVISION")
    needed("huggingface_hub", text, "hub")
    import huggingface_hub

    try:
        hush_bars()
        return Path(huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=FILES))
    except Exception as error:  # its errors share no class, and nothing of ours is called
        raise DataError(f"{text}: cannot be had ({' '.join(str(error).split())[:300]})") from None


def hush_bars() -> None:
    """In a command, the hub's library shows no progress bars: our stderr escapes cursor movements."""
    from huggingface_hub.utils import disable_progress_bars

    if isinstance(sys.stderr, Guarded):
        disable_progress_bars()


def read_vocabulary(directory: Path) -> tuple[BundleInfo, Vocabulary]:
    """What a classifier's bundle says of itself, and its vocabulary. The files of an export are held against its index
    before any is parsed.

    Raises ``DataError`` if either is missing, damaged or does not belong to the other, ``ConfigError`` if the bundle
    holds a language model.
    """
    info = read_info(directory)
    check_classifier(directory, info)
    read_export(directory, info)
    vocabulary = Vocabulary.read(directory / VOCABULARY)
    if vocabulary.hash != info.vocabulary_hash:
        raise DataError(
            f"{directory / VOCABULARY}: its hash is not the one the weights were trained with; "
            "restore the bundle's own vocabulary"
        )
    return info, vocabulary


def encoder_of(info: BundleInfo, vocabulary: Vocabulary, directory: Path) -> Encoder:
    """The text→ids function of the bundle in ``directory``; raises ``DataError`` where it is not that of the training
    (law 1).
    """
    index = directory / INDEX
    encoder = Encoder(TextPipeline.from_json(info.text, index), vocabulary)
    if encoder.hash != info.text_hash:
        raise DataError(f"{index}: its text pipeline is not the one the weights were trained with; restore it")
    return encoder


def unknown_shares(encoded: list[np.ndarray]) -> np.ndarray:
    """float64 ``[texts]``: the share of each text's tokens that are not in the vocabulary."""
    return np.array([float((ids == UNK).mean()) for ids in encoded])


def in_batches(
    texts: Sequence[np.ndarray],
    batch_rows: int,
    read: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    padded_tokens: int = PADDED_TOKENS,
) -> np.ndarray:
    """float64 logits of ``texts``, ids one array for each, in their order.

    ``read`` gives those of a batch: padded ids int32 ``[rows, time]``, lengths int64 ``[rows]``, longest first, and the
    rows' places among the texts. A batch has at most ``batch_rows`` texts and ``padded_tokens`` tokens, or one text.
    Raises ``DataError`` for logits that are not finite: no probability, and no label, could be made of them.
    """
    lengths = np.array([len(ids) for ids in texts], np.int64)
    longest_first = np.argsort(-lengths, kind="stable")
    parts = []
    start = 0
    while start < len(texts):
        longest = int(lengths[longest_first[start]])
        places = longest_first[start : start + max(1, min(batch_rows, padded_tokens // longest))]
        start += len(places)
        padded = np.zeros((len(places), longest), np.int32)
        for row, place in enumerate(places):
            padded[row, : lengths[place]] = texts[place]
        parts.append(read(padded, lengths[places], places).astype(np.float64))
    logits = np.concatenate(parts)
    if not np.isfinite(logits).all():
        raise DataError(
            "the network gives numbers that are not finite: its weights are damaged, or too large for the arithmetic; "
            "restore them, or train again"
        )
    result = np.empty_like(logits)
    result[longest_first] = logits
    return result
