# SPDX-License-Identifier: Apache-2.0
"""Values for keys that are ``auto``, computed from the rows, classes and tokens of a corpus.

Each rule is simple enough for one line at the start of a run; docs/recipes.md has the experiments behind them. Keys
that the user sets stay as they are, and the other rules use them: twice the batch gives half the steps. On GPUs the
batch also follows from their number: a step takes as long for few rows as for many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil

from harness.config import AUTO, CLASSIFIER, LANGUAGE_MODEL, Choice, RunConfig, flat
from harness.data.run_rows import rows_of_run
from harness.model.registry import SHARED_UP_TO, check_model, parameters_of
from harness.rundir.checkpoint import newest
from harness.rundir.records import read_run_config, read_status
from padless.core.errors import require
from padless.core.split_names import TRAIN
from padless.core.terminal import count_noun

MIN_STEPS, SHORT_TOKENS = 2500, 32
"""Minimum number of optimizer steps, for small corpora of texts of up to ``SHORT_TOKENS``. For longer texts it falls
with the square root of their tokens, as the gradient of a step then has less noise."""
MIN_EPOCHS, MAX_EPOCHS = 4, 40
MIN_BATCH, MAX_BATCH = 32, 512
BATCH_DIVISOR = 2.5
"""The batch size is the square root of the rows, divided by this."""
LR, LR_BATCH, LR_CLASSES = 3e-3, 64, 1 / 8
"""Learning rate for two classes and up to ``LR_BATCH`` rows a step. It grows with the square root of the rows above
that, and with the power ``LR_CLASSES`` of the classes: with 77 classes, few rows of each have to be enough."""
AVERAGE_SHARE = 0.1
"""Horizon of the weight average, as a share of all steps."""
MIN_BUCKETS, MAX_BUCKETS = 1 << 14, 1 << 22
MAX_WIDE_NUMBERS = 1 << 24
"""Maximum size of the linear part's table, in numbers (64 MiB)."""
BUCKETS_PER_NGRAM = 4
"""Of the training texts. Most n-grams of a new text are unknown; one that shares a bucket with a known n-gram adds
noise."""
LONG_TEXT_TOKENS, MIN_LONG_TOKENS, MAX_NGRAM_WORDS = 64, 500_000, 4
"""From so many tokens a text, in the mean, and so many in all, n-grams of the linear part have up to so many words."""
MIN_PATIENCE = 5
"""Otherwise patience is a third of the epochs. In the first epochs the linear part alone may be better."""
MIN_PARALLEL_TOKENS = 4_000_000
"""Tokens of all epochs from which more processes on a CPU save more time than their start takes: two interpreters with
torch and their launcher need ten seconds of a core, in which it trains on a million tokens."""
MIN_ROWS_PER_PROCESS = 4
"""On a CPU, in a step; with fewer, a step takes hardly less time."""
PARAMETERS_PER_TOKEN = 1500
"""Number of parameters whose gradients processes add up, on a CPU, in about the time that a token takes."""
PROCESS_BYTES = 1 << 30
"""Memory of a process that trains on a CPU: torch, a batch and its gates, a small network with its optimizer."""
CHOICES = "PADLESS_CHOICES"
"""Environment variable: of keys that a launcher has resolved for its ranks, why, as JSON."""
AUTO_KEYS = (
    *("epochs", "global_batch", "patience", "model.wide", "model.wide_ngrams", "init.vectors"),
    *("optim.lr", "optim.ema"),
)
"""Keys that may be ``auto``."""


@dataclass(frozen=True)
class Corpus:
    """Facts of a dataset that the rules use."""

    rows: int
    """Of the training split."""
    tokens: int
    """Of the training split."""
    classes: int


@dataclass(frozen=True)
class ResolvedConfig:
    """A configuration without ``auto``, and the reasons for its values."""

    config: RunConfig
    reasons: dict[str, Choice]
    """The value of each key that was ``auto``, and why, in the order of the rules."""
    processes: str | None = None
    """Why so many processes of one thread train, where padless chose their number."""


def resolve_config(config: RunConfig, count_gpus: Callable[[], int | None] = lambda: None) -> ResolvedConfig:
    """Replace every ``auto`` by a value; the dataset is read only if a key is ``auto``. ``count_gpus``: the number of
    GPUs that will train, None for CPUs; asked if the batch depends on it.

    A run that resumes with another value (``--allow``) or on GPUs keeps the values that it started with. Raises
    ``DataError`` if the manifest cannot be read, ``ConfigError`` for an unknown part of the model, or a patience that
    ends no run.
    """
    check_model(config.model)
    resolved = resolve_keys(config, count_gpus)
    epochs, patience = resolved.config.epochs, config.patience  # that of a run may be too large for --allow epochs
    is_in_range = patience in (AUTO, None) or patience < epochs
    require(is_in_range, "patience", patience, f"at least 1 and below epochs ({epochs}), auto, or null")
    return resolved


def resolve_keys(config: RunConfig, count_gpus: Callable[[], int | None]) -> ResolvedConfig:
    """``resolve_config`` without its checks."""
    if config.task == LANGUAGE_MODEL:  # which trains the first recurrent layer only
        config = replace(config, model=replace(config.model, num_layers=1, wide=0))
    if config.allow and keys_to_resolve(config):
        config = restore_values(config)
    if not keys_to_resolve(config):
        return ResolvedConfig(config, {})
    manifest = rows_of_run(config)
    gpus = count_gpus() if config.global_batch == AUTO else None  # after the dataset, which needs no torch
    config = config if gpus is None else restore_values(config)
    classes = len(manifest.labels) if config.task == CLASSIFIER else 2
    return apply_rules(config, Corpus(manifest.rows(TRAIN), manifest.tokens(TRAIN), classes), gpus or 1)


def processes_on_cores(config: RunConfig, cores: int) -> Choice:
    """How many processes of one thread train a configuration without ``auto`` on a CPU, and why.

    Threads of one process wait for each other many times a step, and where another program is busy most of their time;
    processes do so once, to add up the gradients. So each computes longer than that takes. docs/recipes.md has the
    figures. Raises ``DataError`` if the dataset cannot be read.
    """
    manifest = rows_of_run(config)
    tokens, rows = manifest.tokens(TRAIN), config.global_batch
    step_tokens = tokens * rows // max(1, manifest.rows(TRAIN))
    # the linear part has no gradients: it is learned before
    num_exchanged = parameters_of(replace(config, model=replace(config.model, wide=0)), manifest)
    process_tokens = max(1, num_exchanged // PARAMETERS_PER_TOKEN)
    limits = [
        (cores, f"on {count_noun(cores, 'core')}"),
        (rows // MIN_ROWS_PER_PROCESS, f"as a step has {rows} rows and each needs {MIN_ROWS_PER_PROCESS}"),
        (
            step_tokens // process_tokens,
            f"as a step has {step_tokens:,} tokens and each needs {process_tokens:,}",
        ),
        (psutil.virtual_memory().available // PROCESS_BYTES, "as free memory holds"),
    ]
    number, reason = min(limits, key=lambda limit: limit[0])
    if number > 1 and tokens * config.epochs < MIN_PARALLEL_TOKENS:
        number, reason = 1, f"for {tokens * config.epochs:,} tokens in all starting more would take longer"
    return Choice(str(max(1, number)), f"of one thread, {reason}; several threads would wait for each other")


def keys_to_resolve(config: RunConfig) -> list[str]:
    """The keys that are ``auto``."""
    values = flat(asdict(config))
    return [key for key in AUTO_KEYS if values[key] == AUTO]


def restore_values(config: RunConfig) -> RunConfig:
    """The configuration with each ``auto`` replaced by the value that its run started with, if there is a run."""
    checkpoint = newest(config.run, lambda error: None)
    if checkpoint is not None:
        values = flat(checkpoint.state["config"])
    elif read_status(config.run).get("state") == "finished":
        values = flat(read_run_config(config.run))
    else:
        return config
    return with_values(config, {key: values.get(key, AUTO) for key in keys_to_resolve(config)})


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The configuration with other values of dotted keys."""
    for key, value in values.items():
        part, _, name = key.rpartition(".")
        change = {part: replace(getattr(config, part), **{name: value})} if part else {name: value}
        config = replace(config, **change)
    return config


def apply_rules(config: RunConfig, corpus: Corpus, gpus: int = 1) -> ResolvedConfig:
    """Apply the rules: batch and steps first, since the learning rates depend on them."""
    values = flat(asdict(config))
    reasons: dict[str, Choice] = {}

    def resolve_key(key: str, value: Any, reason: str) -> Any:
        """The user's value of a key, or ``value``, with its reason, if it is ``auto``."""
        if values[key] == AUTO:
            values[key] = value
            reasons[key] = Choice("null" if value is None else str(value), reason)
        return values[key]

    min_steps = round(MIN_STEPS * math.sqrt(min(1, SHORT_TOKENS * corpus.rows / max(corpus.tokens, 1))))
    on_gpus = f" on {gpus} GPUs" if gpus > 1 else ""
    batch = resolve_key("global_batch", choose_batch(corpus, gpus, min_steps), f"for {corpus.rows:,} rows{on_gpus}")
    epoch_steps = max(1, math.ceil(corpus.rows / batch))
    epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, math.ceil(min_steps / epoch_steps)))
    epochs = resolve_key("epochs", epochs, f"of {epoch_steps:,} steps, for {min_steps:,}")
    steps = epochs * epoch_steps
    patience = max(MIN_PATIENCE, epochs // 3) if epochs > MIN_PATIENCE else None
    resolve_key("patience", patience, f"a third of {epochs} epochs, at least {MIN_PATIENCE}")
    is_long = corpus.tokens >= max(LONG_TEXT_TOKENS * corpus.rows, MIN_LONG_TOKENS)
    ngram_words = MAX_NGRAM_WORDS if is_long else SHARED_UP_TO
    ngram_words = resolve_key("model.wide_ngrams", ngram_words, f"for {corpus.tokens:,} tokens")
    resolve_key("model.wide", choose_buckets(corpus, ngram_words), f"for n-grams of up to {ngram_words} words")
    if config.initial_weights:
        resolve_key("init.vectors", "none", "init.weights has its own")
    resolve_key("init.vectors", "own", "there is no init.weights")
    rate = LR * math.sqrt(max(1.0, batch / LR_BATCH)) * (corpus.classes / 2) ** LR_CLASSES
    resolve_key("optim.lr", float(f"{rate:.2g}"), f"for {batch:,} rows a step")
    horizon = max(2, round(AVERAGE_SHARE * steps))
    resolve_key("optim.ema", 1 - 1 / horizon, f"over {horizon:,} steps, a tenth of {steps:,}")
    return ResolvedConfig(with_values(config, {key: values[key] for key in AUTO_KEYS}), reasons)


def choose_batch(corpus: Corpus, gpus: int, min_steps: int) -> int:
    """A power of two near the square root of the rows, divided.

    Several GPUs take a multiple, as long as the fewest epochs still have ``min_steps``.
    """
    batch_near_root = 2 ** round(math.log2(math.sqrt(max(corpus.rows, 1)) / BATCH_DIVISOR))
    batch = single_batch = int(min(MAX_BATCH, max(MIN_BATCH, batch_near_root)))
    while 2 * batch <= gpus * single_batch and MIN_EPOCHS * corpus.rows >= 2 * batch * min_steps:
        batch *= 2
    return batch


def choose_buckets(corpus: Corpus, ngram_words: int) -> int:
    """A power of two, at least ``BUCKETS_PER_NGRAM`` times the n-grams, within the maximum size of the table."""
    outputs = 1 if corpus.classes == 2 else corpus.classes
    max_buckets = min(MAX_BUCKETS, 2 ** int(math.log2(max(2, MAX_WIDE_NUMBERS // outputs))))
    ngrams = corpus.tokens * max(2, ngram_words)
    buckets = 2 ** math.ceil(math.log2(max(2, BUCKETS_PER_NGRAM * ngrams)))
    return int(min(max_buckets, max(MIN_BUCKETS, buckets)))
