# SPDX-License-Identifier: Apache-2.0
"""What a training run is asked to do: ``RunConfig`` and its parts, documented field by field.

Nothing here imports torch, so that ``--help`` and a misspelt key are answered at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from preprocessing.base.errors import ConfigError, require

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Recurrence = Literal["auto", "packed", "padded"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Embedding, recurrent layers, pooling, one linear layer."""

    embedding_dim: int = 128
    """Size of a token's vector."""
    embedding_std: float = 1.0
    """Standard deviation of the vectors before training. A rare word's vector hardly moves from its start, which is
    noise: a small start keeps that noise small."""
    hidden_size: int = 128
    """Size of the LSTM state, for each direction."""
    num_layers: int = 1
    """Recurrent layers, one above the other."""
    bidirectional: bool = True
    """Read every text from both ends."""
    pooling: Literal["last", "max", "mean", "max+mean"] = "max"
    """How a sequence of states becomes one vector: the final state, or the maximum, the mean or both over real tokens.
    """
    dropout: float = 0.0
    """Chance to drop a feature of the embeddings, between layers and before the last layer; one mask per text."""
    word_dropout: float = 0.0
    """Chance that training reads a token as <unk>."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("embedding_dim", "hidden_size", "num_layers"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        require(self.embedding_std > 0, "model.embedding_std", self.embedding_std, "above 0")
        for name in ("dropout", "word_dropout"):
            require(0 <= getattr(self, name) < 1, f"model.{name}", getattr(self, name), "at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam and the learning rate as a function of the optimizer step."""

    lr: float = 2e-3
    """Highest learning rate."""
    warmup: float = 0.05
    """Share of all steps during which the learning rate climbs to ``lr``."""
    decay: Literal["none", "linear", "cosine"] = "linear"
    """How the learning rate falls to zero between the warm-up and the last step."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW), on matrices and not on biases."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's averaging factors for the gradient and its square."""
    clip_norm: float | None = 1.0
    """Gradients are scaled down to this norm; null leaves them as they are."""
    ema: float | None = None
    """Average the weights over steps with this factor (0.999, say); the average is validated, kept and tested."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over all classes."""
    class_weights: dict[str, float] = field(default_factory=dict)
    """Label -> factor for the loss of its rows, as in {positive: 2.0}; a label that is not named counts once."""
    gradient_compression: Literal["none", "bf16"] = "none"
    """What gradients travel as between processes."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.lr > 0, "optim.lr", self.lr, "above 0")
        require(0 <= self.warmup <= 1, "optim.warmup", self.warmup, "a share of the steps, from 0 to 1")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "at least 0")
        require(all(0 <= beta < 1 for beta in self.betas), "optim.betas", self.betas, "two numbers from 0 to below 1")
        require(self.clip_norm is None or self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "above 0, or null")
        require(self.ema is None or 0 < self.ema < 1, "optim.ema", self.ema, "between 0 and 1, or null")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, "optim.label_smoothing", smoothing, "at least 0 and below 1")
        for label, weight in self.class_weights.items():
            require(weight > 0, f"optim.class_weights.{label}", weight, "above 0")


WINDOW_BYTES_PER_ROW = 60
"""Most memory that computing a window takes, for each of its rows: places, lengths, keys, permutations between them."""


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """Which rows meet in a batch; with the dataset, seed and global batch this decides the order of every row."""

    window_rows: int = 131_072
    """Rows that are sorted by length together; more means less padding and more memory (60 bytes a row)."""
    length_noise: float = 0.003
    """Lengths are blurred by up to this share before sorting, so that neighbours change from epoch to epoch."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.window_rows >= 1, "order.window_rows", self.window_rows, "at least 1")
        require(0 <= self.length_noise <= 1, "order.length_noise", self.length_noise, "from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Who else is told the metrics; ``metrics.jsonl`` in the run directory always comes first."""

    tracker: str = "none"
    """Name of one of Accelerate's trackers, such as wandb, or several with commas; none for metrics.jsonl alone."""
    project: str = "padless"
    """Project name that the tracker files the run under."""
    name: str | None = None
    """Display name of the run; the run directory's name unless given."""
    tags: list[str] = field(default_factory=list)
    """Words to find the run by at W&B, as in [baseline, long]."""
    log_bundle: bool = False
    """Also send the best weights to W&B, as an artifact, when the run has finished."""
    log_every: int = 20
    """Optimizer steps between two lines of metrics."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.log_every >= 1, "tracking.log_every", self.log_every, "at least 1")

    @property
    def trackers(self) -> list[str]:
        """The trackers' names as a list."""
        names = [name.strip() for name in self.tracker.split(",")]
        return [name for name in names if name not in {"", "none"}]


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run is saved and what is kept; it is saved after each epoch and when asked to stop in any case."""

    every_s: float = 300.0
    """Seconds between two checkpoints inside an epoch: at most so much work is ever repeated."""
    every_steps: int | None = None
    """Also save after every so many steps; null: by time alone."""
    keep_last: int = 2
    """Newest checkpoints to keep; the one of the best validation is kept too."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.every_s > 0, "checkpoint.every_s", self.every_s, "above 0")
        require(self.keep_last >= 1, "checkpoint.keep_last", self.keep_last, "at least 1")
        steps = self.every_steps
        require(steps is None or steps >= 1, "checkpoint.every_steps", steps, "at least 1, or null")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How probabilities become labels; decided on the validation split, kept in the bundle, used by predict."""

    threshold: Literal["fixed", "accuracy", "f1", "recall"] = "fixed"
    """From which probability class 1 is predicted, for two classes. fixed: 0.5, the more probable class, as everywhere
    else; accuracy, f1: the best one on validation; recall: the highest that finds ``recall`` of class 1 there."""
    recall: float = 0.95
    """Share of the validation rows of class 1 that `threshold: recall` must find."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(0 < self.recall <= 1, "evaluation.recall", self.recall, "a share above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run."""

    data: str = "data/quickstart"
    """Dataset directory, as written by `python -m preprocessing run`."""
    run: str = "runs/quickstart"
    """Run directory to write; one directory holds one run."""
    epochs: int = 4
    """How often every training row is seen."""
    global_batch: int = 64
    """Rows per optimizer step over all processes; the last word on batch size, whatever the number of processes."""
    global_batch_tokens: int | None = None
    """In place of global_batch: most tokens per step over all processes, padding included."""
    micro_batch: int | Literal["auto"] | None = None
    """Most rows a process holds at once; a larger share of the global batch is accumulated. null: no limit. auto: tried
    out on the longest batch before training, halved while CUDA runs out of memory."""
    precision: Precision = "auto"
    """Arithmetic of training. auto: bf16 where the device computes it natively, else fp32. Evaluation is in fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA devices when there are any."""
    recurrence: Recurrence = "auto"
    """How the recurrent layers get their rows: packed (real tokens alone) or padded to the batch's longest row; equal
    within rounding. auto: what is the faster on the device, with its reason in the first lines of a run."""
    seed: int = 0
    """Decides initial weights, order and dropout."""
    patience: int | None = None
    """Stop after this many epochs without a better validation; null: never."""
    nan_limit: int = 3
    """A step whose gradient is not finite is skipped on all processes, its rows written to RUN/bad_batches; after this
    many in a row training stops."""
    dry_run: bool = False
    """Build everything, run the longest batch, print memory and the time of a full run; leave nothing behind."""
    profile: list[int] = field(default_factory=list)
    """First and last step to record with torch.profiler, as in [20, 25]; the trace goes to RUN/profile."""
    select: Literal["accuracy", "loss"] = "accuracy"
    """Which validation metric decides the epoch whose weights are kept."""
    eval_batch: int = 512
    """Rows per batch and process in validation and test."""
    residency: Literal["auto", "mapped", "memory", "device"] = "auto"
    """Where rows live: mapped shards, each process's memory, or the device; auto decides by size and says why."""
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
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer:"""
    order: OrderConfig = field(default_factory=OrderConfig)
    """The order of rows:"""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Metrics and trackers:"""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Probabilities and labels:"""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("epochs", "global_batch", "eval_batch", "timeout_s", "nan_limit"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        known = get_args(Recurrence)
        require(self.recurrence in known, "recurrence", self.recurrence, ", ".join(known))
        micro_batch = self.micro_batch
        fits = micro_batch in (None, "auto") or (isinstance(micro_batch, int) and micro_batch >= 1)
        require(fits, "micro_batch", micro_batch, "at least 1, auto, or null")
        useful = self.patience is None or 1 <= self.patience < self.epochs
        require(useful, "patience", self.patience, f"at least 1 and below epochs ({self.epochs}), or null")
        window = self.profile
        in_order = not window or (len(window) == 2 and 0 <= window[0] <= window[1])
        require(in_order, "profile", window, "a first and a last step, as in [20, 25]")
        tokens = self.global_batch_tokens
        require(tokens is None or tokens >= 1, "global_batch_tokens", tokens, "at least 1, or null")
        require(0 <= self.seed < 2**63, "seed", self.seed, "a whole number from 0 to 2**63 - 1")
        require(bool(self.run), "run", self.run, "a directory's name")
        require(bool(self.stage_dir), "stage_dir", self.stage_dir, "auto, none or a directory's name")
        require(bool(self.data), "data", self.data, "a directory's name")
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


def model_from_dict(values: dict[str, Any]) -> ModelConfig:
    """The model part of a stored configuration; unknown keys mean that another version wrote it."""
    unknown = set(values) - {item.name for item in fields(ModelConfig)}
    if unknown:
        raise ConfigError(
            f"model.{sorted(unknown)[0]}: unknown key: the weights were written by another version of padless"
        )
    return ModelConfig(**values)
