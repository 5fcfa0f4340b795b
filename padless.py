# SPDX-License-Identifier: Apache-2.0
"""padless as a library: makes datasets from frames or files, applies trained models to texts, and reads runs as frames.

>>> import padless
>>> model = padless.load("runs/mine")
>>> model.predict(["a fine film", "a dull one"])

This module is the public interface. ``harness`` and ``preprocessing``, which it uses, may change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.inference.text_classifier import TextClassifier, load
from harness.rundir.metrics_log import read_metrics
from harness.rundir.results import open_predictions
from preprocessing.base import cli, installed
from preprocessing.base.errors import UserError
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.frames import Dataset
from preprocessing.job import pipeline

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__version__ = installed.VERSION
__all__ = [
    "Dataset",
    "TextClassifier",
    "UserError",
    "__version__",
    "load",
    "open_dataset",
    "open_predictions",
    "prepare",
    "read_metrics",
]


def prepare(
    source: pd.DataFrame | pa.Table | str | Path | Sequence[str | Path],
    *,
    text: str | list[str] | None = None,
    label: str | None = None,
    output: str | Path,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Dataset:
    """Build the dataset directory ``output`` from a frame (of pandas, polars, Arrow, …) or from files.

    ``text`` and ``label`` name columns; without them, they are detected if only one fits. ``config`` is a YAML file or
    a recipe; ``options`` maps dotted keys to values, as in ``{"splits.test": 0.2}``, and overrides it. A row without a
    text is refused unless ``source.missing_text`` is ``keep``. If the same dataset already exists, it is opened. Raises
    ``UserError``.
    """
    given: Any = source
    is_frame = hasattr(given, "iloc") or hasattr(given, "__arrow_c_stream__")
    paths = [pipeline.FRAME] if is_frame else [given] if isinstance(given, (str, Path)) else list(given)
    chosen: dict[str, Any] = {"source.path": [str(path) for path in paths], "output": str(output)}
    chosen |= {f"source.{key}_column": name for key, name in (("text", text), ("label", label)) if name is not None}
    words = ["--source.missing_text=error", *([] if config is None else [f"--config={config}"])]
    for key, value in {**(options or {}), **chosen}.items():
        words.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    parsed = cli.parse(PreprocessConfig, words, prog="padless.prepare")
    pipeline.prepare(parsed, given if is_frame else None)
    return Dataset(parsed.output)


def open_dataset(path: str | Path) -> Dataset:
    """Open a dataset: a mapping from the names of its splits to frames (row, label, length, text).

    ``arrow`` gives a split as an Arrow table, ``batches`` as record batches; both have the ids too.
    """
    return Dataset(path)
