# SPDX-License-Identifier: Apache-2.0
"""``TextClassifier``: prepare, train and predict as an estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from harness.config import RunConfig
from harness.inference.model import Model, Texts, chunks, load
from harness.library.commands import build, flat, taken_from, train_here, words_of
from preprocessing.base import cli
from preprocessing.base.atomic import temporary_folder
from preprocessing.base.errors import DataError, UserError
from preprocessing.labels import as_found

KEYS = {
    "epochs": "epochs",
    "batch_size": "global_batch",
    "lr": "optim.lr",
    "hidden_size": "model.hidden_size",
    "dropout": "model.dropout",
    "device": "device",
}
"""Parameter -> the key that it sets, unless it is None."""


class FitError(DataError, ValueError):
    """What scikit-learn expects for texts, labels or parameters that cannot be used."""


class TextClassifier(ClassifierMixin, BaseEstimator):
    """An LSTM over texts: lists, tuples, arrays or columns of strings, in pipelines and searches of scikit-learn.

    ``fit`` prepares the texts and trains by the default recipe, as the commands do with the same keys and seed, on one
    device and quietly.
    """

    def __init__(
        self,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        hidden_size: int | None = None,
        dropout: float | None = None,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        config: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
        run: str | Path | None = None,
        verbose: bool = False,
    ) -> None:
        """What is None follows from the recipe ``config``, or from the texts.

        ``batch_size`` is ``global_batch``; ``validation_fraction`` of the rows select the best epoch. ``options`` has
        any other key of ``padless prepare`` and ``padless train``, as in ``{"text.max_tokens": 100}``. ``run``: a
        directory to keep the run in, beside its dataset ``RUN-data``; a second ``fit`` on the same texts resumes or
        reads it. ``random_state``: None is the seed 0.
        """
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device
        self.config = config
        self.options = options
        self.run = run
        self.verbose = verbose

    def fit(self, X: Texts, y: Any) -> TextClassifier:  # noqa: N803 - scikit-learn's name
        """Train on texts and their labels: strings, whole numbers or booleans. Raises ``UserError``."""
        labels = column_or_1d(np.asarray(y), warn=True)
        if (missing := np.flatnonzero(pd.isna(labels))).size:
            raise FitError(f"y[{missing[0]}] is {labels[missing[0]]}, not a label; leave this text out, or label it")
        check_classification_targets(labels)
        classes = np.unique(labels)
        if len(classes) == 1:
            raise FitError(f"y has one class, {classes.tolist()[0]!r}; a classifier needs two")
        try:
            texts = [text for some in chunks(X) for text in some]
            check_consistent_length(texts, labels)
            self.model_ = self._trained(pd.DataFrame({"text": pd.Series(texts, dtype=object), "label": labels}))
        except UserError as error:
            raise FitError(error) from error
        names, found = self.model_._scorer.labels, [str(as_found(label)) for label in classes.tolist()]
        if sorted(found) != sorted(names):
            raise FitError(f"y: the labels {found} give the classes {names}: spell each in one way")
        self.classes_, self._columns = classes, np.array([names.index(name) for name in found])
        return self

    def _trained(self, frame: pd.DataFrame) -> Model:
        seed = self.random_state
        seed = check_random_state(seed).randint(1 << 31) if isinstance(seed, np.random.RandomState) else seed or 0
        given = {key: getattr(self, name) for name, key in KEYS.items() if getattr(self, name) is not None}
        keys = {"quiet": not self.verbose, "baseline": "none", "seed": seed, **given, **flat(self.options or {})}
        split = {"splits.test": 0, "splits.validation": self.validation_fraction, "splits.column": None}
        of_data = {"quiet": keys["quiet"], "seed": seed, "executor.workers": 1, **split, **taken_from(keys)}
        with ExitStack() as stack:
            run = str(self.run or stack.enter_context(temporary_folder()) / "run")
            build(frame, text="text", label="label", output=f"{run}-data", options=of_data)
            words = words_of(self.config, {**keys, "data": f"{run}-data", "run": run})
            train_here(cli.parse(RunConfig, words, prog="TextClassifier"), resumes=self.run is not None)
            return load(run, device=keys["device"]).keep()

    def predict(self, X: Texts) -> np.ndarray:  # noqa: N803
        """The class of each text, of the type of ``y``."""
        check_is_fitted(self)
        return self.classes_[np.argsort(self._columns)[self.model_.numbers(X)]]

    def predict_proba(self, X: Texts) -> np.ndarray:  # noqa: N803
        """Calibrated probabilities, float64 ``[texts, classes]``, in the order of ``classes_``."""
        check_is_fitted(self)
        return self.model_.predict_proba(X)[:, self._columns]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = False, True, True
        return tags
