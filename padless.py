# SPDX-License-Identifier: Apache-2.0
"""padless as a library: a dataset from a frame or a file; datasets and predictions as pandas frames.

>>> import padless
>>> data = padless.prepare(frame, text="review", label="sentiment", output="data/mine")
>>> data["train"].head()
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.rundir.prediction_frames import open_predictions
from preprocessing.base import cli
from preprocessing.base.errors import UserError
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.frames import Dataset
from preprocessing.job import frames

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Dataset", "UserError", "open_dataset", "open_predictions", "prepare"]


def prepare(
    source: pd.DataFrame | str | Path | Sequence[str | Path],
    *,
    text: str | None = None,
    label: str | None = None,
    output: str | Path,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Dataset:
    """Build the dataset directory ``output`` from a frame, or from files as ``python -m preprocessing run`` takes them.

    ``text`` and ``label`` name columns; without them they are found where only one fits. ``config`` is a YAML file of
    options, and ``options`` has single ones by their dotted keys, as in ``{"splits.test": 0.2}``; later ones win. If
    the same dataset is there already, it is opened. Raises ``UserError`` with one sentence on what is wrong.
    """
    is_frame = hasattr(source, "iloc")
    paths = [frames.FRAME if is_frame else source] if is_frame or isinstance(source, (str, Path)) else source
    chosen: dict[str, Any] = {"source.path": [str(path) for path in paths], "output": str(output)}
    chosen |= {f"source.{key}_column": name for key, name in (("text", text), ("label", label)) if name is not None}
    words = [] if config is None else [f"--config={config}"]
    for key, value in {**(options or {}), **chosen}.items():
        words.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    parsed = cli.parse(PreprocessConfig, words, prog="padless.prepare")
    if is_frame:
        frames.prepare(cast("pd.DataFrame", source), parsed)
    else:
        frames.run(parsed)
    return Dataset(parsed.output)


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset: a mapping from the names of its splits to frames (row, label, length, text)."""
    return Dataset(path)
