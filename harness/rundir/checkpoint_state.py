# SPDX-License-Identifier: Apache-2.0
"""The schema of a checkpoint: what its manifest and its state hold, and which tensors belong to its weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from harness.rundir.tensor_files import Tensors
from preprocessing.base.errors import DataError
from preprocessing.base.typed import Between, Count, Sha256, Spelt, having, typed
from preprocessing.base.untrusted import shown

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter, beside the number of its steps."""
STEP, AVERAGE = "step", "average"
MEND = "restore it, or remove this checkpoint"
MOST_HASH = (1 << 64) - 1


class Float:
    """A number as ``float.hex`` spells it."""

    def holds(self, value: str) -> bool:
        """Whether it is one."""
        try:
            float.fromhex(value)
        except (ValueError, OverflowError):
            return False
        return True

    def __str__(self) -> str:
        """For a sentence."""
        return "a number as float.hex spells it"


Name = Annotated[str, Spelt("[!-~]{0,128}", "a hash")]
Hexadecimal = Annotated[str, Float()]
Vectors = Annotated[dict[str, Any] | None, having(source=str, sha256=Name, words=Count, vocabulary=Count, tokens=float)]
StartedFrom = Annotated[
    dict[str, Any] | None,
    having(
        **{"source": str, "task": str, "sha256": Name, "words": Count, "vocabulary": Count, "tokens": float},
        taken=list[str],
        as_usual=dict[str, str],
    ),
]
SoftLabels = Annotated[dict[str, Any] | None, having(sha256=Name)]
Some = Annotated[float, Between(1e-30, 1e30)]


@dataclass(frozen=True)
class FileFacts:
    """What a manifest says of a file."""

    bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class CheckpointManifest:
    """``manifest.json``."""

    format: str
    format_version: int
    step: Count
    files: dict[str, FileFacts]


@dataclass(frozen=True)
class Guard:
    """Steps that were skipped."""

    in_a_row: Count
    total: Count


@dataclass(frozen=True)
class Scaler:
    """Of the loss, in fp16, as torch names it."""

    scale: Some
    growth_factor: Some
    backoff_factor: Some
    growth_interval: Count
    _growth_tracker: Count


@dataclass(frozen=True)
class Counted:
    """What one rank has counted since the last log line."""

    rows: Count
    tokens: Count
    padded_tokens: Count
    skipped: Count
    hash: Annotated[int, Between(0, MOST_HASH)]
    loss: Hexadecimal
    unlabelled_rows: Count = 0
    unlabelled_loss: Hexadecimal = "0x0p+0"


@dataclass(frozen=True)
class TrainerState:
    """Where the loop stands."""

    step: Count
    epochs_done: Count
    stopped: bool
    guard: Guard
    scaler: Scaler | None
    counted: Annotated[list[Counted], Between(1)]


@dataclass(frozen=True)
class DecisionState:
    """How logits become labels."""

    temperature: Annotated[float, Between(1e-6, 1e6)]
    threshold: Annotated[float, Between(0, 1)]


@dataclass(frozen=True)
class SelectionState:
    """The best validation so far."""

    metric: Literal["accuracy", "loss", "calibrated"]
    best: float | None
    best_step: Count | None
    epochs_since_best: Count
    decision: DecisionState


@dataclass(frozen=True)
class CheckpointState:
    """``state.json``."""

    step: Count
    trainer: TrainerState
    selection: SelectionState
    dataset: Name
    text_hash: Name
    config: dict[str, Any]
    log_bytes: dict[str, Count]
    order_version: Count = 1
    versions: dict[str, str | None] = field(default_factory=dict)
    vectors: Vectors = None
    started_from: StartedFrom = None
    soft_labels: SoftLabels = None
    dataset_parts: dict[str, Name] = field(default_factory=dict)


def check_state(content: dict[str, Any], path: Path) -> None:
    """Raise ``DataError`` for a state that a training could not go on from."""
    state = typed(CheckpointState, content, str(path), MEND)
    if state.trainer.step != state.step:
        raise DataError(f"{path}: trainer.step is {state.trainer.step}, and step {state.step}; {MEND}")
    selection = state.selection
    if (selection.best is None) != (selection.best_step is None) or (selection.best_step or 0) > state.step:
        raise DataError(f"{path}: selection.best_step is {selection.best_step}, at step {state.step}; {MEND}")


def check_moments(model: Tensors, optimizer: Tensors, path: Path) -> None:
    """Raise ``DataError`` for an optimizer's file ``path`` that does not belong to the weights, or is not whole.

    Each weight that training changes has both moments and the number of its steps; either all have an average, or none.
    """
    having: dict[str, set[str]] = {kind: set() for kind in (STEP, *MOMENTS, AVERAGE)}
    for name, entry in optimizer.items():
        kind, _, of = name.partition(".")
        if kind not in having or of not in model:
            raise DataError(f"{path}: {shown(name)} belongs to no weight of this model; {MEND}")
        wanted = () if kind == STEP else model[of].shape
        if entry.shape != wanted:
            raise DataError(f"{path}: {shown(name)} has shape {list(entry.shape)}, expected {list(wanted)}; {MEND}")
        having[kind].add(of)
    check_complete(having, path)


def check_complete(having: dict[str, set[str]], path: Path) -> None:
    """Raise ``DataError`` that names the first weight which lacks something that the others have."""
    every = set[str]().union(*having.values())
    if not every:
        raise DataError(f"{path}: holds no moments of the optimizer; {MEND}")
    for kind, there in having.items():
        if missing := first(every - there) if there or kind != AVERAGE else None:
            raise DataError(f"{path}: {kind}.{missing} is missing; {MEND}")


def first(names: Iterable[str]) -> str | None:
    """The first of some names, None without any."""
    return min(names, default=None)
