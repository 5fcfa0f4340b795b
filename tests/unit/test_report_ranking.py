# SPDX-License-Identifier: Apache-2.0
"""In which order a report shows several runs, and what it says of what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.report.facts import RunFacts
from harness.report.ranking import best_values, dataset_groups, differing, ranked, ranking_metric, ranks, unique_names
from tests.unit.test_report_facts import facts


def run(name: str, accuracy: float, log_loss: float, fingerprint: str | None = "a", **values: Any) -> RunFacts:
    """A run of two validations, of which the first is the best."""
    best = {"step": 1, "accuracy": accuracy, "log_loss": log_loss, "best": True}
    later = {"step": 2, "accuracy": 1.0, "log_loss": 0.0, "best": False}
    return facts(directory=Path(name), validation=[best, later], fingerprint=fingerprint, **values)


def names(runs: list[RunFacts]) -> list[str]:
    return [each.name for each in runs]


def test_runs_stand_in_the_order_of_their_best_validation() -> None:
    runs = [run("a", 0.8, 0.3), run("b", 0.9, 0.5), run("c", 0.9, 0.4), facts(directory=Path("d"), fingerprint="a")]
    ordered = ranked([runs[3], *runs[:3]])
    assert names(ordered) == ["b", "c", "a", "d"]
    assert ranks(ordered) == [1, 2, 3, None]
    by_loss = [run(name, *values, config={"select": "loss"}) for name, *values in (("a", 0.9, 0.5), ("b", 0.8, 0.3))]
    assert (ranking_metric(runs), ranking_metric(by_loss), ranking_metric([*runs, *by_loss])) == (
        "accuracy",
        "log_loss",
        "accuracy",
    )
    assert names(ranked(by_loss)) == ["b", "a"]
    calibrated = [facts(directory=Path(name), fingerprint="a", config={"select": "calibrated"},
                        validation=[{"step": 1, "accuracy": 0.9, "calibrated_log_loss": loss, "best": True}])
                  for name, loss in (("a", 0.5), ("b", 0.3))]  # fmt: skip
    assert ranking_metric(calibrated) == "calibrated_log_loss"
    assert names(ranked(calibrated)) == ["b", "a"]
    assert names(ranked([run("a", float("nan"), 0.1), run("b", 0.1, 0.1)])) == ["b", "a"]


def test_runs_of_one_dataset_stand_together_and_are_ranked_among_themselves() -> None:
    runs = [run("a", 0.5, 1, "x"), run("b", 0.9, 1, "y"), run("c", 0.6, 1, "x"), run("d", 0.1, 1, None)]
    ordered = ranked(runs)
    assert names(ordered) == ["c", "a", "b", "d"]
    assert ranks(ordered) == [1, 2, 1, 1]
    assert dataset_groups(ordered) == [0, 0, 1, 2]


def test_the_best_values_are_those_of_validation_on_one_dataset() -> None:
    runs = [run("a", 0.8, 0.3), run("b", 0.9, 0.5)]
    assert best_values(runs, ["accuracy", "log_loss", "f1"]) == {"accuracy": 0.9, "log_loss": 0.3}
    assert best_values([*runs, run("c", 0.9, 0.5, "other")], ["accuracy"]) == {}
    assert best_values(runs[:1], ["accuracy"]) == {}


def test_what_differs_between_runs() -> None:
    first = facts(config={"run": "a", "seed": 0, "model": {"hidden_size": 8, "dropout": 0.5}, "optim": {}})
    second = facts(config={"run": "b", "seed": 0, "model": {"hidden_size": 16, "dropout": 0.5}, "new": None})
    assert differing([first, second]) == {
        "model.hidden_size": [8, 16],
        "optim": [{}, "unset"],
        "new": ["unset", None],
    }


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["x/a", "y/a", "y/b"], ["x/a", "y/a", "b"]),
        (["one/x/run", "two/x/run"], ["one/x/run", "two/x/run"]),
        (["x/run"], ["run"]),
    ],
)
def test_runs_of_one_name_are_told_apart(places: list[str], expected: list[str]) -> None:
    assert unique_names([facts(directory=Path(place)) for place in places]) == expected
