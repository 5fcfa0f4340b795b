# SPDX-License-Identifier: Apache-2.0
"""``predict`` on files: what was there comes out as it was, however the work is cut, interrupted and continued."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.__main__ import main
from harness.inference import rows
from harness.inference.parts import Layout, ScoredPart
from harness.inference.place import MANIFEST
from preprocessing.base import atomic, cli
from tests.commands import unwrapped
from tests.stub_scorer import COLUMNS, LABELS, Stub, put_in

pytestmark = pytest.mark.thorough

ROWS = 100
SMALL = ("--part_mb", 0.0005, "--processes", 1)
GOOD = '"good, or ""fine""",0.25,0.75'


@pytest.fixture(autouse=True)
def info(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    monkeypatch.chdir(tmp_path)
    return put_in(monkeypatch)


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocessing.corpus.tables.MOST_ROWS", 7)
    monkeypatch.setattr("preprocessing.corpus.parquet.BATCH_ROWS", 7)


def run(*words: object) -> int:
    return cli.run(main, ["predict", "--run", "run", *map(str, words)])


def predict(source: object, target: object, *more: object) -> int:
    return run("--input", source, "--output", target, *more)


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    capsys.readouterr()
    code = predict(*arguments)
    return code, capsys.readouterr().err.splitlines()[-1].removeprefix("error: ")


def written(name: str, content: str | bytes) -> str:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def write(kind: str, number: int = ROWS) -> str:
    texts = [f"a text, the {place}th{' and more' * (place % 5)}" for place in range(number)]
    if kind == "parquet":
        table = pa.table({"n": range(number), "text": texts})
        with pq.ParquetWriter("in.parquet", table.schema) as writer:
            for start, size in ((0, 20), (20, 5), (25, 5), (30, 40), (70, 30)):
                writer.write_table(table.slice(start, size), row_group_size=size)
        return "in.parquet"
    content = {
        "csv": "n,text\n" + "".join(f'{place},"{text}"\n' for place, text in enumerate(texts)) + "\n\n",
        "jsonl": "".join(json.dumps({"n": place, "text": text}) + "\n" for place, text in enumerate(texts)),
        "txt": "\n".join(["\n", *texts]),
    }
    return written(f"in.{kind}", content[kind])


def files_of(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_csv_keeps_every_byte() -> None:
    lines = [
        b'007,1e5,"a b"\r\n',
        b'NA,,"x, ""y"""\n',
        b"\r\n",
        b'"2020-01-01", 1.0 ,"NA"\r\n',
        b'""," ","two\nlines"\r\n',
        b"\xff\xfe,null,10",
    ]
    source = written("in.csv", b"\xef\xbb\xbfid,when,text\r\n" + b"".join(lines))
    assert predict(source, "out.csv") == 0
    assert Stub.seen == ["a b", 'x, "y"', "NA", "two\nlines", "10"]
    ends = [",bad,0.75,0.25\r\n", f",{GOOD}\n", None, f",{GOOD}\r\n", ",bad,0.75,0.25\r\n", f",{GOOD}\r\n"]
    expected = [
        row if end is None else row.rstrip(b"\r\n") + end.encode() for row, end in zip(lines, ends, strict=True)
    ]
    header = b'\xef\xbb\xbfid,when,text,predicted,probability_bad,"probability_good, or ""fine"""\r\n'
    assert Path("out.csv").read_bytes() == header + b"".join(expected)


def test_json_lines_keep_every_byte() -> None:
    lines = ['{"id": "007", "text": "a b", "n": 1e5}', ' { "text" : "fine" , "deep": {"a": [1.0, null]} } ', ""]
    written("in.jsonl", "\ufeff" + "\r\n".join(lines) + '{"text": "l\\u00e9 ", "d": "2020-01-01", "é": NaN}')
    assert predict("in.jsonl", "out.jsonl") == 0
    found = Path("out.jsonl").read_bytes().decode().split("\r\n")
    bad = ', "predicted": "bad", "probability_bad": 0.75, "probability_good, or \\"fine\\"": 0.25}'
    assert found[0] == "\ufeff" + lines[0][:-1] + bad
    assert found[1].startswith(lines[1].rstrip()[:-1] + ', "predicted": "good')
    assert json.loads(found[1])["deep"] == {"a": [1.0, None]}
    assert found[2] == '{"text": "l\\u00e9 ", "d": "2020-01-01", "é": NaN' + bad + "\n"
    assert Stub.seen == ["a b", "fine", "lé "]


def test_parquet_keeps_every_type_and_what_pandas_wrote() -> None:
    columns = {
        "text": pa.array(["a b", "fine"]).dictionary_encode(),
        "id": pa.array(["007", None]),
        "small": pa.array([1, None], pa.int8()),
        "cost": pa.array([Decimal("1.10"), None], pa.decimal128(9, 2)),
        "when": pa.array([datetime(2020, 1, 1), None], pa.timestamp("ms", "UTC")),
        "parts": pa.array([[1, 2], []], pa.list_(pa.int16())),
        "raw": pa.array([b"\xff", b""], pa.binary()),
    }
    before = pa.table(columns)
    pq.write_table(before, "in.parquet")
    assert predict("in.parquet", "out.parquet") == 0
    after = pq.read_table("out.parquet")
    assert after.select(before.column_names).equals(before)
    assert after["predicted"].to_pylist() == LABELS
    assert after[COLUMNS[1]].to_pylist() == [0.75, 0.25]
    frame = pd.DataFrame({"text": pd.Categorical(["a b", "fine"]), "n": [1, 2]}, index=pd.Index([7, 9], name="key"))
    frame.to_parquet("in.parquet")
    assert predict("in.parquet", "again.parquet") == 0
    pd.testing.assert_frame_equal(pd.read_parquet("again.parquet")[["text", "n"]], frame)


def test_a_text_is_a_text_whatever_it_looks_like() -> None:
    texts = ["NA", "null", "10", "007", "1e5", "True", "-", "nan", "2020-01-01"]
    written("in.csv", "text,n\n" + "".join(f"{text},1\n" for text in texts))
    written("in.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    pq.write_table(pa.table({"text": texts}), "in.parquet")
    for name in ("in.csv", "in.jsonl", "in.parquet"):
        assert predict(name, f"out-{name}") == 0
        assert Stub.seen == texts


def test_from_one_kind_to_another() -> None:
    written("in.csv", "id,text\n007,a b\n,fine\n")
    assert [predict("in.csv", f"a.{kind}") for kind in ("parquet", "jsonl", "tsv")] == [0, 0, 0]
    assert pq.read_table("a.parquet")["id"].to_pylist() == ["007", ""]
    assert [json.loads(line)["id"] for line in Path("a.jsonl").read_text().splitlines()] == ["007", ""]
    assert Path("a.tsv").read_text().splitlines()[1] == "007\ta b\tbad\t0.75\t0.25"
    first = '{"text": "a b", "n": 1, "s": "007", "m": 1}\n'
    written("in.jsonl", first + '{"text": "fine", "n": null, "m": "x", "more": [1]}\n')
    assert (predict("in.jsonl", "b.parquet"), predict("in.jsonl", "b.csv")) == (0, 0)
    found = pq.read_table("b.parquet")
    assert found.column_names == ["text", "n", "s", "m", "more", *COLUMNS]
    assert [found[name].to_pylist() for name in "nsm"] == [[1, None], ["007", None], ["1", "x"]]
    assert Path("b.csv").read_text().splitlines()[1] == "a b,1,007,1,,bad,0.75,0.25"
    pq.write_table(pa.table({"text": ["a b"], "when": [datetime(2020, 1, 1)], "x": [float("nan")]}), "in.parquet")
    assert predict("in.parquet", "c.jsonl") == 0
    row = json.loads(Path("c.jsonl").read_text())
    assert (row["when"], row["x"]) == ("2020-01-01 00:00:00", None)


def test_text_lines_end_at_newlines_and_nowhere_else() -> None:
    written("in.txt", "\ufeffone\u2028still\x0bone\x1cand\x85so\r\n\nthree")
    assert predict("in.txt", "out.jsonl") == 0
    assert Stub.seen == ["one\u2028still\x0bone\x1cand\x85so", "", "three"]


def test_rows_without_a_text_are_predicted_if_that_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    written("in.csv", "text,n\nfine,1\n,2\n")
    written("in.jsonl", '{"text": "fine", "deep": {}}\n{}\n { } \n{"n": 1}\r\n{"text": null}\n')
    pq.write_table(pa.table({"text": ["fine", None]}), "in.parquet")
    for name, empty in (("in.csv", 1), ("in.jsonl", 4), ("in.parquet", 1)):
        what = "row 2: column 'text' holds no text; fill or remove the row, or set --missing keep"
        assert refused(capsys, name, f"out-{name}") == (3, f"{name}: {what}")
        assert predict(name, f"out-{name}", "--missing", "keep") == 0
        assert Stub.seen == ["fine", *[""] * empty]
    found = [json.loads(line) for line in Path("out-in.jsonl").read_text().splitlines()]
    assert [sorted(set(row) - set(COLUMNS)) for row in found] == [["deep", "text"], [], [], ["n"], ["text"]]


def test_a_column_that_is_there_already(capsys: pytest.CaptureFixture[str]) -> None:
    written("in.csv", "text,predicted\nfine,no\n")
    written("in.jsonl", '{"text": "fine"}\n{"text": "fine", "predicted": 1}\n')
    pq.write_table(pa.table({"text": ["fine"], "predicted": [1]}), "in.parquet")
    for name in ("in.csv", "in.jsonl", "in.parquet"):
        what = "already has a column 'predicted'; rename it, or set --prefix, which stands before the names of the new"
        assert refused(capsys, name, f"{name}.out.csv") == (3, f"{name}: {what} columns")
        assert predict(name, f"{name}.out.csv", "--prefix", "new_") == 0
    header = Path("in.parquet.out.csv").read_text().splitlines()[0]
    assert header == 'text,predicted,new_predicted,new_probability_bad,"new_probability_good, or ""fine"""'


WRONG = {
    "a.csv": (b"", "the file is empty; it needs a header line"),
    "b.csv": (b"text\n", "holds no rows"),
    "c.csv": (b"text,n\nfine,1\nfine\n", "row 2: 1 fields, the header has 2; correct the row"),
    "d.csv": (b'text,n\nfine,1\n"fine,2\n', "row 2: a quote opens and never closes; set --quote to '' if quotes are"),
    "g.csv": (
        ("text\n" + "né\n" * 90).encode() + b"caf\xe9\n",
        "row 91: byte 3 (0xe9) of 'text' is not UTF-8; set --enc",
    ),
    "i.csv": (b"text,text\nfine,1\n", "has more than one column 'text'; rename one"),
    "j.jsonl": (b'{"text": "fine"}\n{"text": 10}\n', "row 2: 'text' is 10, expected a text"),
    "k.jsonl": (b'{"text": "fine"}\n[1]\n', 'row 2: a list, expected an object such as {"text": "…"}'),
    "l.jsonl": (b'{"body": "fine"}\n', "no column 'text'; it has 'body'; use --column"),
    "m.parquet": (b"PAR", "not a Parquet file"),
    "n.txt": (b"", "holds no rows"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_a_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, expected = WRONG[name]
    code, line = refused(capsys, written(name, content), "out.csv")
    assert (code, line[: len(f"{name}: {expected}")]) == (3, f"{name}: {expected}")
    assert [path.name for path in Path().iterdir()] == [name]


def test_a_text_column_of_another_type(capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"text": [1]}), "in.parquet")
    what = "column 'text' holds int64, not text; set --column"
    assert refused(capsys, "in.parquet", "out.csv") == (3, f"in.parquet: {what}")


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("words", [("-",), ("--input", "-")])
def test_standard_input(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Stub.seen = []
    for content, more, expected in (
        ("\ufefffine\r\n\na\u2028b".encode(), (), 'good, or "fine"  0.7500  fine'),
        (b"xx\n", (), 'good, or "fine"  0.7500  (no known word)  xx'),
    ):
        feed(monkeypatch, content)
        assert run(*words, *more) == 0
        assert capsys.readouterr().out.split("\n")[0] == expected
    assert Stub.seen == ["fine", "", "a\u2028b", "xx"]
    feed(monkeypatch, b"xx\n")
    assert run(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["predicted"], found["unknown_share"]) == (LABELS[1], 1.0)
    for content, sentence in (
        (b"fine\ncaf\xe9", "standard input: line 2: byte 3 (0xe9) is not UTF-8"),
        (b"", "standard input: holds no text; give one a line"),
    ):
        feed(monkeypatch, content)
        assert run(*words) == 3
        assert sentence in capsys.readouterr().err


def test_a_table_on_standard_input_and_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"id;text\n007;fine\n")
    assert predict("-", "out.csv", "--format", "csv") == 0
    assert Path("out.csv").read_text().splitlines()[1].startswith("007;fine;")
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_text("one\ntwo\n"))
    writer.start()
    assert predict("pipe", "out.jsonl") == 0
    writer.join()
    assert Stub.seen == ["one", "two"]


def plain(delimiter: str = ",", quote: str = '"', escape: str | None = None) -> dict[str, str | None]:
    return {"delimiter": delimiter, "quote": quote, "escape": escape}


AS_TRAINED = {
    "quote": (
        {"quote": "'", "dialect": plain(quote="'")},
        b"text,n\n'a, b',1\n",
        "'a, b',1,'good, or \"fine\"',0.25,0.75",
    ),
    "no quotes": ({"quote": "", "dialect": plain("\t", "")}, b'text\tn\n"a" b\t1\n', '"a" b\t1\tbad\t0.75\t0.25'),
    "escape": ({"dialect": plain(escape="\\")}, b'text,n\n"a \\"b\\"",1\n', '"a \\"b\\"",1,bad,0.75,0.25'),
    "delimiter": ({"delimiter": ":", "dialect": plain(":")}, b"text:n\na, b:1\n", f"a, b:1:{GOOD.replace(',0', ':0')}"),
    "encoding": ({"encoding": "cp1251"}, "text,n\nночь,1\n".encode("cp1251"), f"ночь,1,{GOOD}"),
    "another dialect": ({"dialect": plain("\t", "")}, b'text,n\n"a, b",1\n', f'"a, b",1,{GOOD}'),
    "no header": ({"columns": ["n", "text"], "dialect": plain()}, b"1,a b\n", "1,a b,bad,0.75,0.25"),
    "a header": ({"columns": ["n", "text"], "dialect": plain()}, b"text,n\na b,1\n", "a b,1,bad,0.75,0.25"),
    "found": ({}, b"n;text\n1,5;a b\n", "1,5;a b;bad;0.75;0.25"),
    "another column": ({"text_column": "body"}, b"text,body\nno,a b\n", "no,a b,bad,0.75,0.25"),
    "no such column": ({"text_column": "body"}, b"n,text\n1,a b\n", "1,a b,bad,0.75,0.25"),
}


@pytest.mark.parametrize("what", AS_TRAINED)
def test_a_file_is_read_as_the_corpus_of_the_training_was(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known, content, row = AS_TRAINED[what]
    monkeypatch.setattr(rows, "read_training", lambda bundle, dataset: {"source": known})
    assert predict(written("in.csv", content), "out.csv") == 0
    assert Path("out.csv").read_text().splitlines()[-1] == row


def test_whoever_says_how_a_file_is_read_is_heard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"quote": "'", "encoding": "cp1251", "dialect": plain(quote="'")}
    monkeypatch.setattr(rows, "read_training", lambda bundle, dataset: {"source": known})
    written("in.csv", 'text,n\n"été, là",1\n')
    assert predict("in.csv", "out.csv", "--quote", '"', "--encoding", "auto") == 0
    assert Stub.seen == ["été, là"]
    assert refused(capsys, "in.csv", "out.csv", "--quote", "ab")[0] == 2


@pytest.mark.parametrize(("label", "code"), [("neither", 0), ("a\tb", 3)])
def test_a_cell_that_a_file_without_quotes_cannot_hold(
    label: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Stub, "labels", [label, "good"])
    monkeypatch.setattr("tests.stub_scorer.LABELS", [label, "good"])
    put_in(monkeypatch).labels = [label, "good"]
    written("in.tsv", 'text\tn\nan "odd one\t1\n')
    assert predict("in.tsv", "out.tsv", "--quote", "") == code
    assert ("its fields are not quoted" in capsys.readouterr().err) == (code == 3)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt"])
def test_other_encodings_and_packed_files(kind: str) -> None:
    content = {"csv": "n,text\n1,un café\n2,déjà vu\n", "txt": "un café\ndéjà vu\n"}
    content["jsonl"] = '{"n": 1, "text": "un café"}\n{"n": 2, "text": "déjà vu"}\n'
    for encoding in ("utf-16", "latin-1"):
        assert predict(written(f"in.{kind}", content[kind].encode(encoding)), "out.parquet") == 0
        assert Stub.seen == ["un café", "déjà vu"]
    assert predict(f"in.{kind}", "out.csv", "--encoding", "cp437") == 0
    assert Stub.seen == ["un cafΘ", "dΘjα vu"]
    assert predict(written(f"in.{kind}.gz", gzip.compress(content[kind].encode())), "out.csv") == 0
    assert Stub.seen == ["un café", "déjà vu"]


@pytest.mark.parametrize("target", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("source", ["csv", "jsonl", "txt", "parquet"])
def test_many_parts_are_as_one(source: str, target: str, few_at_once: None) -> None:
    name = write(source)
    assert predict(name, f"one.{target}") == 0
    whole = list(Stub.seen)
    assert predict(name, f"many.{target}", *SMALL) == 0
    assert whole == Stub.seen
    assert predict(name, "folder/", *SMALL, "--output_format", target) == 0
    manifest = json.loads(Path("folder", MANIFEST).read_text())
    assert sorted(files_of("folder")) == [MANIFEST, *(part["file"] for part in manifest["parts"])]
    assert len(manifest["parts"]) > 5
    assert manifest["rows"] == sum(part["rows"] for part in manifest["parts"]) == len(whole)
    for part in manifest["parts"]:
        assert atomic.sha256_file(Path("folder", part["file"])) == part["sha256"]
    if target == "parquet":
        one = pq.read_table("one.parquet")
        assert pq.read_table("many.parquet").equals(one)
        assert pq.read_table("folder").equals(one)
    else:
        assert Path(f"many.{target}").read_bytes() == Path(f"one.{target}").read_bytes()
    assert sorted(path.name for path in Path().iterdir()) == sorted(["folder", name, f"many.{target}", f"one.{target}"])


def interrupt(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], None]:
    """The process dies when it begins this part."""
    make = ScoredPart.make

    def dying(part: ScoredPart) -> Any:
        if part.number == number:
            raise KeyboardInterrupt
        return make(part)

    monkeypatch.setattr(ScoredPart, "make", dying)
    return lambda: monkeypatch.setattr(ScoredPart, "make", make)


@pytest.mark.parametrize(("source", "target"), [("in.csv", "out.csv"), ("in.parquet", "out.parquet"), ("in.csv", "o/")])
def test_interrupted_twice_and_continued(source: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(source.partition(".")[2])
    assert predict(source, f"whole-{target}", *SMALL) == 0
    for number in (3, 4):
        heal = interrupt(monkeypatch, number)
        assert predict(source, target, *SMALL) == 130
        heal()
        assert 0 < len(Stub.seen) < ROWS
    assert not Path(target, MANIFEST).exists()
    assert not Path("out.csv").exists()
    if target == "o/":
        Path(f"o/part-00007.parquet{atomic.TEMPORARY_MARK}elsewhere-7").write_text("what a killed process leaves")
    assert predict(source, target, *SMALL) == 0
    assert 0 < len(Stub.seen) < ROWS
    if target == "o/":
        whole = files_of("whole-o")
        assert files_of("o") == whole
        assert predict(source, target, *SMALL) == 0
        assert Stub.seen == []  # there already
        Path("o/part-00002.parquet").unlink()
        assert predict(source, target, *SMALL) == 0
        assert files_of("o") == whole
    else:
        assert Path(target).read_bytes() == Path(f"whole-{target}").read_bytes()


def test_a_damaged_part_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    write("csv")
    assert predict("in.csv", "whole.csv", *SMALL) == 0
    heal = interrupt(monkeypatch, 4)
    assert predict("in.csv", "out.csv", *SMALL) == 130
    heal()
    part = Path("out.csv.parts/part-00001.csv")
    content = bytearray(part.read_bytes())
    content[40] ^= 1
    part.write_bytes(content)
    Path("out.csv.parts/00002.json").write_text("{")
    assert predict("in.csv", "out.csv", *SMALL) == 0
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_what_was_begun_goes_on_with_the_same_only(
    info: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write("csv")
    heal = interrupt(monkeypatch, 3)
    assert predict(name, "out.csv", *SMALL) == 130
    heal()
    begun = f"{Path('out.csv.parts').absolute()}: a prediction was begun with"
    what = "name another --output, or set --overwrite true to start again"
    assert refused(capsys, name, "out.csv", "--processes", 1) == (2, f"{begun} part_mb 0.0005 and not 8.0; {what}")
    info.weights_sha256 = "other"
    assert refused(capsys, name, "out.csv", *SMALL) == (2, f"{begun} other weights; {what}")
    info.weights_sha256 = "w"
    written("other.csv", "text\nfine\n")
    assert refused(capsys, "other.csv", "out.csv", *SMALL) == (2, f"{begun} another input; {what}")
    with open(name, "a") as file:
        file.write("1,one more\n")
    assert refused(capsys, name, "out.csv", *SMALL) == (2, f"{begun} another content of in.csv; {what}")
    assert predict(name, "out.csv", *SMALL, "--overwrite", "true") == 0
    assert len(Stub.seen) == ROWS + 1


def test_failures_while_parts_are_written(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, make = write("csv"), ScoredPart.make
    written("out.csv", "old")

    def full(self: Layout, *arguments: object) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Layout, "lines", full)
        code, line = refused(capsys, name, "out.csv", "--overwrite", "true")
    what = "make room and run the same command to continue, or name another --output"
    assert (code, line[-len(what) :]) == (4, what)
    assert "cannot be written (No space left on device)" in line
    assert Path("out.csv").read_text() == "old"
    assert list(Path().glob(f"**/*{atomic.TEMPORARY_MARK}*")) == []

    def elsewhere(part: ScoredPart) -> Any:
        made = make(part)
        if part.number == 2:
            part.path.unlink()
        return made

    monkeypatch.setattr(ScoredPart, "make", elsewhere)
    path = Path("new.csv.parts/part-00002.csv").absolute()
    what = "is not seen here; name an --output on a disk that all who predict share"
    assert refused(capsys, name, "new.csv", *SMALL) == (3, f"{path}: {what}")


def test_an_output_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    name = write("csv", 20)
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    os.mkfifo("pipe.csv")
    for output, what in (
        ("mine/", "mine/: holds notes.txt, and no predictions; name an empty folder"),
        ("pipe.csv", "pipe.csv: is no file but a pipe or a device; name a file, or a folder with / behind"),
        ("s3://bucket/x.csv", "s3://bucket/x.csv: is remote; write to a disk here, and copy what is whole"),
        ("done", "done: unknown ending; use .parquet, .csv, .tsv or .jsonl, or DIRECTORY/"),
    ):
        assert refused(capsys, name, output) == (2, f"--output {output}".removesuffix(output) + what)
    assert predict(name, "done/") == 0
    what = "done/: holds other predictions (prefix  and not new_); name another --output, or set --overwrite true"
    assert refused(capsys, name, "done", "--prefix", "new_") == (2, f"--output {what}")
    mine = [Path("done/part-mine.parquet"), Path("done/notes.txt")]
    for path in mine:
        path.write_text("mine")
    assert predict(name, "done", "--prefix", "new_", "--overwrite", "true") == 0
    assert pq.read_table("done/part-00000.parquet").column_names[2:] == [f"new_{column}" for column in COLUMNS]
    assert [path.read_text() for path in mine] == ["mine"] * 2
    assert sorted(path.name for path in Path().iterdir()) == ["done", "in.csv", "mine", "pipe.csv"]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_file_of_something_else_is_replaced_only_where_that_is_wanted(
    ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, output = write("csv", 20), Path(f"out.{ending}")
    output.write_text("mine\n1\n")
    what = "is there already, and holds something else; name another, or set --overwrite true to replace it"
    assert refused(capsys, name, output) == (2, f"--output {output}: {what}")
    assert output.read_text() == "mine\n1\n"
    assert predict(name, output, "--overwrite", "true") == 0
    assert predict(name, output) == 0  # which it wrote itself
    assert sorted(path.name for path in Path().iterdir()) == ["in.csv", output.name]


def test_an_output_is_no_input(capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(write("csv", 20)).read_bytes()
    Path("link.csv").symlink_to("in.csv")
    os.link("in.csv", "hard.csv")
    for source, output in (("in.csv", "in.csv"), ("link.csv", "in.csv"), ("h*.csv", "in.csv"), ("in.csv", "hard.csv")):
        code, line = refused(capsys, source, output, "--overwrite", "true")
        assert (code, line.split(": ")[0]) == (2, f"--output {output}")
        assert "is the input, or lies there; name another --output" in line
    assert Path("in.csv").read_bytes() == before
    assert predict("in.csv", "o/") == 0
    part = Path("o/part-00000.parquet").read_bytes()
    assert refused(capsys, "o/part-00000.parquet", "o/", "--overwrite", "true")[0] == 2
    assert Path("o/part-00000.parquet").read_bytes() == part


@pytest.mark.parametrize("output", ["out.csv", "o/"])
@pytest.mark.parametrize("link", [False, True])
def test_a_folder_of_that_name_that_is_not_ours_is_left(
    output: str, link: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    name = write("csv", 20)
    place = Path("out.csv.parts") if output == "out.csv" else Path("o/.work")
    mine = Path("mine") if link else place
    mine.mkdir(parents=True)
    (mine / "notes.txt").write_text("mine")
    if link:
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(mine.absolute())
    what = "is where parts would lie, and no prediction made it; rename it, or name another --output"
    for more in ([], ["--overwrite", "true"]):
        assert refused(capsys, name, output, *more) == (2, f"{place.absolute()}: {what}")
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("output", ["out.csv", "out/"])
def test_texts_without_a_known_word_are_counted(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    written("in.csv", "text\n" + "fine\nxx\nxxxx\n" * 40)
    assert predict("in.csv", output, "--part_mb", 0.0001, "--processes", 1) == 0
    said = unwrapped(capsys.readouterr().err)
    assert "warning: 80 of 120 texts (67%) hold no word that the model knows" in said


def test_a_difference_of_precision_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(write("csv", 20), "out.csv", "--precision", "bf16") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "computed in bf16 on cpu, and no probability" in said
    assert "differs by more than 0.15 " in said  # 0.9 and 0.75


def test_globs_and_folders(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("new/deep").mkdir(parents=True)
    written("new/b.csv", "text,n\nsecond,2\n")
    written("new/a.csv.gz", gzip.compress(b"text,n\nfirst,1\n"))
    written("new/deep/c.csv", "text,n\nthird,3")
    Path("new/_SUCCESS.csv").touch()
    for source, seen in (
        ("new", ["first", "second", "third"]),
        ("new/*.csv", ["second"]),
        ('["new/deep/c.csv", "new/b.csv"]', ["third", "second"]),
    ):
        Path("new/_SUCCESS.csv").unlink(missing_ok=source != "new")
        assert predict(source, "out.csv") == 0
        assert Stub.seen == seen
        assert [line.split(",")[0] for line in Path("out.csv").read_text().splitlines()] == ["text", *seen]
    written("new/d.csv", "n,text\n4,fourth\n")
    what = "its columns (n, text) are not those of new/a.csv.gz (text, n); predict them apart"
    assert refused(capsys, "new", "out.csv") == (3, f"new/d.csv: {what}")
    Path("new/d.csv").rename("new/d.jsonl")
    what = "new/a.csv.gz is csv and new/d.jsonl is jsonl; predict one kind at a time, or set --format"
    assert refused(capsys, "new", "out.csv") == (2, f"--input: {what}")
    Path("new/d.jsonl").unlink()
    heal = interrupt(monkeypatch, 1)  # what is being written is no input
    assert predict("new", "new/out.csv", *SMALL) == 130
    heal()
    for source in ("new", "new/*.csv"):
        assert predict(source, "new/out.csv", *SMALL, "--overwrite", "true") == 0
        assert Stub.seen == (["first", "second", "third"] if source == "new" else ["second"])


def test_a_folder_of_texts(capsys: pytest.CaptureFixture[str]) -> None:
    Path("texts/neg").mkdir(parents=True)
    for number in range(20):
        written(f"texts/neg/{number:02d}.txt", f"line\nof café {number}".encode("latin-1"))
    assert predict("texts", "out.csv", "--part_mb", 0.0001, "--processes", 1) == 0
    assert Stub.seen == [f"line\nof café {number}" for number in range(20)]
    assert Path("out.csv").read_text().startswith(f"file,text,{COLUMNS[0]},{COLUMNS[1]}")
    assert 'neg/07.txt,"line\nof café 7",' in Path("out.csv").read_text()
    Path("texts/neg/20.txt").touch()
    assert refused(capsys, "texts", "out.csv")[1].endswith(
        "texts/neg/20.txt: holds no text; remove it, or set --missing keep"
    )


def test_remote_files_and_passwords(capsys: pytest.CaptureFixture[str]) -> None:
    store = pytest.importorskip("fsspec").filesystem("memory")
    store.pipe("/predict/a.csv", b"text\nfine\n")
    store.pipe("/predict/b.csv", b"text\nso so\n")
    for source in ("memory://predict/*.csv", "memory://predict"):
        assert predict(source, "out.csv") == 0
        assert Stub.seen == ["fine", "so so"]
    assert predict("memory://predict/c.csv", "out.csv") == 3
    store.pipe("/me:SECRET@host/a.csv", b"text\nfine\n")
    assert predict("memory://me:SECRET@host/a.csv", "o/") == 0
    assert json.loads(Path("o", MANIFEST).read_text())["basis"]["inputs"][0][0] == "memory://host/a.csv"
    assert predict("memory://me:SECRET@host/b.csv", "p/") == 3
    out, err = capsys.readouterr()
    assert "SECRET" not in out + err
