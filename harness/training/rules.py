# SPDX-License-Identifier: Apache-2.0
"""Values for keys that are ``auto``, computed from the rows, classes and tokens of a corpus.

Each rule is simple enough for one line at the start of a run; docs/defaults.md has the experiments behind them. Keys
that the user sets stay as they are, and the other rules use them: twice the batch gives half the steps. On GPUs the
batch also follows from their number: a step takes as long for few rows as for many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import psutil

from harness.config import CLASSIFIER, LANGUAGE_MODEL, Choice, RunConfig, flat, is_auto, to_dict
from harness.data.views import rows_of_task
from harness.model.registry import SHARED_UP_TO, check_model, exchanged_parameters
from harness.rundir.checkpoint import newest
from preprocessing.base.split_names import TRAIN
from preprocessing.base.terminal import counted
from preprocessing.dataset.views import read_data

STEPS, SHORT = 2500, 32
"""Minimum number of optimizer steps, for small corpora of texts of up to ``SHORT`` tokens. For longer texts it falls
with the square root of their tokens, as a step then tells more."""
FEWEST_EPOCHS, MOST_EPOCHS = 4, 40
SMALLEST_BATCH, LARGEST_BATCH = 32, 512
ROWS_A_BATCH = 2.5
"""The batch size is the square root of the rows, divided by this."""
LR, LR_BATCH, LR_CLASSES = 3e-3, 64, 1 / 8
"""Learning rate for two classes and up to ``LR_BATCH`` rows a step. It grows with the square root of the rows above
that, and with the power ``LR_CLASSES`` of the classes: with 77 classes, few rows of each have to be enough."""
AVERAGED = 0.1
"""Horizon of the weight average, as a share of all steps."""
SMALLEST_WIDE, LARGEST_WIDE = 1 << 14, 1 << 22
WIDE_NUMBERS = 1 << 24
"""Maximum size of the wide part's table, in numbers (64 MiB)."""
ROOM = 4
"""Buckets per n-gram of the training texts. Most n-grams of a new text are unknown; one that shares a bucket with a
known n-gram adds noise."""
LONG, ENOUGH, LONGEST = 64, 500_000, 4
"""From so many tokens a text, in the mean, and so many in all, n-grams of the linear part have up to so many words."""
PATIENT = 5
"""Minimum patience; otherwise it is a third of the epochs. In the first epochs the linear part alone may be better."""


WORTH_TOKENS = 4_000_000
"""Tokens of all epochs from which more processes on a CPU save more time than their start takes: two interpreters with
torch and their launcher need ten seconds of a core, in which it trains on a million tokens."""
FEWEST_ROWS = 4
"""Minimum rows of a process on a CPU in a step; with fewer, a step takes hardly less time."""
PARAMETERS_A_TOKEN = 1500
"""Number of parameters whose gradients processes add up, on a CPU, in about the time that a token takes."""
PROCESS_BYTES = 1 << 30
"""Memory of a process that trains on a CPU: torch, a batch and its gates, a small network with its optimizer."""
BY_CORPUS = (
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
class Resolved:
    """A configuration without ``auto``, and the reasons for its values."""

    config: RunConfig
    reasons: dict[str, Choice]
    """For each key that was ``auto``, in the order of the rules."""


def resolve(config: RunConfig, cards: Callable[[], int | None] = lambda: None) -> Resolved:
    """Replace every ``auto`` by a value; the dataset is read only if a key is ``auto``. ``cards``: the number of GPUs
    that will train, None for CPUs; asked if the batch depends on it.

    A run that resumes with another value (``--allow``) or on GPUs keeps the values that it started with. Raises
    ``DataError`` if the manifest cannot be read; before that, ``ConfigError`` for keys that contradict each other or an
    unknown part of the model.
    """
    check_model(config.model)
    config = for_task(config)
    if config.allow and keys_to_resolve(config):
        config = as_begun(config)
    if not keys_to_resolve(config):
        return Resolved(config, {})
    manifest = rows_of_task(config.task, read_data(config.data), config.data, config.fold)
    number = cards() if is_auto(config.global_batch) else None  # after the dataset, which needs no torch
    config = config if number is None else as_begun(config)
    classes = len(manifest.labels) if config.task == CLASSIFIER else 2
    return decide(config, Corpus(manifest.rows(TRAIN), manifest.tokens(TRAIN), classes), number or 1)


def processes_on_cores(config: RunConfig, cores: int) -> Choice:
    """How many processes of one thread train a configuration without ``auto`` on a CPU, and why.

    Threads of one process wait for each other many times a step, and where another program is busy most of their time;
    processes do so once, to add up the gradients. So each computes longer than that takes. docs/training.md has the
    figures. Raises ``DataError`` if the dataset cannot be read.
    """
    manifest = rows_of_task(config.task, read_data(config.data), config.data, config.fold)
    tokens, rows = manifest.tokens(TRAIN), config.global_batch
    a_step = tokens * rows // max(1, manifest.rows(TRAIN))
    fewest = max(1, exchanged_parameters(config, manifest) // PARAMETERS_A_TOKEN)
    limits = [
        (cores, f"on {counted(cores, 'core')}"),
        (rows // FEWEST_ROWS, f"each with {FEWEST_ROWS} or more of the {rows} rows of a step"),
        (a_step // fewest, f"each with {fewest:,} or more of the {a_step:,} tokens of a step"),
        (psutil.virtual_memory().available // PROCESS_BYTES, "as free memory holds"),
    ]
    number, why = min(limits)
    if number > 1 and tokens * config.epochs < WORTH_TOKENS:
        number, why = 1, f"for {tokens * config.epochs:,} tokens in all starting more would take longer"
    return Choice(str(max(1, number)), f"of one thread, {why}; several threads would wait for each other")


def keys_to_resolve(config: RunConfig) -> list[str]:
    values = flat(to_dict(config))
    return [key for key in BY_CORPUS if is_auto(values[key])]


def as_begun(config: RunConfig) -> RunConfig:
    """The configuration with each ``auto`` replaced by the value that its run started with, if there is a run."""
    began = newest(config.run, lambda error: None)
    if began is None:
        return config
    then = flat(began.state["config"])
    return with_values(config, {key: then.get(key, "auto") for key in keys_to_resolve(config)})


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The configuration with other values of dotted keys."""
    for key, value in values.items():
        part, _, name = key.rpartition(".")
        changed = {part: replace(getattr(config, part), **{name: value})} if part else {name: value}
        config = replace(config, **changed)
    return config


def for_task(config: RunConfig) -> RunConfig:
    """The configuration without what its task does not use: pretraining trains the first recurrent layer only.

    So one recipe serves a classifier and the language model that it starts from.
    """
    if config.task != LANGUAGE_MODEL:
        return config
    return replace(config, model=replace(config.model, num_layers=1, wide=0))


def decide(config: RunConfig, corpus: Corpus, cards: int = 1) -> Resolved:
    """Apply the rules: batch and steps first, since the learning rates depend on them."""
    values = flat(to_dict(config))
    reasons: dict[str, Choice] = {}

    def settle(key: str, value: Any, name: str, said: str, why: str) -> Any:
        """The user's value of a key, or ``value`` if it is ``auto``; ``said``: value in words, ``why``: reason."""
        if is_auto(values[key]):
            values[key] = value
            if said:
                reasons[name] = Choice(said, why)
        return values[key]

    enough = round(STEPS * math.sqrt(min(1, SHORT * corpus.rows / max(corpus.tokens, 1))))
    batch = batch_of(corpus, cards, enough)
    on = f" on {cards} GPUs" if cards > 1 else ""
    batch = settle("global_batch", batch, "batch", f"{batch} rows a step", f"for {corpus.rows:,} rows{on}")
    steps_a_pass = max(1, math.ceil(corpus.rows / batch))
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(enough / steps_a_pass)))
    epochs = settle("epochs", epochs, "epochs", str(epochs), f"of {steps_a_pass:,} steps, for {enough:,}")
    steps = epochs * steps_a_pass
    patience = max(PATIENT, epochs // 3) if epochs > PATIENT else None
    waits = "" if patience is None else f"{patience} epochs without improvement"
    settle("patience", patience, "patience", waits, f"a third of {epochs}" if patience != PATIENT else "the least")
    longest = LONGEST if corpus.tokens >= max(LONG * corpus.rows, ENOUGH) else SHARED_UP_TO
    longest = settle("model.wide_ngrams", longest, "", "", "")
    buckets = buckets_of(corpus, longest)
    why = f"for n-grams of up to {longest} words"
    settle("model.wide", buckets, "wide part", f"{buckets:,} buckets", why)
    own = not config.initial_weights
    settle("init.vectors", "own" if own else "none", "vectors", "" if own else "random", "init.weights has its own")
    rate = LR * math.sqrt(max(1.0, batch / LR_BATCH)) * (corpus.classes / 2) ** LR_CLASSES
    rate = float(f"{rate:.2g}")
    settle("optim.lr", rate, "rate", f"{rate:g}", f"for {batch:,} rows a step")
    horizon = max(2, round(AVERAGED * steps))
    settle("optim.ema", 1 - 1 / horizon, "average", f"over {horizon:,} steps", f"a tenth of {steps:,}")
    return Resolved(with_values(config, {key: values[key] for key in BY_CORPUS}), reasons)


def batch_of(corpus: Corpus, cards: int, enough: int) -> int:
    """A power of two near the square root of the rows, divided.

    Several GPUs take a multiple, as long as the fewest epochs still have ``enough`` steps.
    """
    wanted = 2 ** round(math.log2(math.sqrt(max(corpus.rows, 1)) / ROWS_A_BATCH))
    batch = int(min(LARGEST_BATCH, max(SMALLEST_BATCH, wanted)))
    alone = batch
    while 2 * batch <= cards * alone and FEWEST_EPOCHS * corpus.rows >= 2 * batch * enough:
        batch *= 2
    return batch


def buckets_of(corpus: Corpus, longest: int) -> int:
    """A power of two, at least ``ROOM`` times the number of n-grams, within the maximum size of the table."""
    outputs = 1 if corpus.classes == 2 else corpus.classes
    most = min(LARGEST_WIDE, 2 ** int(math.log2(max(2, WIDE_NUMBERS // max(outputs, 1)))))
    wanted = 2 ** math.ceil(math.log2(max(2, ROOM * corpus.tokens * max(2, longest))))
    return int(min(most, max(SMALLEST_WIDE, wanted)))
