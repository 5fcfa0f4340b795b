# SPDX-License-Identifier: Apache-2.0
"""``TextClassifier`` as scikit-learn uses estimators."""

from __future__ import annotations

import json
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import check_array
from sklearn.utils.estimator_checks import check_estimator

import padless
from tests.commands import run_command, succeed
from tests.datasets import sentences

pytestmark = pytest.mark.processes
TEXTS, NUMBERS = sentences(100, 2, seed=3, longest=30)
SMALL: dict[str, Any] = {
    **{"epochs": 2, "hidden_size": 8, "lr": 0.01},
    "options": {"model.embedding_dim": 8, "model.wide": 1024, "precision": "fp32"},
}
Y: dict[str, Any] = {
    "int8": NUMBERS.astype(np.int8),
    "bool": NUMBERS == 1,
    "text": np.where(NUMBERS, "10", "9"),  # as texts 10 comes first, in a dataset 9
    "Int64": pd.Series(NUMBERS, dtype="Int64"),
    "category": pd.Categorical(np.where(NUMBERS, "a, b", "B")),
}


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert list(tmp_path.glob("padless-*")) == []


@pytest.mark.parametrize("kind", Y)
def test_predictions_have_the_type_of_y(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    y = np.asarray(Y[kind])
    model = padless.TextClassifier(**SMALL).fit(pd.Series(TEXTS), Y[kind])
    predicted = model.predict(TEXTS)
    assert (model.classes_.tolist(), predicted.dtype) == (np.unique(y).tolist(), y.dtype)
    assert model.score(TEXTS, y) == (predicted == y).mean() > 0.9
    chances = model.predict_proba(tuple(TEXTS))
    assert (model.classes_[chances.argmax(axis=1)] == predicted).all()
    for same in (clone(model).fit(np.array(TEXTS), Y[kind]), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(same.predict_proba(TEXTS), chances)
    assert capfd.readouterr() == ("", "")


def test_in_a_pipeline() -> None:
    model = make_pipeline(FunctionTransformer(np.char.lower), padless.TextClassifier(**SMALL))
    assert cross_val_score(model, np.array(TEXTS), NUMBERS, cv=2).min() > 0.9


@pytest.mark.slow
def test_searches_on_several_processes() -> None:
    search = (
        "import sys, numpy, padless\n"
        "from sklearn.model_selection import GridSearchCV\n"
        "from tests.unit.test_estimator import NUMBERS, SMALL, TEXTS\n"
        "grid = {'epochs': numpy.array([1, 2]), 'options': [{'optim': {'wide_lr': 1.0}}]}\n"
        "search = GridSearchCV(padless.TextClassifier(**SMALL), grid, cv=2, n_jobs=2).fit(TEXTS, NUMBERS)\n"
        "print(search.predict(TEXTS[:3]).tolist())\n"
    )
    assert json.loads(succeed(run_command([sys.executable, "-c", search], 180, {})).stdout) == NUMBERS[:3].tolist()


@pytest.mark.parametrize(
    ("keys", "y", "sentence"),
    [
        ({}, [*NUMBERS[:-1], None], r"y\[99\] is None, not a label; leave this text out, or label it"),
        ({}, ["a"] * 100, "y has one class, 'a'; a classifier needs two"),
        ({}, NUMBERS[1:], "inconsistent numbers of samples"),
        ({}, NUMBERS + 0.5, "Unknown label type: continuous"),
        ({"lr": -1}, NUMBERS, "optim.lr: expected a number above 0, .*got -1"),
        ({"options": {"optim": {"l": 1}}}, NUMBERS, "--optim.l: no such option; did you mean --optim.lr?"),
    ],
)
def test_a_mistake_gets_a_sentence(keys: dict[str, Any], y: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        padless.TextClassifier(**keys).fit(TEXTS, y)


class OfNumbers(padless.TextClassifier):  # type: ignore[misc]
    """Writes each row of a table as a text, so that scikit-learn's checks, which make tables, can be made.

    What a table has and a list of texts has not is done here, and does not apply to ``TextClassifier``: a number of
    columns (``n_features_in_``) that ``predict`` compares, types of numbers, sparse tables, infinities and NaN. Nor
    do weights of samples and ``partial_fit``, which it does not have.
    """

    def fit(self, table: Any, y: Any) -> OfNumbers:
        texts = self.texts(table)
        self.n_features_in_ = len(texts[0].split())
        return super().fit(texts, y)

    def predict(self, table: Any) -> np.ndarray:
        return super().predict(self.texts(table))

    def predict_proba(self, table: Any) -> np.ndarray:
        return super().predict_proba(self.texts(table))

    def texts(self, table: Any) -> list[str]:
        table, known = check_array(table), getattr(self, "n_features_in_", None)
        if known not in (None, table.shape[1]):
            name = type(self).__name__
            raise ValueError(f"X has {table.shape[1]} features, but {name} is expecting {known} features as input")
        return [" ".join(f"c{place}v{float(value):.2f}" for place, value in enumerate(row)) for row in table]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = True, False, False
        return tags


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_checks_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    check_estimator(OfNumbers(**SMALL))
