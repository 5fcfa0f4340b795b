# SPDX-License-Identifier: Apache-2.0
"""Exports: equal probabilities from every form, a true model card, refusals, the hub."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import huggingface_hub
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

import padless
from harness.export import folder as writing
from harness.export.config import ExportConfig, Place
from harness.export.folder import compare, quantized, records_of, render
from harness.export.graph import onnx_model
from harness.inference.bundle import Bundle
from harness.inference.scorer import onnx_logits, session_of
from harness.model import registry
from harness.model.registry import PoolingEntry
from harness.rundir.bundle_files import CARD, EXPORT, INDEX, INT8, ONNX, read_info
from harness.rundir.json_files import SEAL, seal_of
from harness.rundir.layout import BUNDLE
from harness.rundir.results import read_figures, write_figures
from preprocessing.base import atomic
from tests.commands import read_json
from tests.datasets import copy_of
from tests.exports import TEXTS, export, make_run

pytestmark = pytest.mark.thorough

SHAPES: list[tuple[int, dict[str, Any]]] = [
    (2, {"pooling": "max+mean", "wide": 64}),
    (3, {"pooling": "mean", "wide": 1024, "cell": "gru", "num_layers": 2}),
    (2, {"pooling": "last", "cell": "gru", "bidirectional": False}),
    (2, {"wide": 256, "wide_ngrams": 3}),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("two"), pooling="max+mean", wide=256)


@pytest.fixture(scope="module")
def folder(run: Path) -> Path:
    assert export(run, "--output", run.parent / "out", "--int8", "--quiet", "--license", "mit", "--name", "a|b") == 0
    return run.parent / "out"


own = copy_of("folder")
"""A copy of an export, to be damaged."""


own_run = copy_of("run")


@pytest.mark.parametrize(("classes", "shape"), SHAPES)
def test_the_graph_is_the_network_at_every_length(classes: int, shape: dict[str, Any], tmp_path: Path) -> None:
    bundle = Bundle(make_run(tmp_path, classes, **shape) / BUNDLE)
    network = onnx_model(bundle.model, 0.5, {"bundle": "b"})
    whole, small = session_of(network, "network"), session_of(quantized(network), "quantized")
    found = compare(bundle, whole, 7)
    assert 0 < found["difference"] < 2e-6
    assert (found["longest"], found["texts"] > 64) == (64, True)
    texts = [np.arange(1, 1 + length, dtype=np.int32) for length in (1, 7, 30, 64)]
    assert 0 < np.abs(onnx_logits(whole, texts, 3) - onnx_logits(small, texts, 3)).max() < 0.25
    assert small.get_modelmeta().custom_metadata_map == {"bundle": "b"}


def test_every_form_of_an_export_predicts_what_the_run_does(run: Path, folder: Path) -> None:
    content = read_json(folder / EXPORT)
    assert {path.name for path in folder.iterdir()} == {*content["files"], EXPORT, CARD}
    assert 0 < content["files"][ONNX]["difference"] < 1e-6
    assert (content["files"][INT8]["cost"]["rows"], content["files"][INT8]["cost"]["split"]) == (30, "validation")
    expected = padless.load(run).predict_proba(TEXTS)
    np.testing.assert_array_equal(padless.load(folder).predict_proba(TEXTS), expected)
    onnx = padless.load(folder, engine="onnx")
    np.testing.assert_allclose(onnx.predict_proba(TEXTS), expected, atol=1e-6)
    assert onnx.predict(TEXTS).tolist() == padless.load(run).predict(TEXTS).tolist()
    assert onnx.predict_proba([]).shape == (0, 2)
    small = padless.load(str(folder), engine="onnx-int8").predict_proba(TEXTS)
    assert 0 < np.abs(small - expected).max() < 0.1
    with pytest.raises(padless.UserError, match=r"export\.json: missing: .* is no export; `padless export"):
        padless.load(run, engine="onnx")


def test_the_card_is_one_of_the_hub(run: Path, folder: Path) -> None:
    card = ModelCard.load(folder / CARD)
    head = card.data
    assert (head.license, head.language, head.pipeline_tag) == ("mit", "en", "text-classification")
    figures = read_json(run / "test.json")
    values = {result.metric_type: result for result in head.eval_results}
    assert values["accuracy"].metric_value == figures["accuracy"]
    assert (values["accuracy"].dataset_name, values["accuracy"].dataset_split) == ("data", "test")
    low, high = figures["intervals"]["accuracy"]
    for part in (
        f"| accuracy | {figures['accuracy']:.4f} | {low:.4f} to {high:.4f} |",
        "| train | 50 |",
        "2 classes of texts apart: `negative`, `positive`",
        "on the 30 rows of the split `validation`",
        f"| weights (sha256) | {read_info(run / BUNDLE).weights_sha256} |",
    ):
        assert part in card.content
    assert "/home/somebody" not in card.content + (folder / INDEX).read_text()


def test_names_are_no_markup_in_a_card(run: Path) -> None:
    name = "<script>alert(1)</script> `x` [a](https://h/?token=SECRET) | b\x1b\n# c"
    info = read_info(run / BUNDLE)
    records = records_of(Place.of(run), info)
    info = replace(info, labels=[name, "b"], vectors={"source": name})
    text = render(ExportConfig(run="r", output="x"), name, info, 1, records, {})
    body = text.split("---\n", 2)[2]
    assert "SECRET" not in body
    assert "\x1b" not in text
    assert "\n# c" not in body
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", body.replace("\\`", ""))
    assert "<script" not in outside.replace("\\<", "")


def test_a_card_says_where_no_figures_of_these_weights_are(run: Path, own_run: Path, tmp_path: Path) -> None:
    """For a bundle without a run, and for a run with figures of another step."""
    write_figures(own_run, "test", {**(read_figures(own_run, "test") or {}), "step": 6})
    for number, place in enumerate((own_run / BUNDLE, own_run)):
        out = tmp_path / f"out-{number}"
        assert export(place, "--output", out, "--quiet") == 0
        text = (out / CARD).read_text()
        assert "No evaluation of these weights lies beside them." in text
        assert "model-index" not in yaml.safe_load(text.split("---\n")[1])
        np.testing.assert_array_equal(padless.load(out).predict_proba(TEXTS), padless.load(run).predict_proba(TEXTS))


def test_nothing_is_left_of_an_export_that_differs(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(writing, "MOST", 0.0)
    assert export(run, "--output", tmp_path / "out", "--onnx") == 3
    assert "differs from torch's" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_pooling_that_has_no_form_in_onnx_is_refused(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    bundle = Bundle(run / BUNDLE)
    monkeypatch.setattr(writing, "Bundle", lambda place: bundle)
    monkeypatch.setitem(registry.POOLINGS, "max+mean", PoolingEntry(code="somebody.else:Pooling", vectors=2))
    assert export(run, "--output", tmp_path / "out", "--onnx") == 2
    said = capsys.readouterr().err
    assert "--onnx: model.pooling 'max+mean' (somebody.else:Pooling) has no ONNX form" in said
    assert list(tmp_path.iterdir()) == []


def test_the_network_of_another_bundle_is_refused(own: Path, tmp_path: Path) -> None:
    """Although the index has its hash and a valid seal."""
    other = tmp_path / "other"
    assert export(make_run(tmp_path / "one", wide=64, pooling="mean"), "--output", other, "--onnx", "--quiet") == 0
    shutil.copy(other / ONNX, own / ONNX)
    content = read_json(own / EXPORT)
    del content[SEAL]
    content["files"][ONNX] |= {"bytes": (own / ONNX).stat().st_size, "sha256": atomic.sha256_file(own / ONNX)}
    atomic.write_json(own / EXPORT, {**content, SEAL: seal_of(content)})
    with pytest.raises(padless.UserError, match=r"model\.onnx: the network of another bundle; export this one again$"):
        padless.load(own, "onnx").predict_proba(TEXTS)


def test_a_repository_of_the_hub_is_loaded(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub's signature, without network."""
    remote = Path(shutil.copytree(folder, tmp_path / "hub"))
    (remote / "train.py").write_text("raise SystemExit")

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        leave = [path.name for path in remote.iterdir() if not any(map(path.match, allow_patterns))]
        copy = tmp_path / f"{repo_id}-{revision}"
        return str(shutil.copytree(remote, copy, ignore=shutil.ignore_patterns(*leave), dirs_exist_ok=True))

    fake = create_autospec(huggingface_hub.snapshot_download, side_effect=snapshot_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    expected = padless.load(run).predict_proba(TEXTS)
    np.testing.assert_array_equal(padless.load("hf://me/mine").predict_proba(TEXTS), expected)
    again = padless.load("hf://me/mine@main", engine="onnx")
    np.testing.assert_allclose(again.predict_proba(TEXTS), expected, atol=1e-6)
    assert not (tmp_path / "me" / "mine-main" / "train.py").exists()
