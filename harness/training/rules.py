# SPDX-License-Identifier: Apache-2.0
"""From a recipe to a run: what ``auto`` means for a corpus, as rules of its rows, classes and tokens.

The rules are few and plain, so that they can be said in a line each at the start of a run: docs/defaults.md has what
they were chosen on. A key that the user sets is never touched, and the rules count with it: twice the batch, half the
steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.config import CLASSIFIER, LANGUAGE_MODEL, MOST_BUCKETS, RunConfig, flat, is_auto, to_dict
from harness.data.views import rows_of_task
from harness.model.registry import check_model
from harness.rundir.checkpoint import newest
from preprocessing.base.split_names import TRAIN, UNLABELLED
from preprocessing.dataset.shards import read_manifest

STEPS = 2500
"""Optimizer steps that a small corpus needs, whatever its rows."""
FEWEST_EPOCHS, MOST_EPOCHS = 4, 40
SMALLEST_BATCH, LARGEST_BATCH = 32, 512
ROWS_A_BATCH = 2.5
"""A batch grows with the square root of the rows; this divides it."""
LR, LR_BATCH, LR_CLASSES = 3e-3, 64, 1 / 8
"""The rate for two classes and up to so many rows a step. It grows with the square root of the rows above, and with
this power of the classes: what tells 77 of them apart is learned from a few rows each, in as many steps."""
AVERAGED = 0.1
"""Share of all steps that the average of weights looks back on."""
WIDE_C = 6.0
"""The inverse strength of regularisation of a logistic regression that the wide part ends near. Descent from zero by
rates that add up to ``C`` times the rows goes about as far as a penalty with that ``C`` lets weights go."""
LARGEST_WIDE_LR = 300.0
"""Above it, steps along what all rows have in common begin to swing."""
SMALLEST_WIDE, LARGEST_WIDE = 1 << 14, 1 << 22
WIDE_NUMBERS = 1 << 24
"""Most numbers of the wide part's table, 64 MiB."""
ROOM = 4
"""Buckets for each n-gram of the training texts. Most n-grams of a new text are unknown, and each that falls into the
bucket of a known one says something by chance."""
LABELLED_ROWS = 8
"""Beside the unlabelled rows of a step there are as many labelled ones, rounded up to so many, as the dataset has."""
PASSES = 3.5
"""Minimum number of passes over the unlabelled rows."""
VECTOR_TOKENS = 1_000_000
"""Fewer training tokens teach no vectors that a classifier is better for: on trec, with 44,000, it is much worse."""
PATIENT = 3
"""A run waits half of its epochs for a better validation, and so many at least."""


BY_CORPUS = (
    *("epochs", "global_batch", "patience", "model.wide", "init.vectors"),
    *("optim.lr", "optim.ema", "optim.wide_lr"),
)
"""The keys that may be ``auto`` and follow from the corpus."""
Reasons = dict[str, tuple[str, str]]
"""Key -> value in words and the reason."""


@dataclass(frozen=True)
class Corpus:
    """What the rules know of a dataset."""

    rows: int
    """Of the training split."""
    tokens: int
    """Of the training split."""
    classes: int
    unlabelled_tokens: int = 0
    """Of the split of texts without labels, which word vectors are learned from too."""
    rows_beside: int = 0
    """The rows of that split where they are learned by their soft labels, else 0."""


@dataclass(frozen=True)
class Resolved:
    """A run with all its numbers, and why they are what they are."""

    config: RunConfig
    reasons: Reasons
    """For each key that was ``auto``, in the order in which they were decided."""


def resolve(config: RunConfig) -> Resolved:
    """Give every key that is ``auto`` its number; the dataset is looked at only if there is one.

    A run that goes on with other data (``--allow data``) keeps the numbers that it began with. Raises ``DataError`` if
    the dataset's manifest cannot be read, ``ConfigError`` for keys that do not fit together and for a part of the model
    that is not there, before the dataset is looked at.
    """
    check_model(config.model)
    config = for_task(config)
    if "data" in config.allowed and keys_to_resolve(config):
        config = as_begun(config)
    if not keys_to_resolve(config):
        return Resolved(config, {})
    manifest = rows_of_task(config.task, read_manifest(config.data), config.data, config.fold)
    tokens, others = (sum(shard.tokens for shard in manifest.splits.get(name, ())) for name in (TRAIN, UNLABELLED))
    teaches = config.order.unlabelled_batch and (config.self_training.is_on or config.self_training.rounds)
    beside = manifest.rows(UNLABELLED) if teaches and UNLABELLED in manifest.splits else 0
    classes = len(manifest.labels) if config.task == CLASSIFIER else 2
    return decide(config, Corpus(manifest.rows(TRAIN), tokens, classes, others, beside))


def resolve_without_data(config: RunConfig) -> Resolved:
    """The same where the dataset is missing or does not matter: ``auto`` becomes what a tiny corpus would have."""
    return decide(for_task(config), Corpus(0, 0, 2))


def keys_to_resolve(config: RunConfig) -> list[str]:
    values = flat(to_dict(config))
    return [key for key in BY_CORPUS if is_auto(values[key])]


def as_begun(config: RunConfig) -> RunConfig:
    """The configuration with what its run began with, if there is one, in the place of ``auto``."""
    began = newest(config.run, lambda error: None)
    if began is None:
        return config
    then = flat(began.state["config"])
    return with_values(config, {key: then.get(key, "auto") for key in keys_to_resolve(config)})


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The configuration with other values of dotted keys."""
    parts: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        part, _, name = key.rpartition(".")
        parts.setdefault(part, {})[name] = value
    top = parts.pop("", {})
    return replace(config, **top, **{part: replace(getattr(config, part), **own) for part, own in parts.items()})


def for_task(config: RunConfig) -> RunConfig:
    """The configuration without what its task has no use for: a pretraining has the first recurrent layer.

    So one recipe describes a classifier and the language model that it starts from.
    """
    if config.task != LANGUAGE_MODEL:
        return config
    return replace(config, model=replace(config.model, num_layers=1, wide=0))


def decide(config: RunConfig, corpus: Corpus) -> Resolved:
    """The rules: those of length first, since the rates follow from batch and steps."""
    values = flat(to_dict(config))
    reasons: Reasons = {}

    def settle(key: str, value: Any, name: str, said: str, why: str) -> Any:
        """What the user wants of a key, or this value for ``auto``, with its reason; ``said``: the value in words."""
        if is_auto(values[key]):
            values[key] = value
            if said:
                reasons[name] = (said, why)
        return values[key]

    beside = config.order.unlabelled_batch if corpus.rows_beside else 0
    batch = batch_of(corpus, beside)
    batch = settle("global_batch", batch, "batch", f"{batch} rows a step", f"for {corpus.rows:,} rows")
    rows_a_step = batch
    if config.global_batch_tokens is not None and corpus.tokens:
        rows_a_step = max(1, round(config.global_batch_tokens * corpus.rows / corpus.tokens))
    steps_a_pass = max(1, math.ceil(corpus.rows / rows_a_step))
    passing = math.ceil(PASSES * corpus.rows_beside / beside) if beside else 0
    epochs = epochs_of(steps_a_pass, passing)
    why = f"of {steps_a_pass:,} steps, for {max(STEPS, passing):,}"
    epochs = settle("epochs", epochs, "epochs", str(epochs), why)
    steps = epochs * steps_a_pass
    patience = max(PATIENT, epochs // 2) if epochs > PATIENT else None
    waits = "" if patience is None else f"{patience} epochs without improvement"
    settle("patience", patience, "patience", waits, f"half of {epochs}")
    buckets, longest = buckets_of(corpus, config.model.wide_ngrams), config.model.wide_ngrams
    why = f"for n-grams of up to {longest} words"
    wide = settle("model.wide", buckets, "wide part", f"{buckets:,} buckets", why)
    tokens = corpus.tokens + corpus.unlabelled_tokens
    own = tokens >= VECTOR_TOKENS and not config.init.weights
    why = "init.weights has its own" if config.init.weights else f"{tokens:,} tokens are too few to learn them"
    settle("init.vectors", "own" if own else "none", "vectors", "" if own else "random", why)
    rate = LR * math.sqrt(max(1.0, rows_a_step / LR_BATCH)) * (corpus.classes / 2) ** LR_CLASSES
    rate = float(f"{rate:.2g}")
    settle("optim.lr", rate, "rate", f"{rate:g}", f"for {rows_a_step:,} rows a step")
    horizon = max(2, round(AVERAGED * steps))
    settle("optim.ema", 1 - 1 / horizon, "average", f"over {horizon:,} steps", f"a tenth of {steps:,}")
    rows = max(corpus.rows, corpus.rows_beside / config.self_training.weight)
    rate = 2 * WIDE_C * rows / steps  # it falls to zero evenly, so the rates add up to half of all steps
    rate = float(f"{min(LARGEST_WIDE_LR, max(1.0, rate)):.3g}")
    said = f"learning rate {rate:g}" if wide else ""
    settle("optim.wide_lr", rate, "linear part", said, f"as logistic regression with C = {WIDE_C:g}")
    return Resolved(with_values(config, {key: values[key] for key in BY_CORPUS}), reasons)


def batch_of(corpus: Corpus, beside: int) -> int:
    """A power of two near the square root of the rows, divided; beside unlabelled rows no more than their share."""
    wanted = 2 ** round(math.log2(math.sqrt(max(corpus.rows, 1)) / ROWS_A_BATCH))
    batch = int(min(LARGEST_BATCH, max(SMALLEST_BATCH, wanted)))
    if beside:
        share = math.ceil(beside * corpus.rows / corpus.rows_beside / LABELLED_ROWS) * LABELLED_ROWS
        batch = min(batch, max(LABELLED_ROWS, share))
    return batch


def epochs_of(steps_a_pass: int, passing: int) -> int:
    """Epochs for at least ``STEPS``; ``passing``: steps in which every unlabelled row is learned often enough."""
    if passing > max(STEPS, FEWEST_EPOCHS * steps_a_pass):
        return math.ceil(passing / steps_a_pass)
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(STEPS / steps_a_pass)))


def buckets_of(corpus: Corpus, longest: int) -> int:
    """A power of two, not below ``ROOM`` times the n-grams of all tokens, as far as its table stays small."""
    outputs = 1 if corpus.classes == 2 else corpus.classes
    most = min(LARGEST_WIDE, MOST_BUCKETS, 2 ** int(math.log2(max(2, WIDE_NUMBERS // max(outputs, 1)))))
    tokens = corpus.tokens + (corpus.unlabelled_tokens if corpus.rows_beside else 0)
    wanted = 2 ** math.ceil(math.log2(max(2, ROOM * tokens * max(2, longest))))
    return int(min(most, max(SMALLEST_WIDE, wanted)))
