# SPDX-License-Identifier: Apache-2.0
"""``pretrain``: real tokens/s of a step of pretraining, compared with a classifier and a plain full-softmax loop."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from msgspec import Meta
from torch import nn
from torch.nn import functional

from benchmarks.measuring import BenchmarkConfig, Size, alternate, print_result, result
from harness.batch import Batch
from harness.config import ModelConfig, OptimConfig
from harness.model.classifier import Classifier, Objective
from harness.model.language import LanguageModel, LanguageObjective
from harness.ranks.precision import DTYPES, recurrent_dtype
from harness.training.optim import build_optimizer
from harness.training.throughput import synchronize


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(BenchmarkConfig):
    """Training steps over sequences of 200 to 210 tokens whose ids are distributed like words."""

    vocabulary: Annotated[int, Meta(ge=3, le=1 << 24)] = 30_000
    """Token ids, of which two are reserved."""
    embedding_dim: Size = 128
    """Size of a token's vector."""
    hidden_size: Size = 256
    """Size of the state in each direction."""
    candidates: Size = 1024
    """Candidates of the sampled softmax in ours; the plain loop uses all tokens."""
    batch: Size = 16
    """Sequences per step. The plain loop stores batch x tokens x vocabulary logits: 0.8 GB by default."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision; the plain loop uses autocast."""


def measure_pretraining(config: PretrainConfig) -> dict[str, Any]:
    """Time forward, backward and update of each contender on the same rows; counts tokens once, not per direction."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    batch = random_batch(config, device)
    shape = ModelConfig(embedding_dim=config.embedding_dim, hidden_size=config.hidden_size)
    dtype = DTYPES[recurrent_dtype(config.precision, device.type, "padded").value]
    language_model = LanguageModel(shape, config.vocabulary).to(device)
    classifier = Objective(Classifier(shape, config.vocabulary).to(device), recurrent_dtype=dtype)
    objective = LanguageObjective(language_model, candidates=config.candidates, recurrent_dtype=dtype).to(device)
    loop = PlainLoop(config).to(device)

    def step(loss: Callable[[Batch, int], torch.Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        numbers = itertools.count()  # step numbers: each step has other candidates

        def run() -> None:
            loss(batch, next(numbers)).backward()
            optimizer.step()
            optimizer.zero_grad()
            synchronize(device)

        return run

    contenders = {
        "ours": step(objective, build_optimizer(language_model, OptimConfig())),
        "the classifier": step(classifier, build_optimizer(classifier.classifier, OptimConfig())),
        "plain loop (full softmax)": step(loop, torch.optim.Adam(loop.parameters(), lr=1e-3, fused=True)),
    }
    seconds = alternate(contenders, config.rounds)
    return result("tokens/s", {name: batch.num_tokens / median for name, median in seconds.items()})


def random_batch(config: PretrainConfig, device: torch.device) -> Batch:
    """Padded rows whose ids are drawn log-uniformly, longest first."""
    random, largest = np.random.default_rng(0), config.vocabulary - 1
    lengths = np.sort(random.integers(200, 211, config.batch))[::-1]
    texts = [np.exp(random.random(length) * np.log(largest)).clip(1, largest) for length in lengths]
    ids = nn.utils.rnn.pad_sequence([torch.from_numpy(text.astype(np.int32)) for text in texts], batch_first=True)
    return Batch.without_labels(ids, torch.from_numpy(lengths.copy()), device)


class PlainLoop(nn.Module):
    """Plain PyTorch: one bidirectional nn.LSTM, logits over the whole vocabulary, cross-entropy, autocast."""

    def __init__(self, config: PretrainConfig) -> None:
        """The same sizes as ours."""
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.embedding_dim, padding_idx=0)
        self.lstm = nn.LSTM(config.embedding_dim, config.hidden_size, batch_first=True, bidirectional=True)
        self.heads = nn.ModuleList(nn.Linear(config.hidden_size, config.vocabulary) for _ in range(2))

    def forward(self, batch: Batch, _: int) -> torch.Tensor:
        """The sum of both directions' losses, without padding."""
        ids = batch.ids.long()
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            forward, backward = self.lstm(self.embedding(ids))[0].split(self.config.hidden_size, dim=2)
            logits = self.heads[0](forward[:, :-1]).float(), self.heads[1](backward[:, 1:]).float()
        targets = ids[:, 1:], ids[:, :-1]
        losses = [
            functional.cross_entropy(direction_logits.flatten(0, 1), wanted.flatten(), ignore_index=0)
            for direction_logits, wanted in zip(logits, targets, strict=True)
        ]
        return losses[0] + losses[1]


main = print_result(measure_pretraining)
