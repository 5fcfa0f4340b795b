# SPDX-License-Identifier: Apache-2.0
"""``bench train`` on short texts: where a step is small, all that surrounds its arithmetic shows.

Both contenders train on one thread of this process, which has padless's memory setting (``harness.ranks.allocator``):
that helps the other loop as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from harness.bench import alternate, result
from harness.bench.trainers import real_trainer
from harness.config import ModelConfig, OptimConfig, RunConfig
from harness.data.checks import TRAIN
from harness.ranks.session import Session
from harness.training.flops import synchronize
from harness.training.requests import RankRequests
from harness.training.trainer import Milestones, Trainer
from preprocessing.dataset.shards import Manifest, Split, write_shard
from preprocessing.text.vocabulary import PAD, UNK

ROWS, SHORTEST, LONGEST, VOCABULARY, BATCH = 4096, 8, 12, 4000, 32
TURN_STEPS = 64
PADDED, PACKED = "plain loop (padded)", "plain loop (packed)"


def measure(session: Session, shape: ModelConfig, rounds: int, steps: int = TURN_STEPS) -> dict[str, Any]:
    """Steps/s of 32 made-up texts of about ten tokens: ours, with all that ``fit`` does, and the plain loops.

    The network has the sizes of ``shape``, maximum and mean pooling, dropout and word dropout; gradients are clipped
    and weights averaged.
    """
    model = replace(shape, embedding_std=0.1, pooling="max+mean", dropout=0.5, word_dropout=0.15)
    config = RunConfig(epochs=1_000_000, global_batch=BATCH, model=model, optim=OptimConfig(ema=0.995))
    with tempfile.TemporaryDirectory() as folder, one_thread():
        manifest = made_up(Path(folder))
        split = Split(folder, manifest, TRAIN)
        contenders: dict[str, Callable[[int], None]] = {"ours": Fit(real_trainer(config, session, split, manifest))}
        for name, packed in ((PADDED, False), (PACKED, True)):
            contenders[name] = PlainLoop(config, session, split, packed=packed)

        def turn(train: Callable[[int], None]) -> Callable[[], None]:
            def run() -> None:
                train(steps)
                synchronize(session.device)

            return run

        seconds = alternate({name: turn(train) for name, train in contenders.items()}, rounds)
        return result("steps/s", {name: steps / median for name, median in seconds.items()})


@contextmanager
def one_thread() -> Iterator[None]:
    """What runs in the block on a CPU has one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def made_up(root: Path) -> Manifest:
    """Random rows of 8 to 12 tokens, of which some are frequent."""
    random = np.random.default_rng(0)
    ids = np.minimum(random.zipf(1.2, (ROWS, LONGEST)) + UNK, VOCABULARY - 1).astype(np.uint16)
    lengths = random.integers(SHORTEST, LONGEST + 1, ROWS)
    ids[np.arange(LONGEST) >= lengths[:, None]] = PAD
    info = write_shard(root, f"{TRAIN}/00000-w{LONGEST:04d}.arrow", ids, lengths, lengths % 2, np.arange(ROWS))
    facts = {"vocabulary_hash": "", "text": {}, "text_hash": ""}
    return Manifest(["0", "1"], {TRAIN: [info]}, "uint16", 8192, VOCABULARY, **facts)  # type: ignore[arg-type]


class TurnOverError(Exception):
    """Leaves the loop of the trainer between two steps."""


class Fit(Milestones):
    """The trainer's own loop, a number of steps at a time, with the requests that travel between ranks in a run."""

    def __init__(self, trainer: Trainer) -> None:
        """At step 0."""
        self.trainer, self.requests, self.left = trainer, RankRequests(trainer.world), 0
        trainer.milestones = self

    def __call__(self, steps: int) -> None:
        """Train for some steps."""
        self.left = steps
        try:
            self.trainer.fit()
        except TurnOverError:
            return

    def after_step(self) -> None:
        """Hear and say nothing, and leave after the last step."""
        self.requests.receive()
        self.requests.send(set(), self.trainer.step)
        self.left -= 1
        if not self.left:
            raise TurnOverError


class PlainLoop:
    """What one writes with torch alone: rows in random order, padded to the longest of the batch or packed."""

    def __init__(self, config: RunConfig, session: Session, split: Split, *, packed: bool) -> None:
        """All rows as tensors in memory; the same network, clipping, optimizer and average as ours."""
        torch.manual_seed(0)
        self.packed, self.device, self.config = packed, session.device, config
        self.bf16 = session.arithmetic == "bf16"
        (block,) = split.blocks
        self.ids = torch.from_numpy(block.ids.astype(np.int64)).to(self.device)
        self.lengths = torch.from_numpy(block.length.astype(np.int64))
        self.labels = torch.from_numpy(block.label.astype(np.float32)).to(self.device)
        shape = config.model
        options: dict[str, Any] = {"batch_first": True, "bidirectional": shape.bidirectional}
        self.embedding = nn.Embedding(VOCABULARY, shape.embedding_dim, padding_idx=PAD)
        self.lstm = nn.LSTM(shape.embedding_dim, shape.hidden_size, shape.num_layers, **options)
        self.head = nn.Linear(shape.hidden_size * (4 if shape.bidirectional else 2), 1)
        parts = nn.ModuleList([self.embedding, self.lstm, self.head]).to(self.device)
        self.parameters = list(parts.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3, weight_decay=0.0, fused=True)
        self.waiting = torch.empty(0, dtype=torch.int64)
        """Rows of the epoch that are still to come."""
        self.step = 0

    def __call__(self, steps: int) -> None:
        """Train for some steps; the loss is read as often as our log lines are written."""
        for _ in range(steps):
            if len(self.waiting) < BATCH:
                self.waiting = torch.randperm(len(self.lengths))
            rows, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
            loss = self._loss(rows)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            for group in self.optimizer.param_groups:
                group["lr"] = 1e-3 * (1 - self.step / 1e6)
            self.optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.average, list[torch.Tensor](self.parameters), 0.005)
            self.step += 1
            if self.step % self.config.tracking.log_every == 0:
                loss.item()

    def _loss(self, rows: torch.Tensor) -> torch.Tensor:
        lengths, shape = self.lengths[rows], self.config.model
        on_device, there = rows.to(self.device), lengths.to(self.device)
        ids = self.ids[on_device, : int(lengths.max())]
        ids = ids.masked_fill(torch.rand(ids.shape, device=self.device) < shape.word_dropout, UNK)
        embedded = self.embedding(ids)
        embedded = embedded * functional.dropout(torch.ones_like(embedded[:, :1]), shape.dropout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            if self.packed:
                sequence = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
                outputs = pad_packed_sequence(self.lstm(sequence)[0], batch_first=True)[0]
            else:
                outputs = self.lstm(embedded)[0]
        outputs = outputs.float()
        real = (torch.arange(outputs.shape[1], device=self.device) < there[:, None])[:, :, None]
        maximum = outputs.masked_fill(~real, -torch.inf).amax(1)
        mean = (outputs * real).sum(1) / there[:, None]
        pooled = functional.dropout(torch.cat((maximum, mean), 1), shape.dropout)
        return functional.binary_cross_entropy_with_logits(self.head(pooled).squeeze(1), self.labels[rows])
