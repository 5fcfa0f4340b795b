# SPDX-License-Identifier: Apache-2.0
"""A loaded model: texts of every kind in, frames and arrays out; and messages for a path without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import padless
from harness.__main__ import main
from harness.inference import model as model_module
from harness.rundir.layout import BUNDLE
from preprocessing.labels import as_found
from tests.bundles import write_drawn, write_run

TEXTS = ["a fine film", "awful w1 w2", "", "w1 w2 w3 w4 odd"]


@pytest.fixture(scope="module", params=[2, 3])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("two"), request.param)


@pytest.mark.parametrize(("dtype", "values"), [("Int64", [3, 10]), ("bool", [False, True])])
def test_predictions_have_the_type_of_the_labels(dtype: Any, values: list[Any], tmp_path: Path) -> None:
    """So that predictions can be compared with a frame's labels, in memory and in each kind of file."""
    texts = [" ".join(f"w{word}" for word in words) for words in np.random.default_rng(3).integers(0, 30, (60, 12))]
    frame = pd.DataFrame({"text": texts, "label": pd.Series(values * 30, dtype=dtype)})
    padless.prepare(frame, output=tmp_path / "data", options={"vocabulary.min_count": 1, "executor.workers": 1})
    write_drawn(tmp_path / "run" / BUNDLE, tmp_path / "data", seed=4)
    model = padless.load(tmp_path / "run")
    found = model.predict(frame["text"])
    right = (model.predict_proba(frame["text"])[:, 1] >= 0.4) == (frame["label"] == values[1])
    assert 0 < right.mean() == (frame["label"] == found).mean() < 1
    assert (found.dtype, model.classes_.tolist()) == (pd.Series(values).dtype, values)
    frame.to_parquet(tmp_path / "new.parquet")
    for name in ("a.parquet", "a.csv"):
        words = ["--run", tmp_path / "run", "--input", tmp_path / "new.parquet", "--output", tmp_path / name]
        assert main(["predict", *map(str, words)]) == 0
        read = padless.open_predictions(tmp_path / name)
        assert (read["label"] == read["predicted"]).mean() == right.mean(), name
    assert pd.read_parquet(tmp_path / "a.parquet")["predicted"].dtype == pd.Series(values).dtype
    assert model.explain("w1 w2", values[0]).label == as_found(values[0])


def test_texts_come_in_many_shapes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = padless.load(run)
    expected = model.predict_proba(TEXTS)
    column = pd.Series(TEXTS, index=[7, 3, 5, 1], name="text")
    shapes = [tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, object), column, pa.array(TEXTS)]
    for texts in shapes:
        np.testing.assert_array_equal(model.predict_proba(texts), expected)
    joined = column.to_frame().join(model.predict_frame(column))
    assert joined.index.tolist() == [7, 3, 5, 1]
    assert joined["predicted"].tolist() == model.predict(TEXTS).tolist()
    np.testing.assert_allclose(model.predict_proba(TEXTS[0]), expected[:1], atol=1e-6)
    assert model.predict_proba([]).shape == (0, len(model.classes_))
    monkeypatch.setattr(model_module, "CHUNK_ROWS", 2)
    np.testing.assert_allclose(model.predict_proba(TEXTS), expected, atol=1e-6)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["a", None], r"texts\[1\] is None, not a text; leave it out, or give it one"),
        (b"a", "a bytes is no list of strings"),
        (pd.DataFrame({"review": ["a"], "stars": [1]}), "a DataFrame is no list of strings, and no column of a table"),
    ],
)
def test_what_is_no_text_is_refused(two: Path, texts: Any, sentence: str) -> None:
    with pytest.raises(padless.UserError, match=sentence):
        padless.load(two).predict(texts)


def test_the_metrics_of_a_run_as_a_frame(tmp_path: Path) -> None:
    lines = [
        {"kind": "train", "step": 5, "loss": 0.7},
        {"kind": "validation", "step": 10, "accuracy": 0.5, "log_loss": "nan", "best": True},
        {"kind": "train", "step": 15, "loss": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr')
    frame = padless.read_metrics(tmp_path)
    assert list(frame) == ["kind", "step", "loss", "accuracy", "log_loss", "best"]
    assert frame["step"].tolist() == [5, 10, 15]
    train = padless.read_metrics(str(tmp_path), "train")
    assert (list(train), train["loss"].tolist()) == (["kind", "step", "loss"], [0.7, 0.5])
    with pytest.raises(padless.UserError, match="has no line of the kind 'valid'; it has train, validation"):
        padless.read_metrics(tmp_path, "valid")


def test_a_split_as_arrow_has_ids_and_words(two: Path) -> None:
    data = padless.open_dataset(two.parent / "data")
    table, frame = data.arrow("train"), data["train"]
    assert table.column_names == ["row", "label", "length", "ids", "text"]
    assert table["text"].to_pylist() == frame["text"].tolist()
    assert table["label"].to_pylist() == frame["label"].tolist()
    words = data.vocabulary.tokens.to_pylist()
    for ids, text, length in zip(*(table[name].to_pylist() for name in ("ids", "text", "length")), strict=True):
        assert " ".join(words[number] for number in ids) == text
        assert len(ids) == length
    with pytest.raises(KeyError, match="has no split 'test'; it has train"):
        data.arrow("test")
