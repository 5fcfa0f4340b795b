# SPDX-License-Identifier: Apache-2.0
"""What rank 0 prints: what runs on what and why, one line per log step, where everything lies. Plain lines, flushed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from harness.config import RunConfig
from harness.data.checks import TEST
from harness.inference.evaluation import describe
from harness.model.size import num_parameters
from harness.ranks.precision import Choice
from harness.rundir import layout
from harness.rundir.results import figures_name, predictions_name
from harness.training.probe import Rehearsal
from harness.training.sinks import Ending, Sink
from preprocessing.base.readable import duration
from preprocessing.dataset.shards import Manifest


class Console(Sink):
    """Readable in a terminal and in a job's log file: no cursor movement, no colours."""

    def __init__(self, directory: Path, total_steps: int, first_step: int = 0) -> None:
        """``total_steps`` and the step that this start goes on from are what the time left is computed from."""
        self.directory = directory
        self.total_steps, self.first_step = total_steps, first_step
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line at once."""
        print(text, flush=True)

    def start(self, config: RunConfig, manifest: Manifest, choices: dict[str, Choice]) -> None:
        """What is trained, on what, with which settings and why."""
        rows = ", ".join(f"{name} {manifest.rows(name):,}" for name in manifest.splits)
        shape = config.model
        parameters = num_parameters(shape, manifest.vocabulary_size, len(manifest.labels))
        direction = ("Bi" if shape.bidirectional else "") + shape.cell.upper()
        self.say(f"run        {config.run}, seed {config.seed}")
        self.say(f"data       {config.data} ({rows} rows; vocabulary {manifest.vocabulary_size:,})")
        self.say(
            f"model      {shape.num_layers}-layer {direction} {shape.embedding_dim}→{shape.hidden_size}, "
            f"{shape.pooling} pooling, {parameters:,} parameters"
        )
        tokens = config.global_batch_tokens
        size = f"{config.global_batch} rows" if tokens is None else f"at most {tokens:,} tokens, padding included"
        self.say(f"steps      {self.total_steps:,} of {size}, {config.epochs} epochs")
        for name, choice in choices.items():
            self.say(f"{name:<10} {choice}")

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """One log line, or one validation; the test has more to say than its figures."""
        if kind == "train":
            self.step_line(values)
        elif kind == "validation":
            best = " (best so far)" if values["best"] else ""
            self.say(f"epoch {values['epoch']} validation: {describe(values)}{best}")

    def step_line(self, figures: dict[str, Any]) -> None:
        """What was learned since the last line, and how fast."""
        step = figures["step"]
        left = (time.monotonic() - self.started) / (step - self.first_step) * (self.total_steps - step)
        self.say(
            f"step {step:>6,}/{self.total_steps:,}  epoch {figures['epoch']:5.2f}  loss {figures['loss']:.4f}  "
            f"lr {figures['lr']:.2e}  {figures['tokens_per_s']:>9,.0f} tokens/s  padding {figures['padding']:5.1%}  "
            f"data wait {figures['data_wait']:4.1%}  {utilisation(figures['mfu'])}{duration(left)} left"
        )
        if figures["verdict"]:
            self.say(f"  note: {figures['verdict']}")

    def rehearsal(self, cost: Rehearsal, tokens: int) -> None:
        """What a dry run found; ``tokens`` per process in a full run."""
        self.say(f"dry run    longest step ({cost.rows} rows): {cost.step_s * 1e3:,.0f} ms")
        self.say(f"memory     {cost.memory_bytes / 2**20:,.0f} MiB at most in one process")
        self.say(f"full run   about {duration(cost.full_run_s(tokens))} of training ({self.total_steps:,} steps)")

    def close(self, ending: Ending) -> None:
        """Where everything lies, or how to go on."""
        if ending.state == "preempted":
            self.say(f"stopped at step {ending.step:,}: {ending.reason}; the same command goes on from here")
        if ending.state != "finished":
            return
        self.say(f"finished in {duration(time.monotonic() - self.started)}; in {self.directory}:")
        for name, what in (
            (layout.BUNDLE, "best weights, vocabulary and text pipeline, for predict"),
            (figures_name(TEST), f"test metrics; {predictions_name(TEST)} has every row"),
            (layout.REPORT, "all of it to look at"),
            (layout.METRICS, "every log line"),
            (layout.CONFIG, f"the resolved configuration; {layout.ENVIRONMENT} says what it ran on"),
        ):
            if (self.directory / name).exists():
                self.say(f"  {name:<14} {what}")


def utilisation(mfu: float | None) -> str:
    """Share of the device's measured peak that the recurrent layers used, where the peak is known."""
    return "" if mfu is None else f"mfu {mfu:4.0%}  "
