# SPDX-License-Identifier: Apache-2.0
"""``bench predict``: every contender is there, and what it is given is what is measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.__main__ import main
from harness.bench import predict
from harness.inference.predict import Predictor
from preprocessing.base import answering
from tests.bundles import write_run

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench")
    write_run(root)
    (root / "in.txt").write_text("\n".join(f"a fine film w{number}" for number in range(60)))
    return root


@pytest.mark.slow
def test_a_table_and_json(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(predict, "available_cores", lambda: 1)
    words = ["bench", "predict", "--run", str(root / "run"), "--input", str(root / "in.txt"), "--rounds", "1"]
    words += ["--precision", "fp32"]
    assert answering.run(main, [*words, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["unit"] == "rows/s"
    assert set(values["peers"]) == {predict.LOOP, predict.LINEAR}
    assert values["all_cores"]["processes"] == 1
    assert values["all_cores"]["rows_per_s"] > 0
    assert all(value > 0 for value in values["peers"].values())
    assert values["ratios"][predict.LOOP] == pytest.approx(values["ours"] / values["peers"][predict.LOOP])
    assert sum(values["ours_details"].values()) == pytest.approx(1)
    assert set(values["single_text_ms"]) == {"ours", predict.LOOP, predict.LINEAR}
    assert all(0 < times["p50"] <= times["p99"] for times in values["single_text_ms"].values())
    assert answering.run(main, words) == 0
    assert "a single text" in capsys.readouterr().out


def test_ours_computes_what_predict_does(root: Path) -> None:
    from harness.predicting.parts import Opening

    texts = (root / "in.txt").read_text().splitlines()
    settled = {"device": "cpu", "precision": "fp32"}
    ours = predict.Ours(Opening("torch", str(root / "run"), settled, 1024))(texts)
    np.testing.assert_allclose(ours, Predictor(root / "run").logits(texts), atol=1e-6)


def test_too_few_rows_are_a_sentence(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "one.txt").write_text("one\n")
    words = ["bench", "predict", "--run", str(root / "run"), "--input", str(root / "one.txt")]
    assert answering.run(main, words) == 3
    assert "one.txt: holds too few rows to measure with" in capsys.readouterr().err
