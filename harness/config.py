# SPDX-License-Identifier: Apache-2.0
"""The configuration of a training: ``RunConfig`` and its parts.

The annotation of a field has its range. Users may set an ``OrAuto`` field to ``auto``: ``harness.training.rules``
replaces it by a number before other code reads it. Nothing here imports torch, so that ``--help`` and messages about
misspelt keys are fast.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar, Union

from msgspec import Meta

from padless.core import configuration
from padless.core.errors import require
from padless.core.schema import Above0, AtLeast0, AtLeast1, Chance, LocalPath, Name, Processes, Seconds, Share, Wait
from padless.core.terminal import public, public_values

T = TypeVar("T")
if TYPE_CHECKING:
    OrAuto = Annotated[T, "or auto"]
else:

    class OrAuto:
        """``OrAuto[int]`` parses as ``int`` or ``auto``; for the type checker it is ``int``."""

        def __class_getitem__(cls, kind: Any) -> Any:
            return Union[kind, Literal["auto"]]  # noqa: UP007


class Choice(NamedTuple):
    """A setting that was decided, and why; the start-up lines print both."""

    value: str
    reason: str

    def __str__(self) -> str:
        """``bf16: the CPU has avx512_bf16``."""
        return f"{self.value}: {self.reason}"


Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
Recurrence = Literal["auto", "packed", "padded"]
Task = Literal["classifier", "language_model"]
CLASSIFIER: Task = "classifier"
LANGUAGE_MODEL: Task = "language_model"
AUTO = "auto"
NOTHING = "none"
"""In place of a dataset or a directory: none."""
MOST_BUCKETS = 1 << 26
"""256 MiB for each output of the linear part."""
Features = Annotated[int, Meta(ge=1, le=1 << 14)]


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are saved and how many are kept. A run always saves after each epoch and on a stop signal."""

    every_s: Wait = 300.0
    """Seconds between two checkpoints inside an epoch: the most work that an interruption costs. The first one comes
    after 60."""
    every_steps: AtLeast1 | None = None
    """Also save every so many steps; null: by time only."""
    keep_last: AtLeast1 = 2
    """Newest checkpoints to keep, besides the one of the best validation."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How probabilities become labels: chosen on the validation split, kept in the bundle, used by predict."""

    threshold: Literal["auto", "fixed", "accuracy", "f1", "recall"] = "auto"
    """Least probability to predict class 1 of two classes, or each class where a text may have several labels. fixed:
    0.5; accuracy, f1: the best one on validation; recall: the highest that finds ``recall`` of the class there; auto:
    f1 for several labels, else fixed."""
    recall: Annotated[float, Meta(gt=0, le=1)] = 0.95
    """Share of the validation rows of a class that `threshold: recall` must find."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Embedding, recurrent layers, pooling, one linear layer; and a separate linear part."""

    embedding_dim: Features = 128
    """Size of a token's vector."""
    embedding_std: Above0 = 1.0
    """Standard deviation of the vectors before training. Training hardly changes the vectors of rare words, so their
    random values stay as noise: a small value keeps it small."""
    hidden_size: Features = 128
    """Size of the state, for each direction."""
    num_layers: Annotated[int, Meta(ge=1, le=128)] = 1
    """Number of recurrent layers."""
    bidirectional: bool = True
    """Read every text from both ends."""
    pooling: str = "max+mean"
    """How a sequence of states becomes one vector: max+mean over real tokens, or last, the final state."""
    dropout: Chance = 0.0
    """Probability to drop a feature of the embeddings, between layers and before the last layer; one mask per text."""
    word_dropout: Chance = 0.0
    """Probability to replace a token by <unk> in training."""
    wide: OrAuto[Annotated[int, Meta(ge=0, le=MOST_BUCKETS)]] = 0
    """Buckets of a linear part over hashed n-grams, which is learned before the first step, and whose logits are added
    to the network's; 0: none. auto: by the tokens of the corpus."""
    wide_ngrams: OrAuto[Annotated[int, Meta(ge=1, le=8)]] = 2
    """Words of the longest n-grams of the linear part; 2: words and pairs. From 3 on, each bucket keeps only its most
    frequent n-gram, and the end of a text has n-grams of its own. auto: 4 for many long texts."""
    freeze_embedding: Literal["always"] | None = None
    """always: keep the vectors as they are before the first step; null: train them."""

    def __post_init__(self) -> None:
        """Check ranges."""
        fits = self.wide in (0, "auto") or (self.wide > 1 and self.wide.bit_count() == 1)
        require(fits, "model.wide", self.wide, f"a power of two up to {MOST_BUCKETS}, 0 for none, or auto")


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Initial weights that do not come from the seed."""

    vectors: LocalPath = "none"
    """Initial word vectors, scaled to model.embedding_std. none: random; own: learned from the dataset's own texts
    before the first step; auto: own, unless init.weights brings vectors; or a FILE of word2vec (text), GloVe
    or fastText (.vec), also .gz. Words without a vector start random."""
    weights: LocalPath | None = None
    """Run or bundle with initial weights, also of another dataset or of a language model: vectors of the tokens that
    both have, without scaling, and recurrent layers. null: none."""
    pretrain: Name | None = None
    """Recipe of a language model of the same texts, as in pretrain/imdb: without init.weights, train trains it first,
    in RUN-pretrained, with the sizes of this model, and starts from its weights. null: none."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam and the learning rate as a function of the optimizer step."""

    lr: OrAuto[Above0] = 2e-3
    """Highest learning rate. auto: by the rows of a step and the classes."""
    warmup: Share = 0.05
    """Share of all steps during which the learning rate rises to ``lr``."""
    decay: Literal["none", "linear"] = "linear"
    """How the learning rate falls to zero between the warm-up and the last step."""
    weight_decay: Share = 0.0
    """Decoupled weight decay (AdamW), on matrices and not on biases."""
    clip_norm: Above0 | None = 1.0
    """Gradients are scaled down to this norm; null: no clipping."""
    ema: OrAuto[Annotated[float, Meta(gt=0, lt=1)]] | None = None
    """Average the weights over steps with this factor, such as 0.999; the average is validated, kept and tested. auto:
    over about a tenth of all steps. null: no average."""
    label_smoothing: Chance = 0.0
    """Share of each label that is spread over all classes."""
    class_weights: dict[str, Above0] = field(default_factory=dict)
    """Label -> factor for the loss of its rows, as in {positive: 2.0}; other labels have factor 1."""


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """Which rows are batched together; with the dataset, seed and global batch this decides the order of every row."""

    length_noise: Share = 0.003
    """Before sorting, lengths change randomly by up to this share, so that batches differ from epoch to epoch."""


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Pretraining: each direction of the first recurrent layer learns to predict its next ten tokens."""

    candidates: AtLeast1 = 1024
    """Negative samples of the softmax per step, drawn from the whole vocabulary; more take longer and teach more per
    step. Half of the vocabulary or more: the full softmax."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """The tracker; it receives the rows of ``metrics.jsonl`` in the run directory, which is always written."""

    tracker: str = "none"
    """wandb, or the name of another tracker in the registry; none: only metrics.jsonl."""
    project: str = "padless"
    """Project name in the tracker."""
    name: str | None = None
    """Display name of the run; the run directory's name unless given."""
    log_every: AtLeast1 = 20
    """Optimizer steps between two lines of metrics."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run; rules for the corpus replace ``auto`` by numbers."""

    RECIPES: ClassVar[str] = "train"
    """The kind of recipes that ``--config`` finds by name."""
    DEFAULT: ClassVar[Path] = configuration.SHIPPED / "train/default.yaml"
    """The recipe if the command line names none."""
    SUBJECT = ("data",)
    OUTPUT = "run"

    data: Name = NOTHING
    """Dataset directory, as written by `padless prepare`, or its address (s3://, …)."""
    fold: AtLeast0 | None = None
    """Validate on this fold of the dataset (splits.folds), and train on the others; train --folds all does so with
    each. null: the dataset's train and validation splits."""
    teacher: LocalPath | None = None
    """Teacher of the rows of the split unlabelled: a FILE of predictions, with columns as predict writes them, or a
    sentence encoder, for which baseline --encoder writes that file first. See docs/few-labels.md. null: labels alone.
    """
    run: LocalPath = AUTO
    """Run directory to write; one directory holds one run. auto: runs/NAME, where NAME is that of the dataset."""
    task: Task = CLASSIFIER
    """What is learned: labels, or (language_model) to predict the tokens of training and unlabelled rows, as initial
    weights for a classifier; see docs/few-labels.md."""
    epochs: OrAuto[AtLeast1] = 4
    """How often every training row is seen. auto: by the rows and the batch."""
    global_batch: OrAuto[AtLeast1] = 64
    """Rows per optimizer step over all processes, for any number of processes. auto: by the training rows."""
    micro_batch: AtLeast1 | None = None
    """Most rows a process holds at once; a larger share of the global batch is accumulated. null: no limit."""
    precision: Precision = "auto"
    """Data type of training. auto: bf16 if the device computes it natively, else fp32. tf32: fp32 whose products round
    their factors to ten bits, on a GPU. The test is in fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA devices when there are any."""
    threads: Processes | None = None
    """CPU threads of each process; take fewer on a shared machine. null: OMP_NUM_THREADS if set, else this process's
    share of the cores."""
    recurrence: Recurrence = "auto"
    """How the recurrent layers compute: packed (real tokens only), or padded to the longest row of the batch; results
    are equal within rounding. auto: padded on a CPU and for small layers on CUDA, else packed."""
    seed: AtLeast0 = 0
    """Decides initial weights, order and dropout."""
    patience: OrAuto[AtLeast1] | None = None
    """Stop after this many validations without improvement; null: never. auto: by the epochs."""
    dry_run: bool = False
    """Build everything, run the longest batch, print memory and the time of a full run; write no files."""
    select: Literal["accuracy", "loss", "calibrated"] = "accuracy"
    """Validation metric that selects the best epoch: highest accuracy, lowest log loss, or (calibrated) lowest log loss
    after calibration, the most reliable one on a small validation split."""
    timeout_s: Seconds = 600
    """Longest wait of one process for another; then the run fails."""
    baseline: Literal["auto", "none"] = "auto"
    """auto: fit the TF-IDF baseline of `padless baseline` in the background, if that takes less than a minute and was
    not done before, and compare the run with it at the end."""
    allow: list[str] = field(default_factory=list)
    """Keys, with commas, that may differ from those of the checkpoint although this changes the result."""
    quiet: bool = False
    """Print nothing but warnings and errors."""
    max_time: str | None = None
    """Save and exit with code 85 after this time, as in 90 (seconds), 30m or 3:55:00; null: no limit."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints:"""
    model: ModelConfig = ModelConfig()
    """The network:"""
    init: InitConfig = InitConfig()
    """Initial weights:"""
    optim: OptimConfig = OptimConfig()
    """The optimizer:"""
    order: OrderConfig = OrderConfig()
    """The order of rows:"""
    tracking: TrackingConfig = TrackingConfig()
    """Metrics and tracker:"""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Probabilities and labels:"""
    language_model: LanguageModelConfig = LanguageModelConfig()
    """The language model:"""

    def __post_init__(self) -> None:
        """Check ranges, and that keys agree."""
        is_classifier = self.task == CLASSIFIER or self.teacher is None
        require(is_classifier, "teacher", self.teacher, "null for a language model, which learns no labels")
        is_time = self.max_time is None or self.max_time_s is not None
        require(is_time, "max_time", self.max_time, "a time such as 90, 30m or 3:55:00")

    @property
    def initial_weights(self) -> str | None:
        """Run or bundle that the weights come from: init.weights, or the language model of init.pretrain."""
        pretrains = self.task == CLASSIFIER and self.init.pretrain
        return self.init.weights or (f"{self.run}-pretrained" if pretrains else None)

    @property
    def max_time_s(self) -> float | None:
        """``max_time`` in seconds; None for no limit."""
        return None if self.max_time is None else parse_seconds(self.max_time)


def parse_seconds(text: str) -> float | None:
    """``90``, ``30m``, ``1h30m`` or ``3:55:00`` in seconds; None for what is not a time above 0."""
    clock = re.fullmatch(r"(?:(\d+):)?(\d+):([0-5]?\d)", text)
    match = clock or re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text)
    if match is None:
        return None
    hours, minutes, clock_seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + clock_seconds or None


AnyRun = TypeVar("AnyRun", bound=RunConfig)


def name_run(config: AnyRun) -> AnyRun:
    """The configuration with a run directory: runs/NAME of its dataset, where it names none."""
    name = os.path.basename(os.path.abspath(public(config.data)))
    return replace(config, run=f"runs/{name}") if config.run == AUTO else config


def to_record(config: Any) -> dict[str, Any]:
    """A configuration as plain values without the secrets of addresses, for files."""
    return dict(public_values(asdict(config)))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys; lists and empty mappings are values."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
