# SPDX-License-Identifier: Apache-2.0
"""A bundle is refused if its files do not belong together, were changed, or would have to be executed."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import padless
from harness.inference.bundle import Bundle, same_text, write_bundle
from harness.inference.evaluation import compare_bf16
from harness.ranks import precision
from harness.rundir import bundle_files
from harness.rundir.json_files import SEAL, seal_of
from harness.rundir.layout import BUNDLE
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.dataset.shards import VOCABULARY, Split, read_manifest
from tests.bundles import write_run
from tests.commands import read_json


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of a bundle, to be damaged."""
    return write_run(tmp_path) / BUNDLE


def test_a_dataset_of_other_texts_or_classes_is_refused(copied: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "data"
    info, manifest = bundle_files.read_info(copied), read_manifest(dataset)
    same_text(info, manifest, dataset)
    other = replace(manifest, text_hash="another", vocabulary_hash="another")
    with pytest.raises(DataError, match=r"its vocabulary is not the one .* with its vocabulary \(vocabulary\.base\)"):
        same_text(info, other, dataset)
    said = r"2 classes \(positive, negative\) are not the 2 of the weights \(negative, posi"
    with pytest.raises(DataError, match=said):
        same_text(info, replace(manifest, labels=["positive", "negative"]), dataset)


def test_predictions_are_in_bf16_where_it_is_native_and_labels_stay(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = bundle_files.read_info(copied)
    for kept, how, asked, expected in (
        (0.999, "native", "auto", "bf16"),
        (0.998, "native", "auto", "fp32"),
        (1.0, "emulated", "auto", "fp32"),
        (1.0, "native", "fp32", "fp32"),
        (0.0, "emulated", "bf16", "bf16"),
    ):
        monkeypatch.setattr(precision, "runnable", {"cpu": {"bf16": how}}.get)
        settled = Bundle.settle(replace(info, bf16=kept), "cpu", asked)
        assert settled == {"device": "cpu", "precision": expected}, (kept, how, asked)


def test_rows_are_compared_in_bf16_and_their_number_is_kept(copied: Path, tmp_path: Path) -> None:
    data, bundle = tmp_path / "data", Bundle(copied)
    split = Split(data, read_manifest(data), "train")
    texts = [block.ids[0, : block.length[0]] for block in split.blocks]
    exact = bundle.score(texts)
    share = compare_bf16(bundle, split)
    assert bundle_files.read_info(copied).bf16 == share >= 1 - 1 / len(split)
    bundle.dtype = torch.bfloat16
    np.testing.assert_allclose(bundle.score(texts), exact, atol=0.01)
    assert (bundle.score(texts) != exact).any()


def test_weights_that_are_not_finite_are_refused(copied: Path, tmp_path: Path) -> None:
    """Otherwise a text would be predicted with a probability of nan."""
    model = Bundle(copied).model
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    write_bundle(copied, model, read_manifest(tmp_path / "data"), step=8)
    with pytest.raises(DataError, match=r"safetensors: head\.weight holds numbers that are not finite"):
        Bundle(copied)


def changed(bundle: Path, **values: Any) -> None:
    """Write an index with other values and a valid seal."""
    content = read_json(bundle / bundle_files.INDEX) | values
    del content[SEAL]
    atomic.write_json(bundle / bundle_files.INDEX, {**content, SEAL: seal_of(content)})


def test_what_does_not_belong_together_is_refused(copied: Path, tmp_path: Path) -> None:
    info = bundle_files.read_info(copied)
    other = write_run(tmp_path / "other", seed=9) / BUNDLE
    cases = [
        (
            {"text": {**info.text, "spec": {**info.text["spec"], "lowercase": False}}},
            rf"^{re.escape(str(copied / bundle_files.INDEX))}: its text pipeline is not the one",
        ),
        ({"vocabulary_hash": bundle_files.read_info(other).vocabulary_hash}, "its hash is not the one"),
        ({"weights": "../../other/run/bundle/x.safetensors"}, "names a file outside its own folder"),
        ({"format_version": 9}, "padless-bundle 9, this padless reads padless-bundle 1; restore the bundle, or train"),
        ({"model": {**info.model, "hidden_size": 10**6}}, "not the weights of the model in"),
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
