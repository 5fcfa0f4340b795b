# SPDX-License-Identifier: Apache-2.0
"""``predict`` on files: input columns are unchanged, however the work is cut, interrupted and continued. The scorer
has no weights.
"""

from __future__ import annotations

import bz2
import io
import json
import os
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.inference import predict as predicting
from harness.inference.predict import ScoredPart, claim_predictions
from harness.inference.scorer import Scorer
from harness.metrics.calibration import Decision
from padless.commands import main
from padless.core import cli, jobs
from padless.core.errors import UserError
from padless.core.jobs import Share
from preprocessing.config import ReadingOptions
from preprocessing.text.vocabulary import UNK
from tests.helpers.commands import unwrapped

LABELS = ["bad", 'good, or "fine"']
COLUMNS = ("predicted", "probability_bad", 'probability_good, or "fine"')
LOGIT = 1.0986122886681096
"""Of three to one, so that probabilities are 0.75 and 0.25 to the last bit."""


class Stub(Scorer):
    """A scorer and a predictor: a text is good if it has an even number of characters."""

    texts_seen: ClassVar[list[str]] = []
    """Every text that was encoded since the latest command began."""
    engine, labels, label_type, directory = "torch", LABELS, "text", Path("run")
    decision, arithmetic = Decision(), {"device": "cpu", "precision": "fp32"}

    def __init__(self, info: Any) -> None:
        """Nothing is opened."""
        self.info, self.encoder = info, self

    def encode_each(self, texts: Iterable[Any]) -> list[np.ndarray]:
        """An id for each character, and two more; words of nothing but x are unknown."""
        texts = [str(text) for text in texts]
        Stub.texts_seen += texts
        return [np.full(len(text) + 2, UNK + (set(text) != {"x"})) for text in texts]

    def score(self, encoded: list[np.ndarray]) -> np.ndarray:
        """Three to one, for or against."""
        return LOGIT * np.array([1 - 2 * (len(ids) % 2) for ids in encoded])

    def load(self, device: str, precision: str) -> dict[str, str]:
        """There are no weights."""
        return self.arithmetic


pytestmark = pytest.mark.thorough

ROWS = 100
SMALL = ("--source.part_mb", 0.0005, "--processes", 1)
GOOD = '"good, or ""fine""",0.25,0.75'


@pytest.fixture(autouse=True)
def info(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """The stub is the scorer of every command, in an empty folder; its bundle's metadata, which tests may change."""
    monkeypatch.chdir(tmp_path)
    facts = {"labels": LABELS, "source": ReadingOptions(), "weights_sha256": "w"}
    info = SimpleNamespace(has_label_sets=False, **facts)
    monkeypatch.setattr(jobs, "OPENED", SimpleNamespace())
    info.to_json = lambda: {"weights_sha256": info.weights_sha256}
    monkeypatch.setattr(predicting, "open_scorer", lambda *_, **options: Stub(info))
    return info


def run(*words: object) -> int:
    Stub.texts_seen = []
    return cli.run(main, ["predict", "--run", "run", *map(str, words)])


def predict(source: object, target: object, *more: object) -> int:
    return run("--input", source, "--output", target, *more)


def read_refusal(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    capsys.readouterr()
    code = predict(*arguments)
    return code, capsys.readouterr().err.splitlines()[-1].removeprefix("error: ")


def write_file(name: str, content: str | bytes) -> str:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def write(kind: str, num_rows: int = ROWS) -> str:
    texts = [f"a text, the {number}th{' and more' * (number % 5)}" for number in range(num_rows)]
    if kind == "parquet":
        pq.write_table(pa.table({"n": range(num_rows), "text": texts}), "in.parquet", row_group_size=30)
        return "in.parquet"
    rows = "".join(f'{number},"{text}"\n' for number, text in enumerate(texts))
    return write_file("in.csv", f"n,text\n{rows}\n\n")


def list_names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def test_csv_keeps_every_cell() -> None:
    lines = b'007;1e5;"a b"\r\nNA;;"x, ""y"""\n\r\n"2020-01-01"; 1.0 ;"NA"\r\n"";"a\rb";"two\nlines"\r\n'
    source = write_file("in.csv", b"\xef\xbb\xbfid;when;text\r\n" + lines)
    assert predict(source, "out.csv") == 0
    assert Stub.texts_seen == ["a b", 'x, "y"', "NA", "two\nlines"]
    good = GOOD.replace(",0.", ";0.")
    rows = ["007;1e5;a b;bad;0.75;0.25", f'NA;;"x, ""y""";{good}', f"2020-01-01; 1.0 ;NA;{good}"]
    header = '\ufeffid;when;text;predicted;probability_bad;"probability_good, or ""fine"""'
    expected = "\n".join([header, *rows, ';"a\rb";"two', 'lines";bad;0.75;0.25\n'])
    assert Path("out.csv").read_bytes().decode() == expected


def test_rows_without_a_text_are_empty_texts() -> None:
    write_file("in.csv", "text,n\nfine,1\n,2\n")
    write_file("in.jsonl", '{"text": "fine", "deep": {}}\n{}\n { } \n{"n": 1}\r\n{"text": null}\n')
    for name, num_empty in (("in.csv", 1), ("in.jsonl", 4)):
        assert predict(name, f"out-{name}") == 0
        assert Stub.texts_seen == ["fine", *[""] * num_empty]
    objects = [json.loads(line) for line in Path("out-in.jsonl").read_text().splitlines()]
    assert [sorted(set(row) - set(COLUMNS)) for row in objects] == [["deep", "text"], [], [], ["n"], ["text"]]


@pytest.mark.parametrize("key", ["predict\\u0065d", "probability_bad"])
def test_objects_that_have_a_key_of_the_predictions_are_refused(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = '{"text": "the \\"predicted\\"", "deep": {"predicted": 1}}'
    write_file("in.jsonl", f'{row}\n{{"text": "b", "{key}": "x"}}\n')
    code, sentence = read_refusal(capsys, "in.jsonl", "out.jsonl")
    assert (code, sentence.startswith("in.jsonl: row 2: already has a key 'pr")) == (3, True)
    assert (list_names(), Stub.texts_seen) == (["in.jsonl"], [])


def test_json_lines_keep_the_bytes_of_their_objects() -> None:
    lines = ['{"id": "007", "text": "a b", "n": 1e5}', ' { "text" : "fine" , "deep": {"a": [1.0, null]} } ', ""]
    write_file("in.jsonl", "\ufeff" + "\r\n".join(lines) + '{"text": "l\\u00e9 ", "d": "2020-01-01", "é": NaN}')
    assert predict("in.jsonl", "out.jsonl") == 0
    objects = Path("out.jsonl").read_bytes().decode().split("\n")
    bad = ', "predicted": "bad", "probability_bad": 0.75, "probability_good, or \\"fine\\"": 0.25}'
    assert objects[0] == lines[0][:-1] + bad
    assert objects[1].startswith(lines[1].rstrip()[:-1] + ', "predicted": "good')
    assert objects[2] == '{"text": "l\\u00e9 ", "d": "2020-01-01", "é": NaN' + bad
    assert Stub.texts_seen == ["a b", "fine", "lé "]


def test_parquet_keeps_every_type() -> None:
    columns = {
        "text": pa.array(["a b", "fine"]).dictionary_encode(),
        "id": pa.array(["007", None]),
        "cost": pa.array([Decimal("1.10"), None], pa.decimal128(9, 2)),
        "when": pa.array([datetime(2020, 1, 1), None], pa.timestamp("ms", "UTC")),
        "parts": pa.array([[1, 2], []], pa.list_(pa.int16())),
    }
    pq.write_table(pa.table(columns), "in.parquet")
    assert predict("in.parquet", "out.parquet") == 0
    table_in, table_out = pa.table(columns | {"text": ["a b", "fine"]}), pq.read_table("out.parquet")
    assert table_out.select(table_in.column_names).equals(table_in)
    assert table_out["predicted"].to_pylist() == LABELS
    assert table_out[COLUMNS[1]].to_pylist() == [0.75, 0.25]
    seconds = pa.array([400_000_000_000, None], pa.timestamp("s"))  # dates that Python has not
    pq.write_table(pa.table({"text": ["a b", "fine"], "when": seconds}), "in.parquet")
    assert predict("in.parquet", "out.csv") == 0
    assert Path("out.csv").read_text().splitlines()[1] == "a b,14645-06-30 15:06:40.000,bad,0.75,0.25"


def set_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_texts_without_a_known_word_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    write_file("in.csv", "text\n" + "fine\nxx\nxxxx\n" * 40)
    assert predict("in.csv", "out.csv", *SMALL) == 0
    assert "warning: 80 of 120 texts (67%) hold" in unwrapped(capsys.readouterr().err)


def test_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_stdin(monkeypatch, "\ufefffine\r\n\na\u2028b".encode())
    assert run("-", "--json") == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["fine", "", "a\u2028b"]
    set_stdin(monkeypatch, b"xx\nfine")
    assert run("-") == 0
    lines = ['good, or "fine"  0.7500  (no known word)  xx', 'good, or "fine"  0.7500  fine']
    assert capsys.readouterr().out.splitlines() == lines
    set_stdin(monkeypatch, b"")
    assert (run("-"), capsys.readouterr().err) == (3, "error: standard input: holds no rows\n")
    set_stdin(monkeypatch, b"id;text\n007;fine\n")
    assert predict("-", "out.csv", "--source.format", "csv") == 0
    assert Path("out.csv").read_text().splitlines()[1].startswith("007;fine;")


AS_TRAINED = {
    "no quotes": ({"quote": "", "delimiter": "\t"}, b'text\tn\n"a" b\t1\n', '"""a"" b",1,bad,0.75,0.25'),
    "two texts": ({"text_column": ["title", "text"]}, b"title,text\nab,c\n", f"ab,c,{GOOD}"),
    "one of two": ({"text_column": ["title", "body"]}, b"title,text\na,bc\n", f"a,bc,{GOOD}"),
    "other columns now": ({"columns": ["n", "text"]}, b"text\na b\n", "a b,bad,0.75,0.25"),
}


@pytest.mark.parametrize("case", AS_TRAINED)
def test_a_file_is_read_as_the_corpus_of_the_training_was(case: str, info: SimpleNamespace) -> None:
    options, content, row = AS_TRAINED[case]
    info.source = ReadingOptions(**options)
    assert predict(write_file("in.csv", content), "out.csv") == 0
    assert Path("out.csv").read_text().splitlines()[-1] == row


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_many_parts_are_as_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "BLOCK_ROWS", 7)
    monkeypatch.setattr("preprocessing.sources.parquet.BATCH_ROWS", 7)
    name, single, many = write(kind), Path(f"one.{kind}"), Path(f"many.{kind}")
    assert predict(name, single) == 0
    texts = list(Stub.texts_seen)
    assert predict(name, many, *SMALL) == 0
    assert texts == Stub.texts_seen
    assert many.read_bytes() == single.read_bytes() or pq.read_table(many).equals(pq.read_table(single))
    assert list_names() == [name, many.name, single.name]


def interrupt(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], None]:
    """End the command when it begins this part."""
    make = ScoredPart.run

    def make_or_interrupt(part: ScoredPart) -> Any:
        if part.path.name.endswith(f"-{number:05d}.parquet"):
            raise UserError("stopped")
        return make(part)

    monkeypatch.setattr(ScoredPart, "run", make_or_interrupt)
    return lambda: monkeypatch.setattr(ScoredPart, "run", make)


def test_an_interrupted_prediction_goes_on_and_other_settings_make_other_parts(
    info: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, whole_output, output = write("csv"), Path("whole.csv"), Path("out.csv")
    assert predict(name, whole_output, *SMALL) == 0
    restore = interrupt(monkeypatch, 3)
    assert predict(name, output, *SMALL) == 1
    num_begun = len(Stub.texts_seen)
    restore()
    assert predict(name, output, *SMALL) == 0
    assert (0 < num_begun < ROWS, len(Stub.texts_seen)) == (True, ROWS - num_begun)
    assert output.read_bytes() == whole_output.read_bytes()
    output.unlink()
    interrupt(monkeypatch, 3)
    assert predict(name, output, *SMALL) == 1
    restore()
    info.weights_sha256 = "other"
    assert predict(name, output, *SMALL) == 0
    assert len(Stub.texts_seen) == ROWS
    assert list_names() == [name, output.name, whole_output.name]


def test_a_whole_command_waits_for_no_share(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "LOCK_S", 0)
    name = write("csv", 20)
    with claim_predictions(Path("new.csv"), Path("new.csv.parts").absolute(), Share(2, 3)):
        assert read_refusal(capsys, name, "new.csv")[1].startswith("new.csv: another process is predicting to it; ")


def test_what_no_prediction_wrote_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    """Unless that is wanted; and inputs in any case."""
    name = write("csv", 20)
    first_bytes = Path(name).read_bytes()
    Path("link.csv").symlink_to(name)
    os.link(name, "hard.csv")
    os.mkfifo("pipe.csv")
    Path("mine").mkdir()
    Path("folder.csv.parts").symlink_to(Path("mine").absolute())
    overwrite = ("--overwrite", "true")
    for source, output, *words in (
        (name, name, *overwrite),
        ("link.csv", name, *overwrite),
        (name, "hard.csv", *overwrite),
        (name, "out.xlsx"),
        (name, "pipe.csv"),
        (name, "folder.csv", *overwrite),
    ):
        assert read_refusal(capsys, source, output, *words)[0] == 2, (source, output)
    for content in ("mine\n1\n", "predicted,probability_x\nmine,1\n"):
        Path("out.csv").write_text(content)
        assert read_refusal(capsys, name, "out.csv")[0] == 2
        assert Path("out.csv").read_text() == content
    assert predict(name, "out.csv", *overwrite) == 0
    assert Path(name).read_bytes() == first_bytes
    assert list_names() == ["folder.csv.parts", "hard.csv", name, "link.csv", "mine", "out.csv", "pipe.csv"]
    assert not any(Path("mine").iterdir())


def test_globs_and_folders(capsys: pytest.CaptureFixture[str]) -> None:
    Path("new/deep").mkdir(parents=True)
    write_file("new/b.csv", "text,n\nsecond,2\n")
    write_file("new/a.csv.bz2", bz2.compress(b"text,n\nfirst,1\n"))
    write_file("new/deep/c.csv", "text,n\nthird,3")
    for source, texts in (
        ("new/**/*.csv*", ["first", "second", "third"]),
        ('["new/deep/c.csv", "new/b.csv"]', ["third", "second"]),
    ):
        assert predict(source, "out.csv", "--overwrite", "true") == 0
        assert Stub.texts_seen == texts
        assert [line.split(",")[0] for line in Path("out.csv").read_text().splitlines()] == ["text", *texts]
    assert read_refusal(capsys, "new", "other.csv")[1].startswith("new: holds no *.txt below it; name other files")
    for number in range(20):
        write_file(f"new/deep/{number:02d}.txt", f"line\nof café {number}")
    assert run("new", "--output", "out.csv", "--overwrite", "true", *SMALL) == 0
    assert Stub.texts_seen == [f"line\nof café {number}" for number in range(20)]
    assert 'deep/07.txt,"line\nof café 7",' in Path("out.csv").read_text()
