# SPDX-License-Identifier: Apache-2.0
"""Builds a run on this rank: checks, data, initial weights, trainer, checkpoint; the parts do not depend on each
other.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from harness.batch import Layout
from harness.config import LANGUAGE_MODEL, Choice, OptimConfig, RunConfig, flat
from harness.data.loader import Loader, OpenData, open_data
from harness.data.order import order_over
from harness.data.run_rows import check_data, order_spec
from harness.data.targets import TeacherInfo, find_teacher_info, open_targets
from harness.distributed.precision import (
    DTYPES,
    PERSISTENT_FORWARD_HIDDEN,
    PERSISTENT_HIDDEN,
    layout_on,
    recurrent_dtype,
)
from harness.distributed.session import Session
from harness.distributed.stopping import AlreadyFinished, StopWatch
from harness.distributed.world import World, count_machines, read_local_rank
from harness.model.classifier import Objective
from harness.model.initialization import Start, find_donor, learn_start, read_donor_weights, read_start
from harness.model.language import LanguageModel, LanguageObjective
from harness.model.linear_part import WidePart
from harness.model.networks import AnyNetwork, AnyObjective, build_network
from harness.rundir import checkpoint
from harness.rundir.checkpoint import Checkpoint
from harness.rundir.events import Observer, Opening
from harness.rundir.layout import STOP, storage, wait_for_file
from harness.rundir.records import LAUNCH_ID, git_revision, installed_version
from harness.training import preflight
from harness.training.linear_fit import C_OF_SETS, C, fit_wide
from harness.training.run import TrainingRun
from harness.training.trainer import Trainer
from harness.training.validation import Selection, restore_best_weights
from harness.training.writer import RunWriter
from padless.core.atomic import nearest_existing
from padless.core.errors import ConfigError
from padless.core.split_names import TRAIN, UNLABELLED
from padless.core.terminal import Screen
from preprocessing.dataset.remote import local, open_split
from preprocessing.dataset.shards import VOCABULARY, Manifest
from preprocessing.dataset.vectors import LEARN_FROM
from preprocessing.text.vocabulary import RESERVED, Vocabulary

ORIGINS = ("vectors", "started_from")
"""What a run may start from; its facts have this key in checkpoints and bundles. For a token in both, the latter wins.
"""


@contextmanager
def open_run(
    config: RunConfig,
    session: Session,
    observers: Sequence[Observer] = (),
    choices: Mapping[str, Choice] = MappingProxyType({}),
) -> Iterator[TrainingRun]:
    """Build a run on this rank; on exit, write how it ended to ``status.json`` and to all observers.

    ``observers`` receive the events of rank 0. ``choices``: settings that are already resolved, each with its reason.
    Preemption leaves the block without an exception.
    """
    is_main = session.world.is_main
    with RunWriter(config, observers if is_main else (), active=is_main and not config.dry_run) as writer:
        yield assemble(config, session, writer, choices)


def assemble(config: RunConfig, session: Session, writer: RunWriter, resolved: Mapping[str, Choice]) -> TrainingRun:
    """Check the configuration, compare it with the other ranks', then build. Raises the same ``UserError`` on all."""
    world = session.world
    manifest, start, teacher_info = agree(config, session, writer)
    names = [name for name in manifest.names if name != UNLABELLED]
    with world.raise_together("opening the dataset"):
        data = open_data(config.data, manifest, names)
        data.targets = open_targets(config, manifest.fingerprint)
    starts = begin(config, manifest, world) if start is None else {}
    origins = {name: weights.facts for name, weights in starts.items()}
    if start is not None:
        origins = {name: start.state[name] for name in ORIGINS if name in start.state}
    choices = {**resolved, **session.choices, **{name: describe_origin(facts) for name, facts in origins.items()}}
    if teacher_info is not None:
        choices["teacher"] = Choice(teacher_info.origin, teacher_info.summary)
    elif config.teacher is not None:
        choices["teacher"] = Choice(config.teacher, "no targets yet; this dry run is of the labelled rows alone")
    trainer = build_trainer(config, session, data, choices, starts)
    selection = Selection("loss" if config.task == LANGUAGE_MODEL else config.select)
    if start is not None:
        changes = "".join(
            f"; {key} was {values}" for key, values in preflight.list_changes(config, start.state).items()
        )
        choices["resume"] = Choice(f"step {start.step:,}", f"newest checkpoint that verifies{changes}")
        with world.raise_together("loading the checkpoint"):
            with world.watch_wait("the device to take the checkpoint, and with it the first weights"):
                trainer.load(start)
            selection.load(start.state["selection"])
    wide = trainer.objective.classifier.wide
    if wide is not None and start is None and not config.dry_run:
        strength = C_OF_SETS if manifest.has_label_sets else C
        summary = learn_linear_part(config, wide, data, world)
        choices["linear part"] = Choice(summary, f"logistic regression, C = {strength:g}")
    origin: dict[str, Any] = {
        **origins,
        "teacher": None if teacher_info is None else teacher_info.origin,
    }
    settings = {name: str(choice) for name, choice in choices.items()}
    with world.raise_together("opening the run directory"):
        watch = StopWatch(writer.directory / STOP, config.max_time_s, is_main=writer.active)
        writer.open(session, start, settings)
        if writer.active:
            restore_best_weights(config, manifest, selection, origin)
    opening = Opening(manifest=manifest, total_steps=trainer.total_steps, first_step=trainer.step, choices=choices)
    writer.observers.start(opening)
    return TrainingRun(config, session, data, trainer, selection, watch, writer, origin)


def learn_linear_part(config: RunConfig, wide: WidePart, data: OpenData, world: World) -> str:
    """Learn the linear part of a new run on rank 0, and put it on all ranks. Every rank calls it; returns what was
    learned, in words, on rank 0.
    """
    summary = ""
    with world.raise_together("learning the linear part"):
        if world.is_main:
            labels, tokens = data.manifest.labels, [""] * len(RESERVED)
            Screen(quiet=config.quiet).show_work(f"fitting the linear part, {len(labels)} classes")
            tokens += vocabulary_of(config).tokens.to_pylist()[len(RESERVED) :]
            learned, factors = deepcopy(wide).cpu(), class_factors(config.optim, labels)
            with threadpool_limits(1):  # products of sparse matrices use one, and idle ones would disturb it
                summary = fit_wide(learned, data.splits[TRAIN], factors, tokens, data.targets)
            wide.load_state_dict(learned.state_dict())
    for values in wide.state_dict().values():
        world.broadcast_on_device(values, "the linear part")
    return summary


def agree(
    config: RunConfig, session: Session, writer: RunWriter
) -> tuple[Manifest, Checkpoint | None, TeacherInfo | None]:
    """Check the configuration, that all ranks have the same one, and find the checkpoint to resume from, and what a
    teacher has taught.
    """
    world = session.world
    start = None
    with world.raise_together("the checks before training"):
        if world.is_main:
            Screen(quiet=config.quiet).show_work("reading the dataset")
            writer.claim()
            screen = Screen(quiet=LAUNCH_ID in os.environ, errors=True)  # the launcher has printed it already
            start, has_finished = preflight.check_run(config, screen.print_text)
            if has_finished and not config.dry_run:  # while this start waited for the directory
                Screen(quiet=config.quiet).print_text(preflight.describe_finished(config))
                raise AlreadyFinished
        manifest = check_data(config, world.world_size)
        teacher_info = find_teacher_info(config, manifest.fingerprint)
        if config.teacher is not None and teacher_info is None and not config.dry_run:
            raise ConfigError(f"teacher: {config.teacher} has written no targets yet; start with `padless train`")
        start = None if config.dry_run else start  # a dry run starts at step 0
    targets = "none" if teacher_info is None else teacher_info.targets_sha256
    facts = {"dataset": manifest.fingerprint[:16], "targets": targets, "torch": torch.__version__}
    facts |= {"device type": session.device.type, "arithmetic": session.arithmetic}
    facts |= {"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
    settings = {key: str(value) for key, value in flat(asdict(config)).items()}
    code = {"padless": f"{installed_version('padless')} {git_revision()}"} if count_machines() > 1 else {}
    world.handshake(facts | settings | code)
    check_shared(config.run, world)
    step = world.broadcast_from_main(None if start is None else start.step, "the step to resume from")
    with world.raise_together("reading the checkpoint"):
        if step is not None and start is None:
            start = checkpoint.verify_checkpoint(checkpoint.checkpoint_path(config.run, step))
        writer.go_on(step or 0)
    return manifest, start, teacher_info


def check_shared(run: str, world: World) -> None:
    """Raise ``ConfigError`` on every rank if a machine cannot see a file that rank 0 writes. Every rank calls it. In a
    dry run, which makes no directory, the file is in the nearest one above.
    """
    if count_machines() == 1:
        return
    token = nearest_existing(run) / f".seen-{uuid.uuid4().hex}"
    token = world.broadcast_from_main(token, "a file in the run directory")
    try:
        with world.raise_together("writing into the run directory"), storage(token):
            if world.is_main:
                token.touch()
        with world.raise_together("looking at the run directory"):
            if read_local_rank() == 0:
                wait_for_file(token, token.exists, world.timeout_s)
    finally:
        if world.is_main:
            token.unlink(missing_ok=True)


def build_trainer(
    config: RunConfig,
    session: Session,
    data: OpenData,
    choices: dict[str, Choice],
    starts: Mapping[str, Start],
) -> Trainer:
    """A trainer at step 0. Weights are drawn from the seed; rank 0 then loads ``starts``, and DDP sends its weights
    to all ranks. Adds settings resolved here to ``choices``.
    """
    world, device = session.world, session.device
    torch.manual_seed(config.seed)
    network = build_network(config, data.manifest)
    if isinstance(network, LanguageModel):
        with world.raise_together("reading the vocabulary"):
            network.set_frequencies(vocabulary_of(config).counts)
    for start in starts.values():
        start.put_into(network)
    network.to(device).recurrent.flatten_parameters()
    layout, reason = choose_layout(config, device, network.recurrent.hidden_size)
    dtype = recurrent_dtype(session.arithmetic, device.type, layout)
    choices["recurrence"] = Choice(f"{layout} {dtype.value}", f"{reason}; {dtype.reason}")
    loader = Loader(
        data.splits[TRAIN],
        order_over(data.splits[TRAIN], order_spec(config)),
        rank=world.rank,
        world_size=world.world_size,
        layout=layout,
        device=device,
        micro_batch=config.micro_batch,
        targets=data.targets,
    )
    objective = build_objective(config, network, data.manifest, DTYPES[dtype.value], device)
    loader.prepare = objective.prepare
    return Trainer(config, objective, loader, session)


def choose_layout(config: RunConfig, device: torch.device, hidden_size: int) -> tuple[Layout, str]:
    """The layout of the recurrent layers, and why. Raises ``ConfigError`` for a size at which torch has cuDNN compute
    padded input by one algorithm forward, and by another one backward.
    """
    if config.recurrence == "auto":
        return layout_on(device, hidden_size)
    is_between = PERSISTENT_HIDDEN < hidden_size <= PERSISTENT_FORWARD_HIDDEN
    if config.recurrence == "padded" and device.type == "cuda" and is_between:
        raise ConfigError(
            f"recurrence: padded: with {hidden_size} hidden units cuDNN would compute forward and backward by two "
            f"algorithms; take packed or auto, or hidden units up to {PERSISTENT_HIDDEN} or above "
            f"{PERSISTENT_FORWARD_HIDDEN}"
        )
    return config.recurrence, "asked for"


def build_objective(
    config: RunConfig, network: AnyNetwork, manifest: Manifest, dtype: torch.dtype, device: torch.device
) -> AnyObjective:
    """The loss of a network that is on its device already; recurrent layers compute in ``dtype``."""
    if isinstance(network, LanguageModel):
        return LanguageObjective(
            network,
            candidates=config.language_model.candidates,
            seed=config.seed,
            recurrent_dtype=dtype,
        )
    optim, members = config.optim, None
    if manifest.members is not None:
        members = torch.from_numpy(manifest.members).to(device)
    weights = torch.from_numpy(class_factors(optim, manifest.labels)).to(device, torch.float32)
    return Objective(
        network,
        label_smoothing=optim.label_smoothing,
        seed=config.seed,
        class_weights=weights if optim.class_weights else None,
        recurrent_dtype=dtype,
        members=members,
    )


def class_factors(optim: OptimConfig, labels: Sequence[str]) -> np.ndarray:
    """Weight of the loss of each class, float64 ``[classes]``."""
    return np.array([optim.class_weights.get(label, 1.0) for label in labels])


def begin(config: RunConfig, manifest: Manifest, world: World) -> dict[str, Start]:
    """What a new run starts from, by name; nothing on ranks other than 0. Every rank calls it; raises the same
    ``UserError`` on all.
    """
    starts = dict[str, Start]()
    with world.raise_together("reading the weights and vectors to start from"):
        if world.is_main:
            vectors = read_vectors(config, manifest)
            if vectors is not None:
                starts["vectors"] = vectors
            if config.initial_weights:
                directory, info = find_donor(config.initial_weights, config.model)
                starts["started_from"] = read_donor_weights(directory, info, config.model, vocabulary_of(config))
    return starts


def read_vectors(config: RunConfig, manifest: Manifest) -> Start | None:
    """The word vectors of a new run, read from a file or learned, with the standard deviation ``model.embedding_std``;
    a dry run learns none.
    """
    source, model = config.init.vectors, config.model
    if source == "none" or (source == "own" and config.dry_run):
        return None
    vocabulary, screen = vocabulary_of(config), Screen(quiet=config.quiet)
    if source == "own":
        splits = [open_split(config.data, manifest, name) for name in LEARN_FROM if name in manifest.names]
        vectors = learn_start(splits, vocabulary, model.embedding_dim, screen.print_text)
    else:
        screen.fact("vectors", f"reading {source}")
        vectors = read_start(source, vocabulary, model.embedding_dim)
    if vectors is None:
        return None
    scale = model.embedding_std / vectors.embedding.std(correction=0)
    return replace(vectors, embedding=vectors.embedding * scale)


def describe_origin(facts: Mapping[str, Any]) -> Choice:
    """The facts of a start, for the settings printed at the start."""
    coverage = f"{facts['words']:,} of {facts['vocabulary']:,} words, {facts['tokens']:.1%} of the tokens"
    return Choice(facts["source"], f"{facts['what']}; {coverage}; sha256 {facts['sha256'][:12]}")


def vocabulary_of(config: RunConfig) -> Vocabulary:
    """The vocabulary of the run's dataset."""
    return Vocabulary.read(local(config.data) / VOCABULARY)
