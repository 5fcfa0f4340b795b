# SPDX-License-Identifier: Apache-2.0
"""``TextClassifier``: prepare, train and predict as an estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted

from harness.inference.model import Model, Texts, chunks, load
from harness.launch.options import TrainConfig
from padless.api import configure, pop_dataset_options, prepare, train_apart
from padless.core.atomic import temporary_folder
from padless.core.errors import DataError, UserError, require
from padless.core.fork_server import SERVER


class FitError(DataError, ValueError):
    """What scikit-learn expects for texts, labels or parameters that cannot be used."""


@dataclass(kw_only=True, eq=False, repr=False)
class TextClassifier(ClassifierMixin, BaseEstimator):
    """An LSTM over texts: lists, tuples, arrays or columns of strings, in pipelines and searches of scikit-learn.

    ``fit`` prepares the texts and trains by the default recipe, as the commands do with the same keys and seed, in a
    temporary directory, on one device and quietly. What is None follows from the recipe ``config``, or from the texts.
    """

    epochs: int | None = None
    batch_size: int | None = None
    """The key ``global_batch``."""
    lr: float | None = None
    hidden_size: int | None = None
    dropout: float | None = None
    validation_fraction: float = 0.1
    """Of the rows, which select the best epoch."""
    random_state: int | None = None
    """The seed; None is 0."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    config: str | Path | None = None
    options: Mapping[str, Any] | None = None
    """Other keys of ``padless prepare`` and ``padless train``, as in ``{"text.max_tokens": 100}``."""
    verbose: bool = False

    def fit(self, X: Texts, y: Any) -> TextClassifier:  # noqa: N803 - scikit-learn's name
        """Train on texts and their labels: strings, whole numbers or booleans; with several labels to a text a matrix
        of 0 and 1, ``[texts, classes]``. Raises ``UserError``.
        """
        targets, fraction = np.asarray(y), self.validation_fraction
        has_label_sets = targets.ndim == 2 and type_of_target(targets) == "multilabel-indicator"
        if has_label_sets:
            labels: Any = [np.flatnonzero(row).tolist() for row in targets]
        else:
            labels = column_or_1d(targets, warn=True)
        try:
            require(0 < fraction < 1, "validation_fraction", fraction, "above 0 and below 1, to choose the best epoch")
            texts = [text for chunk in chunks(X) for text in chunk]
            check_consistent_length(texts, labels)
            missing_rows = np.flatnonzero(pd.isna(np.asarray(y, object)))  # in `targets`, nan beside texts is 'nan'
            if len(missing_rows):
                raise DataError(f"y[{missing_rows[0]}] is missing; label this text, or leave it out")
            check_classification_targets(targets)
            self.model_ = self.train_model(pd.DataFrame({"text": pd.Series(texts, dtype=object), "label": labels}))
        except UserError as error:
            raise FitError(error) from error
        self.multilabel_ = has_label_sets
        self.classes_ = np.sort(self.model_.classes_).astype(targets.dtype)
        if has_label_sets:
            self.classes_ = np.arange(targets.shape[1])
        return self

    def train_model(self, frame: pd.DataFrame) -> Model:
        """The model that learned the rows of a frame, which needs no directory. Raises ``UserError``."""
        options = dict(self.options or {})
        common = {"quiet": not self.verbose, "seed": self.random_state or 0}
        of_data = {**common, "splits.test": 0, "splits.validation": self.validation_fraction, "executor.workers": 1}
        of_data |= pop_dataset_options(options)
        of_run = {
            "epochs": self.epochs,
            "global_batch": self.batch_size,
            "optim.lr": self.lr,
            "model.hidden_size": self.hidden_size,
            "model.dropout": self.dropout,
            "device": self.device,
            "baseline": "none",
            **common,
        }
        SERVER.start()  # which imports torch meanwhile
        with temporary_folder() as folder:
            data, run = folder / "data", folder / "run"
            prepare(frame, text="text", label="label", output=data, options=of_data)
            train_apart(
                configure(TrainConfig, {**of_run, "data": data, "run": run}, options, self.config), reports=False
            )
            return copy(load(run, device=self.device))

    def predict(self, X: Texts) -> np.ndarray:  # noqa: N803
        """The class of each text, of the type of ``y``; with several labels to a text a matrix as ``y``."""
        check_is_fitted(self)
        labels = self.model_.predict(X)
        if self.multilabel_:
            return np.array([np.isin(self.classes_, row) for row in labels], np.int64)
        return labels.astype(self.classes_.dtype)

    def predict_proba(self, X: Texts) -> np.ndarray:  # noqa: N803
        """Calibrated probabilities, float64 ``[texts, classes]``, in the order of ``classes_``."""
        check_is_fitted(self)
        chances = pd.DataFrame(self.model_.predict_proba(X), columns=self.model_.classes_)
        # of several labels, a column without a 1 is no class of the model
        return chances.reindex(columns=self.classes_, fill_value=0.0).to_numpy()
