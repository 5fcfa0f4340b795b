# SPDX-License-Identifier: Apache-2.0
"""Law 9, labels and splits: what cannot be a label, a split or a group is named with its file, row or key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.corpora import Command, reviews, write_csv

pytestmark = pytest.mark.thorough

ROWS, MANY = reviews(60), reviews(1001)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def table(rows: Sequence[Sequence[object]], header: tuple[str, ...] = ("text", "label")) -> Callable[[Path], Path]:
    return lambda folder: write_csv(folder / "reviews.csv", rows, header=header)


WRONG_DATA = {
    "more classes than labels have": (
        table([(text, f"id{at}") for at, (text, _) in enumerate(MANY)]),
        [],
        "reviews.csv: column 'label' has more than 1,000 different values ('id0', 'id1', 'id10', …): is it the label?",
    ),
    "more classes than labels have, over parts": (
        table([(text, f"id{at}") for at, (text, _) in enumerate(MANY)]),
        ["--source.part_mb", "0.02"],
        "reviews.csv: column 'label' has more than 1,000 different values",
    ),
    "several unknown splits": (
        table([(*row, ("train", "a", "b")[at % 3]) for at, row in enumerate(ROWS)], header=("text", "label", "part")),
        ["--splits.column", "part"],
        "reviews.csv: row 2: split 'a' is not known (nor 'b')",
    ),
    "named split without a row": (
        table([(*row, "train") for row in ROWS], header=("text", "label", "part")),
        ["--splits.column", "part", "--splits.names", "{test: [te, 2]}"],
        "splits.names.test: no row has one of these in 'part': 'te', '2'",
    ),
    "missing group column": (
        table(ROWS),
        ["--splits.group_column", "film"],
        "reviews.csv: has no column 'film'; it has 'text', 'label'; set splits.group_column",
    ),
    "group column of a folder": (
        lambda folder: folder,
        ["--splits.group_column", "film"],
        "a folder has no column 'film'; unset splits.group_column",
    ),
    "group column that is unique": (
        table([(*row, at) for at, row in enumerate(ROWS)], header=("text", "label", "id")),
        ["--splits.group_column", "id"],
        "splits.group_column: 'id' has another value in each of the 60 rows, so it keeps none together",
    ),
    "group column that is empty": (
        table([(*row, "") for row in ROWS], header=("text", "label", "film")),
        ["--splits.group_column", "film"],
        "splits.group_column: 'film' is empty in every row",
    ),
    "texts that repeat": (
        table([(f"text {at % 213} of them", f"class {at % 213 % 60}") for at in range(600)]),
        [],
        "split validation: no row is left for it: 600 of 600 rows may be in it, 600 are kept, of 213 different texts",
    ),
    "labels that occur once": (
        table([(text, f"id{at}") for at, (text, _) in enumerate(ROWS)]),
        [],
        "of 60 different texts and at most 1 of one label; it is cut from labels of 3 rows or more",
    ),
    "every row named for another split": (
        table([(*row, ("test", "dev")[at % 4 < 2]) for at, row in enumerate(ROWS)], header=("text", "label", "part")),
        ["--splits.column", "part"],
        "split train: no row is left for it: 0 of 60 rows may be in it",
    ),
    "every row of a split dropped": (
        table(
            [(*row, ("train", "test")[at // 60]) for at, row in enumerate(ROWS * 2)], header=("text", "label", "part")
        ),
        ["--splits.column", "part"],
        "split train: no row is left for it: 60 of 120 rows may be in it, quality.leaks leaves out 60 rows, 0 are kept",
    ),
    "a split whose texts are empty": (
        table(
            [*((*row, "") for row in ROWS), *(("", label, "test") for _, label in ROWS[:6])],
            header=("text", "label", "part"),
        ),
        ["--splits.column", "part", "--quality.empty", "drop"],
        "split test: no row is left for it: 6 of 66 rows may be in it, quality.empty leaves out 6 rows, 0 are kept",
    ),
    "a file of a split whose rows are neutral": (
        lambda folder: write_csv(folder / "reviews.csv", ROWS),
        ["--source.validation_path", "neutral.csv", "--source.neutral", "[odd]"],
        "neutral.csv: every row is left out by source.where or source.neutral",
    ),
    "a file of a split without a row": (
        lambda folder: write_csv(folder / "reviews.csv", ROWS),
        ["--source.test_path", "empty.csv"],
        "empty.csv: holds no row; give it some, or leave it out of source.test_path",
    ),
    "groups too large for a split": (
        table([(*row, "ab"[at > 19]) for at, row in enumerate(ROWS)], header=("text", "label", "film")),
        ["--splits.group_column", "film"],
        "splits.group_column: 'film': no group fits into the split validation: the largest of 2, 'b', holds 40 of 60",
    ),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_wrong_data_is_named_and_ends_with_3(
    case: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, arguments, expected = WRONG_DATA[case]
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "neutral.csv", [(text, "odd") for text, _ in ROWS])
    write_csv(tmp_path / "empty.csv", [])
    (tmp_path / "in").mkdir()
    code = command.build(write(tmp_path / "in"), tmp_path / "out", *arguments)
    assert (code, expected in command.sentence) == (3, True), command.sentence
    assert not (tmp_path / "out" / "dataset.json").exists()


WRONG_CONFIGURATION = {
    "group column that is the label": (["--splits.group_column", "label"], "splits.group_column: 'label'"),
    "group column that is the split": (
        ["--splits.group_column", "part", "--splits.column", "part"],
        "splits.group_column: 'part' is already splits.column",
    ),
    "labels that are a word": (["--source.labels", "found"], "source.labels: 'found' is out of range: expected auto"),
    "split names without a column": (
        ["--splits.names", "{test: [te]}"],
        "splits.names: it maps values of splits.column",
    ),
    "split names of no split": (
        ["--splits.names", "{tset: [te]}", "--splits.column", "part"],
        "splits.names: 'tset' is out of range: expected the splits train, validation, test",
    ),
    "split name with two meanings": (
        ["--splits.names", "{test: [0], train: ['0']}", "--splits.column", "part"],
        "splits.names.train: '0' already means test",
    ),
}


@pytest.mark.parametrize("case", WRONG_CONFIGURATION)
def test_wrong_configuration_is_named_and_ends_with_2(case: str, tmp_path: Path, command: Command) -> None:
    arguments, expected = WRONG_CONFIGURATION[case]
    code = command.build(write_csv(tmp_path / "reviews.csv", ROWS), tmp_path / "out", *arguments)
    assert (code, expected in command.sentence) == (2, True), command.sentence
