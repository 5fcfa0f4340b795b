# SPDX-License-Identifier: Apache-2.0
"""Console output of rank 0: settings and reasons, a row for each log line, results and paths at the end."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config import CLASSIFIER, RunConfig
from harness.data.checks import TEST, TRAIN, VALIDATION, class_rows, few_steps, imbalance, in_words
from harness.model.registry import parameters_of
from harness.ranks.precision import Choice
from harness.rundir import layout
from harness.rundir.json_files import Line
from harness.rundir.metrics_log import read_log
from harness.rundir.results import figures_name, predictions_name
from harness.scores.figures import CHOSEN_BY
from harness.scores.intervals import wilson
from harness.scores.tables import MARK, never_found, show_figures, verdicts
from harness.training.writer import Ending, Sink
from preprocessing.base.errors import DataError
from preprocessing.base.terminal import Screen, Tone, duration
from preprocessing.dataset.shards import Manifest

BEST = {"accuracy": "highest accuracy", "loss": "lowest log loss", "calibrated": "lowest calibrated log loss"}
"""How ``select`` chooses the best epoch."""
HEAD_EVERY = 20
"""Rows between two header lines, so that the end of a log file has one."""
ROW = {
    "step": "{step:>{wide}}",
    "epoch": "{epoch:6.2f}",
    "loss": "{loss:7.4f}",
    "lr": "{lr:7.1e}",
    "tokens/s": "{tokens_per_s:9,.0f}",
    "left": "{left:>6}",
    "wait": "{data_wait:5.1%}",
    "padding": "{padding:7.1%}",
}
"""Columns of a log line, by title."""


class Log(Screen):
    """Screen output that never ends a training: after the first failed write (full disk, closed terminal), it prints
    nothing more.
    """

    def write(self, lines: Sequence[str], tone: Tone = "", head: int = 0) -> None:
        """Write as ``Screen`` does; after a failure, print nothing more."""
        try:
            super().write(lines, tone, head)
        except OSError:
            self.quiet = True
            with contextlib.suppress(OSError, ValueError):  # else its buffer fails again at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


class Console(Sink):
    """Rows and sentences on stdout; in a terminal with colour and a progress bar."""

    def __init__(self, config: RunConfig, manifest: Manifest, total_steps: int, first_step: int = 0) -> None:
        """``total_steps`` and ``first_step``, where this start resumes, give the time left."""
        self.config, self.manifest, self.directory = config, manifest, Path(config.run)
        self.total_steps, self.first_step, self.step = total_steps, first_step, first_step
        self.screen = Log(quiet=config.quiet)
        self.watched = self.screen.is_live
        self.rows, self.loss = 0, ""
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """Print a sentence at once."""
        self.screen.say(text)

    def start(self, choices: Mapping[str, Choice]) -> None:
        """Print model, dataset, settings with their reasons, and warnings."""
        config, epochs = self.config, self.config.epochs
        for name, text in {**facts(config, self.manifest, self.total_steps), **choices}.items():
            self.screen.fact(name, str(text))
        if config.task == CLASSIFIER:
            classes, threshold = class_rows(self.manifest, TRAIN), config.evaluation.threshold
            if warning := imbalance(classes, config.optim.class_weights, threshold):
                self.screen.fact("imbalance", warning, "warn")
            if warning := few_steps(self.total_steps // epochs, epochs):
                self.screen.fact("few steps", warning, "warn")
        self.screen.write([""])

    def advance(self, step: int, doing: str = "") -> None:
        """Update the progress bar, if there is one; ``doing`` names work other than steps. Costs microseconds."""
        self.step = step
        if self.watched and step > self.first_step:
            after = ", ".join(filter(None, (doing, self.loss, f"{self.left()} left")))
            where = f"step {step:,}/{self.total_steps:,}"
            self.screen.live(where, step / self.total_steps, after, now=bool(doing))

    def left(self) -> str:
        """Time to the last step, at the speed so far."""
        done = max(self.step - self.first_step, 1)
        return duration((time.monotonic() - self.started) / done * (self.total_steps - self.step))

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Print a training row, with a header line now and then, or a validation. ``results`` prints the test."""
        if kind == "train":
            self.step, self.loss = values["step"], f"loss {values['loss']:.4f}"
            total = f"{self.total_steps:,}"
            about = {"step": f"{self.step:,}/{total}", "wide": 2 * len(total) + 1, "left": self.left()}
            row = {title: text.format(**{**values, **about}) for title, text in ROW.items()}
            if self.rows % HEAD_EVERY == 0:
                self.screen.write(["  ".join(title.rjust(len(cell)) for title, cell in row.items())], "head")
            self.rows += 1
            self.screen.write(["  ".join(row.values())])
            if values["verdict"]:
                self.screen.say(f"  note: {values['verdict']}", "warn")
        elif kind == VALIDATION:
            parts = [f"epoch {values['epoch']}/{self.config.epochs}", *self.validation(values)]
            parts += ["best"] if values["best"] else []
            self.screen.write(["  ".join(parts)], "good" if values["best"] else "")

    def validation(self, values: Mapping[str, Any]) -> list[str]:
        """The figures of a validation; the one that selects the best epoch is marked."""
        log_loss = f"log loss {values['log_loss']:.4f}"
        if "perplexity" in values:
            names = ("perplexity", "perplexity_forward", "perplexity_backward")
            said = [f"{name.replace('_', ' ')} {values[name]:,.1f}" for name in names if name in values]
            return [*said, log_loss]
        low, high = wilson(round(values["accuracy"] * values["rows"]), values["rows"])
        shown = {"accuracy": f"accuracy {values['accuracy']:.4f} ± {(high - low) / 2:.4f}"}
        if "calibrated_log_loss" in values:
            shown["calibrated_log_loss"] = f"calibrated {values['calibrated_log_loss']:.4f}"
        else:
            shown["f1"] = f"{'F1' if len(self.manifest.labels) == 2 else 'macro F1'} {values['f1']:.4f}"
        shown["log_loss"] = log_loss
        shown[CHOSEN_BY[self.config.select]] += MARK
        return list(shown.values())

    def rehearsal(self, step_s: float, rows: int, memory_bytes: int, full_s: float) -> None:
        """Print what a dry run measured: seconds and rows of the longest step, and the estimated time of a full run."""
        self.screen.fact("dry run", f"longest step ({rows} rows): {step_s * 1e3:,.0f} ms")
        self.screen.fact("memory", f"{memory_bytes / 2**20:,.0f} MiB at most in one process")
        self.screen.fact("full run", f"about {duration(full_s)} of training ({self.total_steps:,} steps)")

    def results(self, measured: Mapping[str, Mapping[str, Any]]) -> None:
        """Print the figures of the best weights, and notes on how the training went.

        ``measured``: split -> figures, as in ``SPLIT.json``.
        """
        lines, _ = self.history()
        show_figures(self.screen, measured)
        last = list(measured.values())[-1]
        notes = verdicts(lines, self.config.epochs, class_rows(self.manifest, VALIDATION))
        self.screen.write([""])
        for sentence in filter(None, [*notes, never_found(last["per_class"])]):
            self.screen.fact("note", sentence, "warn", indent=6)

    def history(self) -> tuple[list[Line], Line | None]:
        """The lines of ``metrics.jsonl``, and the line of the best validation, which is also printed."""
        self.screen.end()
        lines: list[Line] = []
        try:
            lines = read_log(self.directory)
        except DataError as error:
            self.screen.say(f"warning: no table of validation ({error})", "warn")
        best = [line for line in lines if line["kind"] == VALIDATION and line.get("best")]
        if best:
            self.screen.say(f"\nbest weights: step {best[-1]['step']:,}, epoch {best[-1]['epoch']}")
        return lines, best[-1] if best else None

    def pretrained(self) -> None:
        """Print the perplexity of a language model's best weights and how to use them."""
        _, best = self.history()
        if best is not None:
            found = f"perplexity {best['perplexity']:,.1f} on {best['targets']:,} tokens of {best['rows']:,} rows"
            self.screen.say(found)
        self.screen.say(f"a classifier starts from them with --init.weights {self.directory}")

    def close(self, ending: Ending) -> None:
        """Print where the results are, or how to resume."""
        self.screen.end()
        if ending.state == "preempted":
            self.say(f"stopped at step {ending.step:,}: {ending.reason}; the same command goes on from here")
        if ending.state != "finished":
            return
        names = (layout.BUNDLE, figures_name(TEST), predictions_name(TEST), layout.REPORT)
        there = ", ".join(name for name in names if (self.directory / name).exists())
        took = duration(time.monotonic() - self.started)
        self.screen.say(f"\nfinished in {took}; {self.directory} has {there}", "good")


def facts(config: RunConfig, manifest: Manifest, total_steps: int) -> dict[str, str]:
    """Run, dataset and model, as lines by title."""
    shape, tokens, classifies = config.model, config.global_batch_tokens, config.task == CLASSIFIER
    rows = ", ".join(f"{name} {manifest.rows(name):,}" for name in manifest.splits)
    fold = "" if config.fold is None else f"; fold {config.fold} of {manifest.folds} is the validation"
    found = {
        "run": f"{config.run}, seed {config.seed}",
        "data": f"{config.data} ({rows} rows; vocabulary {manifest.vocabulary_size:,}){fold}",
    }
    if classifies:
        found["classes"] = in_words(class_rows(manifest, TRAIN))
    cell = ("Bi" if shape.bidirectional else "") + shape.cell.upper()
    pooling = f", {shape.pooling} pooling" if classifies else ""
    size = f"{config.global_batch} rows" if tokens is None else f"at most {tokens:,} tokens, padding included"
    found["model"] = (
        f"{shape.num_layers}-layer {cell} {shape.embedding_dim}→{shape.hidden_size}{pooling}, "
        f"{parameters_of(config, manifest):,} parameters"
    )
    found["steps"] = f"{total_steps:,} of {size}, {total_steps // config.epochs:,} an epoch"
    if classifies:
        return found | {"best epoch": f"the one with the {BEST[config.select]} on validation, marked {MARK}"}
    among = f"{config.language_model.candidates:,} candidates a step"
    return found | {"task": f"language model: each direction predicts its next token, among {among}"}
