# SPDX-License-Identifier: Apache-2.0
"""padless as a library: makes datasets, trains, applies trained models to texts, and reads runs as frames.

>>> import padless
>>> run = padless.train(frame, "runs/mine", text="review", label="mood", epochs=3)
>>> run.predict(["a fine film", "a dull one"])

``TextClassifier`` is the same as an estimator for scikit-learn. This package is the public interface. ``harness`` and
``preprocessing``, which it uses, may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.inference.model import Model, load
    from harness.rundir.metrics_log import read_metrics
    from padless.api import Run, prepare, train
    from padless.core.errors import UserError
    from padless.sklearn import TextClassifier
    from preprocessing.dataset.inspect import Dataset

    open_dataset = Dataset
    """Open a dataset: a mapping from the names of its splits to frames (row, label, length, text).

    ``arrow`` gives a split as an Arrow table, ``batches`` as record batches; both have the ids too.
    """
    __version__: str

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
ORIGIN_BY_NAME = {
    "Dataset": "preprocessing.dataset.inspect:Dataset",
    "Model": "harness.inference.model:Model",
    "Run": "padless.api:Run",
    "TextClassifier": "padless.sklearn:TextClassifier",
    "UserError": "padless.core.errors:UserError",
    "__version__": "padless.core.installed:VERSION",
    "load": "harness.inference.model:load",
    "open_dataset": "preprocessing.dataset.inspect:Dataset",
    "prepare": "padless.api:prepare",
    "read_metrics": "harness.rundir.metrics_log:read_metrics",
    "train": "padless.api:train",
}
"""Name -> where it is defined."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: a program that only predicts needs few packages."""
    if name in ORIGIN_BY_NAME:
        from padless.core import installed

        globals()[name] = installed.load_object(ORIGIN_BY_NAME[name])
        return globals()[name]
    raise AttributeError(f"module 'padless' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted(__all__)
