# SPDX-License-Identifier: Apache-2.0
"""Several labels to a text: figures, thresholds, the linear part, predictions, evaluations, exports and reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from scipy import sparse
from sklearn.linear_model import LogisticRegression

import padless
from harness.config import EvaluationConfig
from harness.metrics.calibration import Decision, choose_f1_threshold, fit_decision
from harness.metrics.figures import Scores, figures
from harness.metrics.metrics import set_probabilities
from harness.training import linear_fit
from padless.commands import main as harness_main
from padless.core.errors import DataError
from tests.helpers.bundles import write_run
from tests.helpers.corpora import reviews, write_csv
from tests.helpers.datasets import write_dataset

NAMES = ["anger", "joy", "love", "surprise"]
SHARES = [0.4, 0.3, 0.15, 0.04]


def simulate(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of some rows."""
    random = np.random.default_rng(seed)
    labels = random.random((rows, len(NAMES))) < SHARES
    return random.normal(size=labels.shape) + 2.0 * labels - 2.0, labels


def test_figures_are_those_of_scikit_learn() -> None:
    logits, labels = simulate(500)
    decision = Decision(1.5, thresholds=(0.3, 0.2, 0.15, 0.1))
    chances = set_probabilities(logits / 1.5)
    predicted = chances >= decision.thresholds
    values = figures(Scores(np.arange(500), labels, logits), NAMES, decision)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "f1": sklearn.metrics.f1_score(labels, predicted, average="macro"),
        "f1_micro": sklearn.metrics.f1_score(labels, predicted, average="micro"),
        "roc_auc": sklearn.metrics.roc_auc_score(labels, chances),
        "pr_auc": sklearn.metrics.average_precision_score(labels, chances),
        "log_loss": sum(map(sklearn.metrics.log_loss, labels.T, chances.T)),
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    others = sklearn.metrics.precision_recall_fscore_support(labels, predicted)
    per_class = [[entry[name] for entry in values["per_class"]] for name in ("precision", "recall", "f1", "rows")]
    np.testing.assert_allclose(per_class, others)
    missed, given, rows = values["confusion"][0]
    assert rows == (labels[:, missed] & ~predicted[:, missed] & predicted[:, given] & ~labels[:, given]).sum()
    for name in ("accuracy", "f1", "f1_micro", "log_loss"):
        low, high = values["intervals"][name]
        assert low < values[name] < high


def test_few_rows_of_a_class_do_not_decide_its_threshold_alone() -> None:
    """Three rows of a class, of which two have high probabilities by chance; then a class without any."""
    chances = np.linspace(0.0, 0.5, 500) ** 2
    is_labelled = np.zeros(500, bool)
    is_labelled[[499, 498, 200]] = True
    alone = float(np.sort(chances)[-2:].min())
    many = choose_f1_threshold(chances, np.random.default_rng(0).random(500) < chances)
    few = choose_f1_threshold(chances, is_labelled)
    none = choose_f1_threshold(chances, np.zeros(500, bool))
    assert abs(few - many) < abs(alone - many)
    assert none == pytest.approx(many, abs=0.05)
    assert choose_f1_threshold(np.full(500, 1e-6), np.arange(500) == 7) == 0.5
    assert choose_f1_threshold(np.full(500, np.nan), np.arange(500) == 7) == 0.5


def test_thresholds_are_chosen_as_asked() -> None:
    logits, labels = simulate(400)
    assert fit_decision(logits, labels, EvaluationConfig(threshold="fixed")).thresholds == [0.5] * 4
    decision = fit_decision(logits, labels, EvaluationConfig(threshold="recall", recall=0.9))
    predicted, _ = decision.predictions(logits)
    recalls = (predicted & labels).sum(axis=0) / labels.sum(axis=0)
    assert ((recalls >= 0.9) & (recalls < 1)).all()


def test_the_linear_part_is_a_logistic_regression_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    values = sparse.random(200, 12, 0.4, "csr", random_state=0)
    labels = random.random((200, 3)) < 1 / (1 + np.exp(-(values @ random.normal(size=(12, 3)) * 3)))
    monkeypatch.setattr(linear_fit, "TOLERANCE_OF_SETS", 1e-12)
    table, bias = linear_fit.solve_classes(values, sparse.csr_matrix((12, 4)), labels, np.array([1.0, 1.0, 2.0]))
    for number in range(3):
        weights = {True: 2.0 if number == 2 else 1.0, False: 1.0}
        theirs = LogisticRegression(C=linear_fit.C_OF_SETS, tol=1e-10, max_iter=2000, class_weight=weights)
        theirs.fit(values, labels[:, number])
        np.testing.assert_allclose(table[:, number], theirs.coef_[0], atol=1e-3)
        assert bias[number] == pytest.approx(theirs.intercept_[0], abs=1e-3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("shared"), label_sets=[[], [0, 1], [1]], wide=64)


def test_predictions_are_lists_of_labels(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, texts = padless.load(run), [text for text, _ in reviews(40)]
    chances = model.predict_proba(texts)
    expected = [
        [name for name, high in zip(model.classes_, row >= (0.4, 0.55), strict=True) if high] for row in chances
    ]
    assert model.predict(texts).tolist() == expected
    assert {len(labels) for labels in expected} >= {0, 1}
    source = write_csv(tmp_path / "new.csv", [[text] for text in texts], ["text"])
    for name in ("out.csv", "out.jsonl", "out.parquet"):
        assert harness_main(["predict", str(run), str(source), "-o", str(tmp_path / name), "--quiet"]) == 0
    written = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert [json.loads(cell) for cell in written["predicted"]] == expected
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["predicted"] for line in lines] == expected
    assert [list(labels) for labels in pd.read_parquet(tmp_path / "out.parquet")["predicted"]] == expected
    assert model.explain(texts[0]).predicted == ", ".join(expected[0])
    row = [len(labels) for labels in expected].index(0)
    assert harness_main(["predict", str(run), texts[row]]) == 0
    assert capsys.readouterr().out.startswith("(no label)  ")


def test_a_file_with_labels_is_evaluated(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, lists = [text for text, _ in reviews(60)], [["positive"], ["negative", "positive"], []]
    rows = [(text, "|".join(lists[number % 3])) for number, text in enumerate(texts)]
    source, words = write_csv(tmp_path / "new.csv", rows), ["--source.labels_separator", "|", "--json"]
    command = ["evaluate", str(run), "--input", str(source), "-o", str(tmp_path / "out")]
    assert harness_main([*command, *words]) == 0
    values = json.loads(capsys.readouterr().out)
    labels = np.array([[name in lists[number % 3] for name in ("negative", "positive")] for number in range(60)])
    predicted = padless.load(run).predict_proba(texts) >= (0.4, 0.55)
    assert values["f1"] == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="macro"))
    with pytest.raises(DataError, match=r"label 'negative\|positive' is not known.*or source\.labels_separator"):
        harness_main([*command, "--source.labels_separator", ";"])
    one = write_run(tmp_path / "one")
    with pytest.raises(DataError, match=r"row 2: its label 'negative\\x1fpositive\\x1f' is no class of the run"):
        harness_main(["evaluate", str(one), "--input", str(source), *words])


@pytest.mark.processes
@pytest.mark.thorough
def test_folds_are_trained_and_measured(tmp_path: Path) -> None:
    """Through every command: the figures of all rows together are those of scikit-learn for the predictions."""
    texts, labels = [text for text, _ in reviews(240)], simulate(240)[1]
    lists = [[NAMES[number] for number in np.flatnonzero(row)] for row in labels]
    words = [" ".join([text, *names]) for text, names in zip(texts, lists, strict=True)]
    frame = pd.DataFrame({"text": words, "label": [";".join(names) for names in lists]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    data = padless.prepare(str(tmp_path / "a.csv"), output=tmp_path / "data", options={"splits.folds": 2})
    keys = ["--epochs", "1", "--model.hidden_size", "4", "--model.embedding_dim", "4", "--device", "cpu"]
    command = ["train", str(tmp_path / "data"), "--run", str(tmp_path / "runs"), "--folds", "2", *keys]
    assert harness_main(command) == 0
    summary = json.loads((tmp_path / "runs" / "folds.json").read_text())["out_of_fold"]
    rows = pd.read_parquet(tmp_path / "runs" / "out-of-fold.parquet")
    truth, predicted = (
        np.array([[name in names for name in data.labels] for names in rows[column]])
        for column in ("label", "predicted")
    )
    assert [sorted(names) for names in rows["label"]] == [sorted(lists[row - 1]) for row in rows["row"]]
    assert summary["f1"] == pytest.approx(sklearn.metrics.f1_score(truth, predicted, average="macro"))
    assert summary["f1_micro"] == pytest.approx(sklearn.metrics.f1_score(truth, predicted, average="micro"))
    assert summary["f1_micro"] > 0.5
    out = tmp_path / "out.csv"
    assert harness_main(["predict", str(tmp_path / "runs" / "fold-0"), str(tmp_path / "a.csv"), "-o", str(out)]) == 0
    cells = pd.read_csv(out, keep_default_na=False)["predicted"].tolist()
    assert cells == [";".join(names) for names in padless.load(tmp_path / "runs" / "fold-0").predict(words)]
    assert sum(";" in cell for cell in cells) > 10


def test_one_label_and_several_do_not_mix(run: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", {"train": 50, "test": 20}, base=run.parent / "data")
    with pytest.raises(DataError, match="only one of this dataset and that of the weights has several labels"):
        harness_main(["evaluate", str(run), "--data", str(tmp_path / "one")])
