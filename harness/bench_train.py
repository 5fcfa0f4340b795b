# SPDX-License-Identifier: Apache-2.0
"""``bench train``: real tokens/s of a training step, ours beside the loops that people write today."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.config import ModelConfig, RunConfig, require
from preprocessing.errors import ConfigError

if TYPE_CHECKING:
    from harness.session import Session
    from preprocessing.shards import Manifest, Split


@dataclass(frozen=True, kw_only=True)
class TrainBenchConfig:
    """Training steps on the rows of a dataset: same model, rows and precision for every contender."""

    data: str
    """Dataset directory; its training split is used."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network:"""
    batch: int = 64
    """Rows per step."""
    max_length: int = 400
    """Rows longer than this are left out; the padded loop pads every row to it."""
    steps: int = 8
    """Steps per contender and turn."""
    rounds: int = 5
    """Turns of each contender; the median counts."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic, by autocast; a packed LSTM on a CPU stays in fp32 whatever this says."""
    table: bool = False
    """Also compare the packed with the reversal path for a range of hidden sizes, batches and precisions."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("batch", "max_length", "steps", "rounds"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        shape, plain = self.model, ModelConfig()
        for name in ("pooling", "dropout", "word_dropout", "embedding_std"):
            value, only = getattr(shape, name), getattr(plain, name)
            require(value == only, f"model.{name}", value, f"{only!r}, which is all that the other loops know")


Turn = Callable[[int], int]
"""Runs one turn, given its number, and returns the real tokens that it trained on."""


def bench_train(config: TrainBenchConfig) -> dict[str, Any]:
    """Ours, the notebook's padded loop and a packed random-order loop; for ours also padding and data wait."""
    from harness.bench import result
    from harness.checks import TRAIN
    from harness.session import open_session
    from preprocessing.shards import Split, read_manifest

    manifest = read_manifest(config.data)
    split = Split(config.data, manifest, TRAIN)
    with open_session("auto", config.precision, 600) as session:
        ours = Ours(config, session, split, manifest)
        rows = random_rows(config, split)
        contenders: dict[str, Turn] = {
            "ours": ours.turn,
            "notebook loop (padded to the maximum, random order)": Plain(
                config, session, split, manifest, rows, False
            ).turn,
            "packed loop (random order)": Plain(config, session, split, manifest, rows, True).turn,
        }
        speeds = tokens_per_second(contenders, config.rounds, session)
        values = result("tokens/s", speeds)
        values["ours_details"] = ours.details(speeds["ours"])
        values["precision"] = config.precision
        if config.table:
            values["table"] = packed_against_reversal(session)
    return values


def tokens_per_second(contenders: dict[str, Turn], rounds: int, session: Session) -> dict[str, float]:
    """Median real tokens/s over alternating turns, after one that does not count."""
    from harness.flops import synchronize

    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, turn in contenders.items():
            synchronize(session.device)
            started = time.perf_counter()
            tokens = turn(number)
            synchronize(session.device)
            if number:
                speeds[name].append(tokens / (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in speeds.items()}


class Ours:
    """The real trainer, loader and order, on rows up to the maximum length."""

    def __init__(self, config: TrainBenchConfig, session: Session, split: Split, manifest: Manifest) -> None:
        """Everything as in a run of one process."""
        import tempfile
        from pathlib import Path

        import torch

        from harness.data.loader import Loader
        from harness.data.order import OrderSpec, order_over
        from harness.flops import flops_per_token, measure_peak
        from harness.guard import NanGuard
        from harness.model import Classifier, Objective
        from harness.profiling import StepProfiler
        from harness.throughput import Meter
        from harness.trainer import Trainer

        run = RunConfig(model=config.model, global_batch=config.batch, epochs=1000)
        self.config, self.wait_s, self.seconds = config, 0.0, 0.0
        self.tokens = self.cells = 0
        self.peak = measure_peak(session.device, config.precision)
        self.flops = flops_per_token(config.model)
        order = order_over(split, OrderSpec(seed=0, global_batch=config.batch))
        loader = Loader(split, order, rank=0, world_size=1, layout=session.layout, device=session.device)
        torch.manual_seed(0)
        classifier = Classifier(config.model, manifest.vocabulary_size, len(manifest.labels)).to(session.device)
        scratch = Path(tempfile.gettempdir())
        self.trainer = Trainer(
            run,
            Objective(classifier),
            loader,
            session.accelerator,
            session.world,
            guard=NanGuard(3, session.world, scratch, split, Path(config.data), len(manifest.labels)),
            meter=Meter(session.device),
            profiler=StepProfiler([], scratch),
        )
        self.steps = self._steps()

    def _steps(self) -> Iterator[Any]:
        """Steps of epoch after epoch, without those that hold a row beyond the maximum length."""
        for epoch in range(1000):
            yield from self.trainer.loader.steps(epoch)

    def turn(self, number: int) -> int:
        """Some steps of the real loop, with its waits."""
        tokens, done = 0, 0
        started = time.perf_counter()
        for batch in self.steps:
            if any(int(micro.lengths.max()) > self.config.max_length for micro in batch.micro_batches):
                continue
            self.trainer.update(batch)
            self.wait_s += batch.wait_s if number else 0.0
            tokens += sum(micro.num_tokens for micro in batch.micro_batches)
            self.cells += sum(micro.num_cells for micro in batch.micro_batches)
            done += 1
            if done == self.config.steps:
                break
        self.tokens += tokens
        self.seconds += time.perf_counter() - started if number else 0.0
        return tokens

    def details(self, speed: float) -> dict[str, float]:
        """Padding, data wait and utilisation of the measured peak."""
        return {
            "padding": 1 - self.tokens / self.cells,
            "data_wait": self.wait_s / self.seconds,
            "mfu": self.flops * speed / self.peak,
            "peak_gflops": self.peak / 1e9,
        }


def random_rows(config: TrainBenchConfig, split: Split) -> list[list[tuple[np.ndarray, int]]]:
    """Batches of (ids, label) in random order: as many as the plain loops will ever train on."""
    places = [
        (number, row)
        for number, block in enumerate(split.blocks)
        for row in np.flatnonzero(block.length <= config.max_length).tolist()
    ]
    wanted = config.batch * config.steps * (config.rounds + 1)
    if not places:
        raise ConfigError(f"max_length: {config.max_length}: no row of {config.data} is that short")
    picked = np.random.default_rng(0).choice(len(places), wanted, replace=len(places) < wanted)
    rows = []
    for place in picked:
        number, row = places[place]
        block = split.blocks[number]
        rows.append((block.ids[row, : block.length[row]].astype(np.int64), int(block.label[row])))
    return [rows[start : start + config.batch] for start in range(0, wanted, config.batch)]


class Plain:
    """What people write: random order, every batch ready in memory; padded to the maximum, or packed."""

    def __init__(
        self,
        config: TrainBenchConfig,
        session: Session,
        split: Split,
        manifest: Manifest,
        batches: list[list[tuple[np.ndarray, int]]],
        packed: bool,
    ) -> None:
        """The same sizes as ours, built from torch's own modules."""
        import torch
        from torch import nn

        torch.manual_seed(0)
        shape = config.model
        self.config, self.batches, self.packed = config, batches, packed
        self.device = session.device
        directions = 2 if shape.bidirectional else 1
        self.embedding = nn.Embedding(manifest.vocabulary_size, shape.embedding_dim, padding_idx=0)
        self.lstm = nn.LSTM(
            shape.embedding_dim,
            shape.hidden_size,
            shape.num_layers,
            batch_first=True,
            bidirectional=shape.bidirectional,
        )
        self.head = nn.Linear(shape.hidden_size * directions, 1)
        self.model = nn.ModuleList([self.embedding, self.lstm, self.head]).to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def turn(self, number: int) -> int:
        """Some steps: forward, backward, Adam."""
        tokens = 0
        for batch in self.batches[number * self.config.steps : (number + 1) * self.config.steps]:
            tokens += sum(len(ids) for ids, _ in batch)
            self._step(batch)
        return tokens

    def _step(self, batch: list[tuple[np.ndarray, int]]) -> None:
        import torch
        from torch.nn import functional
        from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

        longest = max(len(ids) for ids, _ in batch) if self.packed else self.config.max_length
        padded = np.zeros((len(batch), longest), np.int64)
        for place, (ids, _) in enumerate(batch):
            padded[place, : len(ids)] = ids
        inputs = torch.from_numpy(padded).to(self.device)
        labels = torch.tensor([float(label > 0) for _, label in batch], device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            embedded = self.embedding(inputs)
            if self.packed:
                lengths = torch.tensor([len(ids) for ids, _ in batch])
                sequence = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
                outputs = pad_packed_sequence(self.lstm(sequence)[0], batch_first=True, padding_value=-1e4)[0]
            else:
                outputs = self.lstm(embedded)[0]
            logits = self.head(outputs.amax(1)).squeeze(1).float()
        loss = functional.binary_cross_entropy_with_logits(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()


def packed_against_reversal(session: Session) -> list[dict[str, Any]]:
    """Tokens/s of both recurrent paths for a range of hidden sizes, batches and precisions on this device."""
    from harness.bench import RecurrenceConfig, recurrence

    on_cuda = session.device.type == "cuda"
    sizes, batches = ((128, 256, 512, 1024), (256, 1024, 4096)) if on_cuda else ((64, 128, 256), (16, 64, 128))
    lines = []
    for hidden_size in sizes:
        for batch in batches:
            for precision in ("fp32", "bf16"):
                shape: dict[str, Any] = {"hidden_size": hidden_size, "batch": batch, "precision": precision}
                measured = recurrence(RecurrenceConfig(rounds=3, **shape))
                packed = measured["peers"]["pack_padded_sequence"]
                lines.append({**shape, "reversal": measured["ours"], "packed": packed})
    return lines


def render_table(lines: list[dict[str, Any]]) -> str:
    """The comparison of the two paths, a line each."""
    head = f"{'hidden':>6} {'batch':>6} {'precision':>10} {'packed':>12} {'reversal':>12} {'reversal / packed':>18}"
    return "\n".join(
        [head]
        + [
            f"{line['hidden_size']:>6} {line['batch']:>6} {line['precision']:>10} {line['packed']:>12,.0f} "
            f"{line['reversal']:>12,.0f} {line['reversal'] / line['packed']:>18.2f}"
            for line in lines
        ]
    )
