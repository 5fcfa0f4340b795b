# SPDX-License-Identifier: Apache-2.0
"""``train``: real tokens/s of a training step, compared with a plain PyTorch loop.

The other loop runs in a separate process, without padless's process settings.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.measuring import BenchmarkConfig, Size, alternate, print_result
from harness.batch import StepBatch
from harness.config import ModelConfig, RunConfig, TrackingConfig
from harness.data.loader import open_data
from harness.distributed.precision import configure_threads, set_tf32
from harness.distributed.session import Session, open_session
from harness.training.assembly import build_trainer
from harness.training.throughput import synchronize
from padless.core.split_names import TRAIN
from preprocessing.dataset.shards import Split, read_manifest
from preprocessing.text.vocabulary import PAD

TURN_LIMIT_S = 600


@dataclass(frozen=True, kw_only=True)
class TrainBenchmark(BenchmarkConfig):
    """Training steps on the rows of a dataset: same model, rows and precision for every contender."""

    data: str
    """Dataset directory; its training split is used. The padded loop pads every row to the widest shard."""
    embedding_dim: Size = 128
    """Numbers per token."""
    hidden_size: Size = 128
    """Units of each direction of the one bidirectional layer."""
    batch: Size = 64
    """Rows per step."""
    steps: Size = 8
    """Steps per contender and turn."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of ours, and by autocast of the other, whose fp32 is TF32 on CUDA, as in notebooks."""


def main(config: TrainBenchmark) -> None:
    """Measure ours and a loop that pads every row to the maximum."""
    log = TrackingConfig(log_every=config.steps)
    model = ModelConfig(embedding_dim=config.embedding_dim, hidden_size=config.hidden_size)
    run = RunConfig(data=config.data, model=model, global_batch=config.batch, epochs=1_000_000, tracking=log)
    with ExitStack() as stack:
        session = stack.enter_context(open_session("auto", config.precision, 600))
        contenders: dict[str, Callable[[], float]] = {"ours": Fit(run, session)}
        pool = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
        words = (run, session.device.type, config.precision, config.steps)
        contenders["padded to the maximum, random order"] = functools.partial(run_turn, pool, *words)
        seconds = alternate(contenders, config.rounds)
        speeds = {name: 1 / median for name, median in seconds.items()}
        print_result(config, "tokens/s", speeds, precision=config.precision)


class Fit:
    """The loop of a training, one log line per turn."""

    def __init__(self, config: RunConfig, session: Session) -> None:
        """Start at step 0, like a run of one process."""
        manifest = read_manifest(config.data)
        data = open_data(config.data, manifest, [TRAIN])
        self.trainer = build_trainer(config, session, data, {}, {})
        self.batches = self.endless_batches()
        self.turn_ended = time.perf_counter()

    def endless_batches(self) -> Iterator[StepBatch]:
        """Epoch after epoch."""
        while True:
            yield from self.trainer.batches()
            self.trainer.epochs_done += 1

    def __call__(self) -> float:
        """Train until the next log line; returns seconds per real token."""
        trainer = self.trainer
        trainer.meter.started += time.perf_counter() - self.turn_ended
        for batch in itertools.islice(self.batches, trainer.config.tracking.log_every):
            trainer.update(batch)
        tokens_per_s = float(trainer.begin_figures()()["tokens_per_s"])
        self.turn_ended = time.perf_counter()
        return 1 / tokens_per_s


def run_turn(pool: ProcessPoolExecutor, *words: Any) -> float:
    """Run a turn of another loop in its process; returns seconds per real token, or raises the process's exception."""
    return pool.submit(turn_of_loop, *words).result(TURN_LIMIT_S)


LOOPS: dict[str, Loop] = {}
"""The loop of this process by its precision, created at first use."""


def turn_of_loop(run: RunConfig, device: str, precision: str, steps: int) -> float:
    """Run in the separate process: seconds per real token of a turn."""
    if precision not in LOOPS:
        configure_threads(device)
        set_tf32(True)  # as notebooks allow it; ours computes in fp32 proper unless tf32 is set
        LOOPS[precision] = Loop(run, torch.device(device), bf16=precision == "bf16")
    loop = LOOPS[precision]
    synchronize(loop.device)
    started = time.perf_counter()
    tokens = loop(steps)
    synchronize(loop.device)
    return (time.perf_counter() - started) / tokens


class Loop:
    """A plain PyTorch loop: rows in random order, padded to the maximum, all rows in memory."""

    def __init__(self, config: RunConfig, device: torch.device, *, bf16: bool) -> None:
        """Torch's modules with the sizes of ``config``, on at most 16,384 evenly spaced rows of its dataset."""
        torch.manual_seed(0)
        self.config, self.device, self.bf16 = config, device, bf16
        manifest = read_manifest(config.data)
        split = Split(config.data, manifest, TRAIN)
        step = -(-len(split) // 16_384)
        ids_by_block = [block.ids[::step] for block in split.blocks]
        whole_ids = [np.pad(ids, ((0, 0), (0, split.max_width - ids.shape[1]))) for ids in ids_by_block]
        lengths = np.concatenate([block.length[::step] for block in split.blocks])
        labels = np.concatenate([block.label[::step] for block in split.blocks])
        self.ids = torch.from_numpy(np.concatenate(whole_ids).astype(np.int64)).to(device)
        self.lengths = torch.from_numpy(lengths.astype(np.int64))
        self.labels = torch.from_numpy((labels > 0).astype(np.float32)).to(device)
        shape = config.model
        self.embedding = nn.Embedding(manifest.vocabulary_size, shape.embedding_dim, padding_idx=PAD)
        self.lstm = nn.LSTM(shape.embedding_dim, shape.hidden_size, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * shape.hidden_size, 1)
        self.model = nn.ModuleList([self.embedding, self.lstm, self.head]).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.remaining = torch.empty(0, dtype=torch.int64)
        """Remaining rows of the epoch."""

    def __call__(self, steps: int) -> int:
        """Train for ``steps`` steps; returns their number of real tokens."""
        tokens = 0
        for _ in range(steps):
            if len(self.remaining) < self.config.global_batch:
                self.remaining = torch.randperm(len(self.lengths))
            rows, self.remaining = self.remaining.tensor_split([self.config.global_batch])
            tokens += int(self.lengths[rows].sum())
            self.optimizer.zero_grad()
            self.loss(rows).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        return tokens

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        """The loss of a batch, whose maximum is taken over padding too."""
        embedded = self.embedding(self.ids[rows.to(self.device)])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.head(self.lstm(embedded)[0].amax(1)).squeeze(1).float()
        return functional.binary_cross_entropy_with_logits(logits, self.labels[rows])
