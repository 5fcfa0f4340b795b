# SPDX-License-Identifier: Apache-2.0
"""Reading a corpus: all formats, cuts and compressions give the same rows; which columns hold text, label and splits.

Rows of CSV are those of Python's csv module.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from padless.core.errors import DataError
from padless.core.split_names import SPLITS
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.pipeline.parts import ConvertedFile
from preprocessing.sources import text_files
from preprocessing.sources.columns import ResolvedSource, find_candidates, resolve_source, resolve_unlabelled
from preprocessing.sources.convert import Converted, convert, read_part
from preprocessing.sources.sources import list_files
from tests.helpers.corpora import reviews, write_csv, write_jsonl

ROWS = [*reviews(40), ('quotes " and, commas', "positive"), ("two\nlines", "negative"), ("ünïcode ☃ 😀", "positive")]


def resolve_path(path: object, splits: SplitConfig | None = None, **options: Any) -> ResolvedSource:
    paths = path if isinstance(path, list) else str(path)
    return resolve_source(list(list_files(SourceConfig(path=paths, **options), splits or SplitConfig())))


def convert_path(
    path: object, stage: Path, splits: SplitConfig | None = None, **options: Any
) -> tuple[list[Converted], list[dict[str, Any]]]:
    """Each file of a source, converted below ``stage``; and all rows."""
    converted, rows = [], []
    for at, file in enumerate(resolve_path(path, splits, **options).files):
        converted.append(convert(file, stage, f"{at}-"))
        rows += [row for part in converted[-1].parts for row in read_part(stage, part).to_pylist()]
    return converted, rows


def pairs_of(path: object, **options: Any) -> list[tuple[str, str]]:
    """Text and class of every row."""
    with tempfile.TemporaryDirectory() as stage:
        return [(row["text"] or "", row["label"]) for row in convert_path(path, Path(stage), **options)[1]]


def write(path: Path, rows: list[tuple[str, str]] = ROWS) -> Path:
    """A corpus of the kind that its name says."""
    if path.suffix:
        return {".csv": write_csv, ".jsonl": write_jsonl}[path.suffix](path, rows)
    for row, (text, label) in enumerate(rows):
        (path / label).mkdir(parents=True, exist_ok=True)
        (path / label / f"{row}_7.txt").write_bytes(text.encode())
    return path


def csv_of(rows: Iterable[Iterable[object]], delimiter: str, line_end: str) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator=line_end).writerows(rows)
    return buffer.getvalue()


ODD_FIELDS = (
    *["a", "é", '5" disk', '"x"y', '"a, ""b"""', '"two\nlines"', '"two\r\nlines"', '"x" y""', '"b\rc"', '""', " "],
)
ROW = st.tuples(*[st.sampled_from(ODD_FIELDS)] * 2, st.sampled_from(["\n", "\r\n", "\n\n", "\r\r\n"]))


@given(rows=st.lists(ROW, min_size=1, max_size=9), block=st.sampled_from([64, 100, 1 << 21]), is_open=st.booleans())
def test_rows_are_those_of_the_csv_module(
    rows: list[tuple[str, str, str]], block: int, is_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of blocks. A quote that never closes is refused."""
    monkeypatch.setattr(text_files, "MAX_ROW_BYTES", block)
    text = "text,label\n" + "".join(f"{first},{second}{end}" for first, second, end in rows).rstrip("\r\n")
    lines = text.replace("\r\r\n", "\n").replace("b\rc", "b~c")  # the csv module has no returns within lines
    expected = [tuple(row) for row in csv.reader(io.StringIO(lines, newline="")) if row]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        path.write_bytes((text + '\na,"open' * is_open).encode())
        config = SourceConfig(path=str(path), text_column="text", label_column="label")
        (file,) = list_files(config, SplitConfig())
        batches = text_files.CsvReader(file, iter([path.read_bytes()])).batches(keep_columns=True)
        if is_open:
            with pytest.raises(DataError, match=rf"row {len(expected)}: a quote opens and never closes"):
                list(batches)
            return
        fields, numbers = [], []
        for batch in batches:
            fields += zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)
            numbers += batch.numbers.tolist()
    assert [(first.replace("b\rc", "b~c"), second.replace("b\rc", "b~c")) for first, second in fields] == expected[1:]
    assert numbers == list(range(1, len(expected)))


WORDS = ["film", "5, or 6; it's", 'a "quoted" word', "two\nlines", "tab\there", "bar|bar", "café", "Müller", "“so”"]
CORPUS = st.lists(
    st.tuples(st.lists(st.sampled_from(WORDS), min_size=2, max_size=6).map(" and ".join), st.sampled_from("xy")),
    min_size=3,
    max_size=12,
)


@given(
    CORPUS,
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16"]),
    st.sampled_from([0.0001, 8.0]),
)
def test_delimiter_and_encoding_are_recognised(
    rows: list[tuple[str, str]], delimiter: str, line_end: str, encoding: str, part_mb: float
) -> None:
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) + line_end for text, label in rows]
    options: dict[str, Any] = {"part_mb": part_mb} | ({"encoding": encoding} if encoding == "cp1252" else {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        path.write_bytes(csv_of([("text", "label"), *rows], delimiter, line_end).encode(encoding))
        assert pairs_of(path, **options) == rows
        printed = "".join(resolve_path(path, **options).lines)
        assert ("delimiter" in printed, "encoding 'utf-16'" in printed) == (delimiter != ",", encoding == "utf-16")
        path = path.with_suffix(".jsonl")
        path.write_bytes("".join(lines).encode(encoding))
        assert pairs_of(path, **options) == rows


def test_lines_end_at_newlines_and_returns_and_nowhere_else(tmp_path: Path) -> None:
    """A carriage return within quotes is text, a byte order mark is not part of the first field."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\ra film,good\ranother,bad\r")
    assert pairs_of(path) == [("a film", "good"), ("another", "bad")]
    path.write_bytes(b'\xef\xbb\xbftext,label\r\n"one \r film",x\r\n"two\r\nlines\rof",y\r\n\x01 three,x\r\r\nfive,y\r')
    assert pairs_of(path) == list(zip(["one \r film", "two\r\nlines\rof", "\x01 three", "five"], "xyxy", strict=True))
    path.write_bytes(path.read_bytes().replace(b"three,x", b"three"))
    with pytest.raises(DataError, match="row 3: 1 fields, the header has 2"):
        pairs_of(path)
    rows = [(f"{number} a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i", "xy"[number % 2]) for number in range(4)]
    for name in ("b.csv", "b.jsonl", "folder"):
        assert sorted(pairs_of(write(tmp_path / name, rows))) == rows


@pytest.mark.parametrize("content", ["a\n\nb\x01", "a\r\n\r\nb\x01\r\n", ""])
def test_each_line_of_a_text_file_is_a_text(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content.encode())
    source = SourceConfig(path=[], unlabelled_path=str(tmp_path / "a.txt"), text_column="text")
    (file,) = list_files(source, SplitConfig())
    texts = [text for part in convert(file, tmp_path).parts for text in read_part(tmp_path, part)["text"].to_pylist()]
    assert texts == (["a", "", "b "] if content else [])


def test_folders_of_labels(tmp_path: Path) -> None:
    """Files are in numeric order; files that are not texts or hidden, and texts without labels, are ignored."""
    root = write(tmp_path / "reviews")
    (root / "unsup").mkdir()
    (root / "unsup" / "0_0.txt").write_text("without a label")
    (root / "README").write_text("not a text")
    (root / "positive" / "._0_7.txt").write_text("hidden")
    assert pairs_of(root) == sorted(ROWS, key=lambda row: (row[1], ROWS.index(row)))
    (root / "positive" / "1_7.txt").write_bytes(b"one good film, the others were caf\xe9 \xc3\xa9\xc3\xa8\n")
    with pytest.raises(DataError, match=r"reviews/positive/1_7\.txt: 'text' is not UTF-8"):
        pairs_of(root)


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv")
    (file,) = resolve_path(path).files
    parts = ConvertedFile.from_file(tmp_path, file).find_parts()
    assert next(parts).rows == len(ROWS)
    path.write_text("text,label\n")
    with pytest.raises(DataError, match=r"a\.csv: it changed while it was read"):
        next(parts)


def test_a_name_with_a_colon_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.csv")
    for name in ("a.pdf", "pdf.csv"):
        Path(name).write_bytes(b"%PDF-1.7\n\xe2\xe3" + bytes(range(256)))
    Path("one.json").write_text('{"data": [\n{"text": "a film"}\n]}')
    Path("nested.json").write_text('{"data": {"text": "a film"}}')
    Path("wide.csv").write_text(f"text,{'x' * 200_000}\na film,good\n")
    Path("row.csv").write_text("hello there,a\nbye now,b\n")
    for name, sentence in (
        ("pipe.csv", "is a pipe or a device"),
        ("exp:1", "no such file"),
        ("a.pdf", "is a PDF; save its texts as CSV"),
        ("pdf.csv", "is a PDF; save its texts as CSV"),
        ("one.json", "row 1: not a JSON value"),
        ("nested.json", "'data'. hold no texts"),
        ("wide.csv", "its first line is too long"),
        ("row.csv", "if its first line is a row, name the columns"),
    ):
        with pytest.raises(DataError, match=sentence):
            pairs_of(name)
    assert pairs_of(write(Path("a:b.csv"))) == ROWS


BAD_LABELS = ([["b"]], [{"b": 1}], ["b", ""], ["b\x1fc"], {"b": 1})


@pytest.mark.parametrize("bad", BAD_LABELS, ids=repr)
def test_what_no_label_can_be(bad: Any, tmp_path: Path) -> None:
    rows = [(text, [label] if isinstance(bad, list) else label) for text, label in ROWS]
    with pytest.raises(DataError, match=r"a\.jsonl: row 8: .*label"):
        pairs_of(write_jsonl(tmp_path / "a.jsonl", [*rows[:7], ("a text", bad), *rows[7:]]))


def test_labels_that_are_not_utf8_are_no_class(tmp_path: Path) -> None:
    for kind, values in ((pa.binary(2), [b"ok", b"\xff\xfe"]), (pa.list_(pa.binary()), [[b"ok"], [b"\xff"]])):
        table = pa.table({"text": [text for text, _ in ROWS[:40]], "label": pa.array(values * 20, kind)})
        pa.parquet.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(DataError, match=r"row 2: .*not UTF-8"):
            pairs_of(tmp_path / "a.parquet")


def test_spellings_of_one_name(tmp_path: Path) -> None:
    (converted,), _ = convert_path(write(tmp_path / "a.csv", [(text, "cafe\u0301") for text, _ in ROWS]), tmp_path)
    assert converted.classes == ["caf\u00e9"]
    pa.parquet.write_table(pa.table({"text": ["a", "b"], "label": [0.0, -0.0]}), tmp_path / "a.parquet")
    assert convert_path(tmp_path / "a.parquet", tmp_path)[0][0].classes == ["0"]


def test_new_files_have_a_header_or_none(tmp_path: Path) -> None:
    """Files without labels, read like a corpus whose columns were named, each by its own first line."""
    contents = {
        "row": "a film,good\n",
        "same": "body,mood\na film,good\n",
        "wide": "id,body,n\n7,a film,8\n",
        "alone": "review\na film\n",
    }
    chosen = {"text_column": "body", "label_column": "mood"}
    for name, content in contents.items():
        (tmp_path / f"{name}.csv").write_text(content)
        source = SourceConfig(path=[], columns=["body", "mood"], unlabelled_path=str(tmp_path / f"{name}.csv"))
        (file,) = resolve_unlabelled(list(list_files(source, SplitConfig())), chosen, [])
        (part,) = convert(file, tmp_path).parts
        assert read_part(tmp_path, part)["text"].to_pylist() == ["a film"], name


def test_several_columns_are_one_text(tmp_path: Path) -> None:
    cells = [("a", "b"), ("", "b"), (None, "b"), ("a", None), ("", ""), (None, ""), (None, None)]
    records = [{"title": title, "body": body, "label": n % 2} for n, (title, body) in enumerate(cells)]
    (tmp_path / "a.json").write_text(json.dumps(records, indent=1))
    _, rows = convert_path(tmp_path / "a.json", tmp_path, text_column=["title", "body"])
    assert [row["text"] for row in rows] == ["a xxsep b", *[" xxsep b"] * 2, "a xxsep ", "", "", None]


SIZE = 60
SENTENCES = [f"this is what viewer {at} thinks of it" for at in range(SIZE)]
MOODS = [["good", "bad", "so so"][at % 3] for at in range(SIZE)]
IDS = list(map(str, range(SIZE)))
CASES: dict[str, tuple[dict[str, list[str]], list[str], list[str]]] = {
    "review, sentiment": ({"id": IDS, "review": SENTENCES, "sentiment": MOODS}, ["review"], ["sentiment"]),
    "two texts": ({"pros": SENTENCES, "cons": SENTENCES, "y": MOODS}, ["pros", "cons"], ["y"]),
    "two labels": ({"review": SENTENCES, "topic": MOODS, "stars": ["1", "2"] * 30}, ["review"], ["topic", "stars"]),
    "prices and dates are no label": (
        {
            "review": SENTENCES,
            "price": ["0.5", "3.25"] * 30,
            "seen": [f"12/0{at % 9 + 1}/24" for at in range(SIZE)],
            "year": [f"{2020 + at % 3}" for at in range(SIZE)],
            "kind": MOODS,
        },
        ["review"],
        ["kind"],
    ),
    "no spaces between words": (
        {"評論": [f"這部電影真的非常好看我很喜歡{at}" for at in IDS], "情感": MOODS}, ["評論"], ["情感"]
    ),
    "nothing": ({"id": IDS, "n": [str(at / 7) for at in range(SIZE)]}, [], []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_only_candidate_or_all_of_them(case: str) -> None:
    columns, texts, labels = CASES[case]
    assert find_candidates(columns, "text") == texts
    other_columns = {name: values for name, values in columns.items() if name not in texts[:1]}
    assert find_candidates(other_columns, "label") == labels


def test_a_split_column_where_that_is_safe(tmp_path: Path) -> None:
    rows = [(text, MOODS[at], ["train", "dev"][at % 2]) for at, text in enumerate(SENTENCES)]
    path = write_csv(tmp_path / "a.csv", rows, ("text", "label", "Split"))
    assert resolve_path(path).files[0].splits.column == "Split"
    splits = [SPLITS[row["split"]] for row in convert_path(path, tmp_path)[1]]
    assert splits == ["train", "validation"] * (SIZE // 2)
    unsafe = [*rows[:7], (*rows[7][:2], "holdout"), *rows[8:]]
    assert resolve_path(write_csv(tmp_path / "b.csv", unsafe, ("text", "label", "Split"))).split_column is None
