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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import padless
from harness.distributed.world import World
from harness.inference.bundle import Bundle
from harness.inference.evaluation import assess
from harness.inference.scoring import loader_over, score
from harness.rundir.bundle_files import read_info, source_of, write_info
from harness.rundir.layout import BUNDLE
from preprocessing.dataset.shards import Split, read_manifest
from tests.helpers.bundles import shared_run, write_drawn
from tests.helpers.commands import read_json, unwrapped
from tests.helpers.corpora import Command, contents, prepare, write_csv
from tests.helpers.datasets import rewritten, rows_by_number, write_dataset

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

    def run_evaluate(*words: object, run_folder: Path = run) -> str:
        assert command("evaluate", "--run", run_folder, "--device", "cpu", *words) == 0, command.err
        return unwrapped(command.out)

    return run_evaluate


def test_the_figures_are_those_of_the_same_rows_in_the_dataset(run: Path, evaluate: Callable[..., str]) -> None:
    out = evaluate("--input", run.parent / "labelled.csv")
    figures = read_json(run / "evaluation" / "labelled.csv.json")
    bundle, manifest = Bundle(run / "bundle"), read_manifest(run.parent / "data")
    split = Split(run.parent / "data", manifest, "test")
    scores = score(bundle.model, loader_over(split, World(), 16, "padded", torch.device("cpu")), World())
    expected = assess(scores, bundle, split)
    for name in ("rows", "confusion", "per_class", "labels", "temperature", "threshold", "accuracy"):
        assert figures[name] == expected[name], name
    for name in ("log_loss", "roc_auc", "ece"):
        assert figures[name] == pytest.approx(expected[name], abs=1e-5)
    assert f"{figures['accuracy']:.4f}" in out
    chances = [mistake["probability"] for mistake in expected["mistakes"]]
    assert (len(chances), chances) == (10, sorted(chances, reverse=True))
    rows = pd.read_csv(run.parent / "labelled.csv")
    for mistake in expected["mistakes"]:
        text, label = rows.iloc[mistake["row"]]
        tokens = bundle.vocabulary.tokens.take(bundle.encoder([text]).ids).to_pylist()
        assert (mistake["label"], mistake["tokens"], len(mistake["weights"])) == (label, tokens, len(tokens))


def test_texts_are_training_texts_by_their_words_and_not_by_their_ids(
    run: Path, evaluate: Callable[..., str], tmp_path: Path, command: Command
) -> None:
    """As long as the dataset of the training exists. An unknown word may be another one; rows without labels count
    where a language model learned from them.
    """
    evaluate("--input", run.parent / "labelled.csv", "--output", tmp_path / "figures")
    assert "were not compared with the training texts" in unwrapped(command.err)
    frame = [(f"fine film number{number % 2}", number % 2) for number in range(40)]
    long = "fine film number1 is good and fine film number0 is"
    source = write_csv(tmp_path / "in.csv", [*frame, ("anna is fine", 0), (long, 1)], ("text", "label"))
    write_csv(tmp_path / "more.csv", [("film is film",)], ("text",))
    words = ("--vocabulary.min_count", 2, "--splits.validation", 0, "--splits.test", 0)
    prepare(source, tmp_path / "data", "--source.unlabelled_path", tmp_path / "more.csv", *words)
    config = {"data": str(tmp_path / "data"), "init": {"weights": str(tmp_path / "first")}}
    write_drawn(tmp_path / "first" / "bundle", tmp_path / "data", language=True)
    write_drawn(tmp_path / "run" / "bundle", tmp_path / "data", facts={"started_from": {"source": "first"}})
    for folder in ("first", "run"):
        (tmp_path / folder / "config.yaml").write_text(json.dumps(config))
    rows = ["fine film number1", "anna is fine", "ben is fine", "film is film", long.replace("good", "odd"), "zebra"]
    new = write_csv(tmp_path / "new.csv", [(text, 0) for text in rows], ("text", "label"))
    output = evaluate("--input", new, "--output", tmp_path / "figures", run_folder=tmp_path / "run")
    assert "warning: 3 of 6 rows (50%) are training texts" in unwrapped(command.err)
    assert "note: 1 of 6 rows (" in output


def test_figures_of_another_run_and_edited_ones_stay(
    run: Path, trained: Path, tmp_path: Path, command: Command
) -> None:
    """Those of the same weights are written again, also after a kill between the two files."""
    data, output = run.parent / "data", tmp_path / "figures"
    words = ("evaluate", run, "--data", data, "--split", "train", "-o", output)
    for _ in range(2):
        assert command(*words) == 0
    (output / "train-predictions.parquet").unlink()
    assert command(*words) == 0
    files = contents(output)
    assert command("evaluate", trained, "--data", trained.parent / "data", "--split", "train", "-o", output) == 2
    assert contents(output) == files
    for name, content in files.items():
        edited = content.replace(b"accuracy", b"Accuracy", 1) if name.endswith(".json") else content + b" "
        (output / name).write_bytes(edited)
        assert command(*words) == 2
        assert name in command.sentence
        assert contents(output) == {**files, name: edited}
        (output / name).write_bytes(content)


def test_uncertain_texts_get_no_label(run: Path, tmp_path: Path, command: Command) -> None:
    """In every format."""
    model = padless.load(run)
    rows = pd.read_csv(run.parent / "labelled.csv")
    confidence = model.predict_proba(rows["text"]).max(axis=1)
    level = np.median(confidence)
    expected = np.where(confidence >= level, model.predict(rows["text"]), "")
    readers = {"csv": pd.read_csv, "jsonl": partial(pd.read_json, lines=True), "parquet": pd.read_parquet}
    for suffix, read in readers.items():
        target = tmp_path / f"out.{suffix}"
        assert command("predict", run, run.parent / "labelled.csv", "-o", target, "--abstain", level) == 0
        assert read(target)["predicted"].fillna("").tolist() == expected.tolist()
    sure = int(confidence.argmax())
    assert command("predict", run, rows["text"][sure], "--abstain", confidence[sure] + 1e-6) == 0
    assert command.out.startswith("(no label)  ")


def test_a_dataset_that_was_rebuilt_under_its_name_is_refused_unless_it_is_named(
    run: Path, command: Command, tmp_path: Path
) -> None:
    """Its test rows may be rows that the run was trained on."""
    data, run_copy = tmp_path / "data", tmp_path / "run"
    shutil.copytree(run.parent / "data", data)
    shutil.copytree(run / "bundle", run_copy / "bundle")
    (run_copy / "config.yaml").write_text(f"data: {data}\n")
    rewritten(data, "test", label=lambda labels: 1 - labels)
    arguments = ("evaluate", run_copy, "--device", "cpu", "--quiet")
    assert command(*arguments) == 3
    assert f"--data {data}" in command.sentence
    assert not (run_copy / "evaluation").exists()
    assert command(*arguments, "--data", data) == 0


def test_labels_that_the_run_does_not_know_may_be_named(
    run: Path, evaluate: Callable[..., str], tmp_path: Path
) -> None:
    names = Bundle(run / "bundle").info.labels
    rows = [("fine film", names[0]), ("odd", "meh"), ("bad", names[1]), ("odd", "meh"), ("odd", "so so"), ("odd", "")]
    path = write_csv(tmp_path / "strange.csv", rows)
    swapped = f"{{{names[0]}: [{names[1]}, meh], {names[1]}: [{names[0]}, so so]}}"
    options = ("--source.labels", swapped, "--source.missing_label", "drop")
    assert "strange.csv: 5 rows, 1 left out" in evaluate("--input", path, "--output", tmp_path, *options)
    rows = read_json(tmp_path / "strange.csv.json")["confusion"]
    assert sum(count for label, _, count in rows if label == 0) == 3


def test_evaluate_and_explain_read_new_rows_as_the_corpus_was(run: Path, command: Command, tmp_path: Path) -> None:
    """Quoted with ', between semicolons, in an encoding that cannot be detected."""
    names, bundle = Bundle(run / "bundle").info.labels, tmp_path / "run" / "bundle"
    shutil.copytree(run, tmp_path / "run")
    source = {"text_column": "text", "label_column": "label", "labels": "auto", "quote": "'", "encoding": "cp1251"}
    provenance = {"config": {"source": source | {"delimiter": ";"}}}
    manifest = replace(read_manifest(run.parent / "data"), provenance=provenance)
    write_info(bundle, replace(read_info(bundle), source=source_of(manifest)))
    row = "'ночь, улица, w1 ''фонарь''';'{}';1,2\n"  # a comma in each line would do too
    (tmp_path / "new.csv").write_bytes(f"text;label;a,b\n{''.join(map(row.format, names * 2))}".encode("cp1251"))
    words = ("--run", tmp_path / "run", "--input", tmp_path / "new.csv", "--device", "cpu")
    assert command("explain", *words, "--json") == 0, command.err
    assert [explanation["text"] for explanation in records(command.out)] == ["ночь, улица, w1 'фонарь'"] * 4
    assert command("evaluate", *words, "--output", tmp_path) == 0, command.err
    assert pd.read_parquet(tmp_path / "new.csv-predictions.parquet")["label"].tolist() == names * 2


TEXT = "W1 <b>superb</b>, dull nowhere; w1 &amp; superb."
FILE_TEXTS = ["w1 superb", "dull, <i>really</i>", "awful w2", "great"]


multi_run, trained = shared_run(2, 3, wide=1 << 12), shared_run(wide=1 << 12)


@pytest.fixture
def run_link(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with two classes, and a table in the current directory."""
    monkeypatch.chdir(tmp_path)
    Path("run").symlink_to(trained)
    pd.DataFrame({"number": range(4), "review": FILE_TEXTS}).to_csv("in.csv", index=False)
    return Path("run")


def records(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_scores_add_up_to_what_the_model_says(multi_run: Path) -> None:
    model = padless.load(multi_run)
    predicted, chances = model.predict(TEXT)[0], model.predict_proba(TEXT)[0]
    for label in (None, *model.classes_):
        explanation = model.explain(TEXT, label)
        assert (explanation.predicted, explanation.label) == (predicted, label or predicted)
        number = list(model.classes_).index(explanation.label)
        assert explanation.probability == pytest.approx(chances[number], abs=1e-6)
        assert sum(explanation.scores) == pytest.approx(explanation.logit - explanation.baseline, rel=2e-2, abs=5e-3)
    if len(chances) == 2:
        first, second = (model.explain(TEXT, label) for label in model.classes_)
        np.testing.assert_allclose(first.scores, [-score for score in second.scores])
    else:
        logits = [model.explain(TEXT, label).logit for label in model.classes_]
        np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), chances, atol=1e-6)


def test_words_have_their_places(trained: Path) -> None:
    model = padless.load(trained)
    explanation = model.explain(TEXT)
    assert explanation.tokens == ("w1", "superb", "dull", "<unk>", "w1", "superb")
    words = [TEXT[slice(*span)] for span in explanation.spans if span]
    assert words == ["W1", "superb", "dull", "nowhere", "w1", "superb"]
    assert "".join(text for text, _ in explanation.segments) == TEXT
    assert explanation.summary == ["unknown to the model: 1 of 6 words"]
    empty = model.explain("")
    assert (empty.tokens, empty.spans, empty.num_tokens, empty.segments) == (("<unk>",), (None,), 0, [])
    long = model.explain("w1 superb " * 10_000)
    assert (len(long.tokens), long.num_tokens) == (64, 20_000)
    assert long.summary == ["the model has read 64 of 20,000 words"]


def test_a_text_without_a_known_word_gets_the_shares_of_the_classes(multi_run: Path) -> None:
    model, info = padless.load(multi_run), read_info(multi_run / BUNDLE)
    rows = np.array([*info.splits["train"]["labels"].values()]) + 1
    for text in ("nowhere never none", ""):
        np.testing.assert_allclose(model.predict_proba([text, "w1 superb"])[0], rows / rows.sum(), atol=1e-6)
        explanation = model.explain(text, model.classes_[0])
        assert explanation.probability == pytest.approx(rows[0] / rows.sum(), abs=1e-6)
        assert (set(explanation.scores), explanation.logit) == ({0.0}, explanation.baseline)
        assert explanation.summary == ["no known word: these are the shares of the classes among the training rows"]


def test_texts_are_explained_in_lines(run_link: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("explain", run_link, TEXT, "superb \x1b[2Jdull") == 0
    explanation = padless.load(run_link).explain(TEXT)
    first, second, _ = command.out.split("\n\n")
    assert first.startswith(f"{explanation.label} {explanation.probability:.4f}  score {explanation.logit:+.2f} = ")
    assert (first, "\\u001b[2J" in second) == (str(explanation), True)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"dull\nw1 superb")))
    assert command("explain", run_link, "-", "--json") == 0, command.err
    assert [row["text"] for row in records(command.out)] == ["dull", "w1 superb"]


def test_rows_of_files(run_link: Path, command: Command) -> None:
    words = ("explain", run_link, "in.csv", "--source.text_column", "review", "--json")
    assert command(*words) == 0
    rows = records(command.out)
    assert [(row["row"], row["text"]) for row in rows] == list(enumerate(FILE_TEXTS, 1))
    assert command(*words, "--rows", 2, "--label", "negative") == 0
    assert [(row["row"], row["label"]) for row in records(command.out)] == [(1, "negative"), (2, "negative")]


def test_html_is_escaped(run_link: Path) -> None:
    hostile = 'superb <script>alert("x")</script> </p> dull \x00\x1b\u202e &lt;b&gt;'
    model = padless.load(run_link)
    element = model.explain(hostile)._repr_html_()  # for notebooks
    assert not re.search("<script|<link|<img|<iframe|https?:|[\x00\x1b\u202e]", element)
    assert "\\u0000\\u001b\\u202e" in element
    awful = model.explain("awful")
    kind, title = "for" if awful.scores[0] > 0 else "against", re.escape(f"{awful.scores[0]:+.3f}")
    assert re.search(rf'<mark class="{kind}" style="[^"]*" title="{title}">awful</mark>', awful._repr_html_())
