# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks``: every contender works, the output has one format, nothing is repeated.

Their figures are not tested.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import loader, measuring, pretrain, recurrence, text
from benchmarks.__main__ import main
from preprocessing.text.spec import TextSpec
from tests.datasets import write_dataset

pytestmark = [pytest.mark.thorough, pytest.mark.filterwarnings("default")]


def check_format(values: dict[str, Any], unit: str) -> set[str]:
    """Check the output format of a benchmark; the names of its peers."""
    assert values["unit"] == unit
    assert values["ratios"] == {name: values["ours"] / value for name, value in values["peers"].items()}
    assert min(values["ours"], *values["peers"].values()) > 0
    lines = next(measuring.format_result(values)).splitlines()
    assert all(map(str.startswith, lines, ["contender", "ours", *values["peers"]]))
    assert len(lines) == 2 + len(values["peers"])
    return set(values["peers"])


def test_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PEERS", {"CountVectorizer": text.PEERS["CountVectorizer"]})
    texts = ["A great<br />film, isn't it?", "Two bad films &amp; a good one."] * 20
    assert check_format(text.measure_tokenizers(texts, TextSpec(), rounds=1), "docs/s") == {"CountVectorizer"}


@pytest.mark.filterwarnings("ignore")
def test_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    contenders = {name: contender for name, contender in loader.CONTENDERS.items() if "workers" not in name}
    monkeypatch.setattr(loader, "CONTENDERS", contenders)
    values = loader.measure_loaders(loader.LoaderConfig(rows=1000, width=16, batch=50, rounds=1))
    assert check_format(values, "rows/s") == contenders.keys() - {"ours"}


@pytest.mark.slow
def test_a_step() -> None:
    sizes = {"batch": 2, "hidden_size": 4, "rounds": 1}
    layer = recurrence.measure_layers(recurrence.RecurrenceConfig(**sizes))
    words = pretrain.measure_pretraining(pretrain.PretrainConfig(**sizes, vocabulary=50, embedding_dim=4, candidates=8))
    for values in (layer, words):
        assert len(check_format(values, "tokens/s")) == 2


@pytest.mark.slow
def test_train_as_users_run_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data", {"train": 200, "validation": 20})
    sizes = ["--model.embedding_dim", "8", "--model.hidden_size", "8", "--batch", "16", "--steps", "2", "--rounds", "2"]
    assert main(["train", "--data", str(tmp_path / "data"), "--json", *sizes]) == 0
    values = json.loads(capsys.readouterr().out)
    assert check_format(values, "tokens/s") == {"padded to the maximum, random order", "packed, random order"}
    assert 0 <= values["ours_details"]["padding"] < 0.5
