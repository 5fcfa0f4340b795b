# SPDX-License-Identifier: Apache-2.0
"""Values of ``auto`` for a corpus; keys that the user sets are never changed."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness.config import InitConfig, RunConfig, flat, to_dict
from harness.training import rules
from harness.training.rules import Corpus, decide, resolve
from preprocessing.base import cli
from preprocessing.base.errors import DataError
from preprocessing.config import VocabularyConfig
from tests.commands import PLAIN

TREC = Corpus(rows=5_452, tokens=55_000, classes=6)
IMDB = Corpus(rows=22_500, tokens=5_200_000, classes=2)
SIZES = (1, 10, 1_000, 5_000, 25_000, 100_000, 1_000_000)


def recipe(*argv: str) -> RunConfig:
    return cli.parse(RunConfig, argv, prog="test")


def test_small_corpora_get_their_steps_and_large_ones_a_few_epochs() -> None:
    small, large = decide(recipe(), TREC).config, decide(recipe(), IMDB).config
    assert (small.global_batch, small.epochs, small.patience) == (32, 15, 5)
    assert small.epochs * math.ceil(TREC.rows / 32) >= 2_500 > (small.epochs - 1) * math.ceil(TREC.rows / 32)
    assert (large.global_batch, large.epochs, large.patience) == (64, 4, None)
    huge = decide(recipe(), Corpus(1_000_000, 20_000_000, 150)).config
    assert (huge.global_batch, huge.epochs) == (512, 4)
    assert huge.optim.lr == pytest.approx(0.003 * math.sqrt(8) * 75 ** (1 / 8), rel=0.05)
    assert (small.optim.lr, large.optim.lr) == (0.0034, 0.003)


def test_the_batch_grows_with_the_gpus_while_four_epochs_have_enough_steps() -> None:
    reviews = Corpus(10_000_000, 2_300_000_000, 2)
    found = {(corpus.rows, cards): decide(recipe(), corpus, cards) for corpus in (IMDB, reviews) for cards in (1, 8)}
    assert [one.config.global_batch for one in found.values()] == [64, 64, 512, 4096]
    assert [one.config.epochs for one in found.values()] == [4] * 4
    assert found[10_000_000, 8].reasons["batch"] == ("4096 rows a step", "for 10,000,000 rows on 8 GPUs")


def test_a_run_on_gpus_goes_on_with_the_batch_that_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    began = flat(to_dict(decide(recipe(), IMDB, 8).config)) | {"global_batch": 512}
    rows = SimpleNamespace(rows=lambda split: 9, tokens=lambda split: 9, labels=["a", "b"], splits={})
    monkeypatch.setattr(rules, "read_data", lambda data: None)
    monkeypatch.setattr(rules, "rows_of_task", lambda *_: rows)
    monkeypatch.setattr(rules, "newest", lambda run, tell: SimpleNamespace(state={"config": began}))
    assert resolve(recipe(), lambda: 2).config.global_batch == 512


@pytest.mark.parametrize(("rows", "classes", "tokens"), list(itertools.product(SIZES, (2, 150), (5, 400))))
def test_every_corpus_gets_a_run(rows: int, classes: int, tokens: int) -> None:
    """The resolved configuration passes its checks, and the wide part stays below 64 MiB."""
    config = decide(recipe(), Corpus(rows, rows * tokens, classes)).config
    assert type(config) is RunConfig
    outputs = 1 if classes == 2 else classes
    assert 2**14 <= config.model.wide <= 2**22
    assert config.model.wide * outputs * 4 <= 2**26
    assert 0 < (config.optim.ema or 0) < 1


def test_a_step_has_labelled_rows_in_the_proportion_of_the_dataset_beside_unlabelled_ones() -> None:
    """And the steps make three and a half passes over the unlabelled rows."""
    wanted = recipe("--order.unlabelled_batch", "48", "--self_training.labels", "r0")
    most = decide(wanted, replace(IMDB, rows=22_479, unlabelled_tokens=10_000_000, rows_beside=49_962))
    assert (most.config.global_batch, most.config.epochs) == (24, 4)
    resolved = decide(wanted, Corpus(1_000, 230_000, 2, 16_000_000, 71_441))
    assert (resolved.config.global_batch, resolved.config.epochs) == (8, 42)
    assert resolved.reasons["epochs"] == ("42", "of 125 steps, for 5,210")
    mostly = decide(wanted, Corpus(22_500, 5_200_000, 2, 100_000, 500)).config
    assert (mostly.global_batch, mostly.epochs) == (64, 4)  # as without them


def test_what_the_user_sets_stays_and_the_rules_count_with_it() -> None:
    set_ = ("--global_batch", "128", "--epochs", "7", "--optim.lr", "0.5", "--model.wide", "0", "--patience", "null")
    resolved = decide(recipe(*set_), TREC)
    config = resolved.config
    assert (config.global_batch, config.epochs, config.optim.lr, config.model.wide) == (128, 7, 0.5, 0)
    assert config.patience is None
    assert config.optim.ema == pytest.approx(1 - 1 / round(0.1 * 7 * math.ceil(TREC.rows / 128)))
    assert list(resolved.reasons) == ["average"]


def test_a_recipe_without_auto_needs_no_dataset(tmp_path) -> None:
    missing = ("--data", str(tmp_path / "nowhere"))
    assert resolve(recipe(*PLAIN, *missing)).config == RunConfig(data=missing[1], baseline="none")
    with pytest.raises(DataError, match="nowhere"):
        resolve(recipe(*missing))


def test_vectors_are_learned_unless_other_weights_bring_them() -> None:
    assert decide(recipe(), TREC).config.init.vectors == "own"
    assert decide(recipe("--init.vectors", "none"), IMDB).config.init.vectors == "none"
    assert decide(recipe("--init.vectors", "glove.txt"), TREC).config.init.vectors == "glove.txt"
    beside = decide(recipe("--init.weights", "runs/lm"), IMDB)
    assert beside.config.init == InitConfig(weights="runs/lm")
    assert decide(recipe("--init.weights", "runs/lm", "--init.vectors", "own"), IMDB).config.init.vectors == "own"


def test_the_vocabulary_is_cut_by_the_size_of_the_corpus() -> None:
    tokens = (100, 9_999, 10_000, 49_999_999, 50_000_000)
    assert [VocabularyConfig().of(many).min_count for many in tokens] == [1, 1, 2, 2, 5]
    assert VocabularyConfig(min_count=7).of(100).min_count == 7
