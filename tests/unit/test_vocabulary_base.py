# SPDX-License-Identifier: Apache-2.0
"""A dataset with the ids of an older vocabulary: of a dataset, a bundle or a run; extended or not; and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from harness.rundir.bundle_files import INDEX, KIND, write_vocabulary
from harness.rundir.layout import BUNDLE
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.shards import VOCABULARY, Manifest, Split, read_manifest
from preprocessing.job import vocabulary_base
from preprocessing.text.encoder import Encoder
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import UNK, Counts, Vocabulary, VocabularyConfig, extended
from tests.corpora import Command, reviews, write_csv
from tests.datasets import write_dataset

pytestmark = pytest.mark.thorough

NEW = [*reviews(120, seed=3), *[(f"brandnew word{number % 3} number {number}", "positive") for number in range(30)]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and a run with a bundle of it."""
    root = tmp_path_factory.mktemp("base")
    write_dataset(root / "data", {"train": 200, "validation": 20}, widths=(64,))
    manifest = read_manifest(root / "data")
    write_vocabulary(root / "run" / BUNDLE, root / "data")
    (root / "run" / BUNDLE / INDEX).write_text(json.dumps(index_of(manifest)))
    return root


def index_of(manifest: Manifest) -> dict[str, object]:
    return {"format": KIND[0], "text": manifest.text, "vocabulary_hash": manifest.vocabulary_hash}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("source") / "new.csv", NEW)


def build(command: Command, source: Path, output: Path, base: Path, *more: object) -> int:
    words = ("--source.path", source, "--output", output, "--executor.workers", 1, "--text.max_tokens", 64)
    return command("run", *words, "--vocabulary.base", base, *more)


def tokens(root: Path) -> list[str]:
    return Vocabulary.read(root / VOCABULARY).tokens.to_pylist()


def test_the_names_in_a_run_are_the_harness_own() -> None:
    ours = (vocabulary_base.BUNDLE, vocabulary_base.BUNDLE_INDEX, vocabulary_base.BUNDLE_FORMAT)
    assert ours == (BUNDLE, INDEX, KIND[0])


def test_new_texts_have_the_ids_of_the_base(base: Path, source: Path, tmp_path: Path, command: Command) -> None:
    """The same whether a dataset, a bundle or a run is named: weights of the base can read it (law 1)."""
    for place in ("data", "run", f"run/{BUNDLE}"):
        assert build(command, source, tmp_path / place.replace("/", "-"), base / place) == 0, command.err
    made, old = read_manifest(tmp_path / "run"), read_manifest(base / "data")
    assert (made.text_hash, made.vocabulary_hash) == (old.text_hash, old.vocabulary_hash)
    for place in ("data", "run", f"run-{BUNDLE}"):
        assert (tmp_path / place / VOCABULARY).read_bytes() == (base / "data" / VOCABULARY).read_bytes()
        assert read_manifest(tmp_path / place).fingerprint == made.fingerprint
    encoder = Encoder(TextPipeline.from_json(old.text), Vocabulary.read(base / "data" / VOCABULARY))
    block = Split(tmp_path / "run", made, "train").blocks[0]
    expected = encoder([NEW[row - 1][0] for row in block.row])
    found = [ids[:length].tolist() for ids, length in zip(block.ids, block.length, strict=True)]
    assert [ids for row in found for ids in row] == expected.ids.tolist()
    assert (expected.ids == UNK).any()
    check_statistics(made, tmp_path / "run", base)
    known = {"source": str(base / "run"), "vocabulary_hash": old.vocabulary_hash, "size": old.vocabulary_size}
    assert made.provenance["vocabulary_base"] == known
    options = {"min_count": "auto", "max_size": 65536, "base": str(base / "run"), "extend": False}
    assert made.provenance["config"]["vocabulary"] == options


def check_statistics(made: Manifest, root: Path, base: Path) -> None:
    """What was counted is of the new training rows, not of the base's."""
    blocks = Split(root, made, "train").blocks
    ids = np.concatenate(
        [ids[:length] for block in blocks for ids, length in zip(block.ids, block.length, strict=True)]
    )
    counted = {"tokens_counted": len(ids), "tokens_left_out": int((ids == UNK).sum())}
    assert made.statistics["vocabulary"] == counted
    assert len(ids) != Vocabulary.read(base / "data" / VOCABULARY).counts.sum()


def test_what_the_base_covers_is_said(base: Path, source: Path, tmp_path: Path, command: Command) -> None:
    assert build(command, source, tmp_path / "out", base / "data") == 0
    counted = read_manifest(tmp_path / "out").statistics["vocabulary"]
    share = 1 - counted["tokens_left_out"] / counted["tokens_counted"]
    size = read_manifest(base / "data").vocabulary_size
    assert 0.3 < share < 0.98
    assert f"vocabulary: the {size:,} ids of {base / 'data'} cover {share:.1%} of the tokens" in command.err
    assert build(command, source, tmp_path / "out", base / "data") == 0
    assert "already complete" in command.err


def test_frequent_tokens_are_appended(base: Path, source: Path, tmp_path: Path, command: Command) -> None:
    more = ("--vocabulary.extend", "true", "--vocabulary.min_count", 5)
    assert build(command, source, tmp_path / "out", base / "data", *more) == 0, command.err
    old, new = tokens(base / "data"), tokens(tmp_path / "out")
    assert new[: len(old)] == old
    added = new[len(old) :]
    assert {"brandnew", "number", "review"} <= set(added)
    assert "great" not in added
    vocabulary = Vocabulary.read(tmp_path / "out" / VOCABULARY)
    counts = dict(zip(new, vocabulary.counts.tolist(), strict=True))
    assert [counts[token] for token in added] == sorted((counts[token] for token in added), reverse=True)
    assert min(counts[token] for token in added) >= 5
    assert vocabulary.counts.sum() == read_manifest(tmp_path / "out").statistics["vocabulary"]["tokens_counted"]
    assert f"; {len(added)} added" in command.err
    bounded = (*more, "--vocabulary.max_size", len(old) + 2)
    assert build(command, source, tmp_path / "bounded", base / "data", *bounded) == 0, command.err
    assert tokens(tmp_path / "bounded") == new[: len(old) + 2]


def test_an_extended_vocabulary_by_hand() -> None:
    base = Vocabulary(pa.array(["<pad>", "<unk>", "b", "a"], pa.large_string()), np.array([0, 3, 9, 4]))
    counts = Counts(pa.array(["z", "a", "<unk>", "y", "x", "w"], pa.large_string()), np.array([2, 7, 1, 5, 5, 1]))
    made = extended(base, counts, min_count=2)
    assert made.tokens.to_pylist() == ["<pad>", "<unk>", "b", "a", "x", "y", "z"]
    assert made.counts.tolist() == [0, 2, 0, 7, 5, 5, 2]
    assert extended(base, counts, min_count=8) is base
    assert extended(base, counts, min_count=2, max_size=4) is base
    assert extended(base, counts, 2, max_size=5).counts.tolist() == [0, 9, 0, 7, 5]


def test_another_base_under_the_same_name_makes_another_dataset(
    base: Path, source: Path, tmp_path: Path, command: Command
) -> None:
    shutil.copytree(base / "data", tmp_path / "base")
    assert build(command, source, tmp_path / "out", tmp_path / "base") == 0
    before = (tmp_path / "out" / "dataset.json").read_bytes()
    shutil.rmtree(tmp_path / "base")
    write_dataset(tmp_path / "base", {"train": 150, "validation": 20}, widths=(64,), seed=4)
    assert build(command, source, tmp_path / "out", tmp_path / "base") == 2
    assert "holds a dataset of another configuration" in command.sentence
    assert (tmp_path / "out" / "dataset.json").read_bytes() == before
    assert build(command, source, tmp_path / "out", tmp_path / "base", "--overwrite", "true") == 0, command.err
    assert tokens(tmp_path / "out") == tokens(tmp_path / "base")


def test_a_manifest_without_a_base_says_nothing_of_one() -> None:
    config = PreprocessConfig(output="data/mine")
    assert config.deciding()["vocabulary"] == {"min_count": "auto", "max_size": 65536}
    assert VocabularyConfig(base="runs/x").of(100).min_count == "auto"
    assert VocabularyConfig(base="runs/x", extend=True).of(100).min_count == 1


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--text.lowercase", "false", "--text.html", "false"), "set text.html to true (now false) and text.lowercase"),
        (("--text.stop_words", "stop-words"), "its texts were read otherwise; set text.stop_words to none (now stop-"),
        (("--vocabulary.max_size", 50), "vocabulary.max_size: 50 is less than the "),
        (("--vocabulary.min_count", 3), "vocabulary.min_count: no token is added to those of vocabulary.base; set "),
    ],
)
def test_settings_that_do_not_go_with_the_base(
    base: Path, source: Path, tmp_path: Path, command: Command, more: tuple[object, ...], sentence: str
) -> None:
    assert build(command, source, tmp_path / "out", base / "data", *more) == 2
    assert sentence in command.sentence


def test_what_is_no_base(base: Path, source: Path, tmp_path: Path, command: Command) -> None:
    def refused(place: object, code: int = 2) -> str:
        assert build(command, source, tmp_path / "out", Path(str(place))) == code, command.err
        return command.sentence

    assert "vocabulary.base: runs/nowhere: there is no dataset, no bundle and no run" in refused("runs/nowhere")
    (tmp_path / "run").mkdir()
    assert "there is no dataset, no bundle and no run that has finished an epoch" in refused(tmp_path / "run")
    shutil.copytree(base / "run" / BUNDLE, tmp_path / "many" / "seed-1" / BUNDLE)
    assert f"a folder of runs; name one of them, as in {tmp_path / 'many' / 'seed-1'}" in refused(tmp_path / "many")
    shutil.copytree(base / "run" / BUNDLE, tmp_path / "run" / BUNDLE)
    (tmp_path / "run" / BUNDLE / INDEX).write_text("{")
    assert "bundle.json: not readable as JSON (" in refused(tmp_path / "run", 3)
    index = index_of(read_manifest(base / "data"))
    (tmp_path / "run" / BUNDLE / INDEX).write_text(json.dumps({**index, "vocabulary_hash": "0" * 64}))
    assert "vocabulary.arrow: not the vocabulary that the files beside it name; restore it" in refused(
        tmp_path / "run", 3
    )
    (tmp_path / "run" / BUNDLE / VOCABULARY).unlink()
    assert "vocabulary.arrow is missing" in refused(tmp_path / "run", 3)
    assert command("run", "--output", tmp_path / "out", "--vocabulary.extend", "true") == 2
    assert "vocabulary.extend: there is nothing to extend; name vocabulary.base" in command.sentence


def test_texts_of_another_language(base: Path, tmp_path: Path, command: Command) -> None:
    foreign = write_csv(tmp_path / "other.csv", [(f"映画 {number}語", str(number % 2)) for number in range(60)])
    assert build(command, foreign, tmp_path / "out", base / "data") == 3
    assert f"tokens to learn from is in vocabulary.base {base / 'data'}; name another" in command.sentence
