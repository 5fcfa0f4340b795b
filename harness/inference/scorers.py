# SPDX-License-Identifier: Apache-2.0
"""Which program reads the weights of a place: torch, or ONNX Runtime where there is no torch or it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np

from harness.inference.hub import local
from harness.inference.onnx_scorer import OnnxScorer
from harness.rundir.bundle_files import INT8, ONNX, bundle_directory, read_info
from harness.scores.calibration import Decision
from preprocessing.base.errors import ConfigError, require
from preprocessing.base.installed import is_importable
from preprocessing.labels import LabelType

Engine: TypeAlias = Literal["auto", "torch", "onnx", "onnx-int8"]
ENGINES = ("auto", "torch", "onnx", "onnx-int8")


class Scorer(Protocol):
    """What reads the weights: whoever reads them otherwise, as from another format, has these. Texts are encoded in one
    thread while another scores, so there are two steps.
    """

    labels: list[str]
    """The classes in the order of their numbers."""
    label_type: LabelType
    """What they are in predictions."""

    @property
    def decision(self) -> Decision:
        """How logits become probabilities and labels."""
        ...

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """The ids of each text; another thread may score meanwhile."""
        ...

    def score(self, encoded: list[np.ndarray]) -> np.ndarray:
        """Logits of what ``encode`` gave, before calibration: float64 ``[texts]`` for two classes, else ``[texts,
        classes]``.
        """
        ...

    def exact(self, encoded: list[np.ndarray]) -> np.ndarray:
        """The same in the arithmetic of the weights, where ``score`` may compute in another."""
        ...


def open_scorer(place: str | Path, engine: str = "auto", batch_rows: int = 128) -> Scorer:
    """Load and verify the model of a run, a bundle, an export folder, or a repository of the hub (``hf://owner/name``).

    Raises ``UserError`` with one sentence.
    """
    directory = bundle_directory(local(place))
    found = engine_of(directory, engine)
    if found == "torch":
        from harness.inference.torch_scorer import TorchScorer

        return TorchScorer(directory, batch_rows)
    return OnnxScorer(directory, batch_rows, int8=found == "onnx-int8")


def engine_of(directory: Path, engine: str) -> str:
    """The engine that reads a bundle directory on this machine: ``torch``, ``onnx`` or ``onnx-int8``.

    ``auto`` is torch, and ONNX Runtime where torch cannot be imported. Raises ``UserError`` with one sentence.
    """
    require(engine in ENGINES, "engine", engine, f"one of {', '.join(ENGINES)}")
    read_info(directory)  # what a place lacks is said before what this machine lacks
    if engine == "torch" or (engine == "auto" and is_importable("torch")):
        if not is_importable("torch"):
            raise ConfigError("engine: torch cannot be imported here; pip install torch brings it")
        return "torch"
    if engine != "auto":
        return engine
    forms = [name for name in (ONNX, INT8) if (directory / name).is_file()]
    if not forms:
        without = f"torch cannot be imported here, and {directory} holds no {ONNX}"
        raise ConfigError(f"{without}: install torch, or export the run with `python -m harness export --onnx`")
    return "onnx-int8" if forms == [INT8] else "onnx"
