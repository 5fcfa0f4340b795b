# SPDX-License-Identifier: Apache-2.0
"""``predict`` on tables: what was there comes out as it was, whatever it looks like; law 9 for what cannot be read."""

from __future__ import annotations

import gzip
import io
import json
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.__main__ import COMMANDS, main
from harness.inference.outputs import SameLines
from harness.predicting import inputs
from preprocessing.base import atomic, cli
from preprocessing.base.commands import read
from tests.stub_scorer import COLUMNS, LABELS, Stub, put_in

pytestmark = pytest.mark.thorough


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_in(monkeypatch)
    monkeypatch.chdir(tmp_path)


def run(*arguments: object) -> int:
    return cli.run(main, ["predict", "--run", "run", *map(str, arguments)])


def table(source: Path | str, target: str, *more: object) -> int:
    return run("--input", source, "--output", target, *more)


def written(name: str, content: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = run(*arguments)
    (line,) = capsys.readouterr().err.splitlines()
    return code, line.removeprefix("error: ")


GOOD = '"good, or ""fine""",0.25,0.75'


def test_csv_keeps_every_byte() -> None:
    rows = [
        b'007,1e5,"a b"\r\n',
        b'NA,,"x, ""y"""\n',
        b"\r\n",
        b'"2020-01-01", 1.0 ,"NA"\r\n',
        b'""," ","two\nlines"\r\n',
        b"\xff\xfe,null,10",
    ]
    source = written("in.csv", b"\xef\xbb\xbfid,when,text\r\n" + b"".join(rows))
    assert table(source, "out.csv") == 0
    assert Stub.seen == ["a b", 'x, "y"', "NA", "two\nlines", "10"]
    found = Path("out.csv").read_bytes()
    ends = [",bad,0.75,0.25\r\n", f",{GOOD}\n", None, f",{GOOD}\r\n", ",bad,0.75,0.25\r\n", f",{GOOD}\r\n"]
    lines = [row if end is None else row.rstrip(b"\r\n") + end.encode() for row, end in zip(rows, ends, strict=True)]
    header = b'\xef\xbb\xbfid,when,text,predicted,probability_bad,"probability_good, or ""fine"""\r\n'
    assert found == header + b"".join(lines)


@pytest.mark.parametrize("text", ["NA", "null", "10", "007", "1e5", "True", "-", "nan", "2020-01-01"])
def test_a_text_is_a_text_whatever_it_looks_like(text: str) -> None:
    written("in.csv", f"text,n\n{text},1\n{text},2\n")
    written("in.jsonl", json.dumps({"text": text}) + "\n")
    pq.write_table(pa.table({"text": [text]}), "in.parquet")
    for name, rows in (("in.csv", 2), ("in.jsonl", 1), ("in.parquet", 1)):
        assert table(name, f"out-{name}") == 0
        assert Stub.seen == [text] * rows


def test_json_lines_keep_every_byte() -> None:
    rows = ['{"id": "007", "text": "a b", "n": 1e5}', ' { "text" : "fine" , "deep": {"a": [1.0, null]} } ', ""]
    source = written("in.jsonl", "\ufeff" + "\r\n".join(rows) + '{"text": "l\\u00e9 ", "d": "2020-01-01", "é": NaN}')
    assert table(source, "out.jsonl") == 0
    lines = Path("out.jsonl").read_bytes().decode().split("\r\n")
    bad = ', "predicted": "bad", "probability_bad": 0.75, "probability_good, or \\"fine\\"": 0.25}'
    assert lines[0] == "\ufeff" + rows[0][:-1] + bad
    assert lines[1].startswith(rows[1].rstrip()[:-1] + ', "predicted": "good')
    assert json.loads(lines[1])["deep"] == {"a": [1.0, None]}
    assert lines[2] == '{"text": "l\\u00e9 ", "d": "2020-01-01", "é": NaN' + bad + "\n"
    assert Stub.seen == ["a b", "fine", "lé "]


def test_parquet_keeps_every_type() -> None:
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
    assert table("in.parquet", "out.parquet") == 0
    after = pq.read_table("out.parquet")
    assert after.select(before.column_names).equals(before)
    assert after["predicted"].to_pylist() == LABELS
    assert after[COLUMNS[1]].to_pylist() == [0.75, 0.25]


def test_a_frame_of_pandas_comes_back_as_it_was() -> None:
    frame = pd.DataFrame({"text": pd.Categorical(["a b", "fine"]), "n": [1, 2]}, index=pd.Index([7, 9], name="key"))
    frame.to_parquet("in.parquet")
    assert table("in.parquet", "out.parquet") == 0
    pd.testing.assert_frame_equal(pd.read_parquet("out.parquet")[["text", "n"]], frame)


def test_from_one_kind_to_another() -> None:
    written("in.csv", "id,text\n007,a b\n,fine\n")
    assert (table("in.csv", "a.parquet"), table("in.csv", "a.jsonl"), table("in.csv", "a.tsv")) == (0, 0, 0)
    assert pq.read_table("a.parquet")["id"].to_pylist() == ["007", ""]
    assert [json.loads(line)["id"] for line in Path("a.jsonl").read_text().splitlines()] == ["007", ""]
    assert Path("a.tsv").read_text().splitlines()[1] == "007\ta b\tbad\t0.75\t0.25"
    written(
        "in.jsonl", '{"text": "a b", "n": 1, "s": "007", "m": 1}\n{"text": "fine", "n": null, "m": "x", "more": [1]}\n'
    )
    assert (table("in.jsonl", "b.parquet"), table("in.jsonl", "b.csv")) == (0, 0)
    found = pq.read_table("b.parquet")
    assert found.column_names == ["text", "n", "s", "m", "more", *COLUMNS]
    assert found["n"].to_pylist() == [1, None]
    assert (found["s"].to_pylist(), found["m"].to_pylist()) == (["007", None], ["1", "x"])
    assert Path("b.csv").read_text().splitlines()[1] == "a b,1,007,1,,bad,0.75,0.25"
    pq.write_table(pa.table({"text": ["a b"], "when": [datetime(2020, 1, 1)], "x": [float("nan")]}), "in.parquet")
    assert table("in.parquet", "c.jsonl") == 0
    assert json.loads(Path("c.jsonl").read_text())["when"] == "2020-01-01 00:00:00"
    assert json.loads(Path("c.jsonl").read_text())["x"] is None


def test_text_lines_end_at_newlines_and_nowhere_else() -> None:
    written("in.txt", "\ufeffone\u2028still\x0bone\x1cand\x85so\r\n\nthree")
    assert table("in.txt", "out.jsonl") == 0
    assert Stub.seen == ["one\u2028still\x0bone\x1cand\x85so", "", "three"]
    assert json.loads(Path("out.jsonl").read_text().split("\n")[2])["text"] == "three"


def test_more_rows_than_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.inference.pieces.CHUNK_ROWS", 3)
    monkeypatch.setattr("preprocessing.corpus.addresses.READ_BYTES", 11)
    rows = [f'{number},"text\n{number}"' for number in range(21)]
    written("in.csv.gz", gzip.compress(("n,text\n" + "\n".join(rows) + "\n\n").encode()))
    assert table("in.csv.gz", "out.csv") == 0
    assert Stub.seen == [f"text\n{number}" for number in range(21)]
    assert table("in.csv.gz", "out.parquet") == 0
    assert pq.read_table("out.parquet")["n"].to_pylist() == list(map(str, range(21)))
    out = Path("out.csv").read_text()
    assert all(f"{row}," in out for row in rows)
    assert out.endswith("\n\n")


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_the_one_with_which_the_column_is_there(delimiter: str) -> None:
    written("in.csv", f"n{delimiter}text\n1,5{delimiter}a b\n")
    assert table("in.csv", "out.csv") == 0
    assert Path("out.csv").read_text().splitlines()[1] == delimiter.join(["1,5", "a b", "bad", "0.75", "0.25"])


def test_a_column_that_is_there_already(capsys: pytest.CaptureFixture[str]) -> None:
    written("in.csv", "text,predicted\nfine,no\n")
    written("in.jsonl", '{"text": "fine"}\n{"text": "fine", "predicted": 1}\n')
    pq.write_table(pa.table({"text": ["fine"], "predicted": [1]}), "in.parquet")
    for name in ("in.csv", "in.jsonl", "in.parquet"):
        sentence = (
            f"{name}: already has a column 'predicted'; rename it, or set --prefix, which stands before the names"
        )
        output = f"{name}.out.csv"
        code, line = refused(capsys, "--input", name, "--output", output)
        assert (code, line) == (3, f"{sentence} of the new columns")
        assert table(name, output, "--prefix", "new_") == 0
        capsys.readouterr()
    header = Path("in.parquet.out.csv").read_text().splitlines()[0]
    assert header == 'text,predicted,new_predicted,new_probability_bad,"new_probability_good, or ""fine"""'
    assert table("in.parquet.out.csv", "again.csv", "--prefix", "again_") == 0


WRONG = {
    "a.csv": (b"", "holds no rows"),
    "b.csv": (b"text\n", "holds no rows"),
    "c.csv": (b"text,n\nfine,1\nfine\n", "row 2: 1 fields, the header has 2; mend the row"),
    "d.csv": (
        b'text,n\nfine,1\n"fine,2\n',
        "row 2: a quote opens and never closes; set --quote to '' if quotes are text",
    ),
    "f.csv": (
        b"text\nfine\n" + "тонкий фильм о войне\n".encode("cp1251"),
        "its bytes are neither UTF-8 nor Latin-1; set --encoding, for example cp1250, cp1251, shift_jis or gb18030",
    ),
    "g.csv": (
        ("text\n" + "né\n" * 90).encode() + b"caf\xe9\n",
        "row 91: column 'text': byte 3 (0xe9) is not UTF-8; convert the file, for example with iconv -f latin1",
    ),
    "h.csv": (
        b"text,n\nfine,1\n,2\n",
        "row 2: column 'text' holds no text; fill or remove the row, or set --missing keep",
    ),
    "i.csv": (b"text,text\nfine,1\n", "has more than one column 'text'; rename one"),
    "j.jsonl": (b'{"text": "fine"}\n{"text": 10}\n', "row 2: 'text' is 10, expected a text"),
    "k.jsonl": (b'[{"text": "fine"}]\n', 'row 1: a list, expected an object such as {"text": "…"}'),
    "l.jsonl": (b'{"body": "fine"}\n', "no column 'text'; it has 'body'; use --column"),
    "m.parquet": (b"PAR", "not a Parquet file"),
    "o.jsonl": (b'{"n": 1}\n{"text": "fine"}\n', "row 1: column 'text' holds no text; fill or remove the row"),
    "p.jsonl": (b'{"text": null}\n', "row 1: column 'text' holds no text; fill or remove the row, or set --missing"),
    "n.txt": (b"", "holds no rows"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_a_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, expected = WRONG[name]
    written(name, content)
    code, line = refused(capsys, "--input", name, "--output", "out.csv")
    assert (code, line[: len(f"{name}: {expected}")]) == (3, f"{name}: {expected}")
    assert not Path("out.csv").exists()


def test_a_text_column_of_another_type(capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"text": [1]}), "in.parquet")
    assert refused(capsys, "--input", "in.parquet", "--output", "out.csv") == (
        3,
        "in.parquet: column 'text' holds int64, not text; use --column",
    )


def test_an_output_that_cannot_be_written_leaves_the_old_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written("in.csv", "text\nfine\n")
    written("out.csv", "old")

    def full(self: SameLines, *arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SameLines, "write", full)
    code, line = refused(capsys, "--input", "in.csv", "--output", "out.csv", "--overwrite", "true")
    assert code == 4
    what = "make room and run the same command to continue, or name another --output"
    assert line.endswith(f"out.csv.parts/part-00000.csv: cannot be written (No space left on device); {what}")
    assert Path("out.csv").read_text() == "old"
    assert list(Path().glob(f"*{atomic.TEMPORARY_MARK}*")) == []


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("words", [("-",), ("--input", "-")])
def test_standard_input(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, "\ufefffine\r\n\na\u2028b".encode())
    Stub.seen = []
    assert run(*words) == 0
    assert Stub.seen == ["fine", "", "a\u2028b"]
    assert capsys.readouterr().out.split("\n")[0] == 'good, or "fine"  0.7500  fine'
    feed(monkeypatch, b"fine\n")
    assert run(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["predicted"], found["unknown_share"]) == (LABELS[1], 0.0)
    feed(monkeypatch, b"xx\n")
    assert run(*words) == 0
    assert capsys.readouterr().out == 'good, or "fine"  0.7500  (no known word)  xx\n'
    feed(monkeypatch, b"xx\n")
    assert run(*words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["unknown_share"] == 1.0
    feed(monkeypatch, b"fine\ncaf\xe9")
    assert refused(capsys, *words)[1].startswith("standard input: line 2: byte 3 (0xe9) is not UTF-8")
    feed(monkeypatch, b"")
    assert refused(capsys, *words) == (3, "standard input: holds no text; give one a line")


def test_a_table_on_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, b"id;text\n007;fine\n")
    assert run("--input", "-", "--format", "csv", "--output", "out.csv") == 0
    assert Path("out.csv").read_text().splitlines()[1].startswith("007;fine;")
    feed(monkeypatch, b"fine\n\xc3\xa9t\xc3\xa9")
    assert run("--input", "-", "--output", "out.jsonl") == 0
    assert [json.loads(line)["text"] for line in Path("out.jsonl").read_text().splitlines()] == ["fine", "été"]


@pytest.mark.parametrize(
    ("typed", "texts"),
    [
        (["--json", "true", "text"], ["text"]),
        (["--json", "text"], ["text"]),
        (["text", "--json", "true"], ["text"]),
        (["--json=true", "true"], ["true"]),
        (["--json", "--", "true"], ["true"]),
    ],
)
def test_a_switch_and_its_value_are_no_text(typed: list[str], texts: list[str]) -> None:
    (command,) = (one for one in COMMANDS if one.name == "predict")
    config, words = read(command, ["--run", "run", *typed], "harness predict")
    assert (config.json, words) == (True, texts)


def test_rows_without_a_text_are_rows_of_json_too() -> None:
    written("in.jsonl", '{}\n { } \n{"n": 1}\r\n{"text": null}\n{"text": "fine", "deep": {}}\n')
    assert table("in.jsonl", "out.jsonl", "--missing", "keep") == 0
    assert Stub.seen == ["", "", "", "", "fine"]
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [sorted(set(row) - set(COLUMNS)) for row in rows] == [[], [], ["n"], ["text"], ["deep", "text"]]
    assert [row["predicted"] for row in rows] == [LABELS[1]] * 5


def plain(delimiter: str = ",", quote: str = '"', escape: str | None = None) -> dict[str, str | None]:
    return {"delimiter": delimiter, "quote": quote, "escape": escape}


AS_TRAINED = {
    "quote": (
        {"quote": "'", "dialect": plain(quote="'")},
        b"text,n\n'a, b',1\n",
        "a, b",
        "'a, b',1,'good, or \"fine\"',0.25,0.75",
    ),
    "no quotes": (
        {"quote": "", "dialect": plain("\t", "")},
        b'text\tn\n"a" b\t1\n',
        '"a" b',
        '"a" b\t1\tbad\t0.75\t0.25',
    ),
    "escape": ({"dialect": plain(escape="\\")}, b'text,n\n"a \\"b\\"",1\n', 'a "b"', '"a \\"b\\"",1,bad,0.75,0.25'),
    "delimiter": (
        {"delimiter": ":", "dialect": plain(":")},
        b"text:n\na, b:1\n",
        "a, b",
        f"a, b:1:{GOOD.replace(',0', ':0')}",
    ),
    "encoding": ({"encoding": "cp1251"}, "text,n\nночь,1\n".encode("cp1251"), "ночь", f"ночь,1,{GOOD}"),
    "another dialect": ({"dialect": plain("\t", "")}, b'text,n\n"a, b",1\n', "a, b", f'"a, b",1,{GOOD}'),
    "one column": (
        {"quote": "'", "dialect": plain(";", "'")},
        b"text\n'a, b'\n",
        "a, b",
        "'a, b','good, or \"fine\"',0.25,0.75",
    ),
    "no header": ({"columns": ["n", "text"], "dialect": plain()}, b"1,a b\n", "a b", "1,a b,bad,0.75,0.25"),
    "a header": ({"columns": ["n", "text"], "dialect": plain()}, b"text,n\na b,1\n", "a b", "a b,1,bad,0.75,0.25"),
}


@pytest.mark.parametrize("what", AS_TRAINED)
def test_a_file_is_read_as_the_corpus_of_the_training_was(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known, content, text, row = AS_TRAINED[what]
    monkeypatch.setattr(inputs, "read_training", lambda bundle, dataset: {"source": known})
    written("in.csv", content)
    assert table("in.csv", "out.csv") == 0
    assert Stub.seen == [text]
    assert Path("out.csv").read_text().splitlines()[-1] == row


def test_whoever_says_how_a_file_is_read_is_heard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"quote": "'", "encoding": "cp1251", "dialect": plain(quote="'")}
    monkeypatch.setattr(inputs, "read_training", lambda bundle, dataset: {"source": known})
    written("in.csv", 'text,n\n"été, là",1\n')
    assert table("in.csv", "out.csv", "--quote", '"', "--encoding", "auto") == 0
    assert Stub.seen == ["été, là"]
    assert refused(capsys, "--input", "in.csv", "--output", "out.csv", "--quote", "ab")[0] == 2


@pytest.mark.parametrize(("label", "code"), [("neither", 0), ("a\tb", 3)])
def test_a_cell_that_a_file_without_quotes_cannot_hold(
    label: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Stub, "labels", [label, "good"])
    monkeypatch.setattr("tests.stub_scorer.LABELS", [label, "good"])
    put_in(monkeypatch).labels = [label, "good"]
    written("in.tsv", 'text\tn\nan "odd one\t1\n')
    assert table("in.tsv", "out.tsv", "--quote", "") == code
    assert ("its fields are not quoted" in capsys.readouterr().err) == (code == 3)


def test_long_headers_and_odd_names_are_read() -> None:
    written("a[1].csv", f"text,{'n' * 140_000}\nfine,1\n")
    assert table("a[1].csv", "out.jsonl") == 0
    assert Stub.seen == ["fine"]


def test_texts_stand_where_the_training_had_them_unless_somebody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "read_training", lambda bundle, dataset: {"source": {"text_column": "body"}})
    written("a.csv", "text,body,other\nno,four,xxx\n")
    written("b.csv", "other,text\nxxx,four\n")
    for source, more, seen in (("a.csv", (), "four"), ("b.csv", (), "four"), ("a.csv", ("--column", "other"), "xxx")):
        assert table(source, "out.csv", *more) == 0
        assert Stub.seen == [seen]
