# SPDX-License-Identifier: Apache-2.0
"""``bench train``: real tokens/s of a training step, ours beside the loops that people write today."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from harness.batch import StepBatch
from harness.bench import recurrence, result, short, show
from harness.bench.loops import Apart, LoopConfig
from harness.bench.trainers import real_trainer
from harness.config import RunConfig
from harness.data.checks import TRAIN
from harness.ranks.session import Session, open_session
from harness.training.flops import flops_per_token, measure_peak, synchronize
from preprocessing.base.errors import ConfigError
from preprocessing.dataset.shards import Manifest, Split, read_manifest


@dataclass(frozen=True, kw_only=True)
class TrainBenchConfig(LoopConfig):
    """Training steps on the rows of a dataset: same model, rows and precision for every contender."""

    table: bool = False
    """Also compare the packed with the reversal path for a range of hidden sizes, batches and precisions."""
    json: bool = False
    """Print JSON instead of a table."""


PACKED_LOOP = "packed loop (random order)"
Turn = Callable[[int], tuple[int, float]]
"""Runs one turn, given its number; the real tokens that it trained on, and seconds."""


def main(config: TrainBenchConfig) -> None:
    """Measure and print."""
    show(measure(config), as_json=config.json)


def measure(config: TrainBenchConfig) -> dict[str, Any]:
    """Ours, the notebook's padded loop and a packed random-order loop; for ours also padding and data wait.

    The other loops run in processes of their own: nothing that padless sets for a process is theirs. ``short_texts`` is
    ``short.measure``'s result, of the same form.
    """
    manifest = read_manifest(config.data)
    split = Split(config.data, manifest, TRAIN)
    with ExitStack() as stack:
        session = stack.enter_context(open_session("auto", config.precision, 600))
        ours = Ours(config, session, split, manifest)

        def turn(number: int) -> tuple[int, float]:
            synchronize(session.device)
            started = time.perf_counter()
            tokens = ours.turn(number)
            synchronize(session.device)
            return tokens, time.perf_counter() - started

        contenders: dict[str, Turn] = {"ours": turn}
        for name, packed in (("notebook loop (padded to the maximum, random order)", False), (PACKED_LOOP, True)):
            contenders[name] = stack.enter_context(Apart(config, session.device.type, packed)).turn
        speeds = tokens_per_second(contenders, config.rounds)
        values = result("tokens/s", speeds)
        values["ours_details"] = ours.details(speeds["ours"])
        values["precision"] = config.precision
        values["short_texts"] = short.measure(session, config.model, config.rounds)
        if config.table:
            values["table"] = packed_against_reversal(session.device)
    return values


def tokens_per_second(contenders: dict[str, Turn], rounds: int) -> dict[str, float]:
    """Median real tokens/s over alternating turns, after one that does not count."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, turn in contenders.items():
            tokens, seconds = turn(number)
            if number:
                speeds[name].append(tokens / seconds)
    return {name: statistics.median(values) for name, values in speeds.items()}


class Ours:
    """The real trainer, loader and order, on rows up to the maximum length."""

    def __init__(self, config: TrainBenchConfig, session: Session, split: Split, manifest: Manifest) -> None:
        """Everything as in a run of one process."""
        run = RunConfig(data=config.data, model=config.model, global_batch=config.batch, epochs=1000)
        self.config, self.wait_s, self.seconds = config, 0.0, 0.0
        self.tokens = self.padded_tokens = 0
        self.peak = measure_peak(session.device, config.precision)
        self.flops = flops_per_token(config.model)
        self.trainer = real_trainer(run, session, split, manifest)
        self.steps = self._steps()

    def _steps(self) -> Iterator[StepBatch]:
        """Steps of epoch after epoch, without those that hold a row beyond the maximum length."""
        limit = self.config.max_length
        for epoch in itertools.count():
            found = False
            for batch in self.trainer.loader.steps(epoch):
                if all(int(micro.lengths[0]) <= limit for micro in batch.micro_batches):
                    found = True
                    yield batch
            if not found:
                raise ConfigError(f"max_length: {limit}: no step of {self.config.data} holds only rows that short")

    def turn(self, number: int) -> int:
        """Some steps of the real loop, with its waits."""
        tokens = 0
        started = time.perf_counter()
        for batch in itertools.islice(self.steps, self.config.steps):
            self.trainer.update(batch)
            self.wait_s += batch.wait_s if number else 0.0
            tokens += sum(micro.num_tokens for micro in batch.micro_batches)
            self.padded_tokens += sum(micro.num_padded_tokens for micro in batch.micro_batches)
        self.tokens += tokens
        self.seconds += time.perf_counter() - started if number else 0.0
        return tokens

    def details(self, speed: float) -> dict[str, float]:
        """Padding, data wait and utilisation of the measured peak."""
        return {
            "padding": 1 - self.tokens / self.padded_tokens,
            "data_wait": self.wait_s / self.seconds,
            "mfu": self.flops * speed / self.peak,
            "peak_gflops": self.peak / 1e9,
        }


def packed_against_reversal(device: torch.device) -> list[dict[str, Any]]:
    """Tokens/s of both recurrent paths for a range of hidden sizes, batches and precisions on this device."""
    on_cuda = device.type == "cuda"
    sizes, batches = ((128, 256, 512, 1024), (256, 1024, 4096)) if on_cuda else ((64, 128, 256), (16, 64, 128))
    lines = []
    for hidden_size in sizes:
        for batch in batches:
            for precision in ("fp32", "bf16"):
                shape: dict[str, Any] = {"hidden_size": hidden_size, "batch": batch, "precision": precision}
                try:
                    measured = recurrence.measure(recurrence.RecurrenceConfig(rounds=3, **shape))
                except torch.OutOfMemoryError:
                    lines.append({**shape, "reversal": None, "packed": None})
                    torch.cuda.empty_cache()
                    continue
                packed = measured["peers"]["pack_padded_sequence"]
                lines.append({**shape, "reversal": measured["ours"], "packed": packed})
    return lines
