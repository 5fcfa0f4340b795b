# SPDX-License-Identifier: Apache-2.0
"""Builds a run on this rank: checks, data, initial state, trainer, checkpoint, sinks; the parts do not depend on each
other.

Pretrained weights, word vectors and soft labels are the initial state of a new run. Only rank 0 reads weights and
vectors; DDP sends its weights to the other ranks. A resumed run loads its checkpoint instead.
"""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from harness.config import LANGUAGE_MODEL, OptimConfig, RunConfig, flat, to_dict
from harness.data.checks import TRAIN, open_soft_labels, order_spec, unlabelled_spec
from harness.data.loader import Loader
from harness.data.order import order_over
from harness.data.placement import OpenData, open_data
from harness.data.soft_labels import targets_of
from harness.model.classifier import Objective
from harness.model.language import LanguageModel, LanguageObjective, Targets
from harness.model.networks import AnyNetwork, AnyObjective, build_network
from harness.model.recurrent import try_recurrence
from harness.model.starts import (
    StartVectors,
    StartWeights,
    find_donor,
    from_file,
    from_texts,
    weights_of,
)
from harness.ranks.distributed import World, launched_local_rank, launched_local_world_size, launched_machines
from harness.ranks.precision import DTYPES, Choice, layout_of, recurrent_dtype
from harness.ranks.session import Session
from harness.ranks.stopping import StopWatch
from harness.rundir import checkpoint
from harness.rundir.checkpoint import Checkpoint
from harness.rundir.layout import STOP, storage
from harness.rundir.records import LAUNCH_ID, code_hash
from harness.tracking.tracking import Sink, Trackers
from harness.training import preflight
from harness.training.console import Console
from harness.training.optim import NonFiniteGuard
from harness.training.recurrence import choose
from harness.training.run import PretrainingRun, Run, Selection, choose_micro_batch
from harness.training.trainer import Trainer
from harness.training.wide import C, Source, learn, places_of
from harness.training.writer import RunWriter
from preprocessing.base.errors import ConfigError
from preprocessing.base.processes import memory_bytes
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.terminal import Screen
from preprocessing.dataset.shards import VOCABULARY, Manifest, Split
from preprocessing.dataset.vectors import LEARN_FROM
from preprocessing.dataset.views import home_of, open_split
from preprocessing.text.vocabulary import RESERVED, Vocabulary

FP16_FIRST_SKIPS = 20
"""Extra skipped steps allowed in fp16: at the start, loss scaling skips steps until it finds a scale that fits."""
MANY_PLACES = 10_000_000
"""From so many n-grams on, learning the linear part is announced: it takes five seconds or more."""
LOOK_LIMIT_S = 60.0
"""Longest wait for a new file to appear: network file systems cache directory listings. At most half the time limit."""


@contextmanager
def open_run(
    config: RunConfig,
    session: Session,
    listeners: Callable[[Sink], Iterable[Sink]] = lambda writer: (),
    reasons: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> Iterator[Run]:
    """Build a run on this rank; on exit, write how it ended to ``status.json`` and to all sinks.

    ``listeners`` takes the run's writer and returns more sinks, besides console and trackers; only on rank 0, and not
    in a dry run. ``reasons``: settings that are already resolved, name -> (value, reason). Preemption leaves the block
    without an exception.
    """
    with RunWriter(config, active=session.world.is_main and not config.dry_run) as writer:
        writer.sinks += listeners(writer) if writer.active else ()
        yield assemble(config, session, writer, {name: Choice(*reason) for name, reason in reasons.items()})


def assemble(config: RunConfig, session: Session, writer: RunWriter, decided: Mapping[str, Choice]) -> Run:
    """Check the configuration, compare it with the other ranks', then build. Raises the same ``UserError`` on all."""
    world = session.world
    manifest, start = agree(config, session, writer)
    names = [name for name in manifest.names if config.self_training.rows or name != UNLABELLED]
    data = open_data(config.data, manifest, names, world, timeout_s=config.timeout_s, stage_dir=config.stage_dir)
    state = None if start is None else start.state
    beginning = begin(config, manifest, data.splits, world, state)
    writer.origin = {**beginning.facts, "dataset_parts": preflight.parts_of(manifest)}
    choices = {**decided, **session.choices, **data.choices, **beginning.choices}
    began = None if state is None else state["trainer"]["recurrence"]
    trainer = build_trainer(config, session, data, choices, beginning, began)
    pretrains = config.task == LANGUAGE_MODEL
    selection = Selection("loss" if pretrains else config.select, config.patience)
    if start is not None:
        choices["resume"] = Choice(f"step {start.step:,}", "newest checkpoint that verifies")
        with world.together("loading the checkpoint"):
            trainer.load(start)
            if start.state["dataset"] == manifest.fingerprint:  # other validation rows: values not comparable
                selection.load(start.state["selection"])
    elif not config.dry_run:
        learn_linear_part(config, trainer, data, choices, beginning)
    if config.micro_batch == "auto":
        choices["micro_batch"] = choose_micro_batch(trainer)
    with world.together("opening the run directory"):
        watch = StopWatch(writer.directory / STOP, config.max_time_s, is_main=writer.active)
        settings = {name: str(choice) for name, choice in choices.items()}
        writer.open(session, start, settings)
        writer.restore_bundle(manifest, selection.best_step, selection.decision)
    loud = config if world.is_main else replace(config, quiet=True)
    console = Console(loud, manifest, trainer.total_steps, trainer.step, logs=writer.active)
    if writer.active:
        writer.sinks.append(console)  # first: it has a thread, which the writer ends however the run ends
        facts = {"dataset": manifest.fingerprint, "effective": settings}
        writer.sinks.append(Trackers(config, writer.directory, facts=facts))
    console.start(choices)
    kind = PretrainingRun if pretrains else Run
    run = kind(config, session, data, trainer, selection, watch, writer, console)
    trainer.milestones = run
    return run


def learn_linear_part(
    config: RunConfig, trainer: Trainer, data: OpenData, choices: dict[str, Choice], beginning: Beginning
) -> None:
    """Learn the linear part of a new run, if the model has one."""
    wide, labels = trainer.objective.classifier.wide, data.manifest.labels
    if wide is None:
        return
    sources = [Source(data.splits[TRAIN])]
    if beginning.targets is not None:
        sources.append(Source(data.splits[UNLABELLED], config.self_training.weight, beginning.targets))
    if trainer.world.is_main and not config.quiet and places_of(wide, sources) > MANY_PLACES:
        print("linear part is learned from the training texts first", flush=True)
    tokens = [""] * len(RESERVED)
    if trainer.world.is_main:
        tokens += vocabulary_of(config).tokens.to_pylist()[len(RESERVED) :]
    said = learn(wide, sources, factors_of(config.optim, labels), tokens, trainer.world)
    choices["linear part"] = Choice(said, f"logistic regression, C = {C:g}")


def agree(config: RunConfig, session: Session, writer: RunWriter) -> tuple[Manifest, Checkpoint | None]:
    """Check the configuration, that all ranks have the same one, and find the checkpoint to resume from."""
    world = session.world
    start = None
    told = LAUNCH_ID in os.environ  # the launcher has printed it already
    with world.together("the checks before training"):
        if world.is_main:
            writer.claim()
            screens = Screen(quiet=told or config.quiet), Screen(quiet=told, errors=True)
            start = preflight.check_run(config, *(screen.say for screen in screens)).checkpoint
        manifest = preflight.check_data(config, world.world_size, start, hashes=world.is_main)
        start = None if config.dry_run else start  # a dry run starts at step 0
        if session.device.type == "cuda":  # no other process shares it
            room = torch.cuda.mem_get_info(session.device)[1]
        else:
            room = memory_bytes() // launched_local_world_size()
        preflight.check_room(config, manifest, room)
        if world.is_main and start is None:
            preflight.check_start(config)
    facts = {"dataset": manifest.fingerprint[:16], "torch": torch.__version__}
    settings = {key: str(value) for key, value in flat(to_dict(config)).items()}
    world.handshake(facts | settings | ({"code": code_hash()} if launched_machines() > 1 else {}))
    if not config.dry_run:
        check_shared(config.run, world)
    step = world.from_main(None if start is None else start.step, "the step to resume from")
    with world.together("reading the checkpoint"):
        if step is not None and start is None:
            start = checkpoint.verify(checkpoint.path_of(config.run, step))
        writer.go_on(step or 0)
    return manifest, start


def check_shared(run: str | Path, world: World) -> None:
    """Raise ``ConfigError`` on every rank if a machine cannot see a file that rank 0 writes. Every rank calls it."""
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
                    os.listdir(run)  # refreshes the cache of a network file system
    finally:
        if token is not None:
            token.unlink(missing_ok=True)


def build_trainer(
    config: RunConfig,
    session: Session,
    data: OpenData,
    choices: dict[str, Choice],
    beginning: Beginning,
    began: str | None = None,
) -> Trainer:
    """A trainer at step 0. Weights are drawn from the seed; rank 0 then loads ``beginning``, and DDP sends its weights
    to all ranks. Adds settings resolved here to ``choices``. ``began``: how the recurrent layers of a run that is
    resumed compute.
    """
    world, device = session.world, session.device
    torch.manual_seed(config.seed)
    network = build_network(config, data.manifest)
    if isinstance(network, LanguageModel):
        with world.together("reading the vocabulary"):
            network.start_bias(vocabulary_of(config).counts)
    beginning.put_into(network, config.model.embedding_std)
    network.to(device).recurrent.flatten_parameters()
    split, unlabelled = data.splits[TRAIN], None
    order = order_over(split, order_spec(config))
    path = choose(config, session, network.recurrent, order, began)
    layout, network.recurrent.fused = layout_of(path.value), path.value == "fused"
    wanted = recurrent_dtype(session.arithmetic, device.type, path.value)
    try_recurrence(network.recurrent, layout, wanted)
    choices["recurrence"] = Choice(f"{path.value} {wanted.value}", f"{path.reason}; {wanted.reason}")
    objective = build_objective(config, network, data.manifest.labels, DTYPES[wanted.value], device)
    shared: dict[str, Any] = {
        "rank": world.rank,
        "world_size": world.world_size,
        "layout": layout,
        "device": device,
        "micro_batch": None if config.micro_batch == "auto" else config.micro_batch,
        "guard": data.look,
        "masks": partial(network.masks, config.seed),
    }
    if config.self_training.rows:
        rows = data.splits[UNLABELLED]
        unlabelled = Loader(rows, order_over(rows, unlabelled_spec(config)), targets=beginning.targets, **shared)
    loader = Loader(split, order, unlabelled=unlabelled, **shared)
    limit = config.nan_limit + (FP16_FIRST_SKIPS if session.arithmetic == "fp16" else 0)
    guard = NonFiniteGuard(config, world, limit)
    return Trainer(config, objective, loader, session.accelerator, world, guard)


def build_objective(
    config: RunConfig, network: AnyNetwork, labels: Sequence[str], dtype: torch.dtype, device: torch.device
) -> AnyObjective:
    """The loss of a network that is on its device already; recurrent layers compute in ``dtype``."""
    if isinstance(network, LanguageModel):
        return LanguageObjective(
            network,
            candidates=config.language_model.candidates,
            seed=config.seed,
            recurrent_dtype=dtype,
            targets=Targets.of(config.language_model, vocabulary_of(config).counts, device),
        )
    optim = config.optim
    weights = torch.from_numpy(factors_of(optim, labels)).to(device, torch.float32)
    return Objective(
        network,
        label_smoothing=optim.label_smoothing,
        seed=config.seed,
        class_weights=weights if optim.class_weights else None,
        recurrent_dtype=dtype,
        soft_weight=config.self_training.weight,
    )


def factors_of(optim: OptimConfig, labels: Sequence[str]) -> np.ndarray:
    """Weight of the loss of each class, float64 ``[classes]``."""
    return np.array([optim.class_weights.get(label, 1.0) for label in labels])


VECTORS, STARTED_FROM, SOFT_LABELS = "vectors", "started_from", "soft_labels"
"""Keys of the facts in checkpoints and bundles."""


@dataclass
class Beginning:
    """Initial state of a run; ``vectors`` and ``weights`` only on rank 0 of a new run."""

    vectors: StartVectors | None = None
    weights: StartWeights | None = None
    targets: np.ndarray | None = None
    """Soft labels of the unlabelled rows, in the format of ``Loader``."""
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Facts for checkpoints and the bundle."""
    choices: dict[str, Choice] = field(default_factory=dict)
    """For the settings printed at the start."""

    def put_into(self, network: AnyNetwork, std: float) -> None:
        """Load vectors, then weights, into a network; for a token in both, the weights win. ``std``:
        ``model.embedding_std``.
        """
        if self.vectors is not None:
            self.vectors.put_into(network.embedding, std)
        if self.weights is not None:
            self.weights.put_into(network)

    def note(self, name: str, key: str, facts: dict[str, Any]) -> None:
        """Store ``facts`` under ``key``, and a line for the start."""
        self.facts[key] = facts
        covered = f"{facts['words']:,} of {facts['vocabulary']:,} words, {facts['tokens']:.1%} of the tokens"
        self.choices[name] = Choice(facts["source"], f"{facts['what']}; {covered}; sha256 {facts['sha256'][:12]}")


def begin(
    config: RunConfig,
    manifest: Manifest,
    splits: Mapping[str, Split],
    world: World,
    state: Mapping[str, Any] | None = None,
) -> Beginning:
    """The initial state of a run; with the ``state`` of its checkpoint, only the facts and the soft labels.

    Every rank calls it; raises the same ``UserError`` on all.
    """
    found = Beginning()
    with world.together("reading soft labels"):
        soft = open_soft_labels(config, manifest)
        if soft is not None:
            found.targets = targets_of(soft, splits[UNLABELLED])
            found.facts[SOFT_LABELS] = soft.facts
            found.choices["soft labels"] = Choice(str(soft.path), soft.in_words)
    if state is not None:
        for name, key in ("weights", STARTED_FROM), ("vectors", VECTORS):
            if facts := state.get(key):
                found.note(name, key, facts)
        return found
    with world.together("reading the weights and vectors to start from"):
        if world.is_main and config.initial_weights:
            donor = find_donor(config.initial_weights, config.model)
            found.weights = weights_of(donor, config.model, vocabulary_of(config), manifest)
            found.note("weights", STARTED_FROM, found.weights.facts)
        if world.is_main:
            find_vectors(config, manifest, found)
    return found


def vocabulary_of(config: RunConfig) -> Vocabulary:
    return Vocabulary.read(home_of(config.data) / VOCABULARY)


def find_vectors(config: RunConfig, manifest: Manifest, found: Beginning) -> None:
    """Put the word vectors of a new run into ``found``, read from a file or learned, or note why there are none."""
    source, dim = config.init.vectors, config.model.embedding_dim
    say = (lambda text: None) if config.quiet else partial(print, flush=True)
    if source == "none":
        return
    why = "a dry run learns none; the run itself does before its first step"
    if source != "own":
        say(f"vectors    reading {source}")
        found.vectors = from_file(source, vocabulary_of(config), dim)
    elif not config.dry_run:
        splits = [open_split(config.data, manifest, name) for name in LEARN_FROM if name in manifest.names]
        found.vectors, why = from_texts(splits, vocabulary_of(config), dim, say), "words have no neighbours that differ"
    if found.vectors is None:
        found.choices["vectors"] = Choice("random", why)
    else:
        found.note("vectors", VECTORS, found.vectors.facts)
