# SPDX-License-Identifier: Apache-2.0
"""``bench pretrain``: real tokens/s of a step of pretraining, beside the classifier's and a plain full-softmax loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from harness.batch import Batch
from harness.bench import alternate, check_sizes, result, show
from harness.config import ModelConfig, OptimConfig, require
from harness.model.classifier import Classifier, Objective
from harness.model.language import LanguageModel
from harness.model.language_objective import LanguageObjective
from harness.model.tasks import AnyObjective
from harness.ranks.precision import DTYPES, recurrent_dtype
from harness.training.flops import synchronize
from harness.training.optim import build_optimizer


@dataclass(frozen=True, kw_only=True)
class PretrainBenchConfig:
    """Training steps over sequences of 200 to 210 tokens whose ids are as frequent as words are."""

    vocabulary: int = 30_000
    """Token ids."""
    embedding_dim: int = 128
    """Size of a token's vector."""
    hidden_size: int = 256
    """Size of the state in each direction."""
    candidates: int = 1024
    """Tokens that ours tells each right one from; the plain loop tells it from all."""
    batch: int = 16
    """Sequences per step. The plain loop holds batch x tokens x vocabulary logits: 0.8 GB as it is."""
    rounds: int = 5
    """Measurements of each contender; the median counts."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic; the plain loop has it by autocast."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_sizes(self, "vocabulary", "embedding_dim", "hidden_size", "candidates", "batch", "rounds")
        require(self.vocabulary >= 3, "vocabulary", self.vocabulary, "at least 3: two ids are reserved")


def main(config: PretrainBenchConfig) -> None:
    """Measure and print."""
    show(measure(config), as_json=config.json)


def measure(config: PretrainBenchConfig) -> dict[str, Any]:
    """Forward, backward and update of each contender on the same rows; tokens are counted once, not per direction."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    batch = random_batch(config, device)
    shape = ModelConfig(embedding_dim=config.embedding_dim, hidden_size=config.hidden_size)
    dtype = DTYPES[recurrent_dtype(config.precision, device.type, "padded").value]
    language_model = LanguageModel(shape, config.vocabulary).to(device)
    classifier = Classifier(shape, config.vocabulary).to(device)
    ours = LanguageObjective(language_model, candidates=config.candidates, recurrent_dtype=dtype).to(device)
    contenders = {
        "ours": step_of(ours, batch),
        "the classifier": step_of(Objective(classifier, recurrent_dtype=dtype), batch),
        "plain loop (full softmax)": plain_loop(config, batch),
    }

    def timed(run: Callable[[], None]) -> Callable[[], None]:
        """A turn that ends when the device is done."""

        def turn() -> None:
            run()
            synchronize(device)

        return turn

    seconds = alternate({name: timed(run) for name, run in contenders.items()}, config.rounds)
    return result("tokens/s", {name: batch.num_tokens / median for name, median in seconds.items()})


def random_batch(config: PretrainBenchConfig, device: torch.device) -> Batch:
    """Padded rows whose ids are drawn log-uniformly, longest first."""
    random = np.random.default_rng(0)
    lengths = np.sort(random.integers(200, 211, config.batch))[::-1].copy()
    drawn = np.exp(random.random((config.batch, int(lengths[0]))) * np.log(config.vocabulary - 1)).astype(np.int32)
    ids = np.where(np.arange(lengths[0]) < lengths[:, None], np.clip(drawn, 1, config.vocabulary - 1), 0)
    labels, own = torch.zeros(config.batch, dtype=torch.int64), torch.from_numpy(lengths)
    rows = np.arange(config.batch)
    return Batch(torch.from_numpy(ids.astype(np.int32)).to(device), own, labels.to(device), rows, None, own.to(device))


def step_of(objective: AnyObjective, batch: Batch) -> Callable[[], None]:
    """Steps of an objective of padless; each has its own number, and so its own candidates."""
    optimizer = build_optimizer(objective.classifier, OptimConfig())
    done = iter(range(1 << 30))

    def run() -> None:
        objective(batch, next(done)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def plain_loop(config: PretrainBenchConfig, batch: Batch) -> Callable[[], None]:
    """What people write: one bidirectional nn.LSTM, logits over the whole vocabulary, cross-entropy, Adam."""
    embedding = nn.Embedding(config.vocabulary, config.embedding_dim, padding_idx=0)
    lstm = nn.LSTM(config.embedding_dim, config.hidden_size, batch_first=True, bidirectional=True)
    heads = nn.ModuleList(nn.Linear(config.hidden_size, config.vocabulary) for _ in range(2))
    model = nn.ModuleList([embedding, lstm, heads]).to(batch.ids.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    ids = batch.ids.long()

    def loss_of(head: nn.Module, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Padding is no target."""
        logits = head(states).float()
        return functional.cross_entropy(logits.reshape(-1, config.vocabulary), targets.reshape(-1), ignore_index=0)

    def run() -> None:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            forward, backward = lstm(embedding(ids))[0].split(config.hidden_size, dim=2)
            loss = loss_of(heads[0], forward[:, :-1], ids[:, 1:])
            loss = loss + loss_of(heads[1], backward[:, 1:], ids[:, :-1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run
