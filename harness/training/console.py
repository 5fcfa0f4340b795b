# SPDX-License-Identifier: Apache-2.0
"""What rank 0 says: what runs on what and why, a row at each log line, at the end how it went and where it lies."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config import CLASSIFIER, LANGUAGE_MODEL, RunConfig
from harness.data.checks import TEST, TRAIN, VALIDATION, class_rows, few_steps, imbalance, in_words
from harness.model.registry import parameters_of
from harness.ranks.precision import Choice
from harness.rundir import layout
from harness.rundir.json_files import Line
from harness.rundir.metrics_log import read_log
from harness.rundir.results import figures_name, predictions_name
from harness.scores.figures import CHOSEN_BY
from harness.scores.intervals import wilson
from harness.scores.metrics import confusion_from_json, per_class
from harness.scores.tables import MARK, classes_table, describe_calibration, figures_table, never_found, verdicts
from harness.training.probe import Rehearsal
from harness.training.sinks import Ending, Sink
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.terminal import Column, Screen, Tone, duration, fitted, head_line, laid_out, row_line
from preprocessing.dataset.shards import Manifest

PURPOSE = {CLASSIFIER: "predict", LANGUAGE_MODEL: "--init.weights"}
"""What the weights of a task are for."""


class Log(Screen):
    """A screen that a training can lose: when its stream takes no more (a full disk, a terminal that is gone), it falls
    silent, and the training goes on.
    """

    def write(self, lines: Sequence[str], tone: Tone = "", head: int = 0) -> None:
        """Write as a screen does; falls silent when the stream fails."""
        try:
            super().write(lines, tone, head)
        except OSError:
            self.quiet = True
            with contextlib.suppress(OSError, ValueError):  # what is left in its buffer would fail again at the exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


class Console(Sink):
    """Rows and sentences on stdout. In a terminal they have colour, and a bar moves below them."""

    def __init__(self, config: RunConfig, manifest: Manifest, total_steps: int, first_step: int = 0) -> None:
        """``total_steps`` and the step that this start goes on from are what the time left is computed from."""
        self.config, self.manifest, self.directory = config, manifest, Path(config.run)
        self.total_steps, self.first_step = total_steps, first_step
        self.screen = Log(quiet=config.quiet)
        self.watched = self.screen.is_live
        self.rows = StepTable(total_steps)
        self.step, self.doing, self.loss = first_step, "", ""
        self.classes: list[dict[str, Any]] = []
        """Precision, recall and the like of each class in the best validation, if it was in this start."""
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """A sentence, at once."""
        self.screen.say(text)

    def start(self, choices: Mapping[str, Choice]) -> None:
        """Print what is trained, on what, with which settings and why, and warnings."""
        found, warnings = facts(self.config, self.manifest, self.total_steps)
        for name, text in [*found.items(), *((name, str(choice)) for name, choice in choices.items())]:
            self.screen.fact(name, text)
        for name, text in warnings.items():
            self.screen.fact(name, text, "warn")
        self.screen.write([""])

    def advance(self, step: int, doing: str = "") -> None:
        """A step is done, or something else is being ``done``: move the bar, where there is one. Costs microseconds."""
        if self.watched:
            self.step, self.doing = step, doing
            self.tick(now=bool(doing))

    def tick(self, *, now: bool = False) -> None:
        """Draw the bar again, if it is time to."""
        if self.watched and self.step > self.first_step:
            share = self.step / self.total_steps
            after = ", ".join(filter(None, (self.doing, self.loss, f"{duration(self.left())} left")))
            self.screen.live(f"step {self.step:,}/{self.total_steps:,}", share, after, now=now)

    def left(self) -> float:
        """Seconds to the last step, at the speed so far."""
        done = max(self.step - self.first_step, 1)
        return (time.monotonic() - self.started) / done * (self.total_steps - self.step)

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """A row, or one validation; ``results`` prints the test."""
        if kind == "train":
            self.step, self.loss = values["step"], f"loss {values['loss']:.4f}"
            head, row = self.rows(values, self.left(), self.screen.width)
            self.screen.write(head, "head")
            self.screen.write([row])
            if values["verdict"]:
                self.screen.say(f"  note: {values['verdict']}", "warn")
        elif kind == VALIDATION:
            line = validation_line(
                values, self.config.epochs, len(self.manifest.labels), self.config.select, self.screen.width
            )
            self.screen.write([line], "good" if values["best"] else "")

    def best(self, values: Mapping[str, Any]) -> None:
        """The figures of the best validation so far, of which a log line has no confusion."""
        self.classes = per_class(confusion_from_json(values, len(self.manifest.labels)), self.manifest.labels)

    def rehearsal(self, cost: Rehearsal, tokens: int) -> None:
        """What a dry run found; ``tokens`` per process in a full run."""
        self.screen.fact("dry run", f"longest step ({cost.rows} rows): {cost.step_s * 1e3:,.0f} ms")
        self.screen.fact("memory", f"{cost.memory_bytes / 2**20:,.0f} MiB at most in one process")
        took = duration(cost.full_run_s(tokens))
        self.screen.fact("full run", f"about {took} of training ({self.total_steps:,} steps)")

    def results(self, measured: Mapping[str, Any]) -> None:
        """How good the best weights are, and how they were learnt.

        ``measured`` are all figures of a split, as ``SPLIT.json`` has them; empty where none was measured at the end.
        """
        self.screen.end()
        lines = self.lines()
        best = [line for line in lines if line["kind"] == VALIDATION and line.get("best")]
        if best:
            self.screen.say(f"\nbest weights: step {best[-1]['step']:,}, epoch {best[-1]['epoch']}")
        splits: dict[str, Mapping[str, Any]] = {VALIDATION: before_calibration(best[-1])} if best else {}
        splits |= {measured["split"]: measured} if measured else {}
        self.screen.table(figures_table(splits, self.manifest.labels, self.screen.width))
        if measured:
            self.screen.say(describe_calibration(measured))
        entries = measured["per_class"] if measured else self.classes
        if entries:
            self.screen.say(f"\nclasses of {measured['split'] if measured else VALIDATION}:")
            self.screen.table(classes_table(entries, self.screen.width))
        self.screen.write([""])
        found = verdicts(lines, self.config.epochs, class_rows(self.manifest, VALIDATION))
        for sentence in filter(None, [*found, never_found(entries)]):
            self.screen.fact("note", sentence, "warn", indent=6)

    def lines(self) -> list[Line]:
        """The lines of ``metrics.jsonl``; none, and a warning, if it has been damaged meanwhile."""
        try:
            return read_log(self.directory)
        except DataError as error:
            self.screen.say(f"warning: no table of validation ({error})", "warn")
            return []

    def pretrained(self) -> None:
        """How well the best weights of a language model predict, and what they are for."""
        self.screen.end()
        best = [line for line in self.lines() if line["kind"] == VALIDATION and line.get("best")]
        if best:
            line = best[-1]
            perplexity = f"perplexity {line['perplexity']:,.1f} on {line['targets']:,} tokens of {line['rows']:,} rows"
            self.screen.say(f"\nbest weights: step {line['step']:,}, epoch {line['epoch']}; {perplexity}")
        self.screen.say(f"a classifier starts from them with --init.weights {self.directory}")

    def close(self, ending: Ending) -> None:
        """Where everything lies, or how to go on."""
        self.screen.end()
        if ending.state == "preempted":
            self.say(f"stopped at step {ending.step:,}: {ending.reason}; the same command goes on from here")
        if ending.state != "finished":
            return
        self.screen.say(f"\nfinished in {duration(time.monotonic() - self.started)}; in {self.directory}:", "good")
        for name, what in (
            (layout.BUNDLE, f"best weights, vocabulary and text pipeline, for {PURPOSE[self.config.task]}"),
            (figures_name(TEST), f"test metrics; {predictions_name(TEST)} has every row"),
            (layout.REPORT, "all of it to look at"),
            (layout.METRICS, "every log line"),
            (layout.CONFIG, f"resolved configuration; {layout.ENVIRONMENT} says what it ran on"),
        ):
            if (self.directory / name).exists():
                self.screen.fact(f"  {name}", what, indent=17)


def before_calibration(line: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a validation beside those of a test, with the interval of its accuracy.

    Log loss and calibration error are left out: the test has those of calibrated probabilities.
    """
    rows = line["rows"]
    intervals = {"accuracy": wilson(round(line["accuracy"] * rows), rows)}
    return {**{key: line[key] for key in line if key not in ("log_loss", "ece")}, "intervals": intervals}


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
    per_epoch, classes = total_steps // config.epochs, class_rows(manifest, TRAIN)
    epochs = "1 epoch" if config.epochs == 1 else f"{config.epochs} epochs of {per_epoch:,}"
    found = {
        "run": f"{config.run}, seed {config.seed}",
        **({} if config.fold is None else {"fold": f"{config.fold} of {manifest.folds} is the validation"}),
        "data": f"{config.data} ({rows} rows; vocabulary {manifest.vocabulary_size:,})",
        "classes": in_words(classes),
        "model": f"{layers}, {shape.pooling} pooling, {parameters:,} parameters",
        "steps": f"{total_steps:,} of {size}, {epochs}",
        "best epoch": f"the one with the {BEST[config.select]} on validation, marked {MARK}",
    }
    beside = config.order.unlabelled_batch
    if beside:
        passes = total_steps / -(-manifest.rows(UNLABELLED) // beside)
        found["unlabelled"] = f"{beside} more rows in every step, {passes:.1f} passes in all"
    if config.task == LANGUAGE_MODEL:
        return pretraining_facts(config, manifest, found)
    warnings = {
        "imbalance": imbalance(classes, config.optim.class_weights, config.evaluation.threshold),
        "few steps": few_steps(per_epoch, config.epochs),
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
