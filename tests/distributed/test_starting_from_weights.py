# SPDX-License-Identifier: Apache-2.0
"""Runs on two ranks that begin with the weights of another model: recorded, the same for all, and never read again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from preprocessing.dataset.shards import VOCABULARY
from preprocessing.text.vocabulary import Vocabulary
from tests.datasets import write_dataset
from tests.donors import make_bundle, make_language_model
from tests.runs import arguments, final, launch, start, train_to_end, wait_for_step

pytestmark = pytest.mark.processes

SIZES: dict[str, Any] = {"embedding_dim": 16, "hidden_size": 16}
"""Those of ``tests.runs``."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own") / "data"
    write_dataset(root, {"train": 400, "validation": 100, "test": 50})
    return root


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A run whose bundle is a language model's, on other texts; and its weights."""
    root = tmp_path_factory.mktemp("other")
    write_dataset(root / "data", {"train": 300}, seed=9)
    return root, make_language_model(root / "data", root / "lm" / "bundle", **SIZES)


def options(donor: Path) -> tuple[str, ...]:
    return ("--init.weights", str(donor), "--model.num_layers", "2", "--model.freeze_embedding", "always")


@pytest.mark.slow
@pytest.mark.timeout(280, func_only=True)
def test_stopped_and_gone_on_with_when_the_source_is_gone(
    data: Path, pretrained: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """From the launcher to the end; and stopped, resumed without the source, to the same end."""
    root, weights = pretrained
    donor, whole, run = tmp_path / "lm", tmp_path / "whole" / "run", tmp_path / "stopped" / "run"
    shutil.copytree(root / "lm", donor)
    assert launch(data, whole, *options(donor)).wait(150) == 0, (whole.parent / "log").read_text()[-3000:]
    check_rows(whole, data, donor, weights)
    ranks = start(data, run, *options(donor))
    wait_for_step(ranks, run, 24)
    ranks.kill()
    shutil.rmtree(donor)
    assert start(data, run, *options(donor)).wait(150) == 0, (run.parent / "log").read_text()[-3000:]
    assert final(run) == final(whole)
    said = json.loads((run / "environment.json").read_text())["effective"]["weights"]
    assert said.startswith(f"{donor / 'bundle'}: the run began with them; embedding, recurrent layer 1 of a language")


def check_rows(run: Path, data: Path, donor: Path, weights: dict[str, torch.Tensor]) -> None:
    """The vectors of tokens that both know were held to the end as they were in the source."""
    (path,) = (run / "bundle").glob("weights-*.safetensors")
    kept = load_file(path)["embedding.weight"]
    mine, theirs = (Vocabulary.read(folder / VOCABULARY).tokens.to_pylist() for folder in (data, donor / "bundle"))
    shared = [token for token in mine[1:] if token in set(theirs)]
    assert len(shared) > 20
    expected = weights["embedding.weight"].numpy()[[theirs.index(token) for token in shared]]
    np.testing.assert_array_equal(kept[[mine.index(token) for token in shared]], expected)


@pytest.mark.timeout(280, func_only=True)
def test_all_ranks_begin_with_what_rank_0_has_read(data: Path, tmp_path: Path) -> None:
    """A whole classifier, its wide part too: one rank and two end alike."""
    make_bundle(data, tmp_path / "bundle", **SIZES, wide=256)
    ends = []
    for number in (1, 2):
        run = tmp_path / f"run-{number}"
        words = arguments(data, run, "--init.weights", str(tmp_path / "bundle"), "--epochs", "1")
        result = train_to_end(*words, processes=number)
        assert result.returncode == 0, result.stderr[-3000:]
        (path,) = (run / "bundle").glob("weights-*.safetensors")
        ends.append(load_file(path))
        facts = json.loads((run / "bundle" / "bundle.json").read_text())["started_from"]
        assert facts["taken"] == ["embedding", "recurrent layer 1", "head", "wide part"]
    for name, values in ends[0].items():
        np.testing.assert_allclose(values, ends[1][name], atol=5e-6, err_msg=name)
    (path,) = (tmp_path / "bundle").glob("weights-*.safetensors")
    np.testing.assert_array_equal(ends[1]["wide.weights"], load_file(path)["wide.weights"])
