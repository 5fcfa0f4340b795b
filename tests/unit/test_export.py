# SPDX-License-Identifier: Apache-2.0
"""An export: the same probabilities from every form of it, a card that says what is known, and refusals."""

from __future__ import annotations

import errno
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from huggingface_hub import ModelCard

import padless
from harness.__main__ import main
from harness.baseline.linear import RECIPE
from harness.baseline.results import folder_of
from harness.export import folder as writing
from harness.export import parity
from harness.export.card import render
from harness.export.graph import onnx_model
from harness.export.int8 import quantized
from harness.export.parity import compare
from harness.inference.bundle import read_bundle
from harness.inference.onnx_scorer import onnx_logits, session_of
from harness.model import registry
from harness.model.registry import PoolingEntry
from harness.rundir.bundle_files import CARD, EXPORT, INDEX, INT8, ONNX, read_info
from harness.rundir.layout import BUNDLE
from harness.rundir.results import read_figures, write_figures
from harness.scores.calibration import Decision
from preprocessing.base.errors import DataError, StorageError
from preprocessing.dataset.shards import VOCABULARY, read_manifest
from tests.exports import TEXTS, export, make_model, make_run

pytestmark = pytest.mark.thorough

SHAPES: list[tuple[int, dict[str, Any]]] = [
    (2, {}),
    (2, {"pooling": "max+mean", "wide": 64}),
    (3, {"pooling": "mean", "wide": 1024, "cell": "gru", "num_layers": 2}),
    (2, {"pooling": "last", "cell": "gru", "bidirectional": False}),
    (4, {"pooling": "last", "num_layers": 2, "wide": 2}),
    (2, {"wide": 256, "wide_ngrams": 4}),
    (2, {"wide": 256, "wide_ngrams": 3, "wide_tail": 5, "wide_tf": "binary"}),
    (3, {"wide": 512, "wide_tail": 40}),
    (3, {"wide": 128, "wide_ngrams": 1}),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("two"), pooling="max+mean", wide=256)


@pytest.fixture(scope="module")
def folder(run: Path) -> Path:
    assert export(run, "--output", run.parent / "out", "--int8", "--quiet", "--license", "mit", "--name", "a|b") == 0
    return run.parent / "out"


@pytest.mark.parametrize(("classes", "shape"), SHAPES)
def test_the_graph_is_the_network_at_every_length(classes: int, shape: dict[str, Any]) -> None:
    model = make_model(80, classes, **shape)
    session = session_of(onnx_model(model, 0.5, {}), "network")
    found = compare(model, session, Decision(0.5), 80, 30, 7)
    assert 0 < found.difference < 2e-6
    assert found.longest == 30
    assert found.texts > 30


@pytest.mark.parametrize(("classes", "shape"), SHAPES)
def test_8_bit_weights_change_little(classes: int, shape: dict[str, Any]) -> None:
    network = onnx_model(make_model(80, classes, **shape), 0.5, {"bundle": "b"})
    sessions = session_of(network, "network"), session_of(quantized(network), "quantized")
    texts = [np.arange(1, 1 + length, dtype=np.int32) for length in (1, 7, 30, 64)]
    whole, small = (onnx_logits(session, texts, 3) for session in sessions)
    assert 0 < np.abs(whole - small).max() < 0.15
    assert sessions[1].get_modelmeta().custom_metadata_map == {"bundle": "b"}


@pytest.mark.parametrize("part", ["embedding.weight", "recurrent.layers.0.weight_hh_l0_reverse", "wide.table"])
def test_another_number_in_the_graph_is_found(part: str) -> None:
    model = make_model(80, pooling="mean", wide=256)
    other = make_model(80, pooling="mean", wide=256)
    other.state_dict()[part][5] += 0.5
    session = session_of(onnx_model(other, 1.0, {}), "network")
    with pytest.raises(DataError, match=r"differs from torch's by 0\.\d+, more than 0\.0001; nothing was exported"):
        compare(model, session, Decision(), 80, 30, 7)


def test_every_form_of_an_export_predicts_what_the_run_does(run: Path, folder: Path) -> None:
    expected = padless.load(run).predict_proba(TEXTS)
    np.testing.assert_array_equal(padless.load(folder).predict_proba(TEXTS), expected)
    onnx = padless.load(folder, engine="onnx")
    np.testing.assert_allclose(onnx.predict_proba(TEXTS), expected, atol=1e-6)
    assert onnx.predict(TEXTS)["predicted"].tolist() == padless.load(run).predict(TEXTS)["predicted"].tolist()
    assert onnx.predict_proba([]).shape == (0, 2)
    small = padless.load(str(folder), engine="onnx-int8").predict_proba(TEXTS)
    assert 0 < np.abs(small - expected).max() < 0.1
    with pytest.raises(padless.UserError, match="engine: 'tensorflow' is out of range: expected one of auto, torch"):
        padless.load(folder, engine="tensorflow")  # type: ignore[arg-type]
    with pytest.raises(padless.UserError, match=r"export\.json: missing: .* is no export; `python -m harness export"):
        padless.load(run, engine="onnx")


def test_the_command_predicts_with_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--run", str(folder), "--engine", "onnx", "--json", *TEXTS[:2]]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    chances = padless.load(folder).predict_proba(TEXTS[:2])[:, 1]
    assert [line["probability_positive"] for line in lines] == pytest.approx(chances, abs=1e-6)


def test_the_index_says_what_was_measured(folder: Path) -> None:
    content = json.loads((folder / EXPORT).read_text())
    weights = read_info(folder).weights
    assert sorted(content["files"]) == sorted([INDEX, ONNX, INT8, "training.json", VOCABULARY, weights])
    assert {path.name for path in folder.iterdir()} == {*content["files"], EXPORT, CARD}
    onnx, small = content["files"][ONNX], content["files"][INT8]
    assert 0 < onnx["difference"] < 1e-6
    assert onnx["longest"] == 64
    cost = small["cost"]
    assert (cost["rows"], cost["split"]) == (30, "validation")
    assert 0 <= cost["accuracy_int8"] <= 1
    assert cost["rows_per_s"] > 0
    assert small["bytes"] == (folder / INT8).stat().st_size


def test_the_card_is_one_of_the_hub(run: Path, folder: Path) -> None:
    card = ModelCard.load(folder / CARD)
    head = card.data
    assert (head.license, head.language, head.pipeline_tag) == ("mit", "en", "text-classification")
    assert {"padless", "lstm", "onnx"} <= set(head.tags)
    figures = json.loads((run / "test.json").read_text())
    assert head.model_name == "a|b"
    values = {result.metric_type: result for result in head.eval_results}
    assert values["accuracy"].metric_value == figures["accuracy"]
    assert values["accuracy"].metric_args == {"interval_95": figures["intervals"]["accuracy"]}
    assert (values["accuracy"].dataset_name, values["accuracy"].dataset_split) == ("data", "test")
    low, high = figures["intervals"]["accuracy"]
    for part in (
        f"| accuracy | {figures['accuracy']:.4f} | {low:.4f} to {high:.4f} |",
        "| train | 50 |",
        "2 classes of texts apart: `negative`, `positive`",
        "Of a text it reads at most 64 tokens",
        "no probability differs by more than",
        "on the 30 rows of the split `validation`",
        f"| weights (sha256) | {read_info(run / BUNDLE).weights_sha256} |",
        "| vectors at the start | vectors.npy |",
        "`mit`, as named at export",
        "epochs 3, seed 1, lr 0.01",
    ):
        assert part in card.content
    assert "/home/somebody" not in card.content + (folder / INDEX).read_text()


def test_names_are_no_markup_in_a_card(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards: list[Any] = []
    monkeypatch.setattr("harness.export.folder.render", lambda card: cards.append(card) or "")
    assert export(run, "--output", tmp_path / "out", "--quiet") == 0
    name = "<script>alert(1)</script> `x` [a](https://h/?token=SECRET) | b\x1b\n# c"
    info = replace(cards[0].info, labels=[name, "b"], vectors={"source": name})
    records = replace(cards[0].records, sources=[{"name": name, "rows": 3, "sha256": "f" * 64}])
    text = render(replace(cards[0], name=name, info=info, records=records))
    body = text.split("---\n", 2)[2]
    assert "SECRET" not in body
    assert "\x1b" not in text
    assert "\n# c" not in body
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", body.replace("\\`", ""))
    assert "<script" not in outside.replace("\\<", "")
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in body.splitlines() if "f" * 64 in line)


def test_a_bundle_alone_has_a_card_that_says_what_is_not_known(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / BUNDLE, tmp_path / "alone")
    assert export(tmp_path / "alone", "--output", tmp_path / "out", "--quiet") == 0
    text = (tmp_path / "out" / CARD).read_text()
    assert "No evaluation of these weights lies beside them." in text
    assert "None was named at export." in text
    assert "model-index" not in yaml.safe_load(text.split("---\n")[1])
    expected = padless.load(run).predict_proba(TEXTS)
    np.testing.assert_array_equal(padless.load(tmp_path / "out").predict_proba(TEXTS), expected)
    (tmp_path / "out" / CARD).unlink()
    np.testing.assert_array_equal(padless.load(tmp_path / "out").predict_proba(TEXTS), expected)


def test_without_an_evaluation_the_validation_that_chose_the_weights_is_told(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "test.json").unlink()
    lines = [{"kind": "validation", "step": step, "accuracy": step / 10, "log_loss": 0.5} for step in (3, 7)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert export(tmp_path / "run", "--output", tmp_path / "out", "--quiet") == 0
    text = (tmp_path / "out" / CARD).read_text()
    assert re.search(r"\| accuracy \| 0\.7000 \| 0\.5\d+ to 0\.8\d+ \|", text)
    assert "These weights were chosen on this split" in text


def test_the_linear_model_of_the_same_data_stands_beside_it(run: Path, tmp_path: Path) -> None:
    data = run.parent / "data"
    shutil.copytree(run, tmp_path / "run")
    head = {"dataset": read_manifest(data).fingerprint, "recipe": RECIPE, "accuracy": 0.625}
    write_figures(folder_of(data), "test", {**head, "intervals": {"accuracy": [0.5, 0.75]}})
    assert export(tmp_path / "run", "--output", tmp_path / "out", "--quiet") == 0
    said = "A linear model over TF-IDF of words and pairs has accuracy 0.6250 (0.5000 to 0.7500) there."
    assert said in (tmp_path / "out" / CARD).read_text()


def test_figures_of_other_weights_are_not_told(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    write_figures(tmp_path / "run", "test", {**(read_figures(run, "test") or {}), "step": 6})
    assert export(tmp_path / "run", "--output", tmp_path / "out", "--quiet") == 0
    assert "No evaluation of these weights" in (tmp_path / "out" / CARD).read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--output", "there"], 2, "output: there is there already; name another folder, or remove it"),
        ([], 2, "output: missing: name the folder to write, as in --output exports/mine"),
        (["--output", "new", "--data", "x"], 2, "data: only --int8 is measured on a dataset"),
        (["--output", "new", "--push", "mine"], 2, "push: 'mine' names no repository of the hub; it is OWNER/NAME"),
        (["--push", "me/mine"], 2, "is no export folder yet; name the folder to write"),
        (["--output", "new", "--int8", "--data", "there"], 3, "there is not a dataset directory"),
        (
            ["--output", "there/file/new"],
            2,
            "there/file: cannot be written (it is a file, and a directory is needed here); name another --output",
        ),
    ],
)
def test_what_is_refused(
    run: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("there/file").touch()
    assert export(run, *arguments) == code
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_places_that_hold_nothing_to_export(run: Path, folder: Path, tmp_path: Path, capsys) -> None:
    for place, code, sentence in (
        (tmp_path / "none", 3, "there is no folder"),
        (run.parent / "data", 3, "is a dataset; name a run that was trained on it"),
        (folder, 2, "is an export already; name the run that it came from"),
        ("hf://me/mine", 2, "is exported already"),
    ):
        assert export(place, "--output", tmp_path / "new") == code
        assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_the_quantizers_own_folder_is_said_of_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another --output would not help."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/ort.quant.abc/model.onnx")

    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", full)
    with pytest.raises(StorageError, match=r"^/tmp/ort\.quant\.abc/model\.onnx: .*; make room .*, or set TMPDIR to a"):
        quantized(onnx.helper.make_model(onnx.helper.make_graph([], "none", [], [])).SerializeToString())


def test_int8_without_its_dataset_asks_for_one(run: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(run, tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({**config, "data": str(tmp_path / "gone")}))
    assert export(tmp_path / "run", "--output", tmp_path / "out", "--int8") == 2
    assert f"the dataset of the run, {tmp_path / 'gone'}, is not there; name one with --data" in capsys.readouterr().err
    other = make_run(tmp_path / "other", seed=5).parent / "data"
    assert export(tmp_path / "run", "--output", tmp_path / "out", "--int8", "--data", other) == 3
    assert "its vocabulary is not the one the weights were trained with" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_of_an_export_that_differs(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(parity, "MOST", 0.0)
    assert export(run, "--output", tmp_path / "out", "--onnx") == 3
    assert "differs from torch's" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_appears_meanwhile_is_not_touched(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    render = writing.render

    def late(card: Any) -> str:
        (tmp_path / "out").mkdir()
        return render(card)

    monkeypatch.setattr(writing, "render", late)
    assert export(run, "--output", tmp_path / "out") == 2
    assert "File exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert list((tmp_path / "out").iterdir()) == []


def test_a_pooling_that_has_no_form_in_onnx_is_refused(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    bundle = read_bundle(run / BUNDLE)
    monkeypatch.setattr(writing, "read_bundle", lambda place: bundle)
    monkeypatch.setitem(registry.POOLINGS, "max+mean", PoolingEntry(code="somebody.else:Pooling", vectors=2))
    assert export(run, "--output", tmp_path / "out", "--onnx") == 2
    said = capsys.readouterr().err
    assert "--onnx: model.pooling 'max+mean' (somebody.else:Pooling) has no ONNX form" in said
    assert list(tmp_path.iterdir()) == []
