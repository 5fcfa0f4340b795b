# SPDX-License-Identifier: Apache-2.0
"""``explain``, as a method and as a command: what it says is true, what it writes is whole, law 9 for what is wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import padless
from harness.inference import explanation
from harness.inference.explanation import Explanation
from harness.inference.text_classifier import TextClassifier
from harness.scores.calibration import Decision
from tests.explained import TEXT, make_run

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module", params=[2, 3])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("explained"), request.param)


def test_scores_add_up_to_what_the_model_says(run: Path) -> None:
    model = padless.load(run)
    predicted, chances = model.predict(TEXT)["predicted"][0], model.predict_proba(TEXT)[0]
    for label in (None, *model.classes_):
        one = model.explain(TEXT, label)
        assert (one.predicted, one.label) == (predicted, label or predicted)
        number = list(model.classes_).index(one.label)
        assert one.probability == pytest.approx(chances[number], abs=1e-6)
        if len(chances) == 2:
            assert 1 / (1 + np.exp(-one.logit)) == pytest.approx(chances[number], abs=1e-6)
        assert sum(one.scores) == pytest.approx(one.logit - one.baseline, rel=1e-3, abs=2e-5)
        assert one.missed <= 1e-3 * abs(one.logit - one.baseline) + 2e-5
    if len(chances) == 2:
        first, second = (model.explain(TEXT, label) for label in model.classes_)
        np.testing.assert_allclose(first.scores, [-score for score in second.scores])
    else:
        logits = [model.explain(TEXT, label).logit for label in model.classes_]
        np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), chances, atol=1e-6)


def test_words_have_their_places(run: Path) -> None:
    one = padless.load(run).explain(TEXT)
    assert one.tokens == ("w1", "superb", "dull", "<unk>", "w1", "superb")
    assert [TEXT[slice(*span)] for span in one.spans if span] == ["W1", "superb", "dull", "nowhere", "w1", "superb"]
    frame = one.to_frame()
    assert list(frame) == ["token", "score", "start", "end"]
    assert frame["score"].sum() == pytest.approx(sum(one.scores))
    assert frame["start"].tolist() == [span[0] for span in one.spans if span]
    assert "".join(text for text, _ in one.pieces) == TEXT
    assert one.summary[2:] == ["unknown to the model: 1 of 6 words"]
    with pytest.raises(AttributeError):
        one.label = "other"  # type: ignore[misc]


def test_nothing_left_unknown_and_very_long(run: Path) -> None:
    model = padless.load(run)
    empty = model.explain("")
    assert (empty.tokens, empty.spans, empty.num_tokens, empty.pieces) == (("<unk>",), (None,), 0, [])
    assert empty.scores[0] == pytest.approx(empty.logit - empty.baseline, rel=1e-3, abs=2e-5)
    assert empty.to_frame()["start"].isna().all()
    assert "no word of the text was left" in str(empty)
    unknown = model.explain("nowhere never none")
    assert unknown.summary[2:] == ["unknown to the model: 3 of 3 words"]
    assert sum(score != 0 for _, score in unknown.pieces) == 3
    long = model.explain("w1 superb " * 1_000_000)
    assert (len(long.tokens), long.num_tokens) == (64, 2_000_000)
    assert long.summary[2:] == ["the model has read 64 of 2,000,000 words"]
    assert len(long.to_html()) < 30_000
    assert len(str(long)) < 5_000


@pytest.mark.parametrize("text", [["a"], None, 3, b"a"])
def test_what_is_no_text_is_refused(run: Path, text: Any) -> None:
    with pytest.raises(padless.UserError, match="is not a text; explain takes one"):
        padless.load(run).explain(text)


def test_a_class_that_is_not_there(run: Path) -> None:
    model = padless.load(run)
    names = ", ".join(model.classes_)
    with pytest.raises(padless.UserError, match=rf"^label: the model has no class 'other'; it has {names}$"):
        model.explain("a", "other")
    wrong: Any = 1
    with pytest.raises(padless.UserError, match="no class '1'"):
        model.explain("a", wrong)
    with pytest.raises(padless.UserError, match=f"did you mean '{model.classes_[0]}'"):
        model.explain("a", model.classes_[0] + "s")


def test_what_reads_no_weights_cannot_explain() -> None:
    scorer: Any = SimpleNamespace(labels=["a", "b"], label_type="text", decision=Decision())
    with pytest.raises(padless.UserError, match=r"^model\.onnx: explanations need the weights and torch; load the run"):
        TextClassifier(scorer, "model.onnx").explain("a")


def test_pieces_give_the_text_and_keep_the_sum() -> None:
    spans = [(4, 8), (4, 8), (0, 3), None, (6, 9)]
    parts = explanation.pieces_of("one two, three", spans, [1.0, 2.0, -1.0, 5.0, 0.5])
    assert parts == [("one", -1.0), (" ", 0.0), ("two, ", 3.5), ("three", 0.0)]
    assert explanation.strongest([("A ", 1.0), ("a", 2.0), ("b", -0.5), ("c", 0.01)]) == ([("a", 3.0)], [("b", -0.5)])
    assert explanation.without_faint([("a", 1.0), ("b", 0.01), (" ", 0.0), ("c", -0.5)]) == [
        *(("a", 1.0, 1.0), ("b ", 0.0, 0.0), ("c", -0.5, -0.5)),
    ]
    assert explanation.as_plain([("a\r\n", 0.0), ("b\tc", 1.0)]) == "a\nb c[+1.00]"


def test_scores_that_miss_are_told() -> None:
    one = Explanation(
        **{"text": "a", "label": "x", "predicted": "y", "probability": 0.25, "tokens": ("a",), "spans": ((0, 1),)},
        **{"scores": (0.5,), "logit": 1.0, "baseline": 0.4, "num_tokens": 1, "points": 1025},
    )
    assert one.summary[2:] == ["the scores miss the logit by 0.1, after 1,025 steps"]
    assert one.head == "x 0.2500 (predicted: y)  score +1.00 = base +0.40 + words +0.60"
