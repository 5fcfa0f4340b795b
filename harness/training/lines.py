# SPDX-License-Identifier: Apache-2.0
"""Lines of a training, made of its figures: pure functions, so that every width can be tested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.config import RunConfig
from harness.data import balance
from harness.data.checks import TRAIN
from harness.model.size import parameters_of
from harness.scores.intervals import wilson
from harness.scores.tables import CHOSEN_BY, MARK
from harness.settings.task import LANGUAGE_MODEL
from preprocessing.base.printable import duration
from preprocessing.base.screen import Column, fitted, head_line, laid_out, row_line
from preprocessing.base.split_names import UNLABELLED
from preprocessing.dataset.shards import Manifest

BEST = {"accuracy": "highest accuracy", "loss": "lowest log loss", "calibrated": "lowest calibrated log loss"}
"""What the best epoch has, by ``select``."""
HEAD_EVERY = 20
"""Rows between two heads, so that the end of a log file can be read by itself."""


def facts(config: RunConfig, manifest: Manifest, total_steps: int) -> tuple[dict[str, str], dict[str, str]]:
    """What is trained on what, by name; and what may go wrong with it."""
    shape = config.model
    rows = ", ".join(f"{name} {manifest.rows(name):,}" for name in manifest.splits)
    parameters = parameters_of(config, manifest)
    direction = ("Bi" if shape.bidirectional else "") + shape.cell.upper()
    layers = f"{shape.num_layers}-layer {direction} {shape.embedding_dim}→{shape.hidden_size}"
    tokens = config.global_batch_tokens
    size = f"{config.global_batch} rows" if tokens is None else f"at most {tokens:,} tokens, padding included"
    per_epoch, classes = total_steps // config.epochs, balance.class_rows(manifest, TRAIN)
    epochs = "1 epoch" if config.epochs == 1 else f"{config.epochs} epochs of {per_epoch:,}"
    found = {
        "run": f"{config.run}, seed {config.seed}",
        **({} if config.fold is None else {"fold": f"{config.fold} of {manifest.folds} is the validation"}),
        "data": f"{config.data} ({rows} rows; vocabulary {manifest.vocabulary_size:,})",
        "classes": balance.in_words(classes),
        "model": f"{layers}, {shape.pooling} pooling, {parameters:,} parameters",
        "steps": f"{total_steps:,} of {size}, {epochs}",
        "best epoch": f"the one with the {BEST[config.select]} on validation, marked {MARK}",
    }
    beside = config.order.unlabelled_batch
    if beside:
        passes = total_steps / -(-manifest.rows(UNLABELLED) // beside)
        found["unlabelled"] = f"{beside} rows beside them in every step, {passes:.1f} passes in all"
    if config.task == LANGUAGE_MODEL:
        return pretraining_facts(config, manifest, found)
    warnings = {
        "imbalance": balance.imbalance(classes, config.optim.class_weights, config.evaluation.threshold),
        "few steps": balance.few_steps(per_epoch, config.epochs),
    }
    return found, {name: text for name, text in warnings.items() if text is not None}


def pretraining_facts(
    config: RunConfig, manifest: Manifest, found: dict[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The facts of a pretraining, made of those that a classifier on the same rows would have."""
    tokens, candidates = sum(shard.tokens for shard in manifest.splits[TRAIN]), config.language_model.candidates
    everything = 2 * candidates >= manifest.vocabulary_size - 1
    among = "all tokens of the vocabulary" if everything else f"{candidates:,} candidates a step"
    directions = "each direction predicts its next token" if config.model.bidirectional else "the next token"
    facts = {
        **found,
        "classes": "",
        "best epoch": "",
        "model": found["model"].replace(f", {config.model.pooling} pooling", ""),
    }
    facts["task"] = f"language model: {directions}, among {among}; {tokens:,} tokens an epoch"
    return {name: text for name, text in facts.items() if text}, {}


class StepTable:
    """The rows of log lines below each other. Where the screen is narrow, columns give way in order of importance."""

    def __init__(self, total_steps: int) -> None:
        """No head was written yet."""
        self.total_steps = total_steps
        self.columns = (
            Column(key="step", title="step", least=2 * len(f"{total_steps:,}") + 1),
            Column(key="epoch", title="epoch", least=5, weight=2),
            Column(key="loss", title="loss", least=6),
            Column(key="lr", title="lr", least=7, weight=4),
            Column(key="tokens_per_s", title="tokens/s", least=9, weight=3),
            Column(key="left", title="left", least=6, weight=1),
            Column(key="data_wait", title="wait", least=5, weight=6),
            Column(key="padding", title="padding", weight=5),
            Column(key="mfu", title="mfu", least=4, weight=7),
        )
        self.head: list[str] = []
        self.rows_since_head = 0

    def __call__(self, figures: Mapping[str, Any], left_s: float, width: int) -> tuple[list[str], str]:
        """The head, if it is time for one, and the row of one log line; ``left_s`` are the seconds to the end."""
        row = {
            "step": f"{figures['step']:,}/{self.total_steps:,}",
            "epoch": f"{figures['epoch']:.2f}",
            "loss": f"{figures['loss']:.4f}",
            "lr": f"{figures['lr']:.1e}",
            "tokens_per_s": f"{figures['tokens_per_s']:,.0f}",
            "left": duration(left_s),
            "data_wait": f"{figures['data_wait']:.1%}",
            "padding": f"{figures['padding']:.1%}",
            "mfu": "" if figures["mfu"] is None else f"{figures['mfu']:.0%}",
        }
        layout = laid_out(self.columns, [row], width)
        head = [head_line(layout)]
        due = head != self.head or self.rows_since_head >= HEAD_EVERY
        self.rows_since_head = 1 if due else self.rows_since_head + 1
        self.head = head
        return head if due else [], row_line(layout, row)


def validation_line(values: Mapping[str, Any], epochs: int, num_classes: int, select: str, width: int) -> str:
    """One validation, with half the width of the interval (95 %) of its accuracy; or of a language model.

    The figure by which the best epoch is chosen, as ``select`` has it, never gives way, and is marked.
    """
    if "perplexity" in values:
        return fitted(perplexity_parts(values, epochs), width)
    accuracy, rows = values["accuracy"], values["rows"]
    low, high = wilson(round(accuracy * rows), rows)
    shown = {
        "accuracy": (f"accuracy {accuracy:.4f} ± {(high - low) / 2:.4f}", 0),
        "f1": (f"{'F1' if num_classes == 2 else 'macro F1'} {values['f1']:.4f}", 3),
        "log_loss": (f"log loss {values['log_loss']:.4f}", 1),
    }
    if "calibrated_log_loss" in values:
        shown["log_loss"] = (shown["log_loss"][0], 2)
        shown["calibrated_log_loss"] = (f"calibrated {values['calibrated_log_loss']:.4f}", 0)
    chosen = CHOSEN_BY[select]
    shown[chosen] = (f"{shown[chosen][0]}{MARK}", 0)
    best = [("best", 0)] if values["best"] else []
    return fitted([(f"epoch {values['epoch']}/{epochs}", 0), *shown.values(), *best], width)


def perplexity_parts(values: Mapping[str, Any], epochs: int) -> list[tuple[str, int]]:
    """What a validation of a language model says, each part with how early it gives way."""
    both = [f"{name} {values[key]:,.1f}" for name in ("forward", "backward") if (key := f"perplexity_{name}") in values]
    return [
        (f"epoch {values['epoch']}/{epochs}", 0),
        (f"perplexity {values['perplexity']:,.1f}", 0),
        *((text, 2) for text in both),
        (f"log loss {values['log_loss']:.4f}", 1),
        *([("best", 0)] if values["best"] else []),
    ]
