# SPDX-License-Identifier: Apache-2.0
"""The configuration of a training: ``RunConfig`` and its parts, documented field by field.

Nothing here imports torch, so that ``--help`` and a misspelt key are answered at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from harness.settings.auto import IntOrAuto, is_auto
from harness.settings.keeping import CheckpointConfig, EvaluationConfig
from harness.settings.model import InitConfig, ModelConfig
from harness.settings.optim import OptimConfig
from harness.settings.order import OrderConfig
from harness.settings.self_training import SelfTrainingConfig
from harness.settings.task import CLASSIFIER, LanguageModelConfig, Task
from harness.settings.tracking import TrackingConfig
from preprocessing.base import config_files
from preprocessing.base.errors import ConfigError, DataError, check_processes, check_wait, require
from preprocessing.base.schema import typed
from preprocessing.base.untrusted import readable

__all__ = [
    "CheckpointConfig",
    "EvaluationConfig",
    "InitConfig",
    "LanguageModelConfig",
    "LaunchRecipe",
    "ModelConfig",
    "OptimConfig",
    "OrderConfig",
    "Precision",
    "Recurrence",
    "RunConfig",
    "SelfTrainingConfig",
    "TrackingConfig",
    "flat",
    "model_from_dict",
    "require",
    "seconds",
    "to_dict",
]

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Recurrence = Literal["auto", "packed", "padded"]
DAMAGED = "edited or damaged; restore it"
MOST_SEEDS = 1000
EVERY_FOLD = "all"
NOTHING = "none"
"""In place of a dataset, or of a run directory: there is none."""
FIRST_KEYS = ("data", "run", "epochs", "global_batch", "optim.lr")
"""The keys of a training that matter most: the first screen of ``--help`` has these."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run; some keys may be ``auto``, which rules for the corpus turn into numbers."""

    RECIPES: ClassVar[str] = "train"
    """The kind of recipes that ``--config`` finds by name."""
    DEFAULT: ClassVar[Path] = config_files.file_of("train", "default")
    """The recipe of a command line that names none."""

    data: str = "data/quickstart"
    """Dataset directory, as written by `python -m preprocessing run`."""
    fold: int | None = None
    """Hold out this fold of the dataset (splits.folds) as validation, and train on the others; launch --folds all does
    it with each. null: the dataset's own train and validation."""
    run: str = "runs/quickstart"
    """Run directory to write; one directory holds one run."""
    task: Task = CLASSIFIER
    """What is learned: to tell labels apart, or (language_model) to predict tokens, from training and unlabelled rows,
    for a classifier to start from; see docs/unlabelled.md."""
    epochs: IntOrAuto = 4
    """How often every training row is seen. auto: by the rows and the batch."""
    global_batch: IntOrAuto = 64
    """Rows per optimizer step over all processes; the last word on batch size, whatever the number of processes. auto:
    by the training rows."""
    global_batch_tokens: int | None = None
    """In place of global_batch: most tokens per step over all processes, padding included."""
    micro_batch: int | Literal["auto"] | None = None
    """Most rows a process holds at once; a larger share of the global batch is accumulated. null: no limit. auto: tried
    out on the longest batch before training, halved while CUDA runs out of memory."""
    precision: Precision = "auto"
    """Arithmetic of training. auto: bf16 where the device computes it natively, else fp32. Evaluation is in fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA devices when there are any."""
    threads: int | None = None
    """Threads that each process computes with on a CPU; fewer on a machine that others use too. null: OMP_NUM_THREADS
    where you set it, else this process's share of the cores."""
    recurrence: Recurrence = "auto"
    """How the recurrent layers get their rows: packed (real tokens alone) or padded to the batch's longest row; equal
    within rounding. auto: what is the faster on the device, with its reason in the first lines of a run."""
    seed: int = 0
    """Decides initial weights, order and dropout."""
    patience: IntOrAuto | None = None
    """Stop after this many validations without a better one; null: never. auto: by the epochs."""
    validate_every: int = 1
    """Epochs from one validation to the next; after the last epoch there always is one."""
    nan_limit: int = 3
    """A step whose gradient is not finite is skipped on all processes, its rows written to RUN/bad_batches; after this
    many in a row training stops."""
    dry_run: bool = False
    """Build everything, run the longest batch, print memory and the time of a full run; leave nothing behind."""
    profile: list[int] = field(default_factory=list)
    """First and last step to record with torch.profiler, as in [20, 25]; the trace goes to RUN/profile."""
    select: Literal["accuracy", "loss", "calibrated"] = "accuracy"
    """Which validation metric decides the epoch whose weights are kept: the highest accuracy, the lowest log loss, or
    the lowest log loss after the probabilities were calibrated, which a small validation split tells apart best."""
    eval_batch: int = 512
    """Rows per batch and process in validation and test."""
    stage_dir: str = "auto"
    """Local directory that shards are copied to, once per node; auto: only from a network file system; none: never."""
    timeout_s: int = 600
    """Longest wait of one process for another before the run fails with a sentence."""
    resume: Literal["auto", "never"] = "auto"
    """auto: go on from the newest checkpoint that verifies, else begin. never: refuse a directory that holds a run."""
    allow: str = ""
    """Keys, with commas, that may differ from those the run began with although the run then ends elsewhere."""
    quiet: bool = False
    """Print nothing but warnings and errors."""
    max_time: str | None = None
    """Save and leave with exit code 85 after this time, as in 90 (seconds), 30m or 3:55:00; null: no limit."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints:"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network:"""
    init: InitConfig = field(default_factory=InitConfig)
    """The start of the weights:"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer:"""
    order: OrderConfig = field(default_factory=OrderConfig)
    """The order of rows:"""
    self_training: SelfTrainingConfig = field(default_factory=SelfTrainingConfig)
    """Soft labels of another model:"""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Metrics and trackers:"""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Probabilities and labels:"""
    language_model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    """The language model:"""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("eval_batch", "nan_limit", "validate_every"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        check_wait("timeout_s", self.timeout_s)
        for name in ("epochs", "global_batch"):
            value = getattr(self, name)
            require(is_auto(value) or value >= 1, name, value, "at least 1, or auto")
        known = get_args(Recurrence)
        require(self.recurrence in known, "recurrence", self.recurrence, ", ".join(known))
        micro_batch = self.micro_batch
        fits = micro_batch in (None, "auto") or (isinstance(micro_batch, int) and micro_batch >= 1)
        require(fits, "micro_batch", micro_batch, "at least 1, auto, or null")
        epochs, patience = self.epochs, self.patience
        fits = patience is None or is_auto(patience) or (patience >= 1 and (is_auto(epochs) or patience < epochs))
        require(fits, "patience", patience, f"at least 1 and below epochs ({epochs}), auto, or null")
        window = self.profile
        in_order = not window or (len(window) == 2 and 0 <= window[0] <= window[1])
        require(in_order, "profile", window, "a first and a last step, as in [20, 25]")
        check_processes("threads", self.threads)
        tokens = self.global_batch_tokens
        require(tokens is None or tokens >= 1, "global_batch_tokens", tokens, "at least 1, or null")
        require(0 <= self.seed < 2**63, "seed", self.seed, "a whole number from 0 to 2**63 - 1")
        require(self.fold is None or self.fold >= 0, "fold", self.fold, "a fold's number, from 0, or null")
        require(self.run.splitlines() == [self.run], "run", self.run, "a directory's name, on one line")
        require(bool(self.stage_dir), "stage_dir", self.stage_dir, "auto, none or a directory's name")
        require(bool(self.data), "data", self.data, "a directory's name")
        self.optim.check_moves(self.model.embedding_dim)
        require(seconds(self.max_time) is not None, "max_time", self.max_time, "a time such as 90, 30m or 3:55:00")
        names = {part for key in flat(to_dict(self)) for part in (key, key.partition(".")[0])}
        weights = "optim.class_weights"  # its keys are labels, of which some may be gone
        for key in sorted(key for key in self.allowed if not f"{key}.".startswith(f"{weights}.")):
            require(key in names, "allow", key, "keys of the training such as epochs or optim.lr, with commas")

    @property
    def max_time_s(self) -> float | None:
        """``max_time`` in seconds; None for no limit."""
        return None if self.max_time is None else seconds(self.max_time)

    @property
    def allowed(self) -> set[str]:
        """The keys of ``allow``."""
        return {key.strip().removeprefix("--") for key in self.allow.split(",") if key.strip()}


def seconds(text: str | None) -> float | None:
    """``90``, ``30m``, ``1h30m`` or ``3:55:00`` in seconds; 0 for None. None for what is no time above 0."""
    if text is None:
        return 0.0
    clock = re.fullmatch(r"(?:(\d+):)?(\d+):([0-5]?\d)", text)
    words = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text)
    match = clock or words
    if match is None:
        return None
    hours, minutes, rest = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + rest or None


@dataclass(frozen=True, kw_only=True)
class LaunchRecipe(RunConfig):
    """The keys of one training, or of many that differ in their seed or in the fold that they hold out."""

    seeds: str | None = None
    """Train once with each of these seeds, as in 0,1,2: one after the other in RUN/seed-0, RUN/seed-1, …, with mean and
    spread of their figures in the end; see docs/many-runs.md. python -m harness launch alone takes it."""
    folds: str | None = None
    """Train once for each fold of the dataset (splits.folds), holding it out: all, or their number; in RUN/fold-0,
    RUN/fold-1, …, with a prediction for every row by the run that did not learn from it. python -m harness launch alone
    takes it."""

    def __post_init__(self) -> None:
        """Check ranges, and that one thing alone is varied."""
        super().__post_init__()
        if self.seeds is not None and self.folds is not None:
            raise ConfigError("seeds, folds: one command varies one of the two; give --seeds or --folds, not both")
        if self.folds is not None:
            number = self.folds.strip()
            fits = number == EVERY_FOLD or (number.isdecimal() and int(number) >= 2)
            require(fits, "folds", self.folds, "all, or the number of folds that the dataset has, at least 2")
        if self.seeds is not None:
            seeds_of(self.seeds)

    @property
    def recipe(self) -> RunConfig:
        """The training alone."""
        return RunConfig(**{one.name: getattr(self, one.name) for one in fields(RunConfig)})


def seeds_of(text: str) -> list[int]:
    """The seeds that ``0,1,2`` names, in this order. Raises ``ConfigError``."""
    words = [word.strip() for word in text.split(",")]
    whole = all(word.isdecimal() and word.isascii() for word in words)
    found = [int(word) for word in words] if whole else []
    fits = 2 <= len(set(found)) == len(found) <= MOST_SEEDS and max(found) < 2**63
    require(fits, "seeds", text, f"2 to {MOST_SEEDS} different whole numbers with commas between, as in 0,1,2")
    return found


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain values, for YAML, JSON and trackers; tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return {key: plain(value) for key, value in asdict(config).items()}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys; lists and empty mappings are values."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def model_from_dict(values: dict[str, Any], where: str) -> ModelConfig:
    """The model part of a configuration that a file ``where`` holds. Raises ``DataError`` for what no model has.

    Unknown keys mean that another version wrote it.
    """
    unknown = set(values) - {item.name for item in fields(ModelConfig)}
    if unknown:
        raise DataError(
            f"{where}: model.{readable(sorted(unknown)[0])}: unknown key: the weights were written by another version "
            "of padless; use that one, or restore the file"
        )
    try:
        model: ModelConfig = typed(ModelConfig, values, f"{where}: model", DAMAGED)
        require(not is_auto(model.wide), "model.wide", model.wide, "a number")
    except ConfigError as error:
        raise DataError(f"{where}: {error}; {DAMAGED}") from None
    return model
