# SPDX-License-Identifier: Apache-2.0
"""``quality.near_duplicates``: which rows nearly repeat a row of validation or test, by a comparison of all pairs."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest

from tests.corpora import Command, contents, write_csv
from tests.datasets import stored

pytestmark = pytest.mark.thorough

RANDOM = np.random.default_rng(1)
WORDS = [f"w{number}" for number in range(2000)]
SPLIT = ("--splits.column", "split")
DROP = (*SPLIT, "--quality.near_duplicates", "drop")


def text(words: int) -> list[str]:
    return RANDOM.choice(WORDS, words).tolist()


def edited(words: list[str], kind: int) -> list[str]:
    """A copy with up to 15 % of its words changed, without a sentence, or between the words of a site."""
    if kind == 0:
        changed = RANDOM.random(len(words)) < RANDOM.uniform(0.05, 0.15)
        return [str(RANDOM.choice(WORDS)) if change else word for word, change in zip(words, changed, strict=True)]
    if kind == 1:
        first = int(RANDOM.integers(len(words) - 8))
        return words[:first] + words[first + 8 :]
    return ["all", "opinions", "are", "mine", *words, "was", "this", "helpful"]


MEASURED = [text(int(RANDOM.integers(30, 80))) for _ in range(300)]
LEARNED = [edited(words, number % 3) for number, words in enumerate(MEASURED)] + [text(50) for _ in range(300)]
TEXTS = [" ".join(words) for words in MEASURED + LEARNED]
SPLITS = ["validation", "test"] * 150 + ["train"] * 500
ROWS = [(TEXTS[row], "ab"[row // 2 % 2], split) for row, split in enumerate(SPLITS)]


def similarity(one: int, other: int) -> float:
    """The Jaccard index of the pairs of words of two rows."""
    mine, its = (set(itertools.pairwise(words)) for words in (TEXTS[row - 1].split() for row in (one, other)))
    return len(mine & its) / len(mine | its)


def rejects(root: Path) -> dict[int, tuple[int, str]]:
    with open(root / "near_duplicates.csv") as file:
        return {int(row["row"]): (int(row["other"]), row["similarity"]) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_csv(folder / "more.csv", [(text,) for text in TEXTS[len(ROWS) :]], ("text",))
    return write_csv(folder / "reviews.csv", ROWS, ("text", "label", "split"))


@pytest.mark.processes
def test_rows_that_nearly_repeat_a_measured_one_are_left_out_by_any_workers(
    source: Path, tmp_path: Path, command: Command
) -> None:
    given = ("--source.unlabelled_path", source.with_name("more.csv"), *DROP)
    manifest = command.build(source, tmp_path / "a", *given)
    found = rejects(tmp_path / "a")
    assert f"left out: {len(found)} rows nearly repeating a row of validation or test" in command.err
    learned, measured = range(len(MEASURED) + 1, len(TEXTS) + 1), range(1, len(MEASURED) + 1)
    near = {row for row in learned if max(similarity(row, other) for other in measured) >= 0.5}
    assert len(near) > 290
    assert set(found) <= near
    assert len(found) >= 0.95 * len(near)
    for row, (other, said) in found.items():
        assert (said, other) == (f"{similarity(row, other):.4f}", row - len(MEASURED))
    assert sorted(stored(tmp_path / "a")) == sorted({*measured, *learned} - {*found})
    assert manifest.statistics["dropped"]["near_duplicates"] == len(found)
    assert manifest.rows("train") == 500 - sum(row <= len(ROWS) for row in found)
    several = ("--executor.workers", 2, "--source.part_mb", 0.02)
    command.build(source, tmp_path / "b", *given, *several)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_refusal_names_a_row_and_the_job_goes_on_from_there(source: Path, tmp_path: Path, command: Command) -> None:
    refused = command.refused(3, source, tmp_path / "out", *SPLIT, "--quality.near_duplicates", "error")
    listed = tmp_path / "out" / "near_duplicates.csv"
    number = len(rejects(tmp_path / "out"))
    said = f"row 301: it nearly repeats a row of validation or test ({listed} says which) (and {number - 1} more)"
    assert refused == f"{source}: {said}; correct the row, or set quality.near_duplicates to keep or drop"
    (tmp_path / "out" / ".work" / "near" / "000000-rejects.json").unlink()
    command.build(source, tmp_path / "out", *DROP)
    assert "near-duplicates: done in 0.0 s, 0 docs/s, 1 part already done" in command.err
    command.build(source, tmp_path / "new", *DROP)
    assert contents(tmp_path / "out") == contents(tmp_path / "new")


def test_they_are_kept_unless_asked_for(source: Path, tmp_path: Path, command: Command) -> None:
    assert command.build(source, tmp_path / "out", *SPLIT).rows("train") == 500
    assert not (tmp_path / "out" / "near_duplicates.csv").exists()
