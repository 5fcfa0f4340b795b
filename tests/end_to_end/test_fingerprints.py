# SPDX-License-Identifier: Apache-2.0
"""Results that refactoring must not change: rows and ids of datasets, predictions of files.

``python -m tests.end_to_end.test_fingerprints`` rewrites ``fingerprints.json`` beside this file; it was first made from
revision 740ed78. Users notice every changed line, so it belongs into CHANGELOG.md.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from harness.config import ModelConfig
from harness.inference.bundle import write_bundle
from harness.metrics.calibration import Decision
from harness.model.classifier import Classifier
from harness.model.registry import num_outputs
from harness.rundir.bundle_files import write_vocabulary
from harness.rundir.layout import BUNDLE
from padless.commands import main
from padless.core import cli
from preprocessing.dataset.shards import read_manifest
from tests.conftest import NLTK_DATA
from tests.helpers.commands import later_wins, read_json, unwrapped

pytestmark = pytest.mark.thorough

GOLDEN = Path(__file__).with_name("fingerprints.json")
OPTIONS = ("--text.max_tokens", "32", "--vocabulary.min_count", "1", "--shards.rows", "16", "--executor.workers", "1")
TEXTS = (
    "A fine film, moving and superb; don't miss it!",
    "dull, dull, DULL: the boring plot isn't worth 90 minutes",
    "He said \"great\", and 'awful' was what I'd heard",
    "two\nlines\r\nand a\ttab",
    "<p>Tags &amp; entities<br />break</p><script>no()</script> if a < b",
    "na\u00efve caf\u00e9 cafe\u0301 stra\u00dfe \u0130stanbul o\u2019clock",
    "it is not good, no, never: the actors were running from their children's movies",
    "3.14 e-mail me@example.com, well-known U.S. state-of-the-art",
    "back\\slash and semi;colon | pipe, comma",
    "better mice were flying with the wolves and wives of heroes",
)
FOREIGN_TEXTS = (
    "\u0445\u043e\u0440\u043e\u0448\u0438\u0439 \u0444\u0438\u043b\u044c\u043c",
    "\u65e5\u672c\u8a9e\u306e\u6620\u753b \U0001f600",
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac",
)


def rows(number: int = 40) -> list[tuple[str, str]]:
    """Distinct texts with difficult characters, in two classes."""
    texts = [*TEXTS, *FOREIGN_TEXTS]
    return [
        (f"{texts[n % len(texts)]} row{n} {'word ' * (n * n % 23)}", ("bad", "good")[n % 3 % 2]) for n in range(number)
    ]


ROWS = rows()
ASCII_ROWS = [(re.sub(r"[^ -~]", " ", text), label) for text, label in ROWS]
WESTERN = [(text.encode("cp1252", "ignore").decode("cp1252"), label) for text, label in rows()]
TITLED = [(f"Title {n % 7}", text, label) for n, (text, label) in enumerate(ROWS)]
TWO_TEXTS = "--source.text_column [title,text]"


def table(lines: Any = ROWS, header: Any = ("text", "label"), encoding: str = "utf-8", **dialect: Any) -> bytes:
    """A CSV file."""
    file = io.StringIO(newline="")
    csv.writer(file, **{"lineterminator": "\n", **dialect}).writerows([header, *lines] if header else lines)
    return file.getvalue().encode(encoding)


def objects(lines: Any = ROWS, names: Any = ("text", "label"), **form: Any) -> bytes:
    """A file of JSON lines."""
    return "".join(json.dumps(dict(zip(names, line, strict=True)), **form) + "\n" for line in lines).encode()


def json_list(**form: Any) -> bytes:
    """A list of JSON."""
    return json.dumps([{"text": text, "label": label} for text, label in ROWS], **form).encode()


def parquet(lines: Any = ROWS, kind: Any = None, **form: Any) -> bytes:
    """A Parquet file."""
    file = pa.BufferOutputStream()
    columns = [pa.array(column, kind or pa.string()) for column in zip(*lines, strict=True)]
    pq.write_table(pa.table(columns, names=["text", "label"]), file, **form)
    return file.getvalue().to_pybytes()


def folder(lines: Any = ROWS, root: str = "in", encoding: str = "utf-8") -> dict[str, bytes]:
    """A folder for each label, a file for each text."""
    return {f"{root}/{label}/{n}_7.txt": text.encode(encoding) for n, (text, label) in enumerate(lines)}


def with_column(name: str, value: Callable[[int], object], lines: Any = ROWS) -> bytes:
    """A CSV file with a third column."""
    return table([(*line, value(n)) for n, line in enumerate(lines)], ("text", "label", name))


def corpus(name: str, content: bytes, words: str = "") -> tuple[dict[str, bytes], str]:
    """A corpus of one file, and the words of its command."""
    return {name: content}, f"{name} {words}"


BLANKS = [(text, label * (n % 5 > 0)) for n, (text, label) in enumerate(ROWS)]
SUSPECT = [
    *ROWS,
    ROWS[0],
    ROWS[0],
    (ROWS[1][0], "good"),
    (ROWS[1][0], "bad"),
    ("", "bad"),
    ("<b></b>", "good"),
    ("...", "bad"),
]
STARS = [(text, ("one", "three", "five")[n % 3]) for n, (text, _) in enumerate(ROWS)]
CLASSES = '{"worse":["bad"],"better":["good"]}'
FILES: dict[str, tuple[dict[str, bytes], str]] = {
    "csv": corpus("in.csv", table()),
    "csv, single quotes": corpus("in.csv", table(quotechar="'"), "--source.quote '"),
    "csv, no quotes": corpus(
        "in.tsv", table(ASCII_ROWS, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None), "--source.quote="
    ),
    "csv, no header": corpus("in.csv", table(header=()), "--source.columns [text,label]"),
    "csv, where": corpus(
        "in.csv", with_column("lang", lambda n: "en" if n % 4 else "fr"), '--source.where {"lang":"en"}'
    ),
    "csv, windows-1252": corpus("in.csv", table(WESTERN, encoding="cp1252"), "--source.encoding cp1252"),
    "jsonl": corpus("in.jsonl", objects()),
    "json, a list": corpus("in.json", json_list(indent=1)),
    "jsonl, two texts": corpus("in.jsonl", objects(TITLED, ("title", "text", "label")), TWO_TEXTS),
    "parquet": corpus("in.parquet", parquet()),
    "parquet, dictionary": corpus("in.parquet", parquet(kind=pa.dictionary(pa.int32(), pa.string()))),
    "folder": (folder(), "in"),
    "folder, its own splits": (folder(ROWS[:30], "in/train") | folder(ROWS[30:], "in/test"), "in"),
    "files of splits": (
        {"a.csv": table(ROWS[:20]), "b.csv": table(ROWS[20:30]), "c.csv": table(ROWS[28:])},
        "a.csv --source.validation_path b.csv --source.test_path c.csv",
    ),
    "a file without labels": (
        {"a.csv": table(), "b.csv": table([[text] for text, _ in rows(60)[40:]], ["text"])},
        "a.csv --source.unlabelled_path b.csv",
    ),
    "missing labels unlabelled": corpus("in.csv", table(BLANKS), "--source.missing_label unlabelled"),
    "labels mapped": corpus("in.csv", table(), f"--source.labels {CLASSES}"),
    "column of splits, named": (
        {"in.csv": with_column("part", lambda n: ("tr", "va", "te", "tr", "tr")[n % 5])},
        'in.csv --splits.column part --splits.names {"train":["tr"],"validation":["va"],"test":["te"]}',
    ),
    "groups and folds": corpus(
        "in.csv", with_column("film", lambda n: n // 3), "--splits.group_column film --splits.folds 3"
    ),
    "suspect rows": corpus("in.csv", table(SUSPECT)),
    "suspect rows dropped": corpus(
        "in.csv", table(SUSPECT), "--quality.drop [empty,duplicates,contradictions,leaks]"
    ),
}  # fmt: skip
SETTINGS = {
    "text.html": "false",
    "text.lowercase": "false",
    "text.normalize": "nfc",
    "text.tokenizer": "nltk",
    "text.stop_words": "nltk words.txt",
    "text.stop_words nltk --text.keep_negations": "false",
    "text.lemmatizer": "wordnet",
    "text.max_tokens 12 --text.truncate": "head both",
    "vocabulary.min_count": "auto 3",
    "vocabulary.max_size": "20",
    "shards.rows": "5",
    "seed": "1",
}
FILES |= {
    f"{key} {value}": ({"in.csv": table(), "words.txt": b"the\nand\nfilm\n"}, f"in.csv --{key} {value}")
    for key, values in SETTINGS.items()
    for value in values.split()
}
FILES["vocabulary.base"] = FILES["csv"][0], "in.csv --vocabulary.base base --vocabulary.min_count auto"
REMOVED_KEYS = {"language": "en", "wordnet_pos": "noun"}
"""Keys that specifications once had: they stay in the hash, so that fingerprints from then still hold."""
NEEDS_NLTK = ("tokenizer nltk", "stop_words nltk", "wordnet")


@contextlib.contextmanager
def working_directory(folder: Path, files: dict[str, bytes]) -> Iterator[None]:
    """A working directory with these files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    previous = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(previous)


def run_and_report(program: ModuleType, *words: str) -> str:
    """Exit code and stderr of a command, run in this process."""
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        try:
            code = cli.run(program.main, list(words))
        except SystemExit as help_was_shown:
            code = help_was_shown.code or 0
    return f"{code} {unwrapped(err.getvalue()).strip()}"


def prepare(words: str, output: str = "out") -> None:
    """Build a dataset from files in the working directory."""
    assert cli.run(main, ["prepare", *later_wins(*OPTIONS, "--output", output, *words.split())]) == 0


def fingerprint_of(root: Path) -> str:
    """Rows of each split, and a hash over classes, vocabulary, text pipeline and all rows in their order.

    It is read with pyarrow alone, and does not depend on library versions or the layout of the manifest.
    """
    manifest = read_json(root / "dataset.json")
    vocabulary = arrow(root / "vocabulary.arrow")
    text = {"spec": REMOVED_KEYS | manifest["text"]["spec"], "stop_words": manifest["text"]["stop_words"]}
    digest = hashlib.sha256(json.dumps([manifest["labels"], vocabulary, text], sort_keys=True, default=repr).encode())
    counts = []
    for name, parts in sorted(manifest["splits"].items()):
        for path in sorted((root / name).iterdir()):
            fold, width = re.fullmatch(r"\d+(?:-f(\d+))?-w(\d+)\.arrow", path.name).groups()
            digest.update(repr((name, int(width), fold and int(fold), arrow(path))).encode())
        counts.append(f"{name} {sum(part['rows'] for part in parts)}")
    return f"{', '.join(counts)}: {digest.hexdigest()[:16]}"


def arrow(path: Path) -> dict[str, list[Any]]:
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all().to_pydict()


def dataset(name: str, folder: Path) -> str:
    files, words = FILES[name]
    with working_directory(folder, files):
        if "vocabulary.base" in name:
            Path("base.csv").write_bytes(table(ROWS[:15]))
            prepare("base.csv", "base")
        prepare(words)
        return fingerprint_of(Path("out"))


PREDICTION_INPUTS = {
    "in.csv": table(),
    "in.jsonl": objects(),
    "in.parquet": parquet(),
    "in.txt": "".join(f"{' '.join(text.split())}\n" for text, _ in ROWS).encode(),
}
PREDICTIONS = ("in.csv out.csv", "in.jsonl out.jsonl", "in.parquet out.parquet", "in.txt out.csv", "in.csv out.jsonl")


def bundle_and_data(folder: Path) -> None:
    """A dataset, and a run whose weights are sines: the same on every machine."""
    prepare("in.csv", "data")
    manifest = read_manifest("data")
    model = Classifier(ModelConfig(embedding_dim=4, hidden_size=4), manifest.vocabulary_size, num_outputs(manifest))
    with torch.no_grad():
        for number, weights in enumerate(model.parameters()):
            weights.copy_(torch.sin(torch.arange(weights.numel()) * 1.7 + number).reshape(weights.shape))
    bundle = Path("run") / BUNDLE
    bundle.mkdir(parents=True)
    write_vocabulary(bundle, Path("data"))
    write_bundle(bundle, model, manifest, step=7, decision=Decision(0.5, 0.4))


def fingerprint_of_predictions(case: str) -> str:
    """The second line of a file of predictions, numbers rounded, and a hash over all."""
    source, target = case.split()
    words = f"predict --run run --input {source} --output {target} --overwrite true --processes 1 --device cpu"
    assert cli.run(main, [*words.split(), "--precision", "fp32", "--quiet"]) == 0
    content = Path(target).read_bytes()
    if target.endswith("parquet"):
        predictions = pq.read_table(target)
        content = f"{predictions.schema.to_string()}\n{predictions.to_pylist()}".encode()
    content = re.sub(rb"\b[01]\.\d{5,}", lambda number: b"%.4f" % float(number[0]), content)
    second = content.split(b"\n")[1].decode()
    return f"{second}: {hashlib.sha256(content).hexdigest()[:16]}"


@pytest.fixture(scope="module")
def golden() -> dict[str, dict[str, str]]:
    return read_json(GOLDEN)


@pytest.fixture(scope="module")
def prediction_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here").resolve()
    with working_directory(folder, PREDICTION_INPUTS):
        bundle_and_data(folder)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_datasets(name: str, golden: dict[str, dict[str, str]], tmp_path: Path) -> None:
    if any(data in name for data in NEEDS_NLTK) and not NLTK_DATA.is_dir():
        pytest.skip(f"needs NLTK's data in {NLTK_DATA}")
    assert dataset(name, tmp_path) == golden["datasets"][name]


@pytest.mark.parametrize("case", PREDICTIONS)
def test_predictions(case: str, golden: dict[str, dict[str, str]], prediction_folder: Path) -> None:
    with working_directory(prediction_folder, {}):
        assert fingerprint_of_predictions(case) == golden["predictions"][case]


def rewrite_golden() -> None:
    """Rewrite the file."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        datasets = {name: dataset(name, root / str(number)) for number, name in enumerate(FILES)}
        with working_directory(root / "here", PREDICTION_INPUTS):
            bundle_and_data(root / "here")
            predictions = {case: fingerprint_of_predictions(case) for case in PREDICTIONS}
    content = {"datasets": datasets, "predictions": predictions}
    GOLDEN.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    rewrite_golden()
