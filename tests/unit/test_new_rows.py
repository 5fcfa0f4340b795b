# SPDX-License-Identifier: Apache-2.0
"""``evaluate --input``: figures of new labelled rows are those of the same rows in a dataset; what differs is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from harness.__main__ import main
from harness.config import ModelConfig
from harness.inference.bundle import read_bundle, write_bundle
from harness.inference.evaluation import assess
from harness.inference.new_rows import meanings
from harness.inference.scoring import score
from harness.model.classifier import Classifier
from harness.ranks.distributed import World
from harness.rundir.bundle_files import write_vocabulary
from harness.rundir.training_facts import read_training, training_facts, write_training
from harness.scores.calibration import Decision
from harness.scores.drift import drift, stability
from harness.scores.tables import describe_new_rows
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError
from preprocessing.corpus.sources import EMBEDDED_LABELS
from preprocessing.dataset.shards import VOCABULARY, Manifest, Split, read_manifest
from preprocessing.text.vocabulary import Vocabulary
from tests.commands import unwrapped
from tests.corpora import write_csv
from tests.datasets import write_dataset

pytestmark = pytest.mark.thorough

SPLITS = {"train": 80, "validation": 30, "test": 60}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("two"), 2)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("three"), 3)


def write_run(folder: Path, num_classes: int) -> Path:
    """A run with a bundle, beside its dataset and its test rows as a CSV file."""
    texts = write_dataset(folder / "data", SPLITS, num_classes=num_classes)
    manifest = read_manifest(folder / "data")
    torch.manual_seed(1)
    model = Classifier(ModelConfig(embedding_dim=8, hidden_size=8), manifest.vocabulary_size, num_classes)
    write_vocabulary(folder / "run" / "bundle", folder / "data")
    write_bundle(folder / "run" / "bundle", model, manifest, step=7, decision=Decision(0.5, 0.4))
    write_training(folder / "run" / "bundle", with_rates(manifest))
    labels = {}
    for block in Split(folder / "data", manifest, "test").blocks:
        labels |= dict(zip(block.row.tolist(), block.label.tolist(), strict=True))
    rows = [(text, manifest.labels[labels[number]]) for number, text in enumerate(texts["test"])]
    write_csv(folder / "labelled.csv", rows)
    return folder / "run"


def with_rates(manifest: Manifest) -> Manifest:
    """The manifest as preprocessing writes it, with the share of unknown tokens of the splits."""
    splits = {"train": {"unknown_rate": 0.0}, "validation": {"unknown_rate": 0.12}}
    return replace(manifest, statistics={"splits": splits})


def evaluate(run: Path, *arguments: object) -> int:
    return cli.run(main, ["evaluate", "--run", str(run), "--device", "cpu", *map(str, arguments)])


def figures(run: Path, name: str = "labelled.csv") -> dict[str, Any]:
    return json.loads((run / "evaluation" / f"{name}.json").read_text())


def refused(capsys: pytest.CaptureFixture[str], run: Path, *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    code = evaluate(run, *arguments)
    (line,) = capsys.readouterr().err.splitlines()
    return code, line.removeprefix("error: ")


@pytest.mark.parametrize("which", ["run", "three"])
def test_the_figures_are_those_of_the_same_rows_in_the_dataset(
    which: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    run: Path = request.getfixturevalue(which)
    assert evaluate(run, "--input", run.parent / "labelled.csv") == 0
    out, found = capsys.readouterr().out, figures(run)
    bundle, manifest = read_bundle(run / "bundle"), read_manifest(run.parent / "data")
    split = Split(run.parent / "data", manifest, "test")
    scores = score(bundle.model, split, World(), batch_rows=16, layout="padded", device=torch.device("cpu"))
    expected = assess(scores, bundle, split)
    for name in ("rows", "confusion", "per_class", "labels", "temperature", "threshold", "accuracy"):
        assert found[name] == expected[name], name
    for name in ("log_loss", "roc_auc", "ece"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5)
    assert [entry["name"] for entry in found["slices"]] == [entry["name"] for entry in expected["slices"]]
    table = pq.read_table(run / "evaluation" / "labelled.csv-predictions.parquet")
    assert table["row"].to_pylist() == list(range(1, 61))
    assert [m["row"] for m in found["mistakes"]] == [m["row"] + 1 for m in expected["mistakes"]]
    texts = (run.parent / "labelled.csv").read_text().splitlines()[1:]
    assert all(texts[m["row"] - 1] == f"{m['text']},{m['label']}" for m in found["mistakes"])
    assert max(map(len, out.splitlines()[:-1])) <= 80
    assert f"{found['accuracy']:.4f}" in out
    assert "drift: none that matters" in out


def test_inputs_of_one_name_have_figures_of_their_own(run: Path, tmp_path: Path, capsys) -> None:
    content = (run.parent / "labelled.csv").read_text().splitlines()
    for folder, rows in (("jan", 21), ("feb", 31)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "new.csv").write_text("\n".join(content[:rows]) + "\n")
    output = tmp_path / "found"
    for _ in range(2):  # each goes on under its own name
        for folder in ("jan", "feb"):
            assert evaluate(run, "--input", tmp_path / folder / "new.csv", "--output", output) == 0
    found = [json.loads(path.read_text()) for path in output.glob("*.json")]
    assert {Path(one["input"]).parent.name: one["rows"] for one in found} == {"jan": 20, "feb": 30}
    assert len(found) == len(list(output.glob("*-predictions.parquet"))) == 2
    assert (output / "new.csv.json").exists()


def test_drift_is_seen_and_said(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = read_bundle(run / "bundle").info.labels
    rows = [(f"zebra quagga {'okapi ' * 40} w{number}", names[number % 9 == 0]) for number in range(90)]
    path = write_csv(tmp_path / "other.csv", rows)
    assert evaluate(run, "--input", path, "--output", tmp_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["drift"]["unknown"]["words"][0] == ["okapi", 3600]
    assert [sentence.split(":")[0] for sentence in found["drift"]["found"]] == ["unknown words", "lengths", "classes"]
    assert "most often okapi 3,600, " in found["drift"]["found"][0]
    assert found["drift"]["classes"]["here"][names[0]] == 80
    assert json.loads((tmp_path / "other.csv.json").read_text())["drift"] == found["drift"]


def test_training_texts_and_texts_that_cannot_be_read_are_counted(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of an input, and of a split of a dataset, while the dataset of the training is where it was."""
    names = read_bundle(run / "bundle").info.labels
    data = run.parent / "data"
    manifest, words = read_manifest(data), Vocabulary.read(data / VOCABULARY).tokens
    rows_of = {
        name: [
            tuple(ids[:length].tolist())
            for block in Split(data, manifest, name).blocks
            for ids, length in zip(block.ids, block.length, strict=True)
        ]
        for name in ("train", "test")
    }
    known = [" ".join(words.take(ids).to_pylist()) for ids in rows_of["train"]]
    rows = [(text, names[0]) for text in [*known[:7], "zebra quagga", "zebra", *(f"{known[0]} {one}" for one in known)]]
    path = write_csv(tmp_path / "some.csv", rows)
    evaluated = ("--output", tmp_path, "--input", path)
    assert evaluate(run, *evaluated, "--json") == 0
    found = json.loads(capsys.readouterr().out)["texts"]
    assert (found["training_texts"], found["without_known_word"]) == (None, 2)
    assert 0 < found["unknown_share"] < 0.1
    assert evaluate(run, *evaluated) == 0
    assert "note: whether rows are training texts is not known" in unwrapped(capsys.readouterr().out)
    (run / "config.yaml").write_text(f"data: {data}\n")
    try:
        assert evaluate(run, *evaluated) == 0
        said = unwrapped(capsys.readouterr().out)
        assert f"note: 7 of {len(rows)} rows (" in said
        assert f"note: 2 of {len(rows)} rows (" in said
        for split, ids in rows_of.items():
            assert evaluate(run, "--data", data, "--split", split, "--output", tmp_path) == 0
            trained = json.loads((tmp_path / f"{split}.json").read_text())["texts"]["training_texts"]
            assert trained == sum(row in rows_of["train"] for row in ids)
        said = unwrapped(capsys.readouterr().out)
        assert "80 of 80 rows (100%) are training texts, so new texts may do worse" in said
    finally:
        (run / "config.yaml").unlink()


def test_labels_that_the_run_does_not_know_are_named(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = read_bundle(run / "bundle").info.labels
    rows = [("fine film", names[0]), ("odd", "meh"), ("bad", names[1]), ("odd", "meh"), ("odd", "so so")]
    path = write_csv(tmp_path / "strange.csv", rows)
    code, line = refused(capsys, run, "--input", path)
    assert (code, line) == (
        3,
        f"{path}: holds labels that the run does not know: 'meh' (2 rows, first row 2), 'so so' (1 row, first "
        f"row 5); it knows {', '.join(names)}; say in source.labels what they mean, or leave the rows out with "
        "source.neutral",
    )
    assert evaluate(run, "--input", path, "--output", tmp_path, "--source.neutral", "[meh, so so]") == 0
    assert "strange.csv: 2 rows, 3 left out" in capsys.readouterr().out
    values = {name: [name] for name in names} | {names[0]: [names[0], "meh", "so so"]}
    assert evaluate(run, "--input", path, "--output", tmp_path, "--source.labels", json.dumps(values)) == 0
    assert json.loads((tmp_path / "strange.csv.json").read_text())["rows"] == 5
    labels = '{nobody: [meh], other: ["so so"]}'
    code, line = refused(capsys, run, "--input", path, "--source.labels", labels)
    assert (code, line) == (2, f"source.labels: the run has no class 'nobody'; it has {', '.join(names)}")


def test_wrong_columns_and_files_are_named(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_csv(tmp_path / "columns.csv", [("fine", "1")], header=("review", "stars"))
    code, line = refused(capsys, run, "--input", path, "--source.label_column", "stars")
    assert code == 3
    assert line.startswith(f"{path}: has no column 'text'; it has 'review', 'stars'; set source.text_column")
    missing = tmp_path / "no.csv"
    assert refused(capsys, run, "--input", missing) == (3, f"{missing}: no such file; check --input")
    assert refused(capsys, run) == (
        2,
        "nothing to evaluate on, or two things: give --input FILE, or --data DATASET",
    )
    empty = write_csv(tmp_path / "empty.csv", [])
    assert refused(capsys, run, "--input", empty) == (3, f"{empty}: holds no labelled row")


def test_a_run_that_does_not_know_its_training_compares_what_it_can(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (run / "bundle" / "training.json").rename(tmp_path / "kept.json")
    try:
        assert evaluate(run, "--input", run.parent / "labelled.csv", "--output", tmp_path) == 0
        assert "lengths and classes of the training are not known" in " ".join(capsys.readouterr().out.split())
        (run / "config.yaml").write_text(f"data: {run.parent / 'data'}\n")
        assert evaluate(run, "--input", run.parent / "labelled.csv", "--output", tmp_path) == 0
        assert "are not known" not in capsys.readouterr().out
    finally:
        (tmp_path / "kept.json").rename(run / "bundle" / "training.json")
        (run / "config.yaml").unlink(missing_ok=True)


def test_what_is_kept_of_a_training(run: Path) -> None:
    manifest = read_manifest(run.parent / "data")
    found = read_training(run / "bundle", manifest.fingerprint)
    assert found is not None
    assert {name: found[name] for name in ("source", "splits")} == training_facts(with_rates(manifest))
    assert sum(found["splits"]["train"]["lengths"].values()) == found["splits"]["train"]["rows"] == SPLITS["train"]
    assert sum(found["splits"]["train"]["labels"].values()) == SPLITS["train"]
    assert read_training(run / "bundle", "another dataset") is None


def told(read_as: list[dict[str, str]], **source: object) -> dict[str, Any]:
    """The provenance of CSV files that were read in these ways."""
    files = [{"name": f"{at}.csv", "format": "csv", "split": None, "read_as": one} for at, one in enumerate(read_as)]
    unlike = {"name": "u.tsv", "format": "csv", "split": "unlabelled"}
    return {"config": {"source": {"text_column": "text", **source}}, "sources": [*files, unlike]}


@pytest.mark.parametrize(
    ("read_as", "expected"),
    [
        ([{}], {"delimiter": ",", "quote": "'", "escape": None}),
        (
            [{"delimiter": ";", "encoding": "utf-16", "escape": "\\"}] * 2,
            {"delimiter": ";", "quote": "'", "escape": "\\"},
        ),
        ([{}, {"delimiter": ";"}], None),
        ([], None),
    ],
)
def test_the_dialect_of_a_corpus_travels(run: Path, read_as: list[dict[str, str]], expected: dict[str, str]) -> None:
    manifest = replace(read_manifest(run.parent / "data"), provenance=told(read_as, quote="'", encoding="cp1251"))
    source = training_facts(manifest)["source"]
    assert (source.get("dialect"), source["quote"], source["encoding"]) == (expected, "'", "cp1251")


@pytest.mark.parametrize("command", ["evaluate", "explain", "predict"])
def test_all_commands_read_new_rows_as_the_corpus_was(
    command: str, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Quoted with ' and written in an encoding that no bytes tell."""
    names = read_bundle(run / "bundle").info.labels
    shutil.copytree(run, tmp_path / "run")
    manifest = with_rates(read_manifest(run.parent / "data"))
    provenance = told([{}], quote="'", encoding="cp1251", label_column="label", labels="auto")
    write_training(tmp_path / "run" / "bundle", replace(manifest, provenance=provenance))
    text = "ночь, улица, w1 ''фонарь''"
    rows = "".join(f"'{text}','{names[at % 2]}'\n" for at in range(4))
    (tmp_path / "new.csv").write_bytes(f"text,label\n{rows}".encode("cp1251"))
    more = {"evaluate": ["--output", tmp_path], "explain": ["--format", "json"]}
    more["predict"] = ["--output", tmp_path / "out.jsonl", "--processes", "1"]
    words = [command, "--run", tmp_path / "run", "--input", tmp_path / "new.csv", "--device", "cpu", *more[command]]
    assert cli.run(main, list(map(str, words))) == 0, capsys.readouterr().err
    if command == "evaluate":
        seen = [mistake["text"] for mistake in json.loads((tmp_path / "new.csv.json").read_text())["mistakes"]]
    else:
        out = capsys.readouterr().out if command == "explain" else (tmp_path / "out.jsonl").read_text()
        seen = [json.loads(line)["text"] for line in out.splitlines()]
    assert set(seen) == {"ночь, улица, w1 'фонарь'"}


def test_what_labels_mean() -> None:
    pair = ["negative", "positive"]
    assert meanings(pair, "auto", EMBEDDED_LABELS) == {"negative": 0, "neg": 0, "0": 0, "positive": 1, "pos": 1, "1": 1}
    assert meanings(pair, "auto", "auto") == {"negative": 0, "positive": 1}
    assert meanings(["false", "true"], "auto", "auto") == {"0": 0, "1": 1}
    assert meanings(["bad", "good"], "auto", {"bad": [1, 2], "good": [5]}) == {"1": 0, "2": 0, "5": 1}
    assert meanings(["A", "a", "B"], "auto", "auto") == {"b": 2}  # 'A' and 'a' are told apart by their exact names
    assert meanings(["bad", "good"], {"good": ["x"], "bad": ["y"]}, "auto") == {"x": 1, "y": 0}
    with pytest.raises(ConfigError, match="the run has no class 'worse'"):
        meanings(["bad", "good"], {"worse": ["x"], "bad": ["y"]}, None)


def known(rows: int, lengths: dict[str, int], labels: dict[str, int]) -> dict[str, Any]:
    return {"splits": {"train": {"rows": rows, "labels": labels, "lengths": lengths, "unknown_rate": 0.02}}}


def test_rows_of_the_training_itself_do_not_drift() -> None:
    random = np.random.default_rng(0)
    whole = random.integers(1, 400, 20_000)
    values, counts = np.unique(whole, return_counts=True)
    training = known(20_000, dict(zip(map(str, values), counts.tolist(), strict=True)), {"a": 15_000, "b": 5_000})
    for rows in (20, 200, 2000):
        lengths = random.choice(whole, rows)
        labels = (random.random(rows) < 0.25).astype(np.int64)
        unknown = random.binomial(lengths, 0.02)
        facts = {"labels": labels, "lengths": lengths, "unknown": unknown, "vocabulary_rate": 0.02, "words": []}
        assert drift(training, names=["a", "b"], **facts)["found"] == []
        facts["labels"] = 1 - labels
        found = drift(training, names=["a", "b"], **facts)["found"]
        assert [sentence.split(" is ")[0] for sentence in found] == ["classes: 'a'"]


def test_the_stability_index_is_that_of_the_books() -> None:
    found = stability(np.array([5000, 3000, 2000]), np.array([4000, 3000, 3000]))
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.3, 0.3])
    assert found["stability_index"] == pytest.approx(float(((p - q) * np.log(p / q)).sum()), rel=1e-3)
    assert found["by_chance"] == pytest.approx(2 * 2 / 10_000)
    assert stability(np.array([10, 0, 0]), np.array([0, 0, 10]))["stability_index"] > 1


def test_many_classes_fit_a_screen(run: Path) -> None:
    found = figures(run)
    names = [f"a class with a long name, number {number}" for number in range(40)]
    counts = np.full((40, 40), 0)
    counts[np.arange(40), np.arange(40)] = 5
    counts[3, 7] = 9
    entries = [{"label": n, "rows": 5, "predicted": 5, "precision": 1.0, "recall": 1.0, "f1": 1.0} for n in names]
    entries[3] |= {"recall": 0.3571, "f1": 0.5}
    classes = {"here": dict.fromkeys(names, 5), "train": dict.fromkeys(names, 5)}
    found |= {"labels": names, "confusion": counts.tolist(), "per_class": entries}
    found["drift"]["classes"] = classes
    found["drift"]["found"] = ["unknown words: " + "a long sentence " * 12]
    shown = describe_new_rows("many.csv", found)
    assert max(map(len, shown.splitlines())) <= 80
    assert "the 10 worst of 40 classes by F1" in shown
    assert "largest confusions" in shown
