# SPDX-License-Identifier: Apache-2.0
"""What ``auto`` becomes for a corpus, and that a key which the user sets is never touched."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from harness.config import InitConfig, RunConfig
from harness.training.rules import Corpus, batch_of, decide, epochs_of, resolve
from preprocessing.base import cli
from preprocessing.base.errors import DataError
from preprocessing.config import VocabularyConfig
from preprocessing.text.vocabulary import Counts, freeze
from tests.commands import PLAIN

TREC = Corpus(rows=5_452, tokens=55_000, classes=6)
IMDB = Corpus(rows=22_500, tokens=5_200_000, classes=2)
SIZES = (1, 10, 1_000, 5_000, 25_000, 100_000, 1_000_000)


def recipe(*argv: str) -> RunConfig:
    return cli.parse(RunConfig, argv, prog="test")


def test_without_a_recipe_the_default_one_is_taken_and_its_keys_can_be_set() -> None:
    assert recipe().epochs == "auto"
    assert recipe("--epochs", "3").epochs == 3
    assert recipe("--epochs", "3").global_batch == "auto"
    assert recipe(*PLAIN) == RunConfig()


def test_small_corpora_get_their_steps_and_large_ones_a_few_epochs() -> None:
    small, large = decide(recipe(), TREC).config, decide(recipe(), IMDB).config
    assert (small.global_batch, small.epochs, small.patience) == (32, 15, 7)
    assert small.epochs * math.ceil(TREC.rows / 32) >= 2_500 > (small.epochs - 1) * math.ceil(TREC.rows / 32)
    assert (large.global_batch, large.epochs, large.patience) == (64, 8, 4)
    huge = decide(recipe(), Corpus(1_000_000, 20_000_000, 150)).config
    assert (huge.global_batch, huge.epochs) == (512, 4)
    assert huge.optim.lr == pytest.approx(0.003 * math.sqrt(8) * 75 ** (1 / 8), rel=0.05)
    assert (small.optim.lr, large.optim.lr) == (0.0034, 0.003)


@pytest.mark.parametrize("rows", SIZES)
def test_batches_grow_with_the_rows(rows: int) -> None:
    batch = batch_of(rows)
    assert 32 <= batch <= 512
    assert batch.bit_count() == 1
    assert batch <= batch_of(2 * rows)


@pytest.mark.parametrize(("rows", "batch"), list(itertools.product(SIZES, (1, 32, 512))))
def test_epochs_are_between_the_fewest_and_the_most(rows: int, batch: int) -> None:
    epochs, why = epochs_of(rows, batch)
    assert 4 <= epochs <= 40
    if 4 < epochs < 40:
        steps = math.ceil(rows / batch)
        assert epochs * steps >= 2_500 > (epochs - 1) * steps
        assert why == "for at least 2,500 steps"


@pytest.mark.parametrize(("rows", "classes", "tokens"), list(itertools.product(SIZES, (2, 5, 150), (5, 400))))
def test_every_corpus_gets_a_run(rows: int, classes: int, tokens: int) -> None:
    """Its own checks pass, and its wide part stays below 64 MiB."""
    config = decide(recipe(), Corpus(rows, rows * tokens, classes)).config
    assert type(config) is RunConfig
    outputs = 1 if classes == 2 else classes
    assert 2**14 <= config.model.wide <= 2**22
    assert config.model.wide * outputs * 4 <= 2**26
    assert 0 < (config.optim.ema or 0) < 1


def test_vectors_are_worth_learning_where_there_are_texts_without_labels() -> None:
    """A million tokens in all: those of the training and those without labels count alike."""
    wanted = recipe("--init.vectors", "auto")
    assert [
        decide(wanted, Corpus(5_452, 55_000, 6, unlabelled_tokens=others)).config.init.vectors
        for others in (0, 900_000, 1_000_000)
    ] == ["none", "none", "own"]


def test_a_step_has_labelled_rows_in_the_proportion_of_the_dataset_beside_unlabelled_ones() -> None:
    """And there are as many steps as pass three and a half times over those without a label."""
    wanted = recipe("--order.unlabelled_batch", "48", "--self_training.labels", "r0")
    most = decide(wanted, replace(IMDB, rows=22_479, beside=10_000_000, rows_beside=49_962))
    assert (most.config.global_batch, most.config.epochs) == (24, 4)
    assert most.reasons["epochs"] == ("4", "the fewest; they are 3,748 steps")
    assert most.config.optim.wide_lr == pytest.approx(2 * 6 * 49_962 / (4 * 937), rel=0.01)
    resolved = decide(wanted, Corpus(1_000, 230_000, 2, 16_000_000, 16_000_000, 71_441))
    assert (resolved.config.global_batch, resolved.config.epochs) == (8, 42)
    assert resolved.reasons["epochs"] == ("42", "for 3.5 passes over the unlabelled rows: 5,210 steps")
    assert resolved.reasons["batch"] == ("8 rows a step", "beside 48 of 71,441 unlabelled ones")
    mostly = decide(wanted, Corpus(22_500, 5_200_000, 2, 100_000, 100_000, 500)).config
    assert (mostly.global_batch, mostly.epochs) == (64, 8)  # as without them


def test_what_the_user_sets_stays_and_the_rules_count_with_it() -> None:
    set_ = ("--global_batch", "128", "--epochs", "7", "--optim.lr", "0.5", "--model.wide", "0", "--patience", "null")
    resolved = decide(recipe(*set_), TREC)
    config = resolved.config
    assert (config.global_batch, config.epochs, config.optim.lr, config.model.wide) == (128, 7, 0.5, 0)
    assert config.patience is None
    assert config.optim.ema == pytest.approx(1 - 1 / round(0.1 * 7 * math.ceil(TREC.rows / 128)))
    assert list(resolved.reasons) == ["vectors", "average"]


def test_twice_the_batch_is_twice_the_epochs() -> None:
    once, twice = (decide(recipe("--global_batch", size), TREC).config.epochs for size in ("32", "64"))
    assert twice == pytest.approx(2 * once, abs=1)


def test_a_step_of_tokens_counts_as_its_rows() -> None:
    config = decide(recipe("--global_batch_tokens", "640"), TREC).config
    assert config.epochs == epochs_of(TREC.rows, round(640 * TREC.rows / TREC.tokens))[0]


def test_longer_ngrams_get_more_buckets_as_far_as_their_table_stays_small() -> None:
    small = [decide(recipe("--model.wide_ngrams", longest), TREC).config.model.wide for longest in ("1", "2", "4", "8")]
    assert small == [2**19, 2**19, 2**20, 2**21]
    assert decide(recipe("--model.wide_ngrams", "4"), IMDB).config.model.wide == 2**22


def test_reasons_are_said_in_words() -> None:
    reasons = decide(recipe(), TREC).reasons
    assert reasons["epochs"] == ("15", "for at least 2,500 steps")
    assert reasons["batch"] == ("32 rows a step", "grows with the square root of 5,452 rows")
    assert reasons["wide part"] == ("524,288 buckets", "for n-grams of up to 2 words of 55,000 tokens")
    assert list(reasons) == ["batch", "epochs", "patience", "wide part", "vectors", "rate", "average", "linear part"]


def test_a_recipe_without_auto_needs_no_dataset(tmp_path) -> None:
    missing = ("--data", str(tmp_path / "nowhere"))
    assert resolve(recipe(*PLAIN, *missing)).config == RunConfig(data=missing[1])
    with pytest.raises(DataError, match="nowhere"):
        resolve(recipe(*missing))


def test_vectors_are_learned_where_there_are_texts_enough() -> None:
    assert decide(recipe(), TREC).config.init.vectors == "none"
    assert decide(recipe(), IMDB).config.init.vectors == "own"
    assert decide(recipe("--init.vectors", "own"), TREC).config.init.vectors == "own"
    assert decide(recipe("--init.vectors", "glove.txt"), TREC).config.init.vectors == "glove.txt"
    beside = decide(recipe("--init.weights", "runs/lm"), IMDB)
    assert beside.config.init == InitConfig(weights="runs/lm")
    assert beside.reasons["vectors"][1] == "for tokens that init.weights does not know; auto learns none then"
    assert decide(recipe("--init.weights", "runs/lm", "--init.vectors", "own"), IMDB).config.init.vectors == "own"


def test_the_vocabulary_is_cut_by_the_size_of_the_corpus() -> None:
    tokens = (100, 9_999, 10_000, 49_999_999, 50_000_000)
    assert [VocabularyConfig().of(many).min_count for many in tokens] == [1, 1, 2, 2, 5]
    assert VocabularyConfig(min_count=7).of(100).min_count == 7
    counts = Counts(pa.array(["often", "once"], pa.large_string()), np.array([9_999, 1]))
    assert freeze(counts, "auto").tokens.to_pylist()[2:] == ["often"]
    few = Counts(counts.types, np.array([9, 1]))
    assert freeze(few, "auto").tokens.to_pylist()[2:] == ["often", "once"]
