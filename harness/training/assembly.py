# SPDX-License-Identifier: Apache-2.0
"""Puts a run together on this rank: checks, data, trainer, checkpoint, sinks; the parts know nothing of each other."""

from __future__ import annotations

import hashlib
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from harness.batch import Layout
from harness.config import LANGUAGE_MODEL, RunConfig, to_dict
from harness.data.checks import TRAIN, order_spec, unlabelled_spec
from harness.data.loader import Loader
from harness.data.order import order_over
from harness.data.placement import OpenData, open_data
from harness.model.classifier import Adversary, Objective
from harness.model.language import LanguageModel, LanguageObjective, Targets
from harness.model.networks import AnyNetwork, AnyObjective, answers_of, build_network, predictions_of
from harness.model.recurrent import try_recurrence
from harness.model.registry import CELLS
from harness.model.wide import Weighing
from harness.ranks.distributed import World, launched_local_rank, launched_local_world_size, launched_machines
from harness.ranks.precision import DTYPES, Choice, layout_on, recurrent_dtype
from harness.ranks.session import Session
from harness.ranks.stopping import StopWatch
from harness.rundir import checkpoint
from harness.rundir.checkpoint import Checkpoint
from harness.rundir.layout import STOP, storage
from harness.rundir.records import LAUNCH_ID, code_hash
from harness.tracking.tracking import Trackers
from harness.training import preflight
from harness.training.console import Console
from harness.training.optim import NonFiniteGuard
from harness.training.run import PretrainingRun, RankRequests, Run, choose_micro_batch
from harness.training.start import Beginning, begin, vocabulary_of
from harness.training.throughput import Meter
from harness.training.trainer import State, Trainer
from harness.training.validation import Scorer, Selection
from harness.training.wide import count_features
from harness.training.writer import RunWriter, Sink, Sinks, TrackerSink
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError
from preprocessing.base.processes import memory_bytes
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.terminal import Screen, tell
from preprocessing.dataset.shards import Manifest, read_manifest

FP16_FIRST_SKIPS = 20
"""fp16 starts with a large loss scale and finds the right one by skipping steps; those are no sign of divergence."""
LOOK_LIMIT_S = 60.0
"""A network file system may remember for so long that a file was not there; no more than half the time limit."""


@contextmanager
def open_run(
    config: RunConfig,
    session: Session,
    listeners: Callable[[Sinks], Iterable[Sink]] = lambda sinks: (),
    reasons: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> Iterator[Run]:
    """Build a run on this rank; leaving the block says how it ended, to ``status.json`` and to all sinks.

    ``listeners`` is given all sinks together and names those that hear of the run beside console, files and trackers,
    on rank 0 and not in a dry run. ``reasons``: settings that were decided before, each in words and why. Preemption
    ends the block quietly.
    """
    with RunWriter(config, active=session.world.is_main and not config.dry_run) as writer:
        writer.sinks.sinks += listeners(writer.sinks) if writer.active else ()
        yield assemble(config, session, writer, {name: Choice(*reason) for name, reason in reasons.items()})


def assemble(config: RunConfig, session: Session, writer: RunWriter, decided: Mapping[str, Choice]) -> Run:
    """Check, agree with the other ranks, then build. Raises the same ``UserError`` on every rank."""
    world = session.world
    manifest, start = agree(config, session, writer)
    beside = UNLABELLED if config.order.unlabelled_batch else None
    where = (config.data, manifest, TRAIN, world)
    data = open_data(*where, timeout_s=config.timeout_s, stage_dir=config.stage_dir, beside=beside)
    beginning = begin(config, manifest, data.splits, world, None if start is None else start.state)
    writer.origin = {**beginning.facts, "dataset_parts": preflight.parts_of(read_manifest(config.data))}
    choices = {**decided, **session.choices, **data.choices, **beginning.choices}
    trainer = build_trainer(config, session, manifest, data, choices, beginning)
    pretrains = config.task == LANGUAGE_MODEL
    selection = Selection("loss" if pretrains else config.select, config.patience)
    with world.together("loading the checkpoint"):
        if start is not None:
            trainer.load(State.read(start), start.path)
            if start.state["dataset"] == manifest.fingerprint:  # else no validation was of these rows
                selection.load(start.state["selection"])
            choices["resume"] = Choice(f"step {start.step:,}", "newest checkpoint that verifies")
    wide = trainer.objective.classifier.wide
    if wide is not None and start is None and not beginning.has_wide:
        counted = data.splits[UNLABELLED] if UNLABELLED in beginning.targets else None
        weighing = Weighing(config.optim.wide_min_rows, config.optim.wide_ratio)
        count_features(wide, data.splits[TRAIN], len(manifest.labels), world, counted, weighing)
    if config.micro_batch == "auto":
        choices["micro_batch"] = choose_micro_batch(trainer)
    with world.together("opening the run directory"):
        watch = StopWatch(writer.directory / STOP, config.max_time_s, is_main=writer.active)
        writer.open(session, start, choices)
        writer.restore_bundle(manifest, selection.best_step, selection.decision)
    console = None
    if world.is_main:
        console = Console(config, manifest, trainer.total_steps, trainer.step)
        if writer.active:
            told = {name: str(choice) for name, choice in choices.items()}
            facts = {"dataset": manifest.fingerprint, "effective": told}
            trackers = Trackers(config, writer.directory, active=True, facts=facts)
            writer.sinks.sinks += [console, TrackerSink(trackers)]
        console.start(choices)
    scorer, requests = Scorer(session, data, trainer.loader.layout, config.eval_batch), RankRequests(world)
    parts = (config, session, manifest, data, scorer, trainer, selection, requests, watch, writer, console)
    run = (PretrainingRun if pretrains else Run)(*parts, beginning.interrupted)
    trainer.milestones = run
    return run


def agree(config: RunConfig, session: Session, writer: RunWriter) -> tuple[Manifest, Checkpoint | None]:
    """Check what was asked for, that all ranks were asked the same, and where the run goes on from."""
    world = session.world
    start = None
    with world.together("the checks before training"):
        if world.is_main:
            writer.claim()
            told = LAUNCH_ID in os.environ  # the launcher has said it already
            say = (lambda text: None) if told else Screen(quiet=config.quiet).say
            start = preflight.check_run(config, say, (lambda text: None) if told else tell).checkpoint
        here = launched_local_world_size()
        manifest = preflight.check_data(config, world.world_size, start, here=here, hashes=world.is_main)
        start = None if config.dry_run else start  # a rehearsal is checked as its run, and begins at step 0
        on_cuda = session.device.type == "cuda"  # which no other process has
        device_bytes = torch.cuda.mem_get_info(session.device)[1] if on_cuda else memory_bytes()
        preflight.check_room(config, manifest, device_bytes, processes=1 if on_cuda else here)
        if world.is_main and start is None:
            preflight.check_start(config, manifest)
    settings = hashlib.sha256(atomic.canonical_json(to_dict(config))).hexdigest()[:16]
    facts = {"configuration": settings, "dataset": manifest.fingerprint[:16], "torch": torch.__version__}
    world.handshake(facts | ({"code": code_hash()} if launched_machines() > 1 else {}))
    if not config.dry_run:
        check_shared(config.run, world)
    step = world.from_main(None if start is None else start.step, "where the run goes on from")
    with world.together("reading the checkpoint"):
        if step is not None and start is None:
            start = checkpoint.verify(checkpoint.path_of(config.run, step))
        writer.begin(step or 0)
    return manifest, start


def check_shared(run: str | Path, world: World) -> None:
    """Raise ``ConfigError`` on every rank if a machine does not see what rank 0 writes. Every rank calls it."""
    if launched_machines() == 1:
        return
    token = Path(run, f".seen-{uuid.uuid4().hex}") if world.is_main else None
    try:
        with world.together("writing into the run directory"):
            if token is not None:
                with storage(token):
                    token.touch()
        name = world.from_main(token and token.name, "a file in the run directory")
        with world.together("looking at the run directory"):
            deadline = time.monotonic() + min(LOOK_LIMIT_S, world.timeout_s / 2)
            while launched_local_rank() == 0 and not Path(run, str(name)).exists():
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"run: {run} on {platform.node()} is not the directory that rank 0 writes to; name one that "
                        "all machines share, or mount it there"
                    )
                time.sleep(0.2)
                if Path(run).is_dir():
                    os.listdir(run)  # asks the server again
    finally:
        if token is not None:
            token.unlink(missing_ok=True)


def build_trainer(
    config: RunConfig,
    session: Session,
    manifest: Manifest,
    data: OpenData,
    choices: dict[str, Choice],
    beginning: Beginning | None = None,
) -> Trainer:
    """A trainer at step 0 with weights drawn from the seed and, on rank 0, whose weights all ranks get, ``beginning``.

    What was decided on the way is added to ``choices``.
    """
    world, beginning = session.world, beginning or Beginning()
    torch.manual_seed(config.seed)
    network = build_network(config, manifest)
    if isinstance(network, LanguageModel):
        with world.together("reading the vocabulary"):
            network.start_bias(vocabulary_of(config).counts)
    beginning.put_into(network, config.model.embedding_std)
    network.to(session.device).recurrent.flatten_parameters()
    layout, in_layout = layout_on(session.device, config.model.hidden_size, config.recurrence)
    bf16_on_cpu = CELLS[config.model.cell].bf16_on_cpu
    wanted = recurrent_dtype(session.arithmetic, session.device.type, layout, bf16_on_cpu=bf16_on_cpu)
    in_dtype = try_recurrence(network.recurrent, layout, wanted)
    choices["recurrence"] = Choice(f"{layout} {in_dtype.value}", f"{in_layout.reason}; {in_dtype.reason}")
    objective = build_objective(config, network, manifest, DTYPES[in_dtype.value], session.device)
    guard = NonFiniteGuard(
        config.nan_limit + (FP16_FIRST_SKIPS if session.arithmetic == "fp16" else 0),
        world,
        Path(config.run),
        Path(config.data),
        data.splits[TRAIN],
        data.splits[UNLABELLED] if config.order.unlabelled_batch else None,
        answers_of(config, manifest),
    )
    loader = build_loader(config, session, data, layout, beginning)
    meter = Meter(session.device, predictions_of(network))
    return Trainer(config, objective, loader, session.accelerator, world, guard=guard, meter=meter)


def build_objective(
    config: RunConfig, network: AnyNetwork, manifest: Manifest, dtype: torch.dtype, device: torch.device
) -> AnyObjective:
    """The loss around a network that lies on its device; recurrent layers compute in ``dtype``."""
    if isinstance(network, LanguageModel):
        return LanguageObjective(
            network,
            candidates=config.language_model.candidates,
            seed=config.seed,
            recurrent_dtype=dtype,
            targets=Targets.of(config.language_model, vocabulary_of(config).counts, device),
        )
    optim, adversary = config.optim, None
    if optim.adversarial is not None:
        counts = torch.from_numpy(vocabulary_of(config).counts)
        adversary = Adversary(optim.adversarial, counts.to(device, torch.float64))
    weights = [optim.class_weights.get(label, 1.0) for label in manifest.labels]
    return Objective(
        network,
        optim,
        seed=config.seed,
        class_weights=torch.tensor(weights, device=device) if optim.class_weights else None,
        recurrent_dtype=dtype,
        soft_weight=config.self_training.weight,
        adversary=adversary,
    )


def build_loader(config: RunConfig, session: Session, data: OpenData, layout: Layout, beginning: Beginning) -> Loader:
    """This rank's share of every step, with unlabelled rows where ``config`` asks for them."""
    shared: dict[str, Any] = {
        "rank": session.world.rank,
        "world_size": session.world.world_size,
        "layout": layout,
        "device": session.device,
        "micro_batch": None if config.micro_batch == "auto" else config.micro_batch,
        "guard": data.guard.check_sizes,
    }
    unlabelled = None
    if config.order.unlabelled_batch:
        rows = data.splits[UNLABELLED]
        targets = beginning.targets.get(UNLABELLED)
        unlabelled = Loader(rows, order_over(rows, unlabelled_spec(config)), targets=targets, **shared)
    split = data.splits[TRAIN]
    counts_tokens = config.task == LANGUAGE_MODEL
    order = order_over(split, order_spec(config))
    return Loader(split, order, counts_tokens=counts_tokens, unlabelled=unlabelled, **shared)
