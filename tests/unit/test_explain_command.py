# SPDX-License-Identifier: Apache-2.0
"""``explain`` as a command: what it writes is whole, law 9 for what is wrong."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import padless
from harness.__main__ import main
from harness.config import ModelConfig
from harness.inference.bundle import write_bundle
from harness.model.language import LanguageModel
from harness.rundir.bundle_files import write_vocabulary
from harness.rundir.layout import BUNDLE
from preprocessing.base import cli, screen
from preprocessing.dataset.shards import read_manifest
from tests.explained import TEXT, make_run

pytestmark = pytest.mark.thorough


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with two classes, beside the current directory."""
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path, 2)


def explain(*arguments: object) -> int:
    return cli.run(main, ["explain", *map(str, arguments)])


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_in_a_file_words_have_numbers(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(two, TEXT, "w1") == 0
    one = padless.load(two).explain(TEXT)
    first, second, _ = capsys.readouterr().out.split("\n\n")
    assert first.startswith(f"{one.label} {one.probability:.4f}  score {one.logit:+.2f} = ")
    marked = dict(re.findall(r"(\w+)(?:</b>)?\[([+-]\d+\.\d\d)\]", first))
    largest = max(abs(score) for score in one.scores)
    strong = [number for number, score in enumerate(one.scores) if abs(score) > 0.2 * largest]
    assert strong
    for number in strong:
        start, end = one.spans[number] or (0, 0)
        assert f"{TEXT[start:end]}[{one.scores[number]:+.2f}]" in first
    assert set(marked) <= {"W1", "superb", "dull", "nowhere", "w1"}
    assert f"for {one.label}: " in first
    assert "against: " in first
    assert second.splitlines()[1] == f"w1[{padless.load(two).explain('w1').scores[0]:+.2f}]"
    assert str(one).splitlines()[0] in first


def test_in_a_terminal_words_have_colours(
    two: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "is_terminal", lambda stream: True)
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert explain(two, "superb \x1b[2Jdull") == 0
    coloured = capsys.readouterr().out
    assert "\x1b[2J" not in coloured
    assert "\\u001b" in coloured
    assert re.search(r"\x1b\[[0-9;]*48;2;\d+;\d+;\d+msuperb\x1b\[0m", coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    assert explain(two, "superb dull") == 0
    plain = capsys.readouterr().out
    assert "48;2" not in plain
    assert re.search(r"superb\[[+-]\d", plain)


def test_json_is_the_explanation(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain("--run", two, TEXT, "half a \ud83d letter", "--format", "json", "--label", "negative") == 0
    first, second = lines(capsys.readouterr().out)
    one = padless.load(two).explain(TEXT, "negative")
    assert first["scores"] == pytest.approx(list(one.scores), rel=1e-3, abs=1e-5)
    assert [first["text"][slice(*span)] for span in first["spans"]] == [
        "W1",
        "superb",
        "dull",
        "nowhere",
        "w1",
        "superb",
    ]
    assert {name: first[name] for name in ("label", "predicted", "tokens")} == {
        **{"label": "negative", "predicted": one.predicted, "tokens": list(one.tokens)}
    }
    assert second["text"] == "half a \ufffd letter"


FILE_TEXTS = ["w1 superb", "dull, <i>really</i>", "awful w2", "great"]


def write_table(path: Path, column: str) -> None:
    frame = pd.DataFrame({"number": range(4), column: FILE_TEXTS})
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_rows_of_files(two: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(f"in.{ending}")
    write_table(source, "review")
    assert explain(two, "--input", source, "--column", "review", "--output", "out.jsonl", "--batch", 3) == 0
    assert capsys.readouterr().out == "4 explanations written to out.jsonl\n"
    found = lines(Path("out.jsonl").read_text())
    assert [one["row"] for one in found] == [1, 2, 3, 4]
    assert [one["text"] for one in found] == FILE_TEXTS
    model = padless.load(two)
    for one, text in zip(found, FILE_TEXTS, strict=True):
        assert one["scores"] == pytest.approx(list(model.explain(text).scores), rel=1e-3, abs=1e-5)
    assert explain(two, "--input", source, "--column", "review", "--format", "json", "--rows", 2) == 0
    assert [one["row"] for one in lines(capsys.readouterr().out)] == [1, 2]


def test_a_wrong_row_is_refused_before_any_is_explained(
    two: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocessing.corpus.tables.MOST_ROWS", 1)
    Path("in.jsonl").write_text('{"text": "superb"}\n{"text": "dull"}\n{"text": null}\n')
    assert explain(two, "--input", "in.jsonl", "--format", "json") == 3
    output = capsys.readouterr()
    assert output.out == ""
    assert "in.jsonl: row 3: column 'text' holds no text; fill or remove the row" in " ".join(output.err.split())
    assert explain(two, "--input", "in.jsonl", "--format", "json", "--rows", 2) == 0
    assert [one["text"] for one in lines(capsys.readouterr().out)] == ["superb", "dull"]
    Path("none.jsonl").write_text("\n")
    assert explain(two, "--input", "none.jsonl") == 3
    assert "none.jsonl: holds no rows" in capsys.readouterr().err


def test_standard_input(two: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["-"], ["--input", "-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("superb\nüber dull\n".encode())))
        assert explain(two, *words, "--format", "json") == 0
        assert [one["text"] for one in lines(capsys.readouterr().out)] == ["superb", "über dull"]


class Page(HTMLParser):
    """What stands on a page: its elements, and the letters of each card's text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.marks: list[tuple[str, str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        if tag == "p":
            self.inside = named.get("class") == "padless-words"
            self.texts += [""] * self.inside
        if tag == "mark" and self.inside:
            self.marks.append((named["class"] or "", named["title"] or ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "p"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data


def test_a_page_is_escaped_and_needs_nothing_else(two: Path) -> None:
    hostile = 'superb <script>alert("x")</script> </p></article> dull \x00\x1b\u202e " onload=\'x\' &lt;b&gt;'
    Path("texts.jsonl").write_text(json.dumps({"text": hostile}) + "\n" + json.dumps({"text": "awful"}) + "\n")
    assert explain(two, "--input", "texts.jsonl", "--output", "out.html") == 0
    content = Path("out.html").read_text()
    page = Page()
    page.feed(content)
    assert page.texts == [
        hostile.replace("\x00", "\\u0000").replace("\x1b", "\\u001b").replace("\u202e", "\\u202e"),
        "awful",
    ]
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert page.tags.count("article") == 2
    assert "http:" not in content
    assert "https:" not in content
    assert content.endswith("</html>\n")
    model = padless.load(two)
    (score,) = model.explain("awful").scores
    assert page.marks[-1] == ("for" if score > 0 else "against", f"{score:+.3f}")
    assert content.count("Integrated gradients") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([], 2, 'no run named: explain RUN "text" takes a run directory, then texts'),
        (["run"], 2, 'nothing to explain, or two things: give texts (runs/mine "a fine film"), - or --input FILE'),
        (["run", "a", "--input", "in.csv"], 2, "nothing to explain, or two things"),
        (["run", "in.csv"], 2, "in.csv: a file, not a text; explain its rows with --input in.csv"),
        (["run", "a", "--class", "negative"], 2, "--class: no such option; it is --label here"),
        (["run", "--input", "in.csv", "--max_rows", "2"], 2, "--max_rows: no such option; it is --rows here"),
        (["run", "a", "--rows", "3"], 2, "column and rows say what is read of --input; name the file there"),
        (["run", "--input", "in.csv", "--rows", "0"], 2, "rows: 0 is out of range: expected at least 1, or null"),
        (["run", "a", "--label", "good"], 2, "label: the model has no class 'good'; it has negative, positive"),
        (
            ["run", "a", "--output", "out.pdf"],
            2,
            "--output out.pdf: unknown ending; use .html, .jsonl or .txt, or set --format",
        ),
        (["run", "--input", "in.csv"], 3, "in.csv: no column 'text'; it has 'number', 'review'; use --column"),
        (
            ["run", "--input", "in.csv", "--column", "reviews"],
            3,
            "in.csv: no column 'reviews'; it has 'number', 'review'",
        ),
        (["run", "--input", "none.csv", "--column", "review"], 3, "none.csv"),
        (
            ["run", "a", "--output", "in.csv/out.html"],
            2,
            "in.csv: cannot be written (it is a file, and a directory is needed here); name another --output",
        ),
        (["run", "a", "--label", "1"], 2, "label: the model has no class '1'"),
        (["data", "a"], 3, "data"),
        (["nowhere", "a"], 3, "nowhere"),
        (["language", "a"], 2, "language/bundle/bundle.json: a pretrained language model, which knows no labels"),
    ],
)
def test_law_9(two: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, sentence: str) -> None:
    write_table(Path("in.csv"), "review")
    if arguments[:1] == ["language"]:
        write_language_model(Path("language"))
    assert explain(*arguments) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert sentence in " ".join(output.err.split())
    assert output.err.count("error: ") == 1
    assert not list(Path().glob("out.*"))


def write_language_model(run: Path) -> None:
    """A pretrained language model, which has no classes."""
    manifest = read_manifest(Path("data"))
    config = ModelConfig(embedding_dim=4, hidden_size=4)
    (run / BUNDLE).mkdir(parents=True)
    write_vocabulary(run / BUNDLE, Path("data"))
    write_bundle(run / BUNDLE, LanguageModel(config, manifest.vocabulary_size), manifest, step=1)


def test_a_notebook_shows_the_marked_text(two: Path) -> None:
    one = padless.load(two).explain("superb <script>")
    page = Page()
    page.feed(one._repr_html_())
    assert page.texts == ["superb <script>"]
    assert page.tags[0] == "style"
    assert "script" not in page.tags
    assert repr(one) == f"<padless explanation of 'superb <script>': 1 token, {one.label} {one.probability:.4f}>"


@pytest.mark.parametrize("name", ["out.html", "out.jsonl", "out.txt"])
def test_a_file_of_something_else_is_replaced_only_where_that_is_wanted(
    two: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_text("mine\n")
    assert explain(two, "a fine film", "--output", name) == 2
    assert capsys.readouterr().err.startswith(f"error: --output {name}: is there already, and holds something else;")
    assert Path(name).read_text() == "mine\n"
    assert explain(two, "a fine film", "--output", name, "--overwrite", "true") == 0
    assert explain(two, "a dull film", "--output", name) == 0  # which it wrote itself
    Path("in.txt").write_text("a fine film\n")
    os.link("in.txt", "hard.txt")
    for more in ([], ["--overwrite", "true"]):
        assert explain(two, "--input", "in.txt", "--output", "hard.txt", *more) == 2
        assert capsys.readouterr().err == "error: --output hard.txt: is the input; name another file\n"
    assert Path("in.txt").read_text() == "a fine film\n"
