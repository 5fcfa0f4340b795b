# SPDX-License-Identifier: Apache-2.0
"""padless as a library: makes datasets, trains, applies trained models to texts, and reads runs as frames.

>>> import padless
>>> run = padless.train(frame, "runs/mine", text="review", label="mood", epochs=3)
>>> run.predict(["a fine film", "a dull one"])

``TextClassifier`` is the same as an estimator for scikit-learn. This module is the public interface. ``harness`` and
``preprocessing``, which it uses, may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.inference.model import Model, load
from harness.rundir.metrics_log import read_metrics
from preprocessing.base import installed
from preprocessing.base.errors import UserError
from preprocessing.dataset.inspect import Dataset

if TYPE_CHECKING:
    from harness.library.commands import Run, prepare, train
    from harness.library.estimator import TextClassifier

__version__ = installed.VERSION
__all__ = [
    "Dataset",
    "Model",
    "Run",
    "TextClassifier",
    "UserError",
    "__version__",
    "load",
    "open_dataset",
    "prepare",
    "read_metrics",
    "train",
]


open_dataset = Dataset
"""Open a dataset: a mapping from the names of its splits to frames (row, label, length, text).

``arrow`` gives a split as an Arrow table, ``batches`` as record batches; both have the ids too.
"""


def __getattr__(name: str) -> Any:
    """What trains is imported when it is used: a program that only predicts needs few packages."""
    if name in ("Run", "TextClassifier", "prepare", "train"):
        return installed.load_object(
            f"harness.library.{'estimator' if name == 'TextClassifier' else 'commands'}:{name}"
        )
    raise AttributeError(f"module 'padless' has no attribute {name!r}")
