# SPDX-License-Identifier: Apache-2.0
"""``predict`` part by part: the same bytes however it is cut, interrupted and continued; law 9 for what has changed."""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.__main__ import main
from harness.predicting import parts
from harness.predicting.place import MANIFEST
from preprocessing.base import atomic, cli
from tests.commands import unwrapped
from tests.stub_scorer import COLUMNS, Stub, put_in

pytestmark = pytest.mark.thorough

ROWS = 300
SMALL = ("--part_mb", 0.001, "--processes", 1)


@pytest.fixture(autouse=True)
def info(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.inference.pieces.CHUNK_ROWS", 7)
    monkeypatch.setattr("preprocessing.corpus.parquet.BATCH_ROWS", 7)
    return put_in(monkeypatch)


def predict(source: object, target: str, *more: object) -> int:
    words = ["predict", "--run", "run", "--input", source, "--output", target, *more]
    return cli.run(main, list(map(str, words)))


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    capsys.readouterr()
    code = predict(*arguments)
    return code, capsys.readouterr().err.splitlines()[-1].removeprefix("error: ")


def texts(rows: int = ROWS) -> list[str]:
    return [f"a text, the {number}th{' and more' * (number % 5)}" for number in range(rows)]


def write(kind: str, rows: int = ROWS) -> str:
    name, content = f"in.{kind}", texts(rows)
    if kind == "csv":
        Path(name).write_text("n,text\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(content)) + "\n\n")
    elif kind == "jsonl":
        Path(name).write_text("".join(json.dumps({"n": n, "text": one}) + "\n" for n, one in enumerate(content)))
    elif kind == "txt":
        Path(name).write_text("\n".join(["\n", *content]))
    else:
        table = pa.table({"n": range(rows), "text": content})
        with pq.ParquetWriter(name, table.schema) as writer:
            for start, size in ((0, 60), (60, 5), (65, 5), (70, 120), (190, 110)):
                writer.write_table(table.slice(start, size), row_group_size=size)
    return name


@pytest.mark.parametrize("target", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("source", ["csv", "jsonl", "txt", "parquet"])
def test_many_parts_are_as_one(source: str, target: str) -> None:
    name = write(source)
    assert predict(name, f"one.{target}") == 0
    whole = list(Stub.seen)
    assert predict(name, f"many.{target}", *SMALL) == 0
    assert whole == Stub.seen
    if target == "parquet":
        assert pq.read_table("many.parquet").equals(pq.read_table("one.parquet"))
    else:
        assert Path(f"many.{target}").read_bytes() == Path(f"one.{target}").read_bytes()
    assert predict(name, "folder/", *SMALL, "--output_format", target) == 0
    files = sorted(path.name for path in Path("folder").iterdir())
    assert files[0] == MANIFEST
    manifest = json.loads(Path("folder", MANIFEST).read_text())
    assert files[1:] == [part["file"] for part in manifest["parts"]]
    assert len(files) > 5
    assert manifest["rows"] == sum(part["rows"] for part in manifest["parts"]) == len(whole)
    for part in manifest["parts"]:
        assert atomic.sha256_file(Path("folder", part["file"])) == part["sha256"]
    if target == "parquet":
        assert pq.read_table("folder").equals(pq.read_table("one.parquet"))
    assert sorted(path.name for path in Path().iterdir()) == sorted(["folder", name, f"many.{target}", f"one.{target}"])


def interrupt(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], None]:
    """The process dies when it begins this part."""
    make = parts.make

    def dying(task: parts.Task) -> parts.Made:
        if task.number == number:
            raise KeyboardInterrupt
        return make(task)

    monkeypatch.setattr(parts, "make", dying)
    return lambda: monkeypatch.setattr(parts, "make", make)


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
        found = {path.name: path.read_bytes() for path in Path(target).iterdir()}
        assert found == {path.name: path.read_bytes() for path in Path("whole-o").iterdir()}
        assert predict(source, target, *SMALL) == 0
        assert Stub.seen == []  # there already
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
    what = "name another --output, or set --overwrite true to begin anew"
    assert refused(capsys, name, "out.csv", "--processes", 1) == (2, f"{begun} part_mb 0.001 and not 8.0; {what}")
    info.weights_sha256 = "other"
    assert refused(capsys, name, "out.csv", *SMALL) == (2, f"{begun} other weights; {what}")
    info.weights_sha256 = "w"
    other = Path("other.csv")
    other.write_text("text\nfine\n")
    assert refused(capsys, other, "out.csv", *SMALL) == (2, f"{begun} another input; {what}")
    with open(name, "a") as file:
        file.write("1,one more\n")
    assert refused(capsys, name, "out.csv", *SMALL) == (2, f"{begun} another content of in.csv; {what}")
    assert predict(name, "out.csv", *SMALL, "--overwrite", "true") == 0
    assert len(Stub.seen) == ROWS + 1


def test_a_part_that_lies_on_another_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, make = write("csv"), parts.make

    def elsewhere(task: parts.Task) -> parts.Made:
        made = make(task)
        if task.number == 2:
            task.path.unlink()
        return made

    monkeypatch.setattr(parts, "make", elsewhere)
    path = Path("out.csv.parts/part-00002.csv").absolute()
    what = "is not seen here; name an --output on a disk that all who predict share"
    assert refused(capsys, name, "out.csv", *SMALL) == (3, f"{path}: {what}")


def test_an_output_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    name = write("csv", 20)
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    line = "--output mine/: holds notes.txt, and no predictions; name an empty folder"
    assert refused(capsys, name, "mine/") == (2, line)
    os.mkfifo("pipe.csv")
    line = "--output pipe.csv: is no file but a pipe or a device; name a file, or a folder with / behind"
    assert refused(capsys, name, "pipe.csv") == (2, line)
    line = "--output s3://bucket/x.csv: is remote; write to a disk here, and copy what is whole"
    assert refused(capsys, name, "s3://bucket/x.csv") == (2, line)
    assert predict(name, "done") == 2  # no ending, and no folder yet
    assert predict(name, "done/") == 0
    line = (
        "--output done/: holds other predictions (prefix  and not new_); name another --output, or set --overwrite true"
    )
    assert refused(capsys, name, "done", "--prefix", "new_") == (2, line)
    assert predict(name, "done", "--prefix", "new_", "--overwrite", "true") == 0
    assert pq.read_table("done").column_names[2:] == [f"new_{column}" for column in COLUMNS]
    assert sorted(path.name for path in Path().iterdir()) == ["done", "in.csv", "mine", "pipe.csv"]


@pytest.mark.parametrize("output", ["out.csv", "out/"])
def test_texts_without_a_known_word_are_counted(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.csv").write_text("text\n" + "fine\nxx\nxxxx\n" * 40)
    assert predict("in.csv", output, "--part_mb", 0.0001, "--processes", 1) == 0
    said = unwrapped(capsys.readouterr().err)
    assert "warning: 80 of 120 texts (67%) hold no word that the model knows" in said


def test_globs_folders_and_pipes(capsys: pytest.CaptureFixture[str]) -> None:
    Path("new/deep").mkdir(parents=True)
    Path("new/b.csv").write_text("text,n\nsecond,2\n")
    Path("new/a.csv.gz").write_bytes(gzip.compress(b"text,n\nfirst,1\n"))
    Path("new/deep/c.csv").write_text("text,n\nthird,3")
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
    Path("new/d.csv").write_text("n,text\n4,fourth\n")
    assert refused(capsys, "new", "out.csv") == (
        3,
        "new/d.csv: its columns (n, text) are not those of new/a.csv.gz (text, n); predict them apart",
    )
    Path("new/d.csv").rename("new/d.jsonl")
    code, line = refused(capsys, "new", "out.csv")
    assert (code, line) == (
        2,
        "--input: new/a.csv.gz is csv and new/d.jsonl is jsonl; predict one kind at a time, or set --format",
    )
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_text("one\ntwo\n"))
    writer.start()
    assert predict("pipe", "out.jsonl") == 0
    writer.join()
    assert Stub.seen == ["one", "two"]


def test_a_folder_of_texts(capsys: pytest.CaptureFixture[str]) -> None:
    Path("texts/neg").mkdir(parents=True)
    for number in range(20):
        Path(f"texts/neg/{number:02d}.txt").write_bytes(f"line\nof café {number}".encode("latin-1"))
    assert predict("texts", "out.csv", "--part_mb", 0.0001, "--processes", 1) == 0
    assert Stub.seen == [f"line\nof café {number}" for number in range(20)]
    assert Path("out.csv").read_text().startswith(f"file,text,{COLUMNS[0]},{COLUMNS[1]}")
    assert 'neg/07.txt,"line\nof café 7",' in Path("out.csv").read_text()
    Path("texts/neg/20.txt").touch()
    line = "texts/neg/20.txt: holds no text; remove it, or set --missing keep"
    assert refused(capsys, "texts", "out.csv")[1].endswith(line)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1", "utf-8-sig"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt"])
def test_other_encodings_are_read_as_preprocessing_reads_them(kind: str, encoding: str) -> None:
    content = {"csv": "n,text\n1,un café\n2,déjà vu\n", "txt": "un café\ndéjà vu\n"}
    content["jsonl"] = '{"n": 1, "text": "un café"}\n{"n": 2, "text": "déjà vu"}\n'
    Path(f"in.{kind}").write_bytes(content[kind].encode(encoding))
    assert predict(f"in.{kind}", "out.parquet") == 0
    assert Stub.seen == ["un café", "déjà vu"]
    assert predict(f"in.{kind}", "out.csv", "--encoding", "cp437" if encoding == "latin-1" else encoding) == 0
    assert Stub.seen == (["un cafΘ", "dΘjα vu"] if encoding == "latin-1" else ["un café", "déjà vu"])


def test_what_is_being_written_is_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("new").mkdir()
    Path("new/a.csv").write_text("text\n" + "fine\n" * 100)
    heal = interrupt(monkeypatch, 3)
    assert predict("new", "new/out.csv", *SMALL, "--part_mb", 0.0001) == 130
    heal()
    for source in ("new", "new/*.csv"):
        assert predict(source, "new/out.csv", "--part_mb", 0.0001, "--processes", 1, "--overwrite", "true") == 0
        assert Stub.seen == ["fine"] * 100
        assert len(Path("new/out.csv").read_text().splitlines()) == 101


def test_a_part_that_is_gone_from_a_whole_folder_is_made_again() -> None:
    name = write("csv")
    assert predict(name, "o/", *SMALL) == 0
    before = {path.name: path.read_bytes() for path in Path("o").iterdir()}
    Path("o/part-00002.parquet").unlink()
    assert predict(name, "o/", *SMALL) == 0
    assert {path.name: path.read_bytes() for path in Path("o").iterdir()} == before


def test_old_macs_end_lines_otherwise() -> None:
    Path("in.csv").write_bytes(b"text,n\rfine,1\rtwo,2\r")
    assert predict("in.csv", "out.csv") == 0
    assert Stub.seen == ["fine", "two"]


def test_rows_without_a_text_are_predicted_if_that_is_wanted() -> None:
    Path("in.csv").write_text("text,n\nfine,1\n,2\n")
    Path("in.jsonl").write_text('{"text": "fine"}\n{"text": null}\n')
    pq.write_table(pa.table({"text": ["fine", None]}), "in.parquet")
    for name in ("in.csv", "in.jsonl", "in.parquet"):
        assert predict(name, "out.csv") == 3
        assert predict(name, "out.csv", "--missing", "keep") == 0
        assert Stub.seen == ["fine", ""]


def test_a_long_text_is_held_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.inference.pieces.CHUNK_BYTES", 1000)
    Path("in.txt").write_text("short\n" * 5 + "x" * 5000 + "\n" + "short\n" * 5)
    assert predict("in.txt", "out.jsonl") == 0
    assert list(map(len, Stub.seen)) == [5] * 5 + [5000] + [5] * 5


def test_a_difference_of_precision_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    name = write("csv", 20)
    assert predict(name, "out.csv", "--precision", "bf16") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "computed in bf16 on cpu, and no probability" in said
    assert "differs by more than 0.15 " in said  # 0.9 and 0.75


def test_remote_files() -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.pipe("/predict/a.csv", b"text\nfine\n")
    store.pipe("/predict/b.csv", b"text\nso so\n")
    assert predict("memory://predict/*.csv", "out.csv") == 0
    assert Stub.seen == ["fine", "so so"]
    assert predict("memory://predict", "out.csv") == 0
    assert Stub.seen == ["fine", "so so"]
    assert predict("memory://predict/c.csv", "out.csv") == 3


def test_what_killed_processes_have_left_of_the_output_is_removed() -> None:
    dead, elsewhere = (
        Path(f"out.csv{atomic.TEMPORARY_MARK}{host}-4194303") for host in (os.uname().nodename, "another")
    )
    for left in (dead, elsewhere):
        left.write_text("half")
    assert predict(write("csv"), "out.csv") == 0
    assert [path.name for path in sorted(Path().glob("out.csv*"))] == ["out.csv", elsewhere.name]


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
    output.write_text("")
    assert predict(name, output) == 0
    assert sorted(path.name for path in Path().iterdir()) == ["in.csv", output.name]


def test_an_output_is_no_input(capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(write("csv", 20)).read_bytes()
    Path("link.csv").symlink_to("in.csv")
    os.link("in.csv", "hard.csv")
    for source, output in (("in.csv", "in.csv"), ("link.csv", "in.csv"), ("h*.csv", "in.csv"), ("in.csv", "hard.csv")):
        for more in ([], ["--overwrite", "true"]):
            code, said = refused(capsys, source, output, *more)
            assert (code, said.split(": ")[0]) == (2, f"--output {output}")
            assert "is the input, or lies there; name another --output" in said
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
    for more in ([], ["--overwrite", "true"]):
        code, said = refused(capsys, name, output, *more)
        assert (code, said) == (
            2, f"{place.absolute()}: is where parts would lie, and no prediction made it; rename it, or name another "
            "--output",
        )  # fmt: skip
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]


def test_parts_that_no_prediction_wrote_are_left(capsys: pytest.CaptureFixture[str]) -> None:
    name = write("csv")
    assert predict(name, "o/", *SMALL) == 0
    mine = [Path("o/part-mine.parquet"), Path("o/part-00001.tmp-mine"), Path("o/notes.txt")]
    for path in mine:
        path.write_text("mine")
    code, said = refused(capsys, name, "o/", *SMALL, "--prefix", "new_", "--overwrite", "true")
    assert (code, said) == (
        2, "--output o/: holds part-00001.tmp-mine, which no prediction wrote; move it away, or name another --output"
    )  # fmt: skip
    assert [path.read_text() for path in mine] == ["mine"] * 3
    for path in mine[:2]:
        path.unlink()
    assert predict(name, "o/", *SMALL, "--prefix", "new_", "--overwrite", "true") == 0
    assert pq.read_table("o/part-00000.parquet").column_names[2:] == [f"new_{column}" for column in COLUMNS]
    assert mine[2].read_text() == "mine"


def test_the_password_of_an_address_stays_out_of_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    store = pytest.importorskip("fsspec").filesystem("memory")
    store.pipe("/me:SECRET@host/a.csv", b"text\nfine\n")
    assert predict("memory://me:SECRET@host/a.csv", "o/") == 0
    assert json.loads(Path("o", MANIFEST).read_text())["basis"]["inputs"][0][0] == "memory://host/a.csv"
    assert predict("memory://me:SECRET@host/b.csv", "p/") == 3
    out, err = capsys.readouterr()
    assert "SECRET" not in out + err
