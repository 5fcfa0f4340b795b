# SPDX-License-Identifier: Apache-2.0
"""The training loops that people write today, for ``bench train``, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from harness.bench import check_sizes
from harness.config import ModelConfig, require
from harness.data.checks import TRAIN
from harness.ranks.precision import configure_threads, full_fp32
from harness.training.flops import synchronize
from preprocessing.base.errors import ConfigError
from preprocessing.dataset.shards import Split, read_manifest

TURN_LIMIT_S = 600


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What every training loop of ``bench train`` runs on: rows, network and arithmetic."""

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

    def __post_init__(self) -> None:
        """Check ranges."""
        check_sizes(self, "batch", "max_length", "steps", "rounds")
        shape, plain = self.model, ModelConfig()
        for name in ("cell", "pooling", "dropout", "word_dropout", "embedding_std", "freeze_embedding", "wide"):
            value, only = getattr(shape, name), getattr(plain, name)
            require(value == only, f"model.{name}", value, f"{only!r}, which is all that the other loops know")


class Apart:
    """A loop in a process that knows nothing of padless but its bench; it rests while others take their turn."""

    def __init__(self, config: LoopConfig, device: str, packed: bool) -> None:
        """Start it; entering the context waits until it is ready."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, config, device, packed), daemon=True)
        self.process.start()
        theirs.close()

    def turn(self, number: int) -> tuple[int, float]:
        """Real tokens and seconds of a turn, as that process measured them. Raises what it raised."""
        self.connection.send(number)
        return self._answer()

    def _answer(self) -> tuple[int, float]:
        if not self.connection.poll(TURN_LIMIT_S):
            raise TimeoutError(f"no answer from a loop of the bench in {TURN_LIMIT_S} s")
        answer = self.connection.recv()  # cannot hang: polled
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def __enter__(self) -> Apart:
        try:
            self._answer()
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.join(TURN_LIMIT_S)


def serve(connection: Connection, config: LoopConfig, device: str, packed: bool) -> None:
    """Answer every turn's number with its tokens and seconds, until killed."""
    try:
        configure_threads(device)
        full_fp32()
        manifest = read_manifest(config.data)
        batches = random_rows(config, Split(config.data, manifest, TRAIN))
        loop = Plain(config, torch.device(device), manifest.vocabulary_size, batches, packed)
        connection.send((0, 0.0))
        while True:
            number = connection.recv()  # cannot hang: ends with EOFError when the bench does
            synchronize(loop.device)
            started = time.perf_counter()
            tokens = loop.turn(number)
            synchronize(loop.device)
            connection.send((tokens, time.perf_counter() - started))
    except EOFError:
        return  # nobody asks any more
    except Exception as error:  # handed over, to be raised where somebody reads it
        connection.send(error)


def random_rows(config: LoopConfig, split: Split) -> list[list[tuple[np.ndarray, int]]]:
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
        config: LoopConfig,
        device: torch.device,
        vocabulary_size: int,
        batches: list[list[tuple[np.ndarray, int]]],
        packed: bool,
    ) -> None:
        """The same sizes as ours, built from torch's own modules."""
        torch.manual_seed(0)
        shape = config.model
        self.config, self.batches, self.packed = config, batches, packed
        self.device = device
        directions = 2 if shape.bidirectional else 1
        self.embedding = nn.Embedding(vocabulary_size, shape.embedding_dim, padding_idx=0)
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
