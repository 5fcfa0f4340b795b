# SPDX-License-Identifier: Apache-2.0
"""Predictions are the same bytes, and soft labels the same probabilities, by one process and by several, also after a
rank was lost: every row scored once (law 5).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import label as entry
from harness import predict
from harness.baseline.linear import Linear
from harness.data.soft_labels import read_soft_labels, targets_of
from harness.inference.bundle import Bundle
from harness.inference.config import LabelConfig
from harness.inference.predict import ScoredPart
from harness.scores.calibration import Decision
from preprocessing.base.errors import UserError
from preprocessing.dataset.shards import read_manifest
from tests.bundles import write_drawn, write_run
from tests.corpora import reviews, write_csv
from tests.datasets import shared_dataset, split_of, texts_in
from tests.ranks import Gone, run_ranks

pytestmark = pytest.mark.processes
ROWS = 3_000
PART = ("--part_mb", "0.005")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a table, and its predictions by one process."""
    root = tmp_path_factory.mktemp("by-many")
    write_run(root, embedding_dim=8, hidden_size=8)
    write_csv(root / "in.csv", enumerate(text for text, _ in reviews(ROWS, words=12)), ("n", "text"))
    assert ranked(root, "one.csv") is None
    return root


def ranked(root: Path, target: str, lost: int | None = None, *more: str) -> str | None:
    """One rank of ``accelerate launch -m harness.predict``; the rank ``lost`` dies in its second part.

    Returns the sentence of an error.
    """
    if lost is not None and os.environ.get("RANK") == str(lost):
        make, calls = ScoredPart.make, []

        def dying(part: ScoredPart) -> Any:
            calls.append(part.number)
            if len(calls) == 2:
                os._exit(9)
            return make(part)

        ScoredPart.make = dying  # type: ignore[method-assign]
    words = ["--run", str(root / "run"), "--input", str(root / "in.csv"), "--output", str(root / target)]
    try:
        assert predict.main([*words, *PART, "--device", "cpu", "--quiet", *more]) == 0
    except UserError as error:
        return str(error)
    return None


def test_two_ranks_write_the_same_bytes(root: Path) -> None:
    assert run_ranks(ranked, 2, root, "two.csv") == [None, None]
    assert (root / "two.csv").read_bytes() == (root / "one.csv").read_bytes()
    assert not (root / "two.csv.parts").exists()


def test_what_a_lost_rank_has_not_made_is_made_at_the_next_start(root: Path) -> None:
    left, gone = run_ranks(ranked, 2, root, "lost.csv", 1, "--timeout_s", "20", may_die=True)
    assert gone == Gone(9)
    assert "waited for the end of predicting from 1 other ranks" in left
    made = len(list((root / "lost.csv.parts").glob("0*.json")))
    assert made >= 2
    assert not (root / "lost.csv").exists()
    assert ranked(root, "lost.csv") is None
    assert (root / "lost.csv").read_bytes() == (root / "one.csv").read_bytes()


SIZES = {"train": 80, "validation": 30, "unlabelled": 57}
data = shared_dataset(SIZES, 2, 3, block_rows=16)


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """A run directory with nothing but a bundle, of weights that were drawn."""
    bundle = data.parent / "teacher" / "bundle"
    write_drawn(bundle, data, wide=64, decision=Decision(temperature=2.5))
    return bundle.parent


def label(data: str, run: str, output: str) -> None:
    entry.label(LabelConfig(data=data, run=run, output=output, device="cpu", batch=20))


def test_a_run_labels_every_row_once_on_any_number_of_ranks(data: Path, run: Path, tmp_path: Path) -> None:
    for ranks in (1, 2):
        run_ranks(label, ranks, str(data), str(run), str(tmp_path / f"{ranks}.arrow"))
    alone, both = (read_soft_labels(tmp_path / f"{ranks}.arrow") for ranks in (1, 2))
    bundle = Bundle(run / "bundle", 1)
    assert (alone.teacher.teacher, alone.teacher.temperature) == ("run teacher", 2.5)
    assert alone.teacher.weights_sha256 == bundle.info.weights_sha256
    split, validation = (split_of(data, name) for name in ("unlabelled", "validation"))
    logits = torch.from_numpy(bundle.score(texts_in(split))) / 2.5
    expected = torch.sigmoid(logits) if logits.dim() == 1 else torch.softmax(logits, 1)
    for found in (alone, both):
        assert sorted(found.rows.tolist()) == list(range(SIZES["unlabelled"]))
        np.testing.assert_allclose(targets_of(found, split), expected.numpy(), rtol=0, atol=1e-6)
    logits, labels = bundle.score(texts_in(validation)), validation.column("label")
    right = (logits > 0) == labels if logits.ndim == 1 else logits.argmax(1) == labels
    assert alone.teacher.validation["accuracy"] == right.mean() == both.teacher.validation["accuracy"]
    assert alone.teacher.validation["rows"] == 30


def test_the_linear_model_labels_as_it_predicts(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry.label(LabelConfig(data=str(data), baseline=True))
    found, manifest = read_soft_labels(data / "soft_labels" / "baseline.arrow"), read_manifest(data)
    split, linear = split_of(data, "unlabelled"), Linear.learn(data, manifest)
    logits = torch.from_numpy(linear.logits(split)) / found.teacher.temperature
    expected = torch.sigmoid(logits) if logits.dim() == 1 else torch.softmax(logits, 1)
    np.testing.assert_allclose(targets_of(found, split), expected.numpy(), rtol=0, atol=1e-6)
    said = f"accuracy {found.teacher.validation['accuracy']:.4f} on 30 rows of validation"
    assert said in " ".join(capsys.readouterr().out.split())
