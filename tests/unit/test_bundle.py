# SPDX-License-Identifier: Apache-2.0
"""A bundle is whole or refused: what does not belong together, was changed, or would have to be executed."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import padless
from harness.config import ModelConfig
from harness.inference.bundle import read_bundle, same_text, write_bundle
from harness.model.classifier import Classifier
from harness.rundir import bundle_files
from harness.rundir.bundle_files import write_vocabulary
from harness.rundir.json_files import SEAL, seal_of
from harness.rundir.layout import BUNDLE
from harness.scores.calibration import Decision
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.dataset.shards import VOCABULARY, Manifest, read_manifest
from tests.bundles import write_run
from tests.datasets import write_dataset

TEXTS = ["a fine film", "awful w1 w2", "", "w1 w2 w3 w4 odd"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 50, "validation": 10, "test": 10})
    return root


def make_model(manifest: Manifest, seed: int) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(ModelConfig(embedding_dim=4, hidden_size=4), manifest.vocabulary_size)


@pytest.fixture
def directory(dataset: Path, tmp_path: Path) -> Path:
    manifest = read_manifest(dataset)
    write_vocabulary(tmp_path, dataset)
    write_bundle(tmp_path, make_model(manifest, 1), manifest, step=7, decision=Decision(1.25, 0.4))
    return tmp_path


def test_what_is_read_is_what_was_written(directory: Path, dataset: Path) -> None:
    manifest = read_manifest(dataset)
    loaded = read_bundle(directory)
    assert (loaded.info.step, loaded.info.labels) == (7, ["negative", "positive"])
    assert loaded.decision == Decision(temperature=1.25, threshold=0.4)
    assert loaded.info.text_hash == manifest.text_hash == loaded.encoder().hash
    assert loaded.info.dataset == manifest.fingerprint
    for name, tensor in make_model(manifest, 1).state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)


def test_new_weights_replace_the_old_ones_in_one_step(
    directory: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(dataset)

    def fail(path: Path, value: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_json", fail)
        with pytest.raises(OSError, match="disk full"):
            write_bundle(directory, make_model(manifest, 2), manifest, step=8)
    assert read_bundle(directory).info.step == 7
    write_bundle(directory, make_model(manifest, 2), manifest, step=9)
    assert read_bundle(directory).info.step == 9
    assert len(list(directory.glob("weights-*"))) == 1


def test_a_dataset_of_other_texts_or_classes_is_refused(directory: Path, dataset: Path) -> None:
    info, manifest = bundle_files.read_info(directory), read_manifest(dataset)
    same_text(info, manifest, dataset)
    with pytest.raises(
        DataError, match=r"its vocabulary is not the one .* built with its vocabulary \(vocabulary\.base\)"
    ):
        same_text(info, replace(manifest, text_hash="another", vocabulary_hash="another"), dataset)
    with pytest.raises(
        DataError, match=r"2 classes \(positive, negative\) are not the 2 of the weights \(negative, posi"
    ):
        same_text(info, replace(manifest, labels=["positive", "negative"]), dataset)


def test_weights_that_are_not_finite_are_refused(directory: Path, dataset: Path) -> None:
    """Nobody is told that a text is negative, with a probability of nan."""
    manifest = read_manifest(dataset)
    model = make_model(manifest, 1)
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    write_bundle(directory, model, manifest, step=8)
    with pytest.raises(DataError, match=r"safetensors: head\.weight holds numbers that are not finite"):
        read_bundle(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 9}, "padless-bundle 9, this padless reads padless-bundle 1; restore the bundle, or train"),
        ({"temperature": 2.0}, "its content does not match its sha256"),
    ],
)
def test_a_foreign_bundle_is_named(directory: Path, change: dict[str, Any], message: str) -> None:
    path = directory / bundle_files.INDEX
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        read_bundle(directory)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A bundle of its own, to be damaged."""
    return write_run(tmp_path) / BUNDLE


def changed(bundle: Path, **values: Any) -> None:
    """Write an index with other values, sealed as if a padless had written it."""
    content = json.loads((bundle / bundle_files.INDEX).read_text()) | values
    del content[SEAL]
    atomic.write_json(bundle / bundle_files.INDEX, {**content, SEAL: seal_of(content)})


def test_what_does_not_belong_together_is_refused(copied: Path, tmp_path: Path) -> None:
    info = bundle_files.read_info(copied)
    other = write_run(tmp_path / "other", seed=9) / BUNDLE
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"text": {**info.text, "spec": {**info.text["spec"], "lowercase": False}}},
            rf"^{re.escape(str(copied / bundle_files.INDEX))}: its text pipeline is not the one",
        ),
        ({"vocabulary_hash": bundle_files.read_info(other).vocabulary_hash}, "its hash is not the one"),
        ({"weights": "../../other/run/bundle/x.safetensors"}, "names a file outside its own folder"),
        ({"temperature": 0.0}, r"Expected `float` >= 1e-06 - at `\$\.temperature`; edited or damaged; restore it"),
        ({"vocabulary_size": 3}, r"vocabulary_size is 3, and vocabulary\.arrow has \d+ entries"),
        ({"weights_sha256": "0" * 64}, "its sha256 is not the one in"),
        ({"model": {**info.model, "hidden_size": 10**6}}, "not the weights of the model in"),
        ({"labels": ["a", "b", "c"]}, "not the weights of the model in"),
        ({"label_type": "int"}, "label_type is int, and labels are other values; edited or damaged"),
    ]
    for values, sentence in cases:
        kept = (copied / bundle_files.INDEX).read_bytes()
        changed(copied, **values)
        with pytest.raises(padless.UserError, match=sentence):
            padless.load(copied)
        (copied / bundle_files.INDEX).write_bytes(kept)
    shutil.copy(other / VOCABULARY, copied / VOCABULARY)
    with pytest.raises(padless.UserError, match="its hash is not the one the weights were trained with"):
        padless.load(copied)
