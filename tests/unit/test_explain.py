# SPDX-License-Identifier: Apache-2.0
"""``explain``, as a method and as a command: true output, complete files, and law 9 for errors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import padless
from harness.__main__ import main
from preprocessing.base import cli
from tests.bundles import write_run

pytestmark = pytest.mark.thorough

TEXT = "W1 <b>superb</b>, dull nowhere; w1 &amp; superb."
FILE_TEXTS = ["w1 superb", "dull, <i>really</i>", "awful w2", "great"]


@pytest.fixture(scope="module", params=[2, 3])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("explained"), request.param, wide=1 << 12)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("two"), wide=1 << 12)


@pytest.fixture
def two(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with two classes, its dataset, and a table in the current directory."""
    monkeypatch.chdir(tmp_path)
    Path("run").symlink_to(made)
    Path("data").symlink_to(made.parent / "data")
    pd.DataFrame({"number": range(4), "review": FILE_TEXTS}).to_csv("in.csv", index=False)
    return Path("run")


def explain(*arguments: object) -> int:
    return cli.run(main, ["explain", *map(str, arguments)])


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_scores_add_up_to_what_the_model_says(run: Path) -> None:
    model = padless.load(run)
    predicted, chances = model.predict(TEXT)[0], model.predict_proba(TEXT)[0]
    for label in (None, *model.classes_):
        one = model.explain(TEXT, label)
        assert (one.predicted, one.label) == (predicted, label or predicted)
        number = list(model.classes_).index(one.label)
        assert one.probability == pytest.approx(chances[number], abs=1e-6)
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
    assert list(one.to_frame()) == ["token", "score", "start", "end"]
    assert "".join(text for text, _ in one.pieces) == TEXT
    assert one.summary[2:] == ["unknown to the model: 1 of 6 words"]


def test_nothing_left_unknown_and_very_long(run: Path) -> None:
    model = padless.load(run)
    empty = model.explain("")
    assert (empty.tokens, empty.spans, empty.num_tokens, empty.pieces) == (("<unk>",), (None,), 0, [])
    assert "no word of the text was left" in str(empty)
    unknown = model.explain("nowhere never none")
    assert unknown.summary[2:] == ["unknown to the model: 3 of 3 words"]
    long = model.explain("w1 superb " * 10_000)
    assert (len(long.tokens), long.num_tokens) == (64, 20_000)
    assert long.summary[2:] == ["the model has read 64 of 20,000 words"]


def test_in_a_file_words_have_numbers(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(two, TEXT, "w1") == 0
    one = padless.load(two).explain(TEXT)
    first, second, _ = capsys.readouterr().out.split("\n\n")
    assert first.startswith(f"{one.label} {one.probability:.4f}  score {one.logit:+.2f} = ")
    assert first == str(one)
    assert second.splitlines()[1] == f"w1[{padless.load(two).explain('w1').scores[0]:+.2f}]"
    assert explain(two, "superb \x1b[2Jdull") == 0
    assert "\\u001b[2J" in capsys.readouterr().out


def test_json_is_the_explanation(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain("--run", two, TEXT, "half a \ud83d letter", "--format", "json", "--label", "negative") == 0
    first, second = lines(capsys.readouterr().out)
    one = padless.load(two).explain(TEXT, "negative")
    assert first["scores"] == pytest.approx(list(one.scores), rel=1e-3, abs=1e-5)
    assert [first["text"][slice(*span)] for span in first["spans"]][1:3] == ["superb", "dull"]
    assert (first["label"], first["predicted"], first["tokens"]) == ("negative", one.predicted, list(one.tokens))
    assert second["text"] == "half a \ufffd letter"


def test_rows_of_files(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path("in.csv")
    assert explain(two, "--input", source, "--column", "review", "--output", "out.jsonl", "--batch", 3) == 0
    assert capsys.readouterr().out == "4 explanations written to out.jsonl\n"
    found = lines(Path("out.jsonl").read_text())
    assert [(one["row"], one["text"]) for one in found] == list(enumerate(FILE_TEXTS, 1))
    scores = padless.load(two).explain(FILE_TEXTS[1]).scores
    assert found[1]["scores"] == pytest.approx(list(scores), rel=1e-3, abs=1e-5)
    assert explain(two, "--input", source, "--column", "review", "--format", "json", "--rows", 2) == 0
    assert [one["row"] for one in lines(capsys.readouterr().out)] == [1, 2]


def test_a_page_is_escaped_and_needs_nothing_else(two: Path) -> None:
    hostile = 'superb <script>alert("x")</script> </p></article> dull \x00\x1b\u202e &lt;b&gt;'
    Path("texts.jsonl").write_text(json.dumps({"text": hostile}) + "\n" + json.dumps({"text": "awful"}) + "\n")
    assert explain(two, "--input", "texts.jsonl", "--output", "out.html") == 0
    page = Path("out.html").read_text()
    assert (page.count("<article"), page.count("</article>")) == (2, 2)
    assert not re.search("<script|<link|<img|<iframe|https?:|[\x00\x1b\u202e]", page)
    assert "\\u0000\\u001b\\u202e" in page
    (score,) = padless.load(two).explain("awful").scores
    kind = "for" if score > 0 else "against"
    assert re.search(rf'<mark class="{kind}" style="[^"]*" title="{re.escape(f"{score:+.3f}")}">awful</mark>', page)
    assert "<script" not in padless.load(two).explain("superb <script>")._repr_html_()  # for notebooks
