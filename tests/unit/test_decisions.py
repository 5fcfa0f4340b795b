# SPDX-License-Identifier: Apache-2.0
"""Costs decide as a plain loop does, sets cover as often as asked, and both come out of every command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import padless
from harness.__main__ import main
from harness.rundir.bundle_files import bundle_directory, read_info, read_scores, scores_path
from harness.scores.calibration import Decision
from harness.scores.decisions import MAX_SCORES, choose_bound, choose_sets, conformal_scores, cost_matrix, set_figures
from harness.scores.figures import Scores, figures
from harness.scores.metrics import probabilities
from preprocessing.base.errors import ConfigError, DataError
from tests.bundles import reseal, write_drawn, write_run
from tests.report_runs import export

NAMES = ["a", "b", "c"]
MATRIX = {"a": {"b": 1, "c": 4}, "b": {"a": 9, "c": 2}, "c": {"a": 1, "b": 0.5}}


@pytest.mark.parametrize(
    ("costs", "names", "expected"),
    [
        ({"b": 10}, NAMES, [[0, 1, 1], [10, 0, 10], [1, 1, 0]]),
        (MATRIX, NAMES, [[0, 1, 4], [9, 0, 2], [1, 0.5, 0]]),
        ({"a": {"b": 1}, "b": 7}, ["a", "b"], [[0, 1], [7, 0]]),
        ({"d": 1}, NAMES, "costs.d: no such label; the labels are a, b, c"),
        ({"a": {"b": 1, "c": 1}}, NAMES, "costs.b: expected the cost of each wrong label: a, c"),
        ({"a": {"b": 1}, "b": 1, "c": 1}, NAMES, "costs.a: expected the cost of each wrong label: b, c"),
        ({"a": {"a": 1, "b": 1}, "b": 1}, ["a", "b"], "costs.a: expected the cost of each wrong label: b"),
    ],
)
def test_a_cost_for_each_error(costs: dict[str, Any], names: list[str], expected: Any) -> None:
    if not isinstance(expected, str):
        assert cost_matrix(costs, names).tolist() == expected
        return
    with pytest.raises(ConfigError) as caught:
        cost_matrix(costs, names)
    assert str(caught.value) == expected


@pytest.mark.parametrize("costs", [{"b": 10}, {"a": 3}, MATRIX])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_class_of_least_expected_cost_is_predicted(costs: dict[str, Any], classes: int) -> None:
    names, random = NAMES[:classes], np.random.default_rng(0)
    costs = {true: cost for true, cost in costs.items() if true in names}
    if costs.keys() >= {"a", "b"} and classes == 2:
        costs = {"a": {"b": 1}, "b": {"a": 9}}
    logits = random.normal(size=400 if classes == 2 else (400, classes)) * 2
    labels = np.array([random.choice(classes, p=chances) for chances in probabilities(logits)])
    decision = Decision(1.0, 0.3).with_costs(costs, names)
    predicted, chances = decision.predictions(logits)
    matrix = cost_matrix(costs, names).tolist()
    total = of_most_probable = 0.0
    for row in range(400):
        by_guess = np.transpose(matrix).tolist()
        expected = [sum(map(math.prod, zip(chances[row], costs_of, strict=True))) for costs_of in by_guess]
        assert predicted[row] == min(range(classes), key=expected.__getitem__)
        total += matrix[labels[row]][predicted[row]]
        of_most_probable += matrix[labels[row]][max(range(classes), key=chances[row].__getitem__)]
    values = figures(Scores(np.arange(400), labels, logits), names, decision)
    assert (values["cost"], values["cost_of_most_probable"]) == pytest.approx((total / 400, of_most_probable / 400))
    assert values["cost"] < values["cost_of_most_probable"]
    low, high = values["intervals"]["cost"]
    assert low < values["cost"] < high


@pytest.mark.parametrize(("rows", "level"), [(19, 0.9), (200, 0.8), (200, 0.95), (MAX_SCORES + 300, 0.9)])
def test_sets_hold_the_label_as_often_as_asked(rows: int, level: float) -> None:
    """Over many draws of validation rows, between the level and what the correction and the quantiles add, although the
    probabilities are far too confident.
    """
    random, num_draws, coverages = np.random.default_rng(1), 300, []
    for _ in range(num_draws):
        true_logits = random.normal(size=(rows + 500, 4)) * 1.5
        labels = np.argmax(true_logits + random.gumbel(size=true_logits.shape), axis=1)
        chances = probabilities(3 * true_logits)
        scores = conformal_scores(chances[:rows], labels[:rows])
        assert len(scores) == min(rows, MAX_SCORES)
        sets = choose_sets(chances[rows:], scores, level)
        coverages.append(sets[np.arange(500), labels[rows:]].mean())
    error = 3 * np.std(coverages) / math.sqrt(num_draws)
    assert level - error < np.mean(coverages) < level + 1 / (min(rows, MAX_SCORES) + 1) + error


def test_a_bound_is_the_corrected_quantile() -> None:
    scores = [0.1, 0.2, 0.3, 0.4]
    bounds = {level: choose_bound(scores, level) for level in (0.01, 0.2, 0.21, 0.6, 0.61, 0.8)}
    assert bounds == {0.01: 0.1, 0.2: 0.1, 0.21: 0.2, 0.6: 0.3, 0.61: 0.4, 0.8: 0.4}
    with pytest.raises(ConfigError, match=r"0\.81 is above 0\.8, .* 4 validation rows"):
        choose_bound(scores, 0.81)
    assert conformal_scores(np.array([[math.nan, 1]]), np.array([0])) == []


def test_sets_are_measured_where_the_scores_reach() -> None:
    chances, labels = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]]), np.array([0, 1, 2])
    entries = set_figures(labels, chances, [0.1, 0.2, 0.3, 0.6])
    (entry,) = entries
    assert (entry["level"], entry["coverage"], entry["size"]) == (0.8, 1.0, pytest.approx(4 / 3))
    assert set_figures(labels, chances, []) == []


SCORES = [0.05 * number for number in range(1, 20)]


@pytest.mark.thorough
def test_a_bundle_keeps_costs_and_scores(tmp_path: Path) -> None:
    """Of two classes its threshold is that of the costs. New weights bring new scores; damaged ones are refused."""
    run = write_run(tmp_path, decision=Decision(0.5, scores=SCORES), facts={"costs": {"positive": 4.0}})
    bundle = bundle_directory(run)
    info = read_info(bundle)
    assert (info.costs, info.threshold, read_scores(bundle, info.weights)) == ({"positive": 4.0}, 0.2, SCORES)
    write_drawn(bundle, tmp_path / "data", seed=2, decision=Decision(scores=[0.5]))
    newer = read_info(bundle)
    assert (newer.costs, newer.threshold, read_scores(bundle, newer.weights)) == ({}, 0.5, [0.5])
    path = scores_path(bundle, newer.weights)
    assert [file.name for file in bundle.glob("*.conformal.json")] == [path.name]
    for scores in ([2.0], ["0.5"], None):
        reseal(path, scores=scores)
        with pytest.raises(DataError, match="another version of padless"):
            padless.load(run)
    path.write_text(path.read_text().replace("null", "[0.5]"))
    with pytest.raises(DataError, match="does not match its sha256"):
        padless.load(run)


@pytest.mark.thorough
@pytest.mark.parametrize("target", ["out.csv", "out.jsonl", "out.parquet"])
def test_predictions_follow_what_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    run = write_run(tmp_path, 3, decision=Decision(0.05, scores=SCORES))
    monkeypatch.chdir(tmp_path)
    texts = [f"w{number} w{number * 7 % 23}" for number in range(40)]
    Path("in.csv").write_text("text\n" + "\n".join(texts) + "\n")
    model = padless.load(run)
    chances = model.predict_proba(texts)

    def predict(*words: str) -> dict[str, list[Any]]:
        Path(target).unlink(missing_ok=True)
        assert main(["predict", str(run), "in.csv", "-o", target, "--device", "cpu", *words]) == 0
        if target.endswith("parquet"):
            return pq.read_table(target).to_pydict()
        lines = Path(target).read_text().splitlines()
        if target.endswith("jsonl"):
            return {key: [json.loads(line)[key] for line in lines] for key in json.loads(lines[0])}
        header, *rows = [line.replace('"[', "[").replace(']"', "]").replace('""', '"') for line in lines]
        columns = zip(*[row.split(",", header.count(",")) for row in rows], strict=True)
        return dict(zip(header.split(","), map(list, columns), strict=True))

    is_csv, names = target.endswith("csv"), np.array(model.classes_)
    values = predict("--abstain", "0.6")["predicted"]
    is_sure = chances.max(axis=1) >= 0.6
    assert 0 < is_sure.sum() < 40
    top = names[chances.argmax(axis=1)].tolist()
    assert values == [name if sure else "" if is_csv else None for name, sure in zip(top, is_sure, strict=True)]
    assert f"{40 - is_sure.sum()} texts" in capsys.readouterr().out
    sets = predict("--set", "0.9")["predicted_set"]
    expected = [names[[k for k in np.argsort(-row) if 1 - row[k] <= SCORES[17]]].tolist() for row in chances]
    assert model.predict_sets(texts, 0.9) == expected
    assert sets == [json.dumps(labels) if is_csv else labels for labels in expected]
    assert 1 < np.mean(list(map(len, expected))) < 3
    costs = {names[0]: 1000.0}
    by_cost = names[(chances @ cost_matrix(costs, list(names))).argmin(axis=1)].tolist()
    assert by_cost != top
    assert predict("--costs", json.dumps(costs))["predicted"] == by_cost


@pytest.mark.thorough
def test_texts_are_answered_with_sets_or_not_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, 3, decision=Decision(1.0, scores=SCORES))
    model = padless.load(run)
    names, chances = model.classes_, model.predict_proba(["w1"])[0]
    command = ["predict", str(run), "--device", "cpu", "w1"]
    assert main([*command, "--abstain", "0.99"]) == main([*command, "--set", "0.95"]) == 0
    by_abstaining, by_sets = capsys.readouterr().out.splitlines()
    order = np.argsort(-chances)
    assert by_abstaining == "(no label)  w1"
    assert by_sets.split() == [word for k in order for word in (names[k], f"{chances[k]:.4f}")] + ["w1"]


@pytest.mark.thorough
def test_an_export_decides_as_the_run_does(tmp_path: Path) -> None:
    facts = {"costs": {"class0": 1000.0}}
    run, folder = write_run(tmp_path, 3, decision=Decision(scores=SCORES), facts=facts), tmp_path / "out"
    texts = ["w1", "w2"]
    assert export(run, "--output", folder, "--onnx", "--quiet", "--license", "mit") == 0
    assert "| costs of errors | `{'class0': 1000.0}` |" in (folder / "README.md").read_text()
    model, exported = padless.load(run), padless.load(folder, engine="onnx")
    assert exported.predict(texts).tolist() == model.predict(texts).tolist() == ["class0"] * 2
    assert model.predict_proba(texts).argmax(axis=1).tolist() != [0, 0]
    assert exported.predict_sets(texts, 0.8) == model.predict_sets(texts, 0.8)
