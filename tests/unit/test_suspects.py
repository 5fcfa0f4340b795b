# SPDX-License-Identifier: Apache-2.0
"""Labels that are probably wrong: found among planted ones, in a table; and the rows to label next."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.baselines.tfidf import predict_out_of_fold, read_labelled
from preprocessing.dataset.shards import read_manifest
from tests.helpers.bundles import shared_run
from tests.helpers.corpora import Command, prepare, reviews, write_csv
from tests.helpers.datasets import rewritten, write_dataset

pytestmark = pytest.mark.thorough

REVIEWS = reviews(300, words=4)
WRONG_ROWS = range(7, 300, 30)
"""Row numbers whose labels are exchanged."""
TWIN = REVIEWS[0][0]
run = shared_run(2, 3)


def other_label(label: str) -> str:
    return "negative" if label == "positive" else "positive"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset with wrong labels, whose last row repeats the first one's text with the other label."""
    rows = [(text, other_label(label) if row in WRONG_ROWS else label) for row, (text, label) in enumerate(REVIEWS, 1)]
    prepare(write_csv(tmp_path / "in.csv", [*rows, (TWIN, other_label(rows[0][1]))]), tmp_path / "data")
    return tmp_path / "data"


def test_no_row_is_judged_by_a_model_that_learned_from_it_or_an_equal_text(data: Path, tmp_path: Path) -> None:
    manifest = read_manifest(data)
    rows, blocks = read_labelled(data, manifest)
    assert sorted(rows["row"]) == [*range(1, 302)]
    logits = predict_out_of_fold(data, manifest, rows, blocks)
    twins = rows.index[rows["row"].isin([1, 301])]
    np.testing.assert_allclose(*logits[twins], err_msg="equal texts are in one fold")
    assert ((logits > 0) == rows["label"]).mean() > 0.8


def test_rows_of_one_label_are_refused(tmp_path: Path, command: Command) -> None:
    write_dataset(tmp_path / "data", {"train": 20, "unlabelled": 5})
    rewritten(tmp_path / "data", "train", label=lambda labels: labels * 0)
    assert command("suspects", tmp_path / "data") == 3
    assert "all rows have one label; build it with more rows of each label" in command.sentence


def test_suspects_are_listed_in_a_table(data: Path, tmp_path: Path, command: Command) -> None:
    table = tmp_path / "suspects.csv"
    assert command("suspects", data, "-o", table) == 0, command.err
    suspects = pd.read_csv(table)
    assert suspects["row"][:2].tolist() == [1, 301], "equal texts with other labels come first"
    assert suspects["why"].value_counts()["equal text has another label"] == 2
    assert len(set(suspects["row"]) & set(WRONG_ROWS)) >= 6
    assert set(suspects["row"][2:]) <= set(WRONG_ROWS), "no label is suspected that is right"
    assert (suspects["label"][2:] != suspects["predicted"][2:]).all()
    assert suspects["text"].tolist() == [[*REVIEWS, (TWIN, "")][row - 1][0] for row in suspects["row"]]
    assert "2 of equal texts" in " ".join(command.out.split())
    assert command("suspects", data, "-o", table) == 2, "a table that may be edited is not replaced"
    assert command("suspects", data, "--json") == 0, command.err
    printed = pd.DataFrame(json.loads(command.out)["suspects"])
    pd.testing.assert_frame_equal(printed, suspects)


def test_rows_to_label_are_uncertain_and_no_text_is_there_twice(run: Path, tmp_path: Path, command: Command) -> None:
    texts = [text for text, _ in reviews(80, seed=3)]
    pool = write_csv(tmp_path / "pool.csv", [(text, 1) for text in [*texts, *texts[:40]]], ("text", "id"))
    assert command("predict", run, pool, "-o", tmp_path / "all.csv") == 0, command.err
    assert command("predict", run, pool, "-o", tmp_path / "next.csv", "--rank", 5) == 0, command.err
    ranked = pd.read_csv(tmp_path / "next.csv")
    predicted = pd.read_csv(tmp_path / "all.csv")
    assert list(ranked) == ["text", "id", "label", *predicted.columns[2:]]
    assert ranked["label"].isna().all()
    assert len(set(ranked["text"])) == 5
    chances = np.sort(predicted.filter(like="probability").to_numpy())
    margins = pd.Series(chances[:, -1] - chances[:, -2], predicted["text"])
    assert set(ranked["text"]) == {*margins.sort_values(kind="stable").index.drop_duplicates()[:5]}
    assert command("predict", run, pool, "-o", tmp_path / "next.csv", "--rank", 5) == 2, "labels may be in it"
