# SPDX-License-Identifier: Apache-2.0
"""``TextClassifier`` as scikit-learn uses estimators."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from scipy.sparse import coo_matrix
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

import padless
from tests.helpers.datasets import sentences

pytestmark = pytest.mark.processes
TEXTS, NUMBERS = sentences(100, 2, seed=3, longest=30)
SMALL: dict[str, Any] = {
    **{"epochs": 2, "hidden_size": 8, "lr": 0.01},
    "options": {"model": {"embedding_dim": 8, "wide": 1024}, "precision": "fp32"},
}
Y = {
    "int8": NUMBERS.astype(np.int8),
    "category": pd.Categorical(np.where(NUMBERS, "10, b", "9")),  # as texts 10 comes first, in a dataset 9
}


@pytest.mark.parametrize("kind", Y)
def test_predictions_have_the_type_of_y(
    kind: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    y = np.asarray(Y[kind])
    classifier = padless.TextClassifier(**SMALL).fit(pd.Series(TEXTS), Y[kind])
    predicted, chances = classifier.predict(TEXTS), classifier.predict_proba(tuple(TEXTS))
    assert (classifier.classes_.tolist(), predicted.dtype) == (np.unique(y).tolist(), y.dtype)
    assert classifier.score(TEXTS, y) == (classifier.classes_[chances.argmax(axis=1)] == y).mean() > 0.9
    for copy in (clone(classifier).fit(np.array(TEXTS), Y[kind]), pickle.loads(pickle.dumps(classifier))):
        np.testing.assert_array_equal(copy.predict_proba(TEXTS), chances)
    assert (capfd.readouterr(), [*tmp_path.glob("padless-*")]) == (("", ""), [])


def test_a_matrix_of_several_labels() -> None:
    """A column of the matrix is a class, also one without rows."""
    y = np.stack((NUMBERS, np.zeros_like(NUMBERS), 1 - NUMBERS), axis=1)
    classifier = padless.TextClassifier(**SMALL).fit(TEXTS, y)
    predicted, chances = classifier.predict(TEXTS), classifier.predict_proba(TEXTS)
    assert (predicted.shape, chances.shape, classifier.classes_.tolist()) == (y.shape, y.shape, [0, 1, 2])
    assert classifier.score(TEXTS, y) == (predicted == y).all(axis=1).mean() > 0.9
    assert chances[:, 1].tolist() == [0.0] * len(TEXTS)
    assert chances[predicted[:, 0] == 1, 0].min() > chances[predicted[:, 0] == 0, 0].max()


def test_a_search_over_a_pipeline() -> None:
    pipeline = make_pipeline(FunctionTransformer(np.char.lower), padless.TextClassifier(**SMALL))
    scores = []
    for num_jobs, backend in ((1, "loky"), (2, "threading")):
        with parallel_config(backend):
            search = GridSearchCV(
                pipeline, {"textclassifier__epochs": np.array([2])}, cv=2, n_jobs=num_jobs, refit=False
            )
            scores.append(search.fit(np.array(TEXTS), NUMBERS).best_score_)
    assert scores[0] == scores[1] > 0.9


@pytest.mark.parametrize(
    ("keys", "texts", "y", "named"),
    [
        ({}, TEXTS, [*"ab" * 49, "b", float("nan")], r"y\[99\]"),
        ({}, TEXTS, NUMBERS[1:], r"\[100, 99\]"),
        ({"lr": -1}, TEXTS, NUMBERS, "optim.lr"),
        ({}, [*TEXTS[1:], None], NUMBERS, r"texts\[99\]"),
        ({}, set(TEXTS), NUMBERS, "set"),  # would pair texts and labels at random
        ({}, coo_matrix(np.eye(100)), NUMBERS, "coo_matrix"),
    ],
)
def test_a_mistake_gets_a_sentence(keys: dict[str, Any], texts: Any, y: Any, named: str) -> None:
    classifier = padless.TextClassifier(**keys)
    with pytest.raises(ValueError, match=named):
        classifier.fit(texts, y)
    with pytest.raises(NotFittedError):
        check_is_fitted(classifier)
