# SPDX-License-Identifier: Apache-2.0
"""Reading a corpus: all formats, cuts and compressions give the same rows; which columns hold text, label and splits.

Rows of CSV are those of Python's csv module.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocessing.base.errors import DataError
from preprocessing.base.split_names import SPLITS
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus import readers
from preprocessing.corpus.columns import Resolved, examine_column, find_candidates, resolve, resolve_unlabelled
from preprocessing.corpus.convert import Converted, convert, read_part
from preprocessing.corpus.sources import list_files
from preprocessing.dataset.shards import read_manifest
from tests.corpora import Command, reviews, write_csv, write_jsonl

ROWS = [*reviews(40), ('quotes " and, commas', "positive"), ("two\nlines", "negative"), ("ünïcode ☃ 😀", "positive")]


def conversions(stage: Path, splits: SplitConfig | None = None, **options: Any) -> tuple[list[Converted], list[str]]:
    """Each file of a source, converted below ``stage``, and the messages."""
    resolved = resolve(list(list_files(SourceConfig(**options), splits or SplitConfig())))
    return [convert(file, stage, f"{at}-") for at, file in enumerate(resolved.files)], resolved.lines


def rows_of(path: object, splits: SplitConfig | None = None, **options: Any) -> list[tuple[str, str, str | None, int]]:
    """``(text, class, split, row)`` of a whole source; rows are numbered over all files."""
    rows, offset = [], 0
    with tempfile.TemporaryDirectory() as stage:
        named = path if isinstance(path, list) else str(path)
        for converted in conversions(Path(stage), splits, path=named, **options)[0]:
            for part in converted.parts:
                for row in read_part(Path(stage), part).to_pylist():
                    split = None if row["split"] < 0 else SPLITS[row["split"]]
                    rows.append((row["text"] or "", row["label"], split, row["row"] + offset))
            offset += converted.rows_read
    return rows


def pairs_of(path: object, **options: Any) -> list[tuple[str, str]]:
    return [row[:2] for row in rows_of(path, **options)]


def texts_of(path: object, **options: Any) -> list[str]:
    return [row[0] for row in rows_of(path, **options)]


def write(path: Path, rows: list[tuple[str, str]] = ROWS) -> Path:
    """A corpus of the kind that its name says."""
    if path.suffix:
        return {".csv": write_csv, ".jsonl": write_jsonl}[path.suffix](path, rows)
    for row, (text, label) in enumerate(rows):
        (path / label).mkdir(parents=True, exist_ok=True)
        (path / label / f"{row}_7.txt").write_bytes(text.encode())
    return path


def as_csv(rows: Iterable[Iterable[object]], delimiter: str, line_end: str, **more: Any) -> str:
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter, lineterminator=line_end, **more).writerows(rows)
    return written.getvalue()


# Records


ODD_FIELDS = (
    *["a", "é", '5" disk', '"x"y', '"a, ""b"""', '"two\nlines"', '"two\r\nlines"'],
    '"x" y""',
    '"b\rc"',
    '""',
    " ",
)
ROW = st.tuples(*[st.sampled_from(ODD_FIELDS)] * 2, st.sampled_from(["\n", "\r\n", "\n\n", "\r\r\n"]))


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=1, max_size=9), block=st.sampled_from([4, 16, 1 << 21]), is_open=st.booleans())
def test_rows_are_those_of_the_csv_module(
    rows: list[tuple[str, str, str]], block: int, is_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of blocks, also for rows that are longer than one. A quote that never closes is refused."""
    monkeypatch.setattr(readers, "BATCH_BYTES", block)
    text = "a,b\n" + "".join(f"{first},{second}{end}" for first, second, end in rows).rstrip("\r\n")
    lines = text.replace("\r\r\n", "\n").replace("b\rc", "b~c")  # the csv module has no returns within lines
    expected = [
        [field.replace("~", "\r") for field in row] for row in csv.reader(io.StringIO(lines, newline="")) if row
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        path.write_bytes((text + '\na,"open' * is_open).encode())
        batches = open_one(SourceConfig(path=str(path), columns=["text", "label"])).batches(keep_columns=True)
        if is_open:
            with pytest.raises(DataError, match=rf"row {len(expected) + 1}: a quote opens and never closes"):
                list(batches)
            return
        found, numbers = [], []
        for batch in batches:
            found += map(list, zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True))
            numbers += batch.numbers.tolist()
    assert found == expected
    assert numbers == list(range(1, len(expected) + 1))


def open_one(config: SourceConfig) -> readers.Reader:
    (file,) = list_files(config, SplitConfig())
    return readers.open_reader(file)


# Forms

WORDS = ["film", "5, or 6; it's", 'a "quoted" word', "two\nlines", "tab\there", "bar|bar", "café", "Müller", "“so”"]
CORPUS = st.lists(
    st.tuples(st.lists(st.sampled_from(WORDS), min_size=2, max_size=6).map(" and ".join), st.sampled_from("xy")),
    min_size=3,
    max_size=12,
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    CORPUS,
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-32"]),
    st.sampled_from([0.0001, 8.0]),
)
def test_delimiter_and_encoding_are_recognised(
    rows: list[tuple[str, str]], delimiter: str, line_end: str, encoding: str, part_mb: float
) -> None:
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) + line_end for text, label in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        text = as_csv([("text", "label"), *rows], delimiter, line_end)
        path.write_bytes(text.encode(encoding))
        assert pairs_of(path, part_mb=part_mb) == rows
        said = "".join(conversions(Path(folder), path=str(path))[1])
        assert ("delimiter" in said) == (delimiter != ",")
        assert ("encoding 'utf-16'" in said) == (encoding == "utf-16")
        path = path.with_suffix(".jsonl")
        path.write_bytes("".join(lines).encode(encoding))
        assert pairs_of(path, part_mb=part_mb) == rows


def test_lines_end_at_newlines_and_returns_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "mac.csv").write_bytes(b"text,label\ra film,good\ranother,bad\r")
    assert pairs_of(tmp_path / "mac.csv") == [("a film", "good"), ("another", "bad")]
    (tmp_path / "mac.txt").write_bytes(b"a film\ranother\r")
    with pytest.raises(DataError, match=r"mac\.txt: its lines end at carriage returns alone; convert them: tr "):
        conversions(tmp_path, path=str(tmp_path / "mac.csv"), unlabelled_path=str(tmp_path / "mac.txt"))
    rows = [(f"{number} a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i", "xy"[number % 2]) for number in range(4)]
    for name in ("a.csv", "a.jsonl", "folder"):
        assert sorted(pairs_of(write(tmp_path / name, rows))) == rows


def test_returns_and_marks(tmp_path: Path) -> None:
    """A carriage return within quotes is text, a byte order mark is not part of the first field."""
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,label\r\n"one \r film",x\r\n"two\r\nlines\rof",y\r\n\x01 three\r\r\nfive,y\r')
    with pytest.raises(DataError, match="row 3: 1 fields, the header has 2"):
        pairs_of(path)
    path.write_bytes(path.read_bytes().replace(b"three\r\r\n", b"three,x\r\r\n"))
    texts = ["one \r film", "two\r\nlines\rof", "\x01 three", "five"]
    assert pairs_of(path) == pairs_of(path, part_mb=1e-6) == list(zip(texts, "xyxy", strict=True))
    for content in (b'\xef\xbb\xbf"text","label"\n"two\nlines",x\n', b'\xef\xbb\xbf"two\nlines",x\n'):
        path.write_bytes(content)
        assert pairs_of(path, columns=[] if b"text" in content else ["text", "label"]) == [("two\nlines", "x")]


# Files


def test_folders_of_labels_and_splits(tmp_path: Path) -> None:
    """Files are in numeric order; files that are not texts or hidden, and texts without labels, are ignored."""
    root = write(tmp_path / "reviews")
    (root / "unsup").mkdir()
    (root / "unsup" / "0_0.txt").write_text("without a label")
    (root / "README").write_text("not a text")
    (root / "positive" / "._0_7.txt").write_text("hidden")
    found = rows_of(root)
    assert [row[:2] for row in found] == sorted(ROWS, key=lambda row: (row[1], ROWS.index(row)))
    assert [row[3] for row in found] == list(range(1, len(ROWS) + 1))


def test_globs_and_lists_follow_their_names(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    names = ["a.csv", "a[1].csv", "b.csv", "deep/c.csv", "deep/er/d.csv"]
    for name in names:
        write_csv(tmp_path / name, [(name, "pos")])
    assert texts_of(tmp_path / "a[1].csv") == names[1:2]
    assert [row[3] for row in rows_of(tmp_path / "**/*.csv")] == list(range(1, 6))
    several = [str(tmp_path / "deep/c.csv"), str(tmp_path / "?.csv")]
    assert texts_of(several) == ["deep/c.csv", "a.csv", "b.csv"]


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv")
    (file,) = resolve(list(list_files(SourceConfig(path=str(path)), SplitConfig()))).files
    with pytest.raises(DataError, match=r"a\.csv: it changed while it was read"):
        convert(file, tmp_path, on_rows=lambda _: path.write_text("text,label\n"))


def test_compression_is_told_by_the_content(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.csv").read_bytes()
    for name, content in (("gzip.csv", gzip.compress(plain)), ("bz2", bz2.compress(plain)), ("plain.csv.gz", plain)):
        (tmp_path / name).write_bytes(content)
        assert pairs_of(tmp_path / name) == ROWS


def test_tables_in_a_zip_archive(tmp_path: Path) -> None:
    """Each member is a file; an archive without a table, or with one that must be unpacked, is refused."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("b/two.jsonl", "one.csv"):
            archive.write(write(tmp_path / Path(name).name), name)
        for name in ("README.md", "__MACOSX/._one.csv", "b/.hidden.csv"):
            archive.writestr(name, "nothing")
    assert pairs_of(tmp_path / "a.zip") == ROWS + ROWS
    assert pairs_of(f"zip://one.csv::{tmp_path}/a.zip") == ROWS
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("c.csv", "text,label\na film,good\nanother\n")
    with pytest.raises(DataError, match=r"a\.zip/c\.csv: row 2: 1 fields, the header has 2"):
        pairs_of(tmp_path / "a.zip")
    for name, sentence in (
        ("a.txt", "b.zip: holds none of .csv, .tsv, .jsonl, "),
        ("a.parquet", "a.parquet: only CSV and JSON are read"),
    ):
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            archive.writestr(name, "PAR1")
        with pytest.raises(DataError, match=sentence):
            pairs_of(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "one.csv", "one.csv")
    whole = (tmp_path / "b.zip").read_bytes()
    entry = whole.index(b"PK\1\2")
    for at, byte, sentence in (
        (entry + 8, 1, "is encrypted, password required"),
        (entry + 10, 97, "That compression method is not supported"),
        (entry - 9, whole[entry - 9] ^ 255, "b.zip/one.csv: "),
    ):
        (tmp_path / "b.zip").write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
        with pytest.raises(DataError, match=sentence):
            pairs_of(tmp_path / "b.zip")


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a\.csv: is a pipe or a device"):
        pairs_of(tmp_path / "a.csv")


def test_new_files_have_a_header_or_none(tmp_path: Path) -> None:
    """Files without labels, read like a corpus whose columns were named, each by its own first line."""
    source = SourceConfig(path=[], text_column="column_1", label_column="column_2", columns=["column_1", "column_2"])
    contents = {
        "row": "a film,good\n",
        "usual": "text,label\na film,good\n",
        "same": "column_1,column_2\na film,good\n",
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.csv").write_text(content)
    (tmp_path / "wide.csv").write_text("id,column_1,n\n7,a film,8\n")
    source = replace(source, unlabelled_path=[str(path) for path in sorted(tmp_path.glob("*.csv"))])
    chosen = {"text_column": "column_1", "label_column": "column_2", "columns": source.columns}
    for file in resolve_unlabelled(list(list_files(source, SplitConfig())), chosen, []):
        (part,) = convert(file, tmp_path).parts
        assert read_part(tmp_path, part)["text"].to_pylist() == ["a film"]


def test_all_columns_are_kept_beside(tmp_path: Path) -> None:
    """Of Parquet in their own types, of CSV by their positions, of JSON the lines; also where rows are left out."""
    table = pa.table({"text": ["a", "b", None], "n": [1, 2, 3], "of": [[1], [], None], "lang": ["en", "de", "en"]})
    views = table.append_column("view", table["text"].cast(pa.string_view()))
    pa.parquet.write_table(views, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text,n,n,lang\na,1,x,en\nb,2,y,de\nc,3,é,en\n")
    (tmp_path / "a.jsonl").write_text('{"text": "a", "lang": "en"}\r\n\n{"text": "b"}\n{"lang":"en",  "text": "c"}')
    kept = {}
    for name in ("a.parquet", "a.csv", "a.jsonl"):
        source = SourceConfig(path=[], unlabelled_path=str(tmp_path / name), where={"lang": "en"}, text_column="text")
        (file,) = list_files(source, SplitConfig(column=None))
        (part,) = convert(file, tmp_path, keep_columns=True).parts
        rows = read_part(tmp_path, part)
        kept[name] = [rows[column].to_pylist() for column in rows.column_names if column.startswith(("column", "line"))]
    assert kept == {
        "a.parquet": [["a", None], [1, 3], [[1], None], ["en", "en"], ["a", None]],
        "a.csv": [["a", "c"], ["1", "3"], ["x", "é"], ["en", "en"]],
        "a.jsonl": [[b'{"text": "a", "lang": "en"}', b'{"lang":"en",  "text": "c"}']],
    }


def test_an_unlabelled_folder_has_no_other_columns(tmp_path: Path) -> None:
    rows = [(*row, "en") for row in ROWS]
    corpus, folder = write_csv(tmp_path / "a.csv", rows, ("text", "label", "lang")), write(tmp_path / "more")
    with pytest.raises(DataError, match=r"more: has no column 'lang'; it has 'text', 'label'; set source.where"):
        conversions(tmp_path, path=str(corpus), unlabelled_path=str(folder), where={"lang": "en"})


def test_times_are_dates_of_four_digits_or_finite_numbers(tmp_path: Path) -> None:
    far = pa.array([datetime(2024, 3, 1), None], pa.timestamp("s"))
    far = pa.concat_arrays([far, pa.array([10**12], pa.int64()).cast(pa.timestamp("s"))])
    for at, times in enumerate([["1", "2", "inf"], ["2024-03-01", "", "12024-03-01"], ["1", "2", "1e999"], far]):
        table = pa.table({"text": ["a", "b", "c"], "label": ["x", "y", "x"], "day": times})
        pa.parquet.write_table(table, tmp_path / f"{at}.parquet")
        with pytest.raises(DataError, match=r"row 3: .* in 'day' is no date and no number; write dates as"):
            conversions(tmp_path, SplitConfig(time_column="day"), path=str(tmp_path / f"{at}.parquet"))


def test_no_escape_character_and_a_colon_in_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pairs_of(write(Path("a:b.csv")), escape="") == ROWS
    with pytest.raises(DataError, match=r"exp:1: no such file"):
        pairs_of("exp:1")


def test_the_header_of_a_second_file_is_no_row(tmp_path: Path) -> None:
    rows = list(zip(SENTENCES, MOODS, strict=True))
    first = write_csv(tmp_path / "a.csv", rows, ())
    for header in (("text", "label"), ("review", "mood_label"), ("column_1", "column_2")):
        second = write_csv(tmp_path / "b.csv", rows[:5], header)
        assert pairs_of([str(first), str(second)]) == rows + rows[:5]


def test_a_sheet_is_read_as_it_is_shown(tmp_path: Path) -> None:
    book = pytest.importorskip("openpyxl").Workbook()
    rows = [[None, "text", "label", "when"], *([n, *row, datetime(2024, 3, 1 + n % 9)] for n, row in enumerate(ROWS))]
    for row in (["Our reviews"], [], *rows[:5], [None, ""], *rows[5:]):
        book.active.append(row)
    book.create_sheet("Others")
    book.save(path := tmp_path / "a.xlsx")
    (converted,), lines = conversions(tmp_path, path=str(path))
    assert lines == [f"source: {path}: sheet 'Sheet'"]
    assert converted.columns == ["", "text", "label", "when"]
    (batch,) = open_one(SourceConfig(path=str(path))).batches(keep_columns=True)
    assert batch.table.select([3, 0]).to_pylist()[4] == {"when": "2024-03-05", "": "4"}
    assert pairs_of(path) == ROWS
    for sheet, said in (("reviews", "has no sheet 'reviews'"), ("Others", "sheet 'Others' is empty")):
        with pytest.raises(DataError, match=f"{said}; it has 'Sheet', 'Others'; set source"):
            conversions(tmp_path, path=str(path), sheet=sheet)


def test_several_columns_are_one_text(tmp_path: Path) -> None:
    cells = [("a", "b"), ("", "b"), (None, "b"), ("a", None), ("", ""), (None, ""), (None, None)]
    records = [{"title": title, "in": {"text": body}, "label": n % 2} for n, (title, body) in enumerate(cells)]
    (tmp_path / "a.json").write_text(json.dumps(records))
    pa.parquet.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    for name in ("a.json", "a.parquet"):
        (converted,), _ = conversions(tmp_path, path=str(tmp_path / name), text_column=["title", "in.text"])
        texts = read_part(tmp_path, converted.parts[0])["text"].to_pylist()
        assert texts == ["a xxsep b", *[" xxsep b"] * 2, "a xxsep ", "", "", None]
        assert converted.first_without_text == 5


def test_a_long_list_of_json_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocessing.corpus.readers.MAX_RECORD_BYTES", 1 << 20)
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a film " * 200_000, "label": "good"}]))
    with pytest.raises(DataError, match=r"a\.json: one value of JSON has more than 1 MiB; write JSON lines, an object"):
        pairs_of(tmp_path / "a.json")


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("about", [{}, {"version": 1.5, "name": "[{", "by": ["me"], "schema": {"fields": [{}]}}])
def test_a_list_in_an_object_is_read_like_the_list(indent: int | None, about: dict[str, Any], tmp_path: Path) -> None:
    records = [{"text": text, "label": label} for text, label in ROWS]
    lines = [json.dumps({"said": [{"by": "me"}], **record}) for record in records]  # each begins with one, and is none
    for text in (json.dumps({**about, "data": records, "n": 3}, indent=indent), "\n".join(lines)):
        (tmp_path / "a.json").write_text(text)
        assert pairs_of(tmp_path / "a.json") == ROWS


SIZE = 60
SENTENCES = [f"this is what viewer {at} thinks of it" for at in range(SIZE)]
MOODS = [["good", "bad", "so so"][at % 3] for at in range(SIZE)]


def found_in(path: Path, splits: SplitConfig | None = None, **options: object) -> Resolved:
    return resolve(list(list_files(SourceConfig(path=str(path), **options), splits or SplitConfig())))


def chosen(columns: dict[str, list[object]]) -> tuple[list[str], list[str]]:
    """The candidates for the text, and those for the label among the rest."""
    looks = [examine_column(name, values) for name, values in columns.items()]
    text = find_candidates(looks, "text")
    rest = [look for look in looks if not text or look.name != text[0].name]
    return [look.name for look in text], [look.name for look in find_candidates(rest, "label")]


IDS = list(range(SIZE))
CASES = {
    "review, sentiment": ({"id": IDS, "review": SENTENCES, "sentiment": MOODS}, ["review"], ["sentiment"]),
    "text and label, whatever else": (
        {"text": MOODS, "label": IDS, "review": SENTENCES, "class": MOODS},
        ["text"],
        ["label"],
    ),
    "two texts": ({"pros": SENTENCES, "cons": SENTENCES, "y": MOODS}, ["pros", "cons"], ["y"]),
    "two labels": ({"review": SENTENCES, "topic": MOODS, "stars": [1, 2] * 30}, ["review"], ["topic", "stars"]),
    "prices are no label": ({"review": SENTENCES, "price": [0.5, 3.25] * 30, "kind": MOODS}, ["review"], ["kind"]),
    "no spaces between words": (
        {"評論": [f"這部電影真的非常好看我很喜歡{at}" for at in IDS], "情感": MOODS}, ["評論"], ["情感"]
    ),
    "neither dates nor addresses": (
        {
            "review": SENTENCES,
            "gesehen": [f"{at % 9 + 1}.12.2024" for at in IDS],
            "seen": [f"12/0{at % 9 + 1}/24" for at in IDS],
            "at": [f"2024-12-0{at % 9 + 1}T10:00:00Z" for at in IDS],
            "clock": [f"{at % 9 + 1}:05 PM" for at in IDS],
            "said": [f"{at % 9 + 1} March 2024" for at in IDS],
            "year": [2020 + at % 3 for at in IDS],
            "link": [f"www.example.org/{at % 4}" for at in IDS],
            "by": [f"a{at % 5}@example.org" for at in IDS],
            "of": [f"00{at % 7}fe2c4-0000-4000" for at in IDS],
            "version": ["1.2.3", "1.3"] * 30,
        },
        ["review"],
        ["version"],
    ),
    "nothing": ({"id": IDS, "n": [at / 7 for at in IDS]}, [], []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_only_candidate_or_all_of_them(case: str) -> None:
    columns, text, label = CASES[case]
    assert chosen(columns) == (text, label)


def test_a_long_file_that_is_sorted_by_label(tmp_path: Path) -> None:
    """The sample is of both labels, and evenly spaced."""
    filler = " ".join(f"word{at}" for at in range(200))
    rows = [(f"{at} {filler}", "bad" if at < 1200 else "good") for at in range(2400)]
    found = found_in(write_csv(tmp_path / "a.csv", rows, ("opinion", "mood"))).chosen
    assert (found["text_column"], found["label_column"]) == ("opinion", "mood")


def test_a_split_column_where_that_is_safe(tmp_path: Path) -> None:
    rows = [(text, MOODS[at], ["train", "dev"][at % 2]) for at, text in enumerate(SENTENCES)]
    header = ("text", "label", "Split")
    assert found_in(write_csv(tmp_path / "a.csv", rows, header)).files[0].splits.column == "Split"
    unsafe = [(*row[:2], "holdout" if at == 7 else row[2]) for at, row in enumerate(rows)]
    assert found_in(write_csv(tmp_path / "b.csv", unsafe, header)).split_column is None


def test_a_first_line_that_is_a_row(tmp_path: Path) -> None:
    for texts in (SENTENCES, CASES["no spaces between words"][0]["評論"]):
        rows = list(zip(MOODS, texts, strict=True))
        for header in ((), ("good", "opinion"), ("", "opinion")):
            path = write_csv(tmp_path / "a.csv", rows, header)
            assert pairs_of(path) == [row[::-1] for row in rows]
            said = "there is no header line; columns are called column_1, column_2"
            assert found_in(path).lines[0].endswith(said) == (not header)


def test_what_is_named_is_not_looked_for(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", zip(SENTENCES, SENTENCES, MOODS, strict=True), ("pros", "cons", "mood"))
    with pytest.raises(DataError, match=r"which column is the text\? It could be 'pros', 'cons'; set"):
        found_in(path)
    assert found_in(path, text_column="cons").chosen["label_column"] == "mood"
    assert found_in(path, text_column="cons", label_column="mood").lines == []


def test_the_command_says_what_it_found(tmp_path: Path, command: Command) -> None:
    rows = [(at, f"très {['bon', 'mauvais'][at % 2]} film no {at % 50}, vu par {at}", MOODS[at]) for at in range(SIZE)]
    path = write_csv(tmp_path / "avis.csv", rows, ("no", "avis", "note"), delimiter=";")
    path.write_bytes(path.read_text(encoding="utf-8").encode("latin-1"))
    small = ("--executor.workers", 1, "--text.max_tokens", 16)
    assert command("prepare", path, "--output", tmp_path / "found", *small) == 0, command.err
    assert [line.partition("avis.csv: ")[2] for line in command.err.splitlines() if line.startswith("source: ")] == [
        "delimiter ';', encoding 'windows-1252' (as in 'très')",
        "the text is column 'avis' (source.text_column)",
        "the label is column 'note' (source.label_column)",
    ]
    found = read_manifest(tmp_path / "found")
    assert found.labels == ["bad", "good", "so so"]
    assert found.provenance["sources"][0]["read_as"] == {"delimiter": ";", "encoding": "windows-1252"}
    assert found.provenance["config"]["source"]["text_column"] == "avis"
    assert "très".encode() in (tmp_path / "found" / "vocabulary.arrow").read_bytes()
