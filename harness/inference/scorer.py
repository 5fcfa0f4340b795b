# SPDX-License-Identifier: Apache-2.0
"""Finds a classifier's weights and their text→ids code, and computes logits with one of several engines.

They are in a run, a bundle, an export or a Hugging Face hub repository. An engine is a subclass of ``Scorer``: torch in
``bundle``, ONNX Runtime here. Nothing here imports torch before a ``Bundle`` is opened, and reading a bundle executes
nothing in it.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np

from harness.metrics.calibration import Decision
from harness.rundir.bundle_files import (
    IDS,
    INDEX,
    LENGTHS,
    LOGITS,
    ONNX,
    bundle_directory,
    read_classifier,
    read_info,
    read_named,
    read_vocabulary,
)
from harness.rundir.results import prediction_columns
from padless.core.errors import ConfigError, DataError, require
from padless.core.installed import is_importable, load_object, require_package
from padless.core.jobs import ROWS
from padless.core.processes import available_cores
from padless.core.untrusted import one_line
from preprocessing.text.encoder import Encoder
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import UNK

Engine: TypeAlias = Literal["auto", "torch", "onnx"]
BATCH_ROWS, THREAD_BATCH_ROWS = 1024, 128
"""Maximum rows of a batch, and of one where several threads compute batches at once."""
PADDED_TOKENS = 8192
"""Maximum tokens of a batch on a CPU, padding included, so that the gates of a layer fit into the cache."""
ERRORS_ONLY = 3
"""ONNX Runtime's log severity: its warnings concern only the author of a graph."""


class Scorer(ABC):
    """Computes logits of texts. ``encoder`` is apart from ``score``: one thread encodes while another scores."""

    engine: ClassVar[Engine]

    def __init__(
        self,
        directory: Path,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
        abstain: float | None = None,
    ) -> None:
        """Load and verify a bundle or export directory.

        ``threads``: on a CPU so many batches are computed at once, each by one thread; None: as many as there are
        cores. ``abstain`` is that of ``PredictConfig``. Raises ``DataError`` if a file is missing, damaged or of
        another bundle, ``ConfigError`` for a language model, and for what this engine or machine cannot compute.
        """
        self.directory, self.threads = directory, threads
        self.info = read_classifier(directory)
        self.labels, self.label_type = self.info.labels, self.info.label_type
        if self.info.has_label_sets and abstain:
            problem = "its texts may have several labels, each predicted by a threshold of its own"
            raise ConfigError(f"{directory}: {problem}; abstain is for one label to a text: leave it out")
        thresholds = self.info.threshold, self.info.thresholds
        self.decision = Decision(self.info.temperature, *thresholds, min_confidence=abstain or 0.0)
        self.vocabulary = read_vocabulary(directory, self.info)
        self.arithmetic = self.load(device, precision)
        """The ``device`` and ``precision`` that were chosen; the results depend on both."""

    @cached_property
    def encoder(self) -> Encoder:
        """The text→ids function; raises ``DataError`` if it is not that of the training (law 1)."""
        index = self.directory / INDEX
        encoder = Encoder(TextPipeline.from_json(self.info.text, index), self.vocabulary)
        if encoder.hash != self.info.text_hash:
            raise DataError(f"{index}: its text pipeline is not the one the weights were trained with; restore it")
        return encoder

    @abstractmethod
    def load(self, device: str, precision: str) -> dict[str, str]:
        """Load and verify the weights; returns ``arithmetic``. Raises ``UserError``."""

    @abstractmethod
    def score(self, encoded: list[np.ndarray]) -> np.ndarray:
        """Uncalibrated logits of encoded texts: float64 ``[texts]`` for two classes, else ``[texts, classes]``."""

    def columns(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        """Columns ``predicted`` and ``probability_LABEL`` of the result of ``score``, by ``decision``."""
        predicted, chances = self.decision.predictions(logits)
        return prediction_columns(predicted, chances, self.labels, self.label_type)


def require_onnxruntime(purpose: str) -> None:
    """Import ONNX Runtime, which sends nothing to its makers then. Raises ``ConfigError`` if it is missing."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    require_package("onnxruntime", purpose, "onnx")


class OnnxScorer(Scorer):
    """The network of an export folder, computed by ONNX Runtime on a CPU."""

    engine = "onnx"

    def load(self, device: str, precision: str) -> dict[str, str]:
        """See ``Scorer.load``; ``ConfigError`` without ONNX Runtime, and for anything but a CPU in fp32."""
        if device == "cuda" or precision == "bf16":
            raise ConfigError("engine: ONNX Runtime computes on CPUs in fp32 here; leave this out, or set it to torch")
        path, sha256 = self.directory / ONNX, self.info.onnx_sha256
        if sha256 is None:
            raise DataError(f"{path}: missing: {INDEX} names none; `padless export RUN --onnx` makes one")
        data = read_named(path, sha256, INDEX)
        require_onnxruntime(f"{path}")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads = 1
        try:
            self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base class
            raise DataError(f"{path}: ONNX Runtime cannot read it ({one_line(error)})") from None
        return {"device": "cpu", "precision": "fp32"}

    def score(self, encoded: list[np.ndarray], output: str = LOGITS) -> np.ndarray:
        """See ``Scorer.score``; or another ``output`` of the graph."""

        def read(padded: np.ndarray, lengths: np.ndarray) -> np.ndarray:
            logits: np.ndarray = self.session.run([output], {IDS: padded, LENGTHS: lengths.astype(np.int32)})[0]
            return logits

        return score_in_batches(encoded, read, threads=self.threads or available_cores())


def open_scorer(path: str | Path, engine: str = "auto", **options: Any) -> Scorer:
    """Load and verify the model of a run, a bundle, an export folder, or a repository of the hub (``hf://owner/name``).

    ``engine`` auto is torch, or ONNX Runtime if torch cannot be imported. ``options``: device, precision, threads and
    what decides, as for a ``Scorer``. Raises ``UserError``.
    """
    directory = bundle_directory(path)
    require(engine in get_args(Engine), "engine", engine, f"one of {', '.join(get_args(Engine))}")
    read_info(directory)  # report a missing bundle before a missing package
    if engine == "onnx" or (engine == "auto" and not is_importable("torch")):
        scorer: Scorer = OnnxScorer(directory, **options)
    else:
        require_package("torch", "--engine torch")
        scorer = load_object("harness.inference.bundle:Bundle")(directory, **options)
    scorer.encoder.encode_each([])  # refuses another text→ids function now, not at the first text
    return scorer


def pad_texts(encoded: Sequence[np.ndarray]) -> np.ndarray:
    """int32 ``[texts, time]``: the ids of each text, then zeros."""
    padded = np.zeros((len(encoded), max(map(len, encoded), default=0)), np.int32)
    for row, ids in enumerate(encoded):
        padded[row, : len(ids)] = ids
    return padded


def unknown_shares(encoded: list[np.ndarray]) -> np.ndarray:
    """float64 ``[texts]``: the share of unknown tokens of each text."""
    return np.array([float((ids == UNK).mean()) for ids in encoded])


def score_in_batches(
    texts: Sequence[np.ndarray],
    score_batch: Callable[[np.ndarray, np.ndarray], np.ndarray],
    padded_tokens: int = PADDED_TOKENS,
    name: object = "the model",
    threads: int = 1,
) -> np.ndarray:
    """float64 logits of ``texts``, one array of ids each, in their order.

    ``score_batch`` computes those of a batch from padded ids, int32 ``[rows, time]``, and lengths, int64 ``[rows]``,
    longest first, in one of ``threads``. Threads that share a batch would wait for each other at each token, where
    another program is busy most of their time. A batch has at most ``padded_tokens`` tokens, or one text. Raises
    ``DataError`` that names ``name`` for logits that are not finite, which give no probability.
    """
    lengths = np.array([len(ids) for ids in texts], np.int64)
    longest_first = np.argsort(-lengths, kind="stable")
    batch_rows = BATCH_ROWS if threads == 1 else THREAD_BATCH_ROWS
    batches = []
    start = 0
    while start < len(texts):
        longest = int(lengths[longest_first[start]])
        batches.append(longest_first[start : start + max(1, min(batch_rows, padded_tokens // longest))])
        start += len(batches[-1])

    def score_rows(rows: np.ndarray) -> np.ndarray:
        ROWS.add(len(rows))
        return score_batch(pad_texts([texts[row] for row in rows]), lengths[rows]).astype(np.float64)

    if threads == 1 or len(batches) == 1:
        parts = [score_rows(rows) for rows in batches]
    else:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(score_rows, batches))  # cannot hang: each computes one batch
    logits = np.concatenate(parts)
    if not np.isfinite(logits).all():
        raise DataError(
            f"{name}: gives numbers that are not finite: its weights are damaged, or too large for the arithmetic; "
            "restore them, or train again"
        )
    result = np.empty_like(logits)
    result[longest_first] = logits
    return result
