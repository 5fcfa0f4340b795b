# SPDX-License-Identifier: Apache-2.0
"""Texts without labels: from files of their own or from rows whose label is missing, to shards and word vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from padless import open_dataset
from preprocessing.base.split_names import NO_LABEL, UNLABELLED
from preprocessing.dataset.shards import Split, read_manifest
from preprocessing.job import parts
from preprocessing.text.vocabulary import Vocabulary
from tests.corpora import Command, contents, reviews, write_csv

pytestmark = pytest.mark.thorough

ROWS = reviews(120)
OTHERS = [f"unseen {text}" for text, _ in reviews(150, seed=1)]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "labelled.csv", ROWS)


def texts_in(path: Path, texts: list[str]) -> Path:
    return write_csv(path, [(text,) for text in texts], header=("text",))


def column(root: Path, name: str, split: str = UNLABELLED) -> np.ndarray:
    """One column of a split, in the order of the shards."""
    return np.concatenate([getattr(block, name) for block in Split(root, read_manifest(root), split).blocks])


def test_texts_of_their_own_files_are_a_split(labelled: Path, tmp_path: Path, command: Command) -> None:
    others = texts_in(tmp_path / "others.csv", OTHERS)
    out = tmp_path / "out"
    assert command.build(labelled, out, "--source.unlabelled_path", others, "--shards.rows", 50) == 0, command.err
    manifest = read_manifest(out)
    assert list(manifest.splits) == ["train", "validation", "test", "unlabelled"]
    assert manifest.labels == ["negative", "positive"]
    assert sorted(column(out, "row")) == list(range(len(ROWS) + 1, len(ROWS) + len(OTHERS) + 1))
    assert set(column(out, "label")) == {NO_LABEL}
    assert [info.path[:16] for info in manifest.splits["unlabelled"]] == [f"unlabelled/{at:05d}" for at in range(3)]
    assert manifest.statistics["splits"]["unlabelled"]["rows"] == len(OTHERS)
    assert manifest.statistics["unlabelled"]["shared"] == {"train": 0, "validation": 0, "test": 0}
    assert "unlabelled: 150 of 150 rows without labels are kept\n" in command.err
    assert command("check", out) == 0, command.err


def test_labelled_shards_are_the_same_with_and_without_unlabelled_texts(
    labelled: Path, tmp_path: Path, command: Command
) -> None:
    others = ("--source.unlabelled_path", texts_in(tmp_path / "others.csv", OTHERS))
    assert command.build(labelled, tmp_path / "alone", "--shards.rows", 50) == 0
    both = (*others, "--vocabulary.count_unlabelled", "false", "--shards.rows", 50)
    assert command.build(labelled, tmp_path / "both", *both) == 0, command.err
    alone, there = contents(tmp_path / "alone"), contents(tmp_path / "both")
    shards = {name for name in there if name.startswith(("train/", "validation/", "test/"))}
    assert {name: there[name] for name in [*shards, "vocabulary.arrow"]} == {
        name: alone[name] for name in alone if name != "dataset.json"
    }


@pytest.mark.processes  # which importing gensim starts
def test_vectors_are_learned_from_both(labelled: Path, tmp_path: Path, command: Command) -> None:
    pytest.importorskip("gensim")
    out = tmp_path / "out"
    others = texts_in(tmp_path / "others.csv", OTHERS)
    assert command.build(labelled, out, "--source.unlabelled_path", others) == 0
    few = ("--dim", 4, "--window", 2, "--negative", 2, "--epochs", 1, "--json")
    assert command("vectors", out, *few) == 0, command.err
    found = json.loads(command.out)
    assert found["settings"]["splits"] == ["train", "unlabelled"]
    assert found["rows"] == read_manifest(out).rows("train") + len(OTHERS)
    assert found["coverage"] == 1.0
    assert command("vectors", out, *few, "--splits", "[train]") == 0
    alone = json.loads(command.out)
    assert (alone["rows"], alone["coverage"] < 1) == (read_manifest(out).rows("train"), True)


@pytest.mark.parametrize("count", ["true", "false"])
def test_the_vocabulary_counts_them_unless_told_otherwise(
    count: str, labelled: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "out"
    others = texts_in(tmp_path / "others.csv", ["alpha beta", "alpha gamma"])
    more = ("--source.unlabelled_path", others, "--vocabulary.count_unlabelled", count, "--vocabulary.min_count", 2)
    assert command.build(labelled, out, *more) == 0, command.err
    vocabulary = Vocabulary.read(out / "vocabulary.arrow")
    counted = dict(zip(vocabulary.tokens.to_pylist(), vocabulary.counts.tolist(), strict=True))
    assert (counted.get("alpha"), "beta" in counted) == ((2, False) if count == "true" else (None, False))
    statistics = read_manifest(out).statistics
    kept = sum(statistics["splits"][name]["tokens_kept"] for name in ("train", *(["unlabelled"] * (count == "true"))))
    assert statistics["vocabulary"]["tokens_counted"] == kept


@pytest.mark.processes
def test_the_bytes_do_not_depend_on_workers_or_parts(labelled: Path, tmp_path: Path, command: Command) -> None:
    more = ("--source.unlabelled_path", texts_in(tmp_path / "others.csv", OTHERS), "--shards.rows", 60)
    assert command.build(labelled, tmp_path / "a", *more) == 0
    assert command.build(labelled, tmp_path / "b", *more, "--source.part_mb", 0.005, "--executor.workers", 2) == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_an_interrupted_job_goes_on_to_the_same_bytes(
    labelled: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--source.unlabelled_path", texts_in(tmp_path / "others.csv", OTHERS), "--source.part_mb", 0.005)
    made: list[object] = []
    make = parts.TokenizedPart.make

    def interrupted(part: parts.TokenizedPart) -> tuple[parts.Summary, dict[str, str]]:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(part.number)
        return make(part)

    monkeypatch.setattr(parts.TokenizedPart, "make", interrupted)
    assert command.build(labelled, tmp_path / "out", *more) == 130
    monkeypatch.setattr(parts.TokenizedPart, "make", lambda part: made.append(part.number) or make(part))
    assert command.build(labelled, tmp_path / "out", *more) == 0
    assert len(made) == len(set(made)) > 3
    assert command.build(labelled, tmp_path / "out", *more) == 0
    assert "nothing to do" in command.err
    assert command.build(labelled, tmp_path / "whole", *more) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert command.build(labelled, tmp_path / "out", "--overwrite", "true") == 0
    assert not (tmp_path / "out" / "unlabelled").exists()


# Texts that are somewhere else too.

NAMED = [
    (f"common {number} {word}", "good" if number % 2 else "bad", split)
    for split, word in (("train", "a"), ("valid", "b"), ("test", "c"))
    for number in range(4)
]
SHARED = [
    "common 1 a",
    "common 1 b",
    "Common 2 <i>b</i>",
    "common 3 c",
    *["new one", "new one", "New  One"],
    "newer",
    ".",
]
KEPT = ["common 1 a", *["new one"] * 3, "newer", "<unk>"]
ALL = ["common 1 a", "common 1 b", "common 2 b", "common 3 c", *["new one"] * 3, "newer", "<unk>"]


@pytest.fixture
def named(tmp_path: Path) -> tuple[Path, Path]:
    split = write_csv(tmp_path / "named.csv", NAMED, header=("text", "label", "split"))
    return split, texts_in(tmp_path / "shared.csv", SHARED)


@pytest.mark.parametrize(
    ("policies", "kept", "dropped"),
    [
        ({}, KEPT, {"leaks": 3}),
        ({"leaks": "keep"}, ALL, {}),
        ({"duplicates": "drop"}, ["common 1 a", "new one", "newer", "<unk>"], {"leaks": 3, "duplicates": 2}),
    ],
)
def test_texts_of_validation_and_test_are_left_out(
    policies: dict[str, str], kept: list[str], dropped: dict[str, int], named: tuple[Path, Path], tmp_path: Path,
    command: Command,
) -> None:  # fmt: skip
    source, shared = named
    options = [word for key, value in policies.items() for word in (f"--quality.{key}", value)]
    assert command.build(source, tmp_path / "out", "--source.unlabelled_path", shared, *options) == 0, command.err
    assert list(open_dataset(tmp_path / "out")["unlabelled"]["text"]) == kept
    statistics = read_manifest(tmp_path / "out").statistics
    found = statistics["unlabelled"]
    assert found["shared"] == {"train": 1, "validation": 2, "test": 1}
    assert (found["rows"], found["empty"], found["duplicates"], found["dropped"]) == (len(SHARED), 1, 2, dropped)
    assert statistics["dropped"] == {"neutral": 0, "filtered": 0, **dropped}
    assert statistics["leaks"] == statistics["contradictions"] == 0
    assert statistics["rows_kept"] == len(NAMED) + len(kept)
    if not policies:
        words = "3 have texts that validation or test holds (quality.leaks); 1 have texts that train holds too"
        assert words in command.err
        assert command("inspect", tmp_path / "out") == 0
        assert words in command.out


def test_a_text_of_a_validation_split_that_is_cut_is_left_out_too(
    labelled: Path, tmp_path: Path, command: Command
) -> None:
    again = texts_in(tmp_path / "again.csv", [text for text, _ in ROWS])
    assert command.build(labelled, tmp_path / "out", "--source.unlabelled_path", again) == 0
    data = open_dataset(tmp_path / "out")
    assert list(data["unlabelled"]["text"]) == list(data["train"]["text"])
    assert set(data["unlabelled"]["text"]).isdisjoint(data["test"]["text"])


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("leaks", "shared.csv: row 2: validation holds an equal text, and this one has no label (and 1 more); mend"),
        ("duplicates", "shared.csv: row 6: an equal text without a label stands before it (and 1 more); mend the row"),
    ],
)
def test_policies_can_refuse_them(
    policy: str, expected: str, named: tuple[Path, Path], tmp_path: Path, command: Command
) -> None:
    source, shared = named
    assert (
        command.build(source, tmp_path / "out", "--source.unlabelled_path", shared, f"--quality.{policy}", "error") == 3
    )
    assert expected in command.err


def test_groups_of_validation_and_test_are_left_out(tmp_path: Path, command: Command) -> None:
    films = [(text, label, f"film {at % 12}") for at, (text, label) in enumerate(ROWS)]
    source = write_csv(tmp_path / "films.csv", films, header=("text", "label", "film"))
    others = [(text, f"film {at % 15}") for at, text in enumerate(OTHERS)]
    grouped = write_csv(tmp_path / "others.csv", others, header=("text", "film"))
    alone = texts_in(tmp_path / "alone.csv", ["no film at all"])
    both = json.dumps([str(grouped), str(alone)])
    more = ("--splits.group_column", "film", "--source.unlabelled_path", both)
    assert command.build(source, tmp_path / "out", *more, "--splits.validation", 0.2) == 0, command.err
    data = open_dataset(tmp_path / "out")
    film = [film for _, _, film in films] + [film for _, film in others] + ["none"]
    inside = {name: {film[row - 1] for row in data[name]["row"]} for name in data}
    assert inside["unlabelled"] == inside["train"] | {"film 12", "film 13", "film 14", "none"}
    measured = len(inside["validation"] | inside["test"])
    assert data.manifest.statistics["unlabelled"]["groups_measured"] == 10 * measured > 0
    assert f"{10 * measured} are of groups of validation or test (quality.leaks)" in command.err


# What shows a dataset.


def test_inspect_frames_and_check_know_rows_without_labels(labelled: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "out"
    assert command.build(labelled, out, "--source.unlabelled_path", texts_in(tmp_path / "o.csv", OTHERS)) == 0
    assert command("inspect", out, "--json", "--plot", tmp_path / "out.png") == 0, command.err
    found = json.loads(command.out)
    split = found["splits"]["unlabelled"]
    assert (split["rows"], split["labels"], split["unknown_rate"]) == (len(OTHERS), {}, 0.0)
    assert {sample["label"] for sample in found["samples"]["unlabelled"]} == {None}
    assert command("inspect", out) == 0
    (line,) = [line.split() for line in command.out.splitlines() if line.startswith("negative")]
    assert line[-1] == "-"
    assert "(no label, " in command.out
    frame = open_dataset(out)["unlabelled"]
    assert frame["label"].isna().all()
    assert list(frame["label"].cat.categories) == ["negative", "positive"]
    assert isinstance(frame, pd.DataFrame)
