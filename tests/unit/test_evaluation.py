# SPDX-License-Identifier: Apache-2.0
"""Output of an evaluation besides its metrics; new labelled rows have the same figures as in a dataset."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.__main__ import main
from harness.inference.bundle import Bundle
from harness.inference.evaluation import assess
from harness.inference.scoring import loader_over, score
from harness.ranks.distributed import World
from harness.rundir.bundle_files import write_training
from preprocessing.base import cli
from preprocessing.dataset.shards import VOCABULARY, Manifest, Split, read_manifest
from preprocessing.text.vocabulary import Vocabulary
from tests.bundles import write_drawn
from tests.commands import read_json, unwrapped
from tests.corpora import write_csv
from tests.datasets import stored, write_dataset

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a bundle, beside its dataset and its test rows as a CSV file."""
    folder = tmp_path_factory.mktemp("two")
    texts = write_dataset(folder / "data", {"train": 80, "validation": 30, "test": 60})
    manifest = read_manifest(folder / "data")
    write_drawn(folder / "run" / "bundle", folder / "data", embedding_dim=8, hidden_size=8)
    write_training(folder / "run" / "bundle", with_rates(manifest))
    labels = stored(folder / "data", "test")
    rows = [(text, manifest.labels[labels[number].label]) for number, text in enumerate(texts["test"])]
    write_csv(folder / "labelled.csv", rows)
    return folder / "run"


def with_rates(manifest: Manifest) -> Manifest:
    """The manifest as preprocessing writes it, with the share of unknown tokens of the splits."""
    splits = {"train": {"unknown_rate": 0.0}, "validation": {"unknown_rate": 0.12}}
    return replace(manifest, statistics={"splits": splits})


def evaluate(run: Path, *arguments: object) -> int:
    return cli.run(main, ["evaluate", "--run", str(run), "--device", "cpu", *map(str, arguments)])


def test_the_figures_are_those_of_the_same_rows_in_the_dataset(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(run, "--input", run.parent / "labelled.csv") == 0
    out, found = capsys.readouterr().out, read_json(run / "evaluation" / "labelled.csv.json")
    bundle, manifest = Bundle(run / "bundle"), read_manifest(run.parent / "data")
    split = Split(run.parent / "data", manifest, "test")
    scores = score(bundle.model, loader_over(split, World(), 16, "padded", torch.device("cpu")), World())
    expected = assess(scores, bundle, split)
    for name in ("rows", "confusion", "per_class", "labels", "temperature", "threshold", "accuracy"):
        assert found[name] == expected[name], name
    for name in ("log_loss", "roc_auc", "ece"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5)
    assert f"{found['accuracy']:.4f}" in out
    assert [m["row"] for m in found["mistakes"]] == [m["row"] + 1 for m in expected["mistakes"]]
    chances = [mistake["probability"] for mistake in found["mistakes"]]
    assert (len(chances), chances) == (10, sorted(chances, reverse=True))
    texts = (run.parent / "labelled.csv").read_text().splitlines()[1:]
    for mistake, of_split in zip(found["mistakes"], expected["mistakes"], strict=True):
        assert texts[mistake["row"] - 1] == f"{mistake['text']},{mistake['label']}"
        assert mistake["label"] != mistake["predicted"]
        assert of_split["tokens"] == bundle.vocabulary.tokens.take(bundle.encoder([mistake["text"]]).ids).to_pylist()
        assert len(of_split["weights"]) == len(of_split["tokens"])


def test_inputs_of_one_name_have_figures_of_their_own(run: Path, tmp_path: Path, capsys) -> None:
    lines, output = (run.parent / "labelled.csv").read_text().splitlines(keepends=True), tmp_path / "found"
    for folder, rows in [("jan", 20), ("feb", 30)] * 2:  # each goes on under its own name
        path = tmp_path / folder / "new.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(lines[: rows + 1]))
        assert evaluate(run, "--input", path, "--output", output) == 0
    found = [read_json(path) for path in output.glob("*.json")]
    assert {Path(one["input"]).parent.name: one["rows"] for one in found} == {"jan": 20, "feb": 30}
    assert len(found) == len(list(output.glob("*-predictions.parquet"))) == 2


def test_unknown_words_and_cut_texts_are_beside_the_training(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bundle = Bundle(run / "bundle")
    longest = bundle.encoder.pipeline.spec.max_tokens
    rows = [("zebra w1 w1 w1", bundle.info.labels[0]), ("w1 " * (longest + 5), bundle.info.labels[1])]
    path = write_csv(tmp_path / "other.csv", rows)
    assert evaluate(run, "--input", path, "--output", tmp_path) == 0
    found = read_json(tmp_path / "other.csv.json")["beside_training"]
    assert found["unknown"] == 1 / (4 + longest)
    assert (found["unknown_validation"], found["longest"]) == (0.12, 0.5)
    said = unwrapped(capsys.readouterr().out)
    assert "of the tokens (12% in validation); cut to the longest length that is read: 50% of the texts (" in said


def test_training_texts_and_texts_that_cannot_be_read_are_counted(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As long as the dataset of the training exists."""
    names, data = Bundle(run / "bundle").info.labels, run.parent / "data"
    words = Vocabulary.read(data / VOCABULARY).tokens
    block = Split(data, read_manifest(data), "train").blocks[0]
    known = [" ".join(words.take(ids[:n]).to_pylist()) for ids, n in zip(block.ids[:7], block.length, strict=False)]
    path = write_csv(tmp_path / "some.csv", [(text, names[0]) for text in [*known, "zebra quagga", "zebra"]])
    assert evaluate(run, "--output", tmp_path, "--input", path) == 0
    assert "note: rows were not compared with the training texts" in unwrapped(capsys.readouterr().out)
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(f"data: {data}\n")
    assert evaluate(tmp_path / "run", "--output", tmp_path, "--input", path) == 0
    said = unwrapped(capsys.readouterr().out)
    assert "note: 7 of 9 rows (" in said
    assert "note: 2 of 9 rows (" in said
    assert evaluate(tmp_path / "run", "--data", data, "--split", "train", "--output", tmp_path) == 0
    said = unwrapped(capsys.readouterr().out)
    assert "80 of 80 rows (100%) are training texts, so new texts may do worse" in said


def test_labels_that_the_run_does_not_know_may_be_left_out(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = Bundle(run / "bundle").info.labels
    rows = [("fine film", names[0]), ("odd", "meh"), ("bad", names[1]), ("odd", "meh"), ("odd", "so so")]
    path = write_csv(tmp_path / "strange.csv", rows)
    assert evaluate(run, "--input", path, "--output", tmp_path, "--source.neutral", "[meh, so so]") == 0
    assert "strange.csv: 2 rows, 3 left out" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["evaluate", "explain", "predict"])
def test_all_commands_read_new_rows_as_the_corpus_was(
    command: str, run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Quoted with ', in an encoding that cannot be detected."""
    names = Bundle(run / "bundle").info.labels
    shutil.copytree(run, tmp_path / "run")
    manifest = with_rates(read_manifest(run.parent / "data"))
    source = {"text_column": "text", "label_column": "label", "labels": "auto", "quote": "'", "encoding": "cp1251"}
    files = [{"name": "a.csv", "format": "csv", "split": None, "read_as": {}}]
    provenance = {"config": {"source": source}, "sources": files}
    write_training(tmp_path / "run" / "bundle", replace(manifest, provenance=provenance))
    text = "ночь, улица, w1 ''фонарь''"
    rows = "".join(f"'{text}','{names[at % 2]}'\n" for at in range(4))
    (tmp_path / "new.csv").write_bytes(f"text,label\n{rows}".encode("cp1251"))
    more = {"evaluate": ["--output", tmp_path], "explain": ["--format", "json"]}
    more["predict"] = ["--output", tmp_path / "out.jsonl", "--processes", "1"]
    words = [command, "--run", tmp_path / "run", "--input", tmp_path / "new.csv", "--device", "cpu", *more[command]]
    assert cli.run(main, list(map(str, words))) == 0, capsys.readouterr().err
    if command == "evaluate":
        seen = [mistake["text"] for mistake in read_json(tmp_path / "new.csv.json")["mistakes"]]
    else:
        out = capsys.readouterr().out if command == "explain" else (tmp_path / "out.jsonl").read_text()
        seen = [json.loads(line)["text"] for line in out.splitlines()]
    assert set(seen) == {"ночь, улица, w1 'фонарь'"}
