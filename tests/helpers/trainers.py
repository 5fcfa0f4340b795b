# SPDX-License-Identifier: Apache-2.0
"""Builds real trainers in this process, also in fp64, and plain PyTorch to compare with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from harness.batch import StepBatch
from harness.config import Choice, RunConfig
from harness.data.loader import open_data
from harness.data.run_rows import rows_of_run
from harness.data.targets import open_targets
from harness.distributed.session import Session, open_session
from harness.model.language import LanguageModel
from harness.model.networks import AnyNetwork, build_network
from harness.training import assembly
from harness.training.assembly import begin, vocabulary_of
from harness.training.optim import learning_rate
from harness.training.trainer import Trainer
from preprocessing.dataset.shards import Manifest
from tests.helpers.ranks import run_ranks

Weights = dict[str, np.ndarray]
Case = tuple[str, str, int]
"""Options, layout, micro-batches a step."""


@contextmanager
def session_for(config: RunConfig) -> Iterator[Session]:
    """A session as a run of ``config`` opens it.

    Accelerate keeps device and precision for the life of a process; a second session needs them reset.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with open_session(config.device, config.precision, config.timeout_s) as session:
        yield session


def make_trainer(config: RunConfig, session: Session) -> Trainer:
    """A trainer at step 0, as a run of ``config`` builds it."""
    manifest, world = rows_of_run(config), session.world
    names = [name for name in manifest.names if name != "unlabelled"]
    data = open_data(config.data, manifest, names)
    data.targets = open_targets(config, manifest.fingerprint)
    trainer = assembly.build_trainer(config, session, data, dict(session.choices), begin(config, manifest, world))
    if (wide := trainer.objective.classifier.wide) is not None:
        assembly.learn_linear_part(config, wide, data, world)
    trainer.model.train()
    return trainer


def build_fp64_network(config: RunConfig, manifest: Manifest) -> AnyNetwork:
    """The network that a run of ``config`` begins with."""
    torch.manual_seed(config.seed)
    network = build_network(config, manifest).double()
    if isinstance(network, LanguageModel):
        network.set_frequencies(vocabulary_of(config).counts)
    return network


def train_in_fp64(config: RunConfig, session: Session) -> tuple[list[int], Weights]:
    """Train to the end: micro-batches of each step on this rank; all weights, and their averages if there are any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "build_network", build_fp64_network)
        patch.setattr(assembly, "recurrent_dtype", lambda *_: Choice("fp64", "exact"))
        patch.setitem(assembly.DTYPES, "fp64", torch.float64)
        trainer = make_trainer(config, session)
    counts = [len(batch.micro_batches) for batch in fit(trainer)]
    network = trainer.objective.classifier
    final = weights_of(network)
    if trainer.average is not None:
        with trainer.average.load_average():
            averages = weights_of(network)
            final |= {f"average of {name}": averages[name] for name, _ in network.named_parameters()}
    return counts, final


def fit(trainer: Trainer) -> Iterator[StepBatch]:
    """Make all updates, as the loop of a run does; yields each batch after its update."""
    while trainer.epochs_done < trainer.config.epochs:
        for batch in trainer.batches():
            trainer.update(batch)
            yield batch
        trainer.epochs_done += 1


def updates_of(cases: Sequence[Case], config_of: Callable[[str], RunConfig]) -> dict[Case, tuple[list[int], Weights]]:
    """On a rank, for every case: micro-batches of each step, and the final weights with their average."""
    updates_by_case = {}
    with open_session("cpu", "fp32", 60) as session:
        for options, layout, accumulation in cases:
            config = config_of(options)
            micro_batch = math.ceil(math.ceil(config.global_batch / session.world.world_size) / accumulation)
            config = replace(config, recurrence=layout, micro_batch=micro_batch)
            updates_by_case[options, layout, accumulation] = train_in_fp64(config, session)
    return updates_by_case


def check_splits(
    train_on_a_rank: Callable[..., dict[Case, tuple[list[int], Weights]]],
    root: str,
    cases: Sequence[Case],
    references: dict[str, Weights],
    steps: int,
    is_thorough: bool,
) -> None:
    """Every case ends with the weights of the reference for its options. On 1 rank half of the cases, on 2 the other
    half; if ``is_thorough`` all, on 4 ranks too, whose shares of a step allow two micro-batches.
    """
    for world_size in (1, 2, 4) if is_thorough else (1, 2):
        chosen = [case for number, case in enumerate(cases) if is_thorough or (number + number // 2 + world_size) % 2]
        for updates in run_ranks(train_on_a_rank, world_size, root, chosen):
            assert list(updates) == chosen
            for (options, layout, accumulation), (counts, weights) in updates.items():
                assert (len(counts), max(counts)) == (steps, min(accumulation, 3 if world_size < 4 else 2))
                assert weights.keys() == references[options].keys()
                for name, expected in references[options].items():
                    case = f"{name}: {world_size} ranks, {options}, {layout}, {accumulation} micro-batches"
                    np.testing.assert_allclose(weights[name], expected, rtol=0, atol=1e-9, err_msg=case)


def train_plainly(
    config: RunConfig, network: AnyNetwork, steps: int, loss_of: Callable[[int], torch.Tensor]
) -> Weights:
    """What PyTorch alone makes of the loss of each step."""
    optim, average = config.optim, {name: weight.detach().clone() for name, weight in network.named_parameters()}
    matrices = [weight for weight in network.parameters() if weight.dim() > 1]
    vectors = [weight for weight in network.parameters() if weight.dim() == 1]
    decayed = {"params": matrices, "weight_decay": optim.weight_decay}
    optimizer = torch.optim.AdamW([decayed, {"params": vectors, "weight_decay": 0.0}], lr=optim.lr)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, optim)
        optimizer.zero_grad()
        loss_of(step).backward()
        if network.embedding.weight.grad is not None:
            network.embedding.weight.grad[0] = 0
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(optim.ema or 0.0, (1 + step) / (10 + step))  # type: ignore[type-var]
        for name, weight in network.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * weight.detach()
    if not optim.ema:
        return weights_of(network)
    return weights_of(network) | {f"average of {name}": weight.numpy() for name, weight in average.items()}


def weights_of(network: AnyNetwork) -> Weights:
    """Copies, by name."""
    return {name: tensor.detach().numpy().copy() for name, tensor in network.state_dict().items()}


def all_steps(trainer: Trainer) -> Iterator[StepBatch]:
    """The steps of one epoch after the other."""
    for epoch in itertools.count():
        yield from trainer.loader.steps(epoch)


def train(trainer: Trainer, steps: Iterator[StepBatch], number: int) -> list[torch.Tensor]:
    """Make some updates; the loss sum of each, still on the device."""
    return [trainer.update(batch) for batch in itertools.islice(steps, number)]
