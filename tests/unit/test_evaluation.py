# SPDX-License-Identifier: Apache-2.0
"""Evaluations and explanations: true output, complete files, law 9 for errors; new labelled rows have the same figures
as in a dataset.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import padless
from harness.inference.bundle import Bundle
from harness.inference.evaluation import assess
from harness.inference.scoring import loader_over, score
from harness.ranks.distributed import World
from harness.rundir.bundle_files import read_info, source_of, write_info
from harness.rundir.layout import BUNDLE
from preprocessing.dataset.shards import VOCABULARY, Split, read_manifest
from preprocessing.text.vocabulary import Vocabulary
from tests.bundles import shared_run, write_drawn
from tests.commands import read_json, unwrapped
from tests.corpora import Command, write_csv
from tests.datasets import rewritten, rows_by_number, split_of, texts_in, write_dataset

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a bundle, beside its dataset and its test rows as a CSV file."""
    folder = tmp_path_factory.mktemp("two")
    texts = write_dataset(folder / "data", {"train": 80, "validation": 30, "test": 60})
    manifest = read_manifest(folder / "data")
    write_drawn(folder / "run" / "bundle", folder / "data", embedding_dim=8, hidden_size=8)
    labels = rows_by_number(folder / "data", "test")
    rows = [(text, manifest.labels[labels[number].label]) for number, text in enumerate(texts["test"])]
    write_csv(folder / "labelled.csv", rows)
    return folder / "run"


@pytest.fixture
def evaluate(command: Command, run: Path) -> Callable[..., str]:
    """``padless evaluate`` with more words; what it printed."""

    def evaluated(*words: object, of: Path = run) -> str:
        assert command("evaluate", "--run", of, "--device", "cpu", *words) == 0, command.err
        return unwrapped(command.out)

    return evaluated


def test_the_figures_are_those_of_the_same_rows_in_the_dataset(run: Path, evaluate: Callable[..., str]) -> None:
    out = evaluate("--input", run.parent / "labelled.csv")
    found = read_json(run / "evaluation" / "labelled.csv.json")
    bundle, manifest = Bundle(run / "bundle"), read_manifest(run.parent / "data")
    split = Split(run.parent / "data", manifest, "test")
    scores = score(bundle.model, loader_over(split, World(), 16, "padded", torch.device("cpu")), World())
    expected = assess(scores, bundle, split)
    for name in ("rows", "confusion", "per_class", "labels", "temperature", "threshold", "accuracy"):
        assert found[name] == expected[name], name
    for name in ("log_loss", "roc_auc", "ece"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5)
    assert f"{found['accuracy']:.4f}" in out
    assert [m["row"] for m in found["mistakes"]] == [m["row"] + 1 for m in expected["mistakes"]]
    chances = [mistake["probability"] for mistake in found["mistakes"]]
    assert (len(chances), chances) == (10, sorted(chances, reverse=True))
    texts = (run.parent / "labelled.csv").read_text().splitlines()[1:]
    for mistake, of_split in zip(found["mistakes"], expected["mistakes"], strict=True):
        assert texts[mistake["row"] - 1] == f"{mistake['text']},{mistake['label']}"
        assert mistake["label"] != mistake["predicted"]
        assert of_split["tokens"] == bundle.vocabulary.tokens.take(bundle.encoder([mistake["text"]]).ids).to_pylist()
        assert len(of_split["weights"]) == len(of_split["tokens"])


def test_training_texts_and_texts_that_cannot_be_read_are_counted(
    run: Path, evaluate: Callable[..., str], tmp_path: Path, command: Command
) -> None:
    """As long as the dataset of the training exists."""
    names, data = Bundle(run / "bundle").info.labels, run.parent / "data"
    words = Vocabulary.read(data / VOCABULARY).tokens
    known = [" ".join(words.take(ids).to_pylist()) for ids in texts_in(split_of(data))[:7]]
    path = write_csv(tmp_path / "some.csv", [(text, names[0]) for text in [*known, "zebra quagga", "zebra"]])
    given = ("--output", tmp_path, "--input", path)
    unknown = "warning: rows were not compared with the training texts: their dataset was moved or changed\n"
    evaluate(*given)
    assert command.err == unknown
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(f"data: {data}\n")
    said = evaluate(*given, of=tmp_path / "run")
    assert "warning: 7 of 9 rows (" in command.err
    assert "note: 2 of 9 rows (" in said


def test_a_dataset_that_was_rebuilt_under_its_name_is_refused_unless_it_is_named(
    run: Path, command: Command, tmp_path: Path
) -> None:
    """Its test rows may be rows that the run was trained on."""
    data, own = tmp_path / "data", tmp_path / "run"
    shutil.copytree(run.parent / "data", data)
    shutil.copytree(run / "bundle", own / "bundle")
    (own / "config.yaml").write_text(f"data: {data}\n")
    rewritten(data, "test", label=lambda labels: 1 - labels)
    given = ("evaluate", own, "--device", "cpu", "--quiet")
    assert command(*given) == 3
    assert command.sentence == (
        f"{data}: not the dataset that {own} was trained on, but one built since, and its rows may be training rows; "
        f"build the old one again, or score this one all the same with --data {data}"
    )
    assert not (own / "evaluation").exists()
    assert command(*given, "--data", data) == 0
    assert command.err == (
        "warning: rows were not compared with the training texts: their dataset was moved or changed\n"
    )


def test_labels_that_the_run_does_not_know_may_be_left_out(
    run: Path, evaluate: Callable[..., str], tmp_path: Path
) -> None:
    names = Bundle(run / "bundle").info.labels
    rows = [("fine film", names[0]), ("odd", "meh"), ("bad", names[1]), ("odd", "meh"), ("odd", "so so")]
    path = write_csv(tmp_path / "strange.csv", rows)
    said = evaluate("--input", path, "--output", tmp_path, "--source.neutral", "[meh, so so]")
    assert "strange.csv: 2 rows, 3 left out" in said
    swapped = f"{{{names[0]}: [{names[1]}, meh], {names[1]}: [{names[0]}, so so]}}"
    assert "strange.csv: 5 rows" in evaluate("--input", path, "--output", tmp_path, "--source.labels", swapped)
    rows = read_json(tmp_path / "strange.csv.json")["confusion"]
    assert sum(count for label, _, count in rows if label == 0) == 3


@pytest.mark.parametrize("name", ["evaluate", "explain", "predict"])
def test_all_commands_read_new_rows_as_the_corpus_was(name: str, run: Path, command: Command, tmp_path: Path) -> None:
    """Quoted with ', between semicolons, in an encoding that cannot be detected."""
    names = Bundle(run / "bundle").info.labels
    shutil.copytree(run, tmp_path / "run")
    manifest = read_manifest(run.parent / "data")
    source = {"text_column": "text", "label_column": "label", "labels": "auto", "quote": "'", "encoding": "cp1251"}
    files = [{"name": "a.csv", "format": "csv", "split": None, "read_as": {"delimiter": ";"}}]
    provenance = {"config": {"source": source}, "sources": files}
    bundle = tmp_path / "run" / "bundle"
    write_info(bundle, replace(read_info(bundle), source=source_of(replace(manifest, provenance=provenance))))
    text = "ночь, улица, w1 ''фонарь''"
    rows = "".join(f"'{text}';'{names[at % 2]}';1,2\n" for at in range(4))  # a comma in each line would do too
    (tmp_path / "new.csv").write_bytes(f"text;label;a,b\n{rows}".encode("cp1251"))
    more = {"evaluate": ["--output", tmp_path], "explain": ["--json"]}
    more["predict"] = ["--output", tmp_path / "out.jsonl", "--processes", "1"]
    words = ["--run", tmp_path / "run", "--input", tmp_path / "new.csv", "--device", "cpu", *more[name]]
    assert command(name, *words) == 0, command.err
    if name == "evaluate":
        seen = [mistake["text"] for mistake in read_json(tmp_path / "new.csv.json")["mistakes"]]
    else:
        out = command.out if name == "explain" else (tmp_path / "out.jsonl").read_text()
        seen = [json.loads(line)["text"] for line in out.splitlines()]
    assert set(seen) == {"ночь, улица, w1 'фонарь'"}


TEXT = "W1 <b>superb</b>, dull nowhere; w1 &amp; superb."
FILE_TEXTS = ["w1 superb", "dull, <i>really</i>", "awful w2", "great"]


explained, made = shared_run(2, 3, wide=1 << 12), shared_run(wide=1 << 12)


@pytest.fixture
def two(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with two classes, its dataset, and a table in the current directory."""
    monkeypatch.chdir(tmp_path)
    Path("run").symlink_to(made)
    Path("data").symlink_to(made.parent / "data")
    pd.DataFrame({"number": range(4), "review": FILE_TEXTS}).to_csv("in.csv", index=False)
    return Path("run")


def records(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_scores_add_up_to_what_the_model_says(explained: Path) -> None:
    model = padless.load(explained)
    predicted, chances = model.predict(TEXT)[0], model.predict_proba(TEXT)[0]
    for label in (None, *model.classes_):
        one = model.explain(TEXT, label)
        assert (one.predicted, one.label) == (predicted, label or predicted)
        number = list(model.classes_).index(one.label)
        assert one.probability == pytest.approx(chances[number], abs=1e-6)
        assert sum(one.scores) == pytest.approx(one.logit - one.baseline, rel=1e-3, abs=2e-5)
        assert one.error <= 1e-3 * abs(one.logit - one.baseline) + 2e-5
    if len(chances) == 2:
        first, second = (model.explain(TEXT, label) for label in model.classes_)
        np.testing.assert_allclose(first.scores, [-score for score in second.scores])
    else:
        logits = [model.explain(TEXT, label).logit for label in model.classes_]
        np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), chances, atol=1e-6)


def test_words_have_their_places(explained: Path) -> None:
    one = padless.load(explained).explain(TEXT)
    assert one.tokens == ("w1", "superb", "dull", "<unk>", "w1", "superb")
    assert [TEXT[slice(*span)] for span in one.spans if span] == ["W1", "superb", "dull", "nowhere", "w1", "superb"]
    assert "".join(text for text, _ in one.segments) == TEXT
    assert one.summary == ["unknown to the model: 1 of 6 words"]


def test_a_text_without_a_known_word_gets_the_shares_of_the_classes(explained: Path) -> None:
    model, info = padless.load(explained), read_info(explained / BUNDLE)
    rows = np.array([*info.splits["train"]["labels"].values()]) + 1
    for text in ("nowhere never none", ""):
        np.testing.assert_allclose(model.predict_proba([text, "w1 superb"])[0], rows / rows.sum(), atol=1e-6)
        one = model.explain(text, model.classes_[0])
        assert one.probability == pytest.approx(rows[0] / rows.sum(), abs=1e-6)
        assert (set(one.scores), one.logit) == ({0.0}, one.baseline)
        assert one.summary == ["no known word: these are the shares of the classes among the training rows"]


def test_nothing_left_and_very_long(explained: Path) -> None:
    model = padless.load(explained)
    empty = model.explain("")
    assert (empty.tokens, empty.spans, empty.num_tokens, empty.segments) == (("<unk>",), (None,), 0, [])
    long = model.explain("w1 superb " * 10_000)
    assert (len(long.tokens), long.num_tokens) == (64, 20_000)
    assert long.summary == ["the model has read 64 of 20,000 words"]


def test_in_a_file_words_have_numbers(two: Path, command: Command) -> None:
    assert command("explain", two, TEXT, "w1") == 0
    one = padless.load(two).explain(TEXT)
    first, second, _ = command.out.split("\n\n")
    assert first.startswith(f"{one.label} {one.probability:.4f}  score {one.logit:+.2f} = ")
    assert first == str(one)
    assert second.splitlines()[1] == f"w1[{padless.load(two).explain('w1').scores[0]:+.2f}]"
    assert command("explain", two, "superb \x1b[2Jdull") == 0
    assert "\\u001b[2J" in command.out


def test_json_is_the_explanation(two: Path, command: Command) -> None:
    assert command("explain", "--run", two, TEXT, "--json", "--label", "negative") == 0
    (first,) = records(command.out)
    one = padless.load(two).explain(TEXT, "negative")
    assert first["scores"] == pytest.approx(list(one.scores), rel=1e-3, abs=1e-5)
    assert [first["text"][slice(*span)] for span in first["spans"]][1:3] == ["superb", "dull"]
    assert (first["label"], first["predicted"], first["tokens"]) == ("negative", one.predicted, list(one.tokens))


def test_texts_of_standard_input(two: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("predict", "explain"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"dull\nw1 superb")))
        assert command(name, two, "-", "--json") == 0, command.err
        assert [row["text"] for row in records(command.out)] == ["dull", "w1 superb"]


def test_rows_of_files(two: Path, command: Command) -> None:
    words = ("explain", two, "in.csv", "--source.text_column", "review", "--json", "--batch", 3)
    assert command(*words) == 0
    rows = records(command.out)
    assert [(row["row"], row["text"]) for row in rows] == list(enumerate(FILE_TEXTS, 1))
    scores = padless.load(two).explain(FILE_TEXTS[1]).scores
    assert rows[1]["scores"] == pytest.approx(list(scores), rel=1e-3, abs=1e-5)
    assert command(*words, "--rows", 2) == 0
    assert [row["row"] for row in records(command.out)] == [1, 2]


def test_html_is_escaped(two: Path) -> None:
    hostile = 'superb <script>alert("x")</script> </p> dull \x00\x1b\u202e &lt;b&gt;'
    model = padless.load(two)
    element = model.explain(hostile)._repr_html_()  # for notebooks
    assert not re.search("<script|<link|<img|<iframe|https?:|[\x00\x1b\u202e]", element)
    assert "\\u0000\\u001b\\u202e" in element
    awful = model.explain("awful")
    kind, title = "for" if awful.scores[0] > 0 else "against", re.escape(f"{awful.scores[0]:+.3f}")
    assert re.search(rf'<mark class="{kind}" style="[^"]*" title="{title}">awful</mark>', awful.to_html())
