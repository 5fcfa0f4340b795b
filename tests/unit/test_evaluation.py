# SPDX-License-Identifier: Apache-2.0
"""What an evaluation says beyond its metrics: the mistakes with their words, and one JSON of it all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.config import ModelConfig
from harness.inference.bundle import Bundle, logits_of, read_bundle, write_bundle
from harness.inference.evaluation import assess
from harness.inference.explain import added
from harness.inference.scoring import Scores, score
from harness.model.classifier import Classifier
from harness.ranks.distributed import World
from harness.rundir.bundle_files import write_vocabulary
from harness.scores.calibration import Decision
from harness.scores.metrics import classification_metrics
from preprocessing.dataset.shards import Split, read_manifest
from tests.datasets import write_dataset

CLASSES = (2, 3)


@pytest.fixture(scope="module", params=CLASSES)
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 50, "validation": 10, "test": 60}, num_classes=request.param)
    return root


@pytest.fixture(scope="module")
def bundle(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("bundle")
    manifest = read_manifest(dataset)
    torch.manual_seed(1)
    model = Classifier(ModelConfig(embedding_dim=8, hidden_size=8), manifest.vocabulary_size, len(manifest.labels))
    write_vocabulary(directory, dataset)
    write_bundle(directory, model, manifest, step=7, decision=Decision(temperature=0.5, threshold=0.4))
    return read_bundle(directory)


@pytest.fixture(scope="module")
def split(dataset: Path) -> Split:
    return Split(dataset, read_manifest(dataset), "test")


@pytest.fixture(scope="module")
def scores(bundle: Bundle, split: Split) -> Scores:
    device = torch.device("cpu")
    return score(bundle.model, split, World(), batch_rows=16, layout="padded", device=device)


def test_everything_is_said_after_calibration_and_is_json(bundle: Bundle, split: Split, scores: Scores) -> None:
    values = json.loads(json.dumps(assess(scores, bundle, split), allow_nan=False))
    expected = classification_metrics(2 * scores.logits, scores.labels, 0.4)
    assert {name: values[name] for name in expected} == expected
    plain = classification_metrics(scores.logits, scores.labels)
    assert values["calibration"]["log_loss_before"] == pytest.approx(plain["log_loss"])
    assert values["calibration"]["ece_before"] == pytest.approx(plain["ece"])
    for when in ("before", "after"):
        assert sum(entry["rows"] for entry in values["calibration"][when]) == 60
    low, high = values["intervals"]["accuracy"]
    assert low < values["accuracy"] < high
    assert [entry["label"] for entry in values["per_class"]] == bundle.info.labels


def test_mistakes_are_the_most_confident_ones_with_their_own_words(
    bundle: Bundle, dataset: Path, split: Split, scores: Scores
) -> None:
    names = bundle.info.labels
    values = assess(scores, bundle, split)
    mistakes = values["mistakes"]
    assert len(mistakes) == 10
    chances = [mistake["probability"] for mistake in mistakes]
    assert chances == sorted(chances, reverse=True)
    for mistake in mistakes:
        place = int(np.flatnonzero(scores.rows == mistake["row"])[0])
        assert names[scores.labels[place]] == mistake["label"] != mistake["predicted"]
        assert len(mistake["tokens"]) == len(mistake["weights"]) == scores.lengths[place]
        ids = bundle.vocabulary.lookup(bundle.vocabulary.tokens.take(tokens_of(split, mistake["row"])))
        assert mistake["tokens"] == bundle.vocabulary.tokens.take(ids).to_pylist()
        assert mistake["tokens"].count("<unk>") == scores.unknown[place]


def tokens_of(split: Split, row: int) -> np.ndarray:
    for block in split.blocks:
        for place in np.flatnonzero(block.row == row):
            return block.ids[place, : block.length[place]].astype(np.int64)
    raise AssertionError(row)


def test_words_weigh_what_they_add_to_the_answer(bundle: Bundle) -> None:
    ids = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    logits = logits_of(bundle.model, [ids], 1)[0]
    for label in range(len(bundle.info.labels)):
        (found,) = added(bundle.model, [ids], [label])
        assert found.logit == pytest.approx(logits[label] if logits.ndim else logits * (1 if label else -1), abs=1e-5)
        assert found.scores.sum() == pytest.approx(found.logit - found.baseline, abs=1e-3)
