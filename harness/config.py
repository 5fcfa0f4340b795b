# SPDX-License-Identifier: Apache-2.0
"""The configuration of a training: ``RunConfig`` and its parts, documented field by field.

The annotation of a field has its range. A field that is ``OrAuto`` may be ``auto`` in what a user writes: rules for the
corpus put a number in its place (``harness.training.rules``), and nothing else meets the word. Nothing here imports
torch, so that ``--help`` and a misspelt key are answered at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, Union

from msgspec import Meta

from preprocessing.base import configuration
from preprocessing.base.errors import ConfigError, DataError, require
from preprocessing.base.schema import (
    Above0,
    AtLeast0,
    AtLeast1,
    Chance,
    Line,
    Name,
    Processes,
    Seconds,
    Share,
    Wait,
    typed,
)

T = TypeVar("T")
if TYPE_CHECKING:
    OrAuto = Annotated[T, "or auto"]
else:

    class OrAuto:
        """``OrAuto[int]`` is read as a number or ``auto``; to whoever computes with it, it is a number."""

        def __class_getitem__(cls, kind: Any) -> Any:
            return Union[kind, Literal["auto"]]  # noqa: UP007


def is_auto(value: object) -> bool:
    """Whether a key still waits for its number."""
    return value == "auto"


Precision = Literal["auto", "fp32", "bf16", "fp16"]
Recurrence = Literal["auto", "packed", "padded"]
Task = Literal["classifier", "language_model"]
CLASSIFIER: Task = "classifier"
LANGUAGE_MODEL: Task = "language_model"
DAMAGED = "edited or damaged; restore it"
MOST_SEEDS = 1000
NOTHING = "none"
"""In place of a dataset, or of a run directory: there is none."""
NONE = "none"
"""No file of soft labels."""
FIRST_KEYS = ("data", "run", "epochs", "global_batch", "optim.lr")
"""The keys of a training that matter most: the first screen of ``--help`` has these."""
MOST_BUCKETS = 1 << 26
"""A quarter of a gigabyte for each output of the wide part."""
Features = Annotated[int, Meta(ge=1, le=1 << 20)]


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run is saved and what is kept; it is saved after each epoch and when asked to stop in any case."""

    every_s: Wait = 300.0
    """Seconds between two checkpoints inside an epoch: at most so much work is ever repeated. The first one of a start
    comes after 60."""
    every_steps: AtLeast1 | None = None
    """Also save after every so many steps; null: by time alone."""
    keep_last: AtLeast1 = 2
    """Newest checkpoints to keep; the one of the best validation is kept too."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How probabilities become labels; decided on the validation split, kept in the bundle, used by predict."""

    threshold: Literal["fixed", "accuracy", "f1", "recall"] = "fixed"
    """From which probability class 1 is predicted, for two classes. fixed: 0.5, the more probable class, as everywhere
    else; accuracy, f1: the best one on validation; recall: the highest that finds ``recall`` of class 1 there."""
    recall: Annotated[float, Meta(gt=0, le=1)] = 0.95
    """Share of the validation rows of class 1 that `threshold: recall` must find."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Embedding, recurrent layers, pooling, one linear layer; a linear part beside them."""

    cell: str = "lstm"
    """The recurrent cell: lstm, or gru, which has three gates for four."""
    embedding_dim: Features = 128
    """Size of a token's vector."""
    embedding_std: Above0 = 1.0
    """Standard deviation of the vectors before training. A rare word's vector hardly moves from its start, which is
    noise: a small start keeps that noise small."""
    hidden_size: Features = 128
    """Size of the state, for each direction."""
    num_layers: Annotated[int, Meta(ge=1, le=128)] = 1
    """Recurrent layers, one above the other."""
    bidirectional: bool = True
    """Read every text from both ends."""
    pooling: str = "max"
    """How a sequence of states becomes one vector: last, the final state; max, mean or max+mean over real tokens."""
    dropout: Chance = 0.0
    """Chance to drop a feature of the embeddings, between layers and before the last layer; one mask per text."""
    word_dropout: Chance = 0.0
    """Chance that training reads a token as <unk>."""
    wide: OrAuto[Annotated[int, Meta(ge=0, le=MOST_BUCKETS)]] = 0
    """Buckets of a linear part over hashed n-grams, whose logits are added to the network's; 0: none. auto: by the
    tokens of the corpus."""
    wide_ngrams: Annotated[int, Meta(ge=1, le=8)] = 2
    """Words of the longest n-grams of the linear part: 2, words and pairs. With 3 and more, which long texts are the
    better for, a bucket belongs to the most frequent of its n-grams."""
    wide_tail: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Last tokens of a text whose words and pairs are features of the linear part once more, apart from the same ones
    anywhere: people say last what they mean. 0: none."""
    wide_tf: Literal["log", "binary"] = "log"
    """What a feature of the linear part counts that a text has several times: 1 + ln of how often (log), or as much as
    one that it has once (binary)."""
    freeze_embedding: AtLeast1 | Literal["always"] | None = None
    """Optimizer steps, from the first, during which the vectors stay what they are; always: to the end; null: none."""

    def __post_init__(self) -> None:
        """Check ranges."""
        fits = self.wide in (0, "auto") or (self.wide > 1 and self.wide.bit_count() == 1)
        require(fits, "model.wide", self.wide, f"a power of two up to {MOST_BUCKETS}, 0 for none, or auto")


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """What the weights are before the first step, where they are not drawn from the seed."""

    vectors: Name = "none"
    """Word vectors that the embedding starts from, scaled to model.embedding_std: none: random ones; own: those of the
    dataset's own texts, kept beside it, and learned before training if they are not there yet; auto: own where there
    are a million tokens to learn them from, else none; or a FILE as word2vec (text or binary), GloVe or fastText (.vec)
    have it, .gz too. Words without a vector start random."""
    weights: Name | None = None
    """Run or bundle, also of another dataset or of a language model, whose weights the model starts from: vectors of
    the tokens that both know, at their own scale, recurrent layers, and the last layer if the classes are the same.
    null: none."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam and the learning rate as a function of the optimizer step."""

    lr: OrAuto[Above0] = 2e-3
    """Highest learning rate. auto: by the rows of a step and the classes."""
    warmup: Share = 0.05
    """Share of all steps during which the learning rate climbs to ``lr``."""
    decay: Literal["none", "linear", "cosine"] = "linear"
    """How the learning rate falls to zero between the warm-up and the last step."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    """Decoupled weight decay (AdamW), on matrices and not on biases."""
    betas: tuple[Chance, Chance] = (0.9, 0.999)
    """Adam's averaging factors for the gradient and its square."""
    clip_norm: Above0 | None = 1.0
    """Gradients are scaled down to this norm; null leaves them as they are."""
    ema: OrAuto[Annotated[float, Meta(gt=0, lt=1)]] | None = None
    """Average the weights over steps with this factor (0.999, say); the average is validated, kept and tested. auto:
    over about a tenth of all steps."""
    label_smoothing: Chance = 0.0
    """Share of each label that is spread over all classes."""
    class_weights: dict[str, Above0] = field(default_factory=dict)
    """Label -> factor for the loss of its rows, as in {positive: 2.0}; a label that is not named counts once."""
    wide_lr: OrAuto[Above0] = 20.0
    """Rate of the linear part (model.wide) at the first step; it falls to zero evenly. auto: by rows and steps."""
    wide_warmup: Share = 0.0
    """Share of all steps during which that rate climbs first. Without it the first rows leave more in the linear part
    than others, the more so with many features for each row."""
    wide_ratio: Annotated[float, Meta(ge=0, le=4)] = 0.5
    """Power of a feature's log-count ratio, which says how much it tells of the label, in what the linear part weighs
    it before it learns; 0: rare features weigh most, whatever they tell."""
    wide_min_rows: AtLeast1 = 2
    """Training rows that must have a feature of the linear part, or it counts for nothing."""
    wide_smoothing: Chance | None = None
    """label_smoothing of the linear part, which with long n-grams knows the training rows by heart before it has
    learned what they have in common; null: that of the network."""
    adversarial: Annotated[float, Meta(gt=0, le=100)] | None = None
    """Learn also from every text moved in the direction that raises its loss most: how far, over all of its vectors
    together, in standard deviations of the embedding (1 to 5). null: no text is moved."""
    gradient_compression: Literal["none", "bf16"] = "none"
    """What gradients travel as between processes: bf16 halves them, for a slow network between machines."""


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """Which rows meet in a batch; with the dataset, seed and global batch this decides the order of every row."""

    length_noise: Share = 0.003
    """Lengths are blurred by up to this share before sorting, so that neighbours change from epoch to epoch."""
    unlabelled_batch: AtLeast0 = 0
    """Unlabelled rows of every step over all processes, beside the labelled ones and in an order of their own."""


@dataclass(frozen=True, kw_only=True)
class SelfTrainingConfig:
    """Which soft labels are learned, and how much they count."""

    rounds: Annotated[int, Meta(ge=0, le=100)] = 0
    """Trainings before the last one, in RUN/round-0, RUN/round-1, …: the first learns from labelled rows alone, and
    every model labels the unlabelled rows for the next. `python -m harness launch` does all of them; 0: none."""
    first: dict[str, Any] = field(default_factory=dict)
    """Key -> value of the first of these trainings where they are others, as in {epochs: 6, global_batch: 64}."""
    labels: Name = NONE
    """Soft labels of `python -m harness label`: a file, or the name of one beside the dataset. They are what the
    unlabelled rows of each step (order.unlabelled_batch) are to learn."""
    weight: Above0 = 1.0
    """What the mean loss of a step's unlabelled rows is multiplied by before that of its labelled rows is added."""
    any_teacher: bool = False
    """Learn also from a teacher that is no better than chance on validation; such soft labels are refused otherwise."""

    def __post_init__(self) -> None:
        """Check ranges, and that nothing is set that soft labels alone give a meaning."""
        if self.rounds and self.labels != NONE:
            raise ConfigError("self_training.labels: rounds make soft labels of their own; set one of the two")
        if self.first and not self.rounds:
            raise ConfigError("self_training.first: is about rounds; set self_training.rounds, or leave it")
        if self.labels == NONE and not self.rounds and (self.weight != 1.0 or self.any_teacher):
            raise ConfigError(
                "self_training.weight, any_teacher: they do nothing without soft labels; set self_training.labels to "
                "what python -m harness label has written"
            )

    @property
    def is_on(self) -> bool:
        """Whether there are soft labels to learn."""
        return self.labels != NONE


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Pretraining: each direction of the first recurrent layer learns to predict its next token."""

    candidates: AtLeast1 = 1024
    """Tokens that each right one is told from in a step, drawn from the whole vocabulary; more cost time and learn more
    from a step. Half of the vocabulary or more: all of it, which is exact."""
    window: Annotated[int, Meta(ge=1, le=1024)] = 1
    """Tokens ahead of which each state predicts some, in no order. 1: the next one. Some ten teach more of what a text
    is about, and less of its grammar."""
    distances: AtLeast1 = 1
    """How many of the distances 1 to window are learned in a step, drawn anew for each."""
    frequent: Annotated[float, Meta(gt=0, le=1)] | None = None
    """Share of all tokens from which on a token's predictions count the less, the more often it occurs (word2vec's
    sample), as in 3e-4; null: all predictions count alike."""

    def __post_init__(self) -> None:
        """Check ranges."""
        fits = self.distances <= self.window
        require(fits, "language_model.distances", self.distances, f"from 1 to the window ({self.window})")


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Trackers that receive the metrics too; ``metrics.jsonl`` in the run directory always comes first."""

    tracker: str = "none"
    """Name of one of Accelerate's trackers, such as wandb, or several with commas; none for metrics.jsonl alone."""
    project: str = "padless"
    """Project name that the tracker files the run under."""
    name: str | None = None
    """Display name of the run; the run directory's name unless given."""
    group: str | None = None
    """What W&B puts runs together by; null: the dataset, and for launch --seeds or --folds the folder of the runs."""
    tags: list[str] = field(default_factory=list)
    """Words to find the run by at W&B, as in [baseline, long]."""
    log_bundle: bool = False
    """Also send the best weights to W&B, as an artifact, when the run has finished."""
    log_every: AtLeast1 = 20
    """Optimizer steps between two lines of metrics."""

    @property
    def trackers(self) -> list[str]:
        """The trackers' names as a list."""
        return [name for name in self.tracker.replace(",", " ").split() if name != "none"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run; some keys may be ``auto``, which rules for the corpus turn into numbers."""

    RECIPES: ClassVar[str] = "train"
    """The kind of recipes that ``--config`` finds by name."""
    DEFAULT: ClassVar[Path] = configuration.file_of("train", "default")
    """The recipe of a command line that names none."""
    IN_FRONT: ClassVar[tuple[str, ...]] = (
        *(
            "num_processes",
            "num_machines",
            "machine_rank",
            "main_process_ip",
            "main_process_port",
            "gpu_ids",
            "multi_gpu",
        ),
        *("config_file", "cpu", "max_restarts", "num_cpu_threads_per_process", "rdzv_backend", "same_network"),
    )
    """Options of ``accelerate launch`` that people give to a training: they stand before its keys."""

    data: Name = "data/quickstart"
    """Dataset directory, as written by `python -m preprocessing run`."""
    fold: AtLeast0 | None = None
    """Hold out this fold of the dataset (splits.folds) as validation, and train on the others; launch --folds all does
    it with each. null: the dataset's own train and validation."""
    run: Line = "runs/quickstart"
    """Run directory to write; one directory holds one run."""
    task: Task = CLASSIFIER
    """What is learned: to tell labels apart, or (language_model) to predict tokens, from training and unlabelled rows,
    for a classifier to start from; see docs/unlabelled.md."""
    epochs: OrAuto[AtLeast1] = 4
    """How often every training row is seen. auto: by the rows and the batch."""
    global_batch: OrAuto[AtLeast1] = 64
    """Rows per optimizer step over all processes; the last word on batch size, whatever the number of processes. auto:
    by the training rows."""
    global_batch_tokens: AtLeast1 | None = None
    """In place of global_batch: most tokens per step over all processes, padding included."""
    micro_batch: AtLeast1 | Literal["auto"] | None = None
    """Most rows a process holds at once; a larger share of the global batch is accumulated. null: no limit. auto: tried
    out on the longest batch before training, halved while CUDA runs out of memory."""
    precision: Precision = "auto"
    """Arithmetic of training. auto: bf16 where the device computes it natively, else fp32. Evaluation is in fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA devices when there are any."""
    threads: Processes | None = None
    """Threads that each process computes with on a CPU; fewer on a machine that others use too. null: OMP_NUM_THREADS
    where you set it, else this process's share of the cores."""
    recurrence: Recurrence = "auto"
    """How the recurrent layers get their rows: packed (real tokens alone) or padded to the batch's longest row; equal
    within rounding. auto: what is the faster on the device, with its reason in the first lines of a run."""
    seed: AtLeast0 = 0
    """Decides initial weights, order and dropout."""
    patience: OrAuto[AtLeast1] | None = None
    """Stop after this many validations without a better one; null: never. auto: by the epochs."""
    validate_every: AtLeast1 = 1
    """Epochs from one validation to the next; after the last epoch there always is one."""
    nan_limit: AtLeast1 = 3
    """A step whose gradient is not finite is skipped on all processes, its rows written to RUN/bad_batches; after this
    many in a row training stops."""
    dry_run: bool = False
    """Build everything, run the longest batch, print memory and the time of a full run; leave nothing behind."""
    select: Literal["accuracy", "loss", "calibrated"] = "accuracy"
    """Which validation metric decides the epoch whose weights are kept: the highest accuracy, the lowest log loss, or
    the lowest log loss after the probabilities were calibrated, which a small validation split tells apart best."""
    eval_batch: AtLeast1 = 512
    """Rows per batch and process in validation and test."""
    stage_dir: Name = "auto"
    """Local directory that shards are copied to, once per node; auto: only from a network file system; none: never."""
    timeout_s: Seconds = 600
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
        """Check ranges, and what does not fit together."""
        epochs, patience = self.epochs, self.patience
        below = isinstance(epochs, str) or not isinstance(patience, int) or patience < epochs
        require(below, "patience", patience, f"at least 1 and below epochs ({epochs}), auto, or null")
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
        return {key.removeprefix("--") for key in self.allow.replace(",", " ").split()}


def seconds(text: str | None) -> float | None:
    """``90``, ``30m``, ``1h30m`` or ``3:55:00`` in seconds; 0 for None. None for what is no time above 0."""
    if text is None:
        return 0.0
    clock = re.fullmatch(r"(?:(\d+):)?(\d+):([0-5]?\d)", text)
    match = clock or re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text)
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
    folds: Literal["all"] | Annotated[int, Meta(ge=2)] | None = None
    """Train once for each fold of the dataset (splits.folds), holding it out: all, or their number; in RUN/fold-0,
    RUN/fold-1, …, with a prediction for every row by the run that did not learn from it. python -m harness launch alone
    takes it."""

    def __post_init__(self) -> None:
        """Check ranges, and that one thing alone is varied."""
        super().__post_init__()
        if self.seeds is not None and self.folds is not None:
            raise ConfigError("seeds, folds: one command varies one of the two; give --seeds or --folds, not both")
        if self.seeds is not None:
            seeds_of(self.seeds)

    @property
    def recipe(self) -> RunConfig:
        """The training alone."""
        return RunConfig(**{one.name: getattr(self, one.name) for one in fields(RunConfig)})


def seeds_of(text: str) -> list[int]:
    """The seeds that ``0,1,2`` names, in this order. Raises ``ConfigError``."""
    found = [int(word) for word in text.split(",")] if re.fullmatch(r"[0-9 ]+(,[0-9 ]+)+", text) else []
    fits = 2 <= len(set(found)) == len(found) <= MOST_SEEDS and max(found) < 2**63
    require(fits, "seeds", text, f"2 to {MOST_SEEDS} different whole numbers with commas between, as in 0,1,2")
    return found


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain values, for YAML, JSON and trackers; tuples become lists."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return values


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
    """The model part of a configuration that a file ``where`` holds. Raises ``DataError`` for what no model has."""
    mend = f"written by another version of padless, or {DAMAGED}"
    model: ModelConfig = typed(ModelConfig, values, f"{where}: model", mend)
    if is_auto(model.wide):
        raise DataError(f"{where}: model.wide: auto, where a number belongs; {mend}")
    return model
