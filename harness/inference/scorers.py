# SPDX-License-Identifier: Apache-2.0
"""Which program reads the weights of a place: torch, or ONNX Runtime where there is no torch or it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np

from harness.inference.hub import local
from harness.inference.onnx_scorer import OnnxScorer
from harness.rundir.bundle_files import bundle_directory, read_info
from harness.rundir.export_files import INT8, ONNX
from harness.scores.calibration import Decision
from preprocessing.base.errors import ConfigError, require
from preprocessing.base.installed import is_importable

Engine: TypeAlias = Literal["auto", "torch", "onnx", "onnx-int8"]
ENGINES = ("auto", "torch", "onnx", "onnx-int8")


class Scorer(Protocol):
    """What reads the weights: whoever reads them otherwise, as from another format, has these three."""

    labels: list[str]
    """The classes in the order of their numbers."""

    @property
    def decision(self) -> Decision:
        """How logits become probabilities and labels."""
        ...

    def logits(self, texts: list[str]) -> np.ndarray:
        """float64 ``[texts]`` for two classes, ``[texts, classes]`` for more, before calibration."""
        ...


def open_scorer(place: str | Path, engine: str = "auto", batch_rows: int = 128) -> Scorer:
    """Load and verify the model of a run, a bundle, an export folder, or a repository of the hub (``hf://owner/name``).

    ``auto`` is torch, and ONNX Runtime where torch cannot be imported. Raises ``UserError`` with one sentence.
    """
    require(engine in ENGINES, "engine", engine, f"one of {', '.join(ENGINES)}")
    directory = bundle_directory(local(place))
    read_info(directory)  # what a place lacks is said before what this machine lacks
    if engine == "torch" or (engine == "auto" and is_importable("torch")):
        if not is_importable("torch"):
            raise ConfigError("engine: torch cannot be imported here; pip install torch brings it")
        from harness.inference.torch_scorer import TorchScorer

        return TorchScorer(directory, batch_rows)
    forms = [name for name in (ONNX, INT8) if (directory / name).is_file()]
    if engine == "auto" and not forms:
        without = f"torch cannot be imported here, and {directory} holds no {ONNX}"
        raise ConfigError(f"{without}: install torch, or export the run with `python -m harness export --onnx`")
    return OnnxScorer(directory, batch_rows, int8=engine == "onnx-int8" or (engine == "auto" and forms == [INT8]))
