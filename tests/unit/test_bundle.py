# SPDX-License-Identifier: Apache-2.0
"""A bundle is refused if its files do not belong together, were changed, or would have to be executed; and a training
starts from the weights of one. Exports: equal probabilities from every form, a true model card, refusals, the hub.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock, create_autospec

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import padless
from harness.config import InitConfig, ModelConfig, RunConfig
from harness.distributed import precision
from harness.distributed.world import World
from harness.inference.bundle import Bundle, write_bundle
from harness.inference.config import ExportConfig
from harness.inference.evaluation import same_text
from harness.inference.scorer import OnnxScorer
from harness.model.classifier import Classifier
from harness.model.initialization import Start
from harness.model.registry import num_outputs
from harness.output.export import (
    SCRIPT,
    TOKENS,
    draw_texts,
    measure_difference,
    render_model_card,
    write_script,
)
from harness.rundir import bundle_files
from harness.rundir.bundle_files import CARD, INDEX, ONNX, read_info
from harness.rundir.layout import BUNDLE
from harness.training.assembly import begin
from padless.commands import main as harness_main
from padless.core import cli
from padless.core.errors import ConfigError, DataError
from padless.core.terminal import Screen
from preprocessing.dataset.shards import VOCABULARY, read_manifest
from preprocessing.text.spec import TextSpec
from preprocessing.text.vocabulary import PAD, Vocabulary
from tests.helpers.bundles import reseal, write_drawn, write_run
from tests.helpers.commands import read_json
from tests.helpers.datasets import copy_of, shared_dataset, split_of, texts_in
from tests.helpers.report_runs import TEXTS, export, make_run


@pytest.fixture
def bundle_copy(tmp_path: Path) -> Path:
    """A copy of a bundle, to be damaged."""
    return write_run(tmp_path) / BUNDLE


def test_a_dataset_of_other_texts_or_classes_is_refused(bundle_copy: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "data"
    info, manifest = read_info(bundle_copy), read_manifest(dataset)
    same_text(info, manifest, dataset)
    others = {"vocabulary": {"text_hash": "another", "vocabulary_hash": "another"}}
    others["positive, negative"] = {"labels": ["positive", "negative"]}
    for name, facts in others.items():
        with pytest.raises(DataError, match=name):
            same_text(info, replace(manifest, **facts), dataset)


def test_new_weights_are_visible_with_their_index(bundle_copy: Path) -> None:
    """Another machine may see the one without the other for a while."""
    info = read_info(bundle_copy)
    assert bundle_files.has_weights(bundle_copy, info.weights_sha256)
    assert not bundle_files.has_weights(bundle_copy, "0" * 64)
    (bundle_copy / info.weights).unlink()
    assert not bundle_files.has_weights(bundle_copy, info.weights_sha256)


def test_bf16_rounds_or_names_fp32(bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = texts_in(split_of(tmp_path / "data"))
    exact, rounded = Bundle(bundle_copy).score(texts), Bundle(bundle_copy, precision="bf16").score(texts)
    np.testing.assert_allclose(rounded, exact, atol=0.01)
    assert (rounded != exact).any()
    monkeypatch.setattr(precision, "has_cpu_bf16", lambda: False)
    with pytest.raises(ConfigError, match="precision: bf16 cannot run on cpu here; it can run fp32"):
        Bundle(bundle_copy, precision="bf16")


def test_weights_that_are_not_finite_are_refused(bundle_copy: Path, tmp_path: Path) -> None:
    """Otherwise a text would be predicted with a probability of nan."""
    model = Bundle(bundle_copy).model
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    write_bundle(bundle_copy, model, read_manifest(tmp_path / "data"), step=8)
    with pytest.raises(DataError, match=r"safetensors: gives numbers that are not finite"):
        Bundle(bundle_copy).score([np.array([2, 3])])


def test_what_does_not_belong_together_is_refused(bundle_copy: Path, tmp_path: Path) -> None:
    info, index = read_info(bundle_copy), bundle_copy / INDEX
    index_bytes, cut_weights = index.read_bytes(), (bundle_copy / info.weights).read_bytes()[:-1]
    (bundle_copy / "weights-cut.safetensors").write_bytes(cut_weights)
    other_bundle = write_run(tmp_path / "other", seed=9) / BUNDLE
    cut = {"weights": "weights-cut.safetensors", "weights_sha256": hashlib.sha256(cut_weights).hexdigest()}
    changes: list[tuple[dict[str, Any], str]] = [
        ({"text": {**info.text, "spec": {**info.text["spec"], "lowercase": False}}}, INDEX),
        ({"vocabulary_hash": read_info(other_bundle).vocabulary_hash}, VOCABULARY),
        ({"weights": "../../other/run/bundle/x.safetensors"}, r"\$.weights"),
        ({"format_version": 9}, "padless-bundle 9"),
        ({"model": {**asdict(info.model), "hidden_size": 10**4}}, "weights"),
        (cut, "weights-cut"),
    ]
    for values, name in changes:
        reseal(index, **values)
        with pytest.raises(padless.UserError, match=name):
            padless.load(bundle_copy)
        index.write_bytes(index_bytes)
    with pytest.raises(DataError, match=f"{ONNX}: missing"):
        padless.load(bundle_copy, engine="onnx")
    shutil.copy(other_bundle / VOCABULARY, bundle_copy / VOCABULARY)
    with pytest.raises(padless.UserError, match=VOCABULARY):
        padless.load(bundle_copy)


data = shared_dataset({"train": 60, "validation": 10})


other_data = shared_dataset({"train": 90, "validation": 10}, seed=5)
"""Other texts, whose vocabulary has other ids and shares a part of the tokens."""


def begin_training(
    data: Path, bundle: Path, **model: Any
) -> tuple[dict[str, Start], Classifier, dict[str, torch.Tensor]]:
    """The starting weights of a run; a model that has them; and the weights that it would have had otherwise."""
    shape = ModelConfig(**{"embedding_dim": 4, "hidden_size": 4, **model})
    run, init = str(data.parent / "run"), InitConfig(weights=str(bundle))
    config, manifest = RunConfig(data=str(data), run=run, model=shape, init=init), read_manifest(data)
    starts = begin(config, manifest, World())
    torch.manual_seed(2)
    classifier = Classifier(config.model, manifest.vocabulary_size, num_outputs(manifest))
    default_weights = {name: values.clone() for name, values in classifier.state_dict().items()}
    for start in starts.values():
        start.put_into(classifier)
    return starts, classifier, default_weights


def test_rows_are_matched_by_token(data: Path, other_data: Path, tmp_path: Path) -> None:
    source = write_drawn(tmp_path / "bundle", other_data)
    starts, classifier, default_weights = begin_training(data, tmp_path / "bundle")
    ours, theirs = (Vocabulary.read(folder / VOCABULARY) for folder in (data, other_data))
    our_tokens, their_tokens = ours.tokens.to_pylist(), theirs.tokens.to_pylist()
    is_shared = np.isin(our_tokens, [token for token in their_tokens if token != "<pad>"])
    assert 10 < is_shared.sum() < len(our_tokens) - 5
    assert our_tokens.index("great") != their_tokens.index("great")
    for number, token in enumerate(our_tokens):
        expected = default_weights["embedding.weight"][number]
        if is_shared[number]:
            expected = source.embedding.weight[their_tokens.index(token)]
        assert torch.equal(classifier.embedding.weight[number], expected), token
    assert not classifier.embedding.weight[PAD].any()
    facts = starts["started_from"].facts
    assert (facts["words"], facts["vocabulary"]) == (is_shared.sum() - 1, len(our_tokens) - 2)
    assert facts["tokens"] == pytest.approx(ours.counts[is_shared].sum() / ours.counts.sum(), abs=1e-6)


def test_a_language_model_gives_its_first_layer(data: Path, other_data: Path, tmp_path: Path) -> None:
    weights = write_drawn(tmp_path / "lm", other_data, language=True).state_dict()
    starts, classifier, default_weights = begin_training(data, tmp_path / "lm", num_layers=2, wide=64)
    for name, values in classifier.state_dict().items():
        is_taken = name.startswith("recurrent.layers.0.")
        if name != "embedding.weight":
            assert torch.equal(values, (weights if is_taken else default_weights)[name]), name
    assert starts["started_from"].facts["what"] == "embedding and recurrent layers of a language model"


def test_a_classifier_gives_its_layers_and_neither_head_nor_linear_part(data: Path, tmp_path: Path) -> None:
    source = write_drawn(tmp_path / "bundle", data, wide=64)
    _, classifier, default_weights = begin_training(data, tmp_path / "bundle", wide=64)
    assert torch.equal(classifier.head.weight, default_weights["head.weight"])
    assert not classifier.wide.table.any()
    hidden_weights = classifier.recurrent.state_dict()["layers.0.weight_hh_l0"]
    assert torch.equal(hidden_weights, source.recurrent.state_dict()["layers.0.weight_hh_l0"])


pytestmark = pytest.mark.thorough


@pytest.fixture
def run(exported_run: Path) -> Path:
    return exported_run


@pytest.fixture
def folder(exported_run: Path) -> Path:
    return exported_run.parent / "out"


own_run = copy_of("run")


@pytest.mark.parametrize(
    ("num_classes", "shape"),
    [
        (3, {"wide": 64, "wide_ngrams": 3, "num_layers": 2}),
        (2, {"pooling": "last", "bidirectional": False}),
    ],
)
def test_the_graph_is_the_network_at_every_length(num_classes: int, shape: dict[str, Any], tmp_path: Path) -> None:
    bundle = Bundle(make_run(tmp_path, num_classes, **shape) / BUNDLE)
    assert export(tmp_path / "run", "--output", tmp_path / "out", "--onnx") == 0
    onnx, texts = OnnxScorer(tmp_path / "out"), draw_texts(bundle)
    assert 0 < measure_difference(bundle, onnx, texts) < 2e-6
    assert (max(map(len, texts)), len(texts) > 64) == (64, True)
    assert export(tmp_path / "run", "--output", tmp_path / "int8", "--onnx", "--int8") == 0
    assert 0 < measure_difference(bundle, OnnxScorer(tmp_path / "int8"), texts) < 0.02


def test_every_form_of_an_export_predicts_what_the_run_does(run: Path, folder: Path) -> None:
    names = {read_info(folder).weights, VOCABULARY, INDEX, ONNX, CARD, SCRIPT, TOKENS, "characters.py"}
    assert {path.name for path in folder.iterdir()} == names
    expected = padless.load(run).predict_proba(TEXTS)
    shares = np.array([*read_info(folder).splits["train"]["labels"].values()]) + 1
    np.testing.assert_allclose(expected[TEXTS.index("")], shares / shares.sum(), atol=1e-6)
    np.testing.assert_array_equal(padless.load(folder).predict_proba(TEXTS), expected)
    onnx = padless.load(folder, engine="onnx")
    np.testing.assert_allclose(onnx.predict_proba(TEXTS), expected, atol=1e-6)
    assert onnx.predict(TEXTS).tolist() == padless.load(run).predict(TEXTS).tolist()
    assert onnx.predict_proba([]).shape == (0, 2)


def test_a_pipeline_that_needs_other_packages_has_no_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Mock()
    bundle.encoder.pipeline.spec = TextSpec(lemmatizer="wordnet")
    assert not write_script(tmp_path, bundle, Screen())
    assert not [*tmp_path.iterdir()]
    printed = " ".join(capsys.readouterr().out.split())
    assert "predict.py not written: text.tokenizer unicode with text.lemmatizer wordnet needs other" in printed


def test_the_example_of_the_page_feeds_the_graph(
    folder: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs/predicting.md").read_text(encoding="utf-8")
    (example,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "session.run" in code]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "exports/onnx")
    values: dict[str, Any] = {}
    exec(compile(example, "docs/predicting.md", "exec"), values)
    expected = padless.load(run).predict_proba(["a fine film", "a dull one"])
    np.testing.assert_allclose(values["probabilities"], expected, atol=1e-6)


def test_the_card_is_one_of_the_hub(run: Path, folder: Path) -> None:
    card = ModelCard.load(folder / CARD)
    assert (card.data.license, card.data.language, card.data.pipeline_tag) == ("mit", None, "text-classification")
    figures = read_json(run / "test.json")
    low, high = figures["intervals"]["accuracy"]
    assert f"| accuracy | {figures['accuracy']:.4f} | {low:.4f} to {high:.4f} |" in card.content
    for part in ("| train | 50 |", "negative, positive", read_info(run / BUNDLE).weights_sha256):
        assert part in card.content
    assert "/home/somebody" not in card.content + (folder / INDEX).read_text()


def test_names_are_no_markup_in_a_card(run: Path) -> None:
    name = "<script>alert(1)</script> `x` [a](https://h/?token=SECRET) | b\x1b\n# c"
    info = read_info(run / BUNDLE)
    info = replace(info, labels=[name, "b"], vectors={"source": name})
    text = render_model_card(ExportConfig(run="r", output="x"), name, info, None, {})
    body = text.split("---\n", 2)[2]
    for markup in ("SECRET", "\x1b", "\n# c", "<"):
        assert markup not in body
    assert body.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3


def test_a_repository_of_the_hub_is_loaded(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only files of an export are asked for."""

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repo_id, revision) == ("me/mine", "main")
        assert any(map(Path(INDEX).match, allow_patterns))
        assert not any(map(Path("train.py").match, allow_patterns))
        return str(folder)

    fake = create_autospec(huggingface_hub.snapshot_download, side_effect=snapshot_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    expected = padless.load(run).predict_proba(TEXTS)
    np.testing.assert_array_equal(padless.load("hf://me/mine@main").predict_proba(TEXTS), expected)
    assert cli.run(harness_main, ["explain", "hf://me/mine@main", TEXTS[0]]) == 0
