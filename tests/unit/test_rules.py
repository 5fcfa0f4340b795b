# SPDX-License-Identifier: Apache-2.0
"""What a training decides: values of ``auto`` for a corpus, with the keys that the user sets never changed; learning
rates, row hashes, the slowest rank.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import ModelConfig, RunConfig, flat
from harness.training import rules
from harness.training.rules import Corpus, apply_rules, resolve_config
from harness.training.throughput import row_hash
from padless.core import cli
from padless.core.errors import DataError
from preprocessing.config import VocabularyConfig
from tests.helpers.commands import PLAIN_RECIPE

TREC = Corpus(rows=5_452, tokens=55_000, classes=6)
IMDB = Corpus(rows=22_500, tokens=5_200_000, classes=2)


def recipe(*argv: str) -> RunConfig:
    return cli.parse(RunConfig, argv, prog="test")


@pytest.mark.parametrize(
    ("corpus", "gpus", "expected"),
    [
        (TREC, 1, (32, 15, 5, 0.0034, 2)),
        (IMDB, 1, (64, 4, None, 0.003, 4)),
        (IMDB, 8, (64, 4, None, 0.003, 4)),
        (Corpus(10_000_000, 2_300_000_000, 2), 1, (512, 4, None, 0.0085, 4)),
        (Corpus(10_000_000, 2_300_000_000, 2), 8, (4096, 4, None, 0.024, 4)),
    ],
)
def test_small_corpora_get_their_steps_and_large_ones_a_few_epochs(
    corpus: Corpus, gpus: int, expected: tuple[Any, ...]
) -> None:
    """The batch grows with the GPUs while four epochs have steps enough."""
    config = apply_rules(recipe(), corpus, gpus).config
    values = (config.global_batch, config.epochs, config.patience, config.optim.lr, config.model.wide_ngrams)
    assert values == expected


@pytest.mark.parametrize(
    ("words", "vectors"),
    [("", "own"), ("--init.vectors glove.txt", "glove.txt"), ("--init.weights runs/lm", "none")],
)
def test_vectors_are_learned_unless_other_weights_bring_them(words: str, vectors: str) -> None:
    assert apply_rules(recipe(*words.split()), IMDB).config.init.vectors == vectors


def use_rows(monkeypatch: pytest.MonkeyPatch, rows: int, tokens: int, vocabulary_size: int = 9) -> None:
    """Let a run have a dataset of this size."""
    sizes = {"rows": lambda split: rows, "tokens": lambda split: tokens, "vocabulary_size": vocabulary_size}
    manifest = SimpleNamespace(**sizes, labels=["a", "b"], splits={}, has_label_sets=False)
    monkeypatch.setattr(rules, "rows_of_run", lambda config: manifest)


LONG, MANY_WORDS = (592, 330_000, 14_000), (22_500, 5_200_000, 200_000)


@pytest.mark.parametrize(
    ("sizes", "keys", "cores", "free_gib", "expected"),
    [
        (LONG, {}, 2, 64, "2"),
        (LONG, {}, 64, 64, "8"),
        (LONG, {"epochs": 12}, 8, 64, "1"),
        (MANY_WORDS, {"model": ModelConfig(wide=1 << 22)}, 8, 64, "1"),
        (LONG, {}, 64, 3, "3"),
    ],
)
def test_a_process_a_core_while_each_computes_longer_than_it_adds_up_gradients(
    sizes: tuple[int, int, int], keys: Any, cores: int, free_gib: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_rows(monkeypatch, *sizes)
    monkeypatch.setattr(rules.psutil, "virtual_memory", lambda: SimpleNamespace(available=free_gib << 30))
    config = RunConfig(**{"epochs": 32, "global_batch": 32, "model": ModelConfig(embedding_dim=128), **keys})
    assert rules.processes_on_cores(config, cores).value == expected


def test_a_run_on_gpus_goes_on_with_the_batch_that_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    began = flat(asdict(apply_rules(recipe(), IMDB, 8).config)) | {"global_batch": 512}
    use_rows(monkeypatch, 9, 9)
    monkeypatch.setattr(rules, "newest", lambda run, report: SimpleNamespace(state={"config": began}))
    assert resolve_config(recipe(), lambda: 2).config.global_batch == 512


@given(st.integers(1, 10**6), st.integers(2, 150), st.integers(5, 400))
def test_every_corpus_gets_a_run(rows: int, classes: int, tokens: int) -> None:
    """The resolved configuration passes its checks, and the linear part stays below 64 MiB."""
    config = apply_rules(recipe(), Corpus(rows, rows * tokens, classes)).config
    assert type(config) is RunConfig
    outputs = 1 if classes == 2 else classes
    assert 2**14 <= config.model.wide <= 2**22
    assert config.model.wide * outputs * 4 <= 2**26
    assert 0 < (config.optim.ema or 0) < 1


def test_what_the_user_sets_stays_and_the_rules_count_with_it() -> None:
    set_ = ("--global_batch", "128", "--epochs", "7", "--optim.lr", "0.5", "--model.wide", "0", "--patience", "null")
    resolved = apply_rules(recipe(*set_), TREC)
    config = resolved.config
    values = (config.global_batch, config.epochs, config.optim.lr, config.model.wide, config.patience)
    assert values == (128, 7, 0.5, 0, None)
    assert config.optim.ema == pytest.approx(1 - 1 / round(0.1 * 7 * math.ceil(TREC.rows / 128)))
    assert list(resolved.reasons) == ["model.wide_ngrams", "init.vectors", "optim.ema"]


def test_a_recipe_without_auto_needs_no_dataset(tmp_path) -> None:
    absent = str(tmp_path / "nowhere")
    assert resolve_config(recipe(absent, *PLAIN_RECIPE)).config == RunConfig(data=absent, baseline="none")
    with pytest.raises(DataError, match="nowhere"):
        resolve_config(recipe(absent))


def test_the_vocabulary_is_cut_by_the_size_of_the_corpus() -> None:
    min_count_by_tokens = {9_999: 1, 10_000: 2, 49_999_999: 2, 50_000_000: 5}
    for num_tokens, min_count in min_count_by_tokens.items():
        assert VocabularyConfig().resolve_min_count(num_tokens).min_count == min_count
    assert VocabularyConfig(min_count=7).resolve_min_count(100).min_count == 7


@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=40, unique=True), st.integers(0, 1000), st.data())
def test_row_hash_adds_up_over_any_split_and_sees_every_change(rows: list[int], step: int, data: st.DataObject) -> None:
    numbers, middle = np.array(rows), data.draw(st.integers(0, len(rows)))
    hash_of_all = row_hash(numbers, step)
    assert (row_hash(numbers[middle:], step) + row_hash(numbers[:middle], step)) % 2**64 == hash_of_all
    hashes = row_hash(numbers[1:], step), row_hash(numbers, step + 1), row_hash(np.append(numbers, numbers[0]), step)
    assert hash_of_all not in hashes
