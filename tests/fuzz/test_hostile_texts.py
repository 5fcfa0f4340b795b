# SPDX-License-Identifier: Apache-2.0
"""Texts, files of texts and configurations as people and programs get them wrong. Text→ids is total and linear. Files
are read or refused: another byte in a text is another text, so what is read may be
anything but a fault; the undamaged file is read whole.
"""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from padless.core import cli
from padless.core.errors import ConfigError, DataError
from preprocessing.config import PreprocessConfig, SourceConfig, SplitConfig
from preprocessing.sources.columns import resolve_source
from preprocessing.sources.convert import convert, read_part
from preprocessing.sources.sources import list_files
from preprocessing.text import resources
from preprocessing.text.encoder import Encoded, Encoder
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer
from preprocessing.text.vocabulary import UNK, freeze
from tests.fuzz.conftest import Fuzz
from tests.fuzz.damage import Damage, byte_damages
from tests.fuzz.outcome import outcome
from tests.helpers.corpora import write_csv, write_jsonl
from tests.helpers.datasets import count
from tests.reference.hostile import PIECES

pytestmark = pytest.mark.thorough

TEXTS = [f'the film no. {number} was "fine", café {number * 7919}\nand é {number}' for number in range(24)]
LABELS = [("good", "bad")[number % 2] for number in range(24)]


def write(kind: str, path: Path) -> None:
    """An undamaged file."""
    rows = list(zip(TEXTS, LABELS, strict=True))
    match kind:
        case "parquet":
            table = pa.table({"text": TEXTS, "label": pa.array(LABELS).dictionary_encode(), "n": list(range(24))})
            pq.write_table(table, path, row_group_size=10)
        case "jsonl":
            write_jsonl(path, rows)
        case "json":
            path.write_text(json.dumps([{"text": text, "label": label} for text, label in rows], indent=1))
        case "utf16.csv":
            path.write_bytes(write_csv(path, rows).read_text().encode("utf-16"))
        case "csv.gz":
            path.write_bytes(gzip.compress(write_csv(path, rows).read_bytes(), mtime=0))
        case _:
            write_csv(path, rows)


KINDS = ("csv", "utf16.csv", "jsonl", "json", "csv.gz", "parquet")


def dataset_rows(path: Path) -> list[str]:
    """Texts as preprocessing reads them, and their labels and splits."""
    texts = []
    for file in resolve_source(list(list_files(SourceConfig(path=str(path)), SplitConfig()))).files:
        converted = convert(file, path.parent)
        for part in converted.parts:
            rows = read_part(path.parent, part)
            assert {*rows["label"].to_pylist()} <= {*converted.classes}
            texts += [text or "" for text in rows["text"].to_pylist()]
    return texts


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_rows_are_read_or_refused(kind: str, tmp_path: Path, fuzz: Fuzz) -> None:
    path = tmp_path / f"rows.{kind}"
    write(kind, path)
    data = path.read_bytes()
    assert dataset_rows(path) == TEXTS

    def check(damage: Damage) -> str:
        path.write_bytes(damage.data)
        return outcome(partial(dataset_rows, path), lambda texts: {*map(type, texts)} <= {str})

    assert fuzz(byte_damages(data), check)["refused"] > 0


def many_columns(path: Path) -> None:
    names = ",".join(f"c{number}" for number in range(1_000_000))
    path.write_text(f"text,label,{names}\na,b,{names}\n")


def bomb(path: Path) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as packed:
        packed.write(b"text,label\n")
        for _ in range(4):
            packed.write(b"a fine film,good\n" * (1 << 19))


def long_line(path: Path) -> None:
    path.write_bytes(b"text,label\n" + b"a" * (16 << 20))


HOPELESS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a million columns": ("a.csv", many_columns, "a.csv: has more than 16,384 columns"),
    "a .zst without end": ("a.csv.zst", bomb, "and perhaps more, over 200 times as many; if they are texts"),
    "a deep list": (
        "a.json",
        lambda path: path.write_text('[{"text": ' + "[" * 5_000_000),
        "a.json: not a list of JSON (",
    ),
    "two columns of one name": (
        "a.parquet",
        partial(pq.write_table, pa.table([["a"], ["b"], ["c"]], ["text", "text", "label"])),
        "a.parquet: has more than one column 'text'",
    ),
    "a line without end": ("a.csv", long_line, "a.csv: row 1: has more than 4 MiB"),
}


@pytest.mark.parametrize("case", HOPELESS)
def test_a_hopeless_file_is_refused_soon(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before memory, the disk or the day is full."""
    monkeypatch.setattr("padless.core.untrusted.MOST_UNPACKED", 16 << 20)
    name, write_it, sentence = HOPELESS[case]
    write_it(tmp_path / name)

    def read() -> None:
        with pytest.raises(DataError, match=re.escape(sentence)):
            dataset_rows(tmp_path / name)

    assert outcome(read, lambda _: True, seconds=60) == "same"


SPECS = {
    "unicode": TextSpec(),
    "unicode as written": TextSpec(html=False, lowercase=False, truncate="both", max_tokens=7),
    "nltk": TextSpec(tokenizer="nltk", truncate="tail"),
}
KNOWN_TEXTS = ["a fine film", "it's <b>not</b> bad", "don't", "1,000.50 &amp; more ...", "日本 語", "e\u0301té"]
FAMILIES = {
    "letters": ("", "a"),
    "accents on one letter": ("e", "\u0301"),
    "contractions": ("", "can't've "),
    "tags inside each other": ("", "<b>"),
    "comments that nearly close": ("<!--", "--"),
    "scripts that nearly close": ("<script>", "</script"),
    "open attributes of both kinds": ("", "<a b='<a c=\""),
    "entities without an end": ("", "&amp"),
    "joined people": ("", "\U0001f468\u200d"),
}
"""What a text may be made of: its beginning, and what is repeated behind it."""


@pytest.mark.parametrize("name", SPECS)
def test_any_text_gives_ids(name: str, fuzz: Fuzz, request: pytest.FixtureRequest) -> None:
    if name == "nltk":
        request.getfixturevalue("nltk_data")
    pipeline = resources.resolve_pipeline(SPECS[name])
    encoder = Encoder(pipeline, freeze(count(Tokenizer(pipeline)(KNOWN_TEXTS))))

    def has_good_ids(encoded: Encoded) -> bool:
        ids, num_tokens = encoded.ids, len(encoded.ids)
        return 1 <= num_tokens <= SPECS[name].max_tokens and ids.min() >= UNK and ids.max() < len(encoder.vocabulary)

    def check(text: str) -> str:
        return outcome(lambda: encoder([text]), has_good_ids)

    texts = st.one_of(
        st.lists(st.one_of(PIECES, st.sampled_from(KNOWN_TEXTS)), max_size=40).map("".join),
        st.builds(lambda text, times: text * times, PIECES, st.integers(1, 3000)),
        st.sampled_from(("", "\ud800", "<!-- a -->", "<script>a</script>")),
    )
    length = 1 << (16 if name == "nltk" else 18)  # time that grows with its square is more than ``outcome`` allows
    long_texts = [head + body * (length // len(body)) for head, body in FAMILIES.values()]
    assert {*map(check, long_texts), *fuzz(texts, check)} == {"same"}


LAUGHS = "a: &a0 [" + ", ".join("1" * 9) + "]\n"
LAUGHS += "".join(f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
HOSTILE = {
    "laughs": LAUGHS,
    "itself": "a: &a [*a]\n",
    "brackets": "a: " + "[" * 100_000,
    "a class": "a: !!python/object/apply:os.system [touch executed]\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(HOSTILE[name])
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"^c\.yaml: not a readable YAML file: "):
        cli.parse(PreprocessConfig, ["--config", "c.yaml", "--output", "o"], prog="run")
    assert time.monotonic() - began < 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml"]  # nothing was executed
