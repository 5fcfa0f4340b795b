# SPDX-License-Identifier: Apache-2.0
"""The classifier: embedding → recurrent layers → pooling over real tokens → logits in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from harness.batch import Batch, Masks, PackedIndex, StepBatch, send
from harness.config import ModelConfig, OptimConfig
from harness.model.dropout import EMBEDDING, HEAD, drop
from harness.model.recurrent import Network
from harness.model.registry import POOLINGS
from harness.model.wide import WidePart
from preprocessing.base.installed import load
from preprocessing.text.vocabulary import UNK

PLAIN = OptimConfig()


@dataclass(frozen=True)
class Embedded:
    """Input of the recurrent layers for a batch."""

    vectors: torch.Tensor
    """``[time, rows, features]`` when padded, ``[tokens, features]`` time-major when packed."""
    index: PackedIndex | None
    """Packed layout only."""


class Classifier(Network):
    """LSTM text classifier. Two classes share one logit (that of class 1); more have one logit each."""

    def __init__(self, config: ModelConfig, vocabulary_size: int, num_classes: int = 2) -> None:
        """Weights are drawn from torch's global generator: seed it first."""
        super().__init__(config, vocabulary_size, config.num_layers)
        self.num_classes = num_classes
        pooling = POOLINGS[config.pooling]
        self.pooling = load(pooling.code)(self.recurrent.output_size)
        self.dropped[HEAD] = self.recurrent.output_size * pooling.vectors
        outputs = 1 if num_classes == 2 else num_classes
        self.head = nn.Linear(self.dropped[HEAD], outputs)
        self.wide = None
        if config.wide:
            self.wide = WidePart(config.wide, outputs, config.wide_ngrams)

    def forward(
        self, batch: Batch, masks: Masks | None = None, recurrent_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Logits of at least fp32: ``[rows]`` for two classes, ``[rows, classes]`` for more; rows as in the batch.

        ``masks``: dropout masks of the batch's rows; None: no dropout. The recurrent layers compute in
        ``recurrent_dtype``, by default that of the weights; autocast has no effect here. The logits of a wide part are
        added, though it is trained with a separate loss (``Objective``).
        """
        logits = self.read(batch, masks, recurrent_dtype)
        return logits if self.wide is None else logits + self.wide.share * self.look_up(batch)

    def look_up(self, batch: Batch) -> torch.Tensor:
        """The logits of the wide part alone, in the shape of ``read``."""
        assert self.wide is not None
        return self.shaped(self.wide(batch))

    def shaped(self, outputs: torch.Tensor) -> torch.Tensor:
        """``outputs`` ``[rows, 1]`` as ``[rows]`` for two classes; unchanged for more."""
        return outputs.squeeze(1) if self.num_classes == 2 else outputs

    def read(
        self, batch: Batch, masks: Masks | None = None, recurrent_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """The logits of the network alone; see ``forward``."""
        with torch.autocast(batch.ids.device.type, enabled=False):
            return self.read_embedded(self.embed(batch, masks), batch, masks, recurrent_dtype)

    def embed(self, batch: Batch, masks: Masks | None = None) -> Embedded:
        """Input of the recurrent layers: the vectors of the batch's tokens, after dropout."""
        ids, index = batch.widened(), None if batch.batch_sizes is None else batch.packed_index()
        if masks is not None and masks.unknown is not None:
            ids = ids.masked_fill(masks.unknown, UNK)
        vectors = self.embedding(ids.t() if index is None else ids)  # time first, as the recurrent layers want it
        return Embedded(drop(vectors, masks, EMBEDDING, None if index is None else index.row), index)

    def read_embedded(
        self,
        embedded: Embedded,
        batch: Batch,
        masks: Masks | None = None,
        recurrent_dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """The logits of the network alone for a result of ``embed``, possibly with other vectors."""
        lengths, index = batch.device_lengths, embedded.index
        if index is None:
            outputs = self.recurrent.forward_padded(embedded.vectors, lengths, masks, recurrent_dtype)
            pooled = self.pooling.padded(outputs, batch.lengths, lengths)
        else:
            assert batch.batch_sizes is not None
            packed = PackedSequence(embedded.vectors, batch.batch_sizes)
            packed, state = self.recurrent.forward_packed(packed, masks, recurrent_dtype, index.row)
            pooled = self.pooling.packed(packed.data, state, index, batch.lengths, lengths)
        pooled = drop(pooled.to(self.head.weight.dtype), masks, HEAD)
        return self.shaped(self.head(pooled))

    def above_embedding(self) -> list[nn.Parameter]:
        """All trainable parameters above the embedding."""
        parts = (self.recurrent, self.pooling, self.head)
        return [held for part in parts for held in part.parameters() if held.requires_grad]


def loss_per_row(
    logits: torch.Tensor, batch: Batch, label_smoothing: float, class_weights: torch.Tensor | None
) -> torch.Tensor:
    """Cross-entropy of each row, ``[rows]``: binary with logits for one logit, softmax for several.

    Smoothing spreads a share of the label evenly over all classes (Szegedy et al., 2016), also for two classes.
    ``class_weights`` ``[classes]`` multiplies the loss of a row by the weight of its label. The loss for a soft label
    is the average of the losses for each class, weighted by the class's probability; it is not smoothed.
    """
    weights = None if class_weights is None else class_weights.to(logits.dtype)
    if batch.labelled:
        if logits.dim() == 1:
            targets = smoothed(label_smoothing, logits.dtype, logits.device)[batch.labels]
            losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        else:
            losses = functional.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=label_smoothing)
        return losses if weights is None else losses * weights[batch.labels]
    assert batch.targets is not None
    targets = batch.targets.to(logits.dtype)
    if logits.dim() > 1:
        return functional.cross_entropy(logits, targets, weight=weights, reduction="none")
    ratio = None if weights is None else weights[1] / weights[0]
    losses = functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=ratio, reduction="none")
    return losses if weights is None else losses * weights[0]


@lru_cache(maxsize=16)
def smoothed(smoothing: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """``[2]``: the target of each of two classes; cached."""
    return send(torch.tensor([smoothing / 2, 1 - smoothing / 2], dtype=dtype), device)


class _Known(torch.autograd.Function):
    """A loss whose gradients are computed already."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, gradients: Sequence[torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        """``loss`` as a function of ``inputs``; ``gradients`` has one for each."""
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *errors: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Each gradient times the gradient of the loss."""
        needed = ctx.needs_input_grad[2:]
        of_inputs = (known * errors[0] if wanted else None for known, wanted in zip(ctx.gradients, needed, strict=True))
        return (None, None, *of_inputs)


@dataclass
class Adversary:
    """Adversarial training (Miyato, Dai and Goodfellow 2017): the network also trains on each text with its embedded
    tokens perturbed in the direction that increases its loss most.

    The norm of a text's perturbation is taken over all its tokens and features, so it does not depend on other texts of
    the batch (law 4). The paper normalises the embedding inside the network; otherwise the network could make
    perturbations relatively small with large vectors. Here the norm is in units of the current standard deviation of
    the embedding, weighted by word frequency, with the same effect. No gradient flows through it: a normalisation gives
    tiny gradients to words outside the batch, which Adam would turn into full steps.
    """

    radius: float
    """Norm of a perturbation, in standard deviations of the embedding."""
    counts: torch.Tensor
    """``[vocabulary]``: how often each word occurs; on the device of the embedding."""
    scaler: torch.amp.GradScaler | None = None
    """The loss scaling of fp16; the trainer sets it."""

    def moved(self, embedded: Embedded, gradient: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """The perturbed vectors of the texts; ``gradient`` is the loss's gradient at their vectors."""
        shares = self.counts.to(embedding.dtype) / self.counts.sum()
        around = embedding.detach() - shares @ embedding.detach()
        deviation = (shares @ around.square()).mean().sqrt()
        return embedded.vectors.detach() + of_length_one(gradient, embedded.index) * (self.radius * deviation)


def of_length_one(vectors: torch.Tensor, index: PackedIndex | None) -> torch.Tensor:
    """``vectors``, zero in the padding, with the L2 norm of each row over tokens and features scaled to 1. A row of
    zeros stays zero.

    Each row is first divided by its largest number, so that squares do not underflow.
    """
    grid = vectors
    if index is not None:
        grid = vectors.new_zeros(len(index.starts), index.num_rows, vectors.shape[1])
        grid[index.time, index.row] = vectors
    largest = grid.abs().amax((0, 2))
    scaled = grid / torch.where(largest > 0, largest, 1)[:, None]
    norm = scaled.square().sum(-1).sum(0).sqrt()
    found = scaled / torch.where(norm > 0, norm, 1)[:, None]
    return found if index is None else found[index.time, index.row]


class Objective(nn.Module):
    """The loss of a classifier: the module that is wrapped for mixed precision and DDP.

    Evaluation calls ``classifier`` directly, in fp32 and without collectives.
    """

    def __init__(
        self,
        classifier: Classifier,
        optim: OptimConfig = PLAIN,
        *,
        seed: int = 0,
        class_weights: torch.Tensor | None = None,
        recurrent_dtype: torch.dtype | None = None,
        soft_weight: float = 1.0,
        adversary: Adversary | None = None,
    ) -> None:
        """``optim``: label smoothing. ``class_weights`` ``[classes]``: on the classifier's device.

        ``seed``: seed of the run; dropout is a function of seed, step and row. ``recurrent_dtype``: dtype of the
        recurrent layers in training; see ``harness.ranks.precision.recurrent_dtype``. ``soft_weight`` multiplies the
        loss of an unlabelled row. With an ``adversary`` the network also trains on perturbed texts.
        """
        super().__init__()
        self.classifier = classifier
        self.seed = seed
        self.smoothing = optim.label_smoothing
        self.class_weights = class_weights
        self.recurrent_dtype = recurrent_dtype
        self.soft_weight = soft_weight
        self.adversary = adversary

    def forward(self, batch: Batch, step: int) -> torch.Tensor:
        """Sum of the losses of the batch's rows in optimizer ``step``. The caller divides by the step's global number
        of labelled rows, or of unlabelled rows for an unlabelled batch.
        """
        masks = self.classifier.masks(self.seed, step, batch) if self.training else None
        if self.training and self.adversary is not None:
            return self.learn_from_moved(self.adversary, batch, masks)
        return self.losses(self.classifier.read(batch, masks, self.recurrent_dtype), batch).sum()

    def learn_from_moved(self, adversary: Adversary, batch: Batch, masks: Masks | None) -> torch.Tensor:
        """The sum over rows of the losses, clean plus perturbed.

        Each of the two forward passes is followed by its backward pass, and only gradients are kept: both together need
        the memory of one, and the first also gives the direction of the perturbation. DDP sees one backward pass, that
        of the sum. Both use the same dropout masks.
        """
        classifier = self.classifier
        with torch.autocast(batch.ids.device.type, enabled=False):
            embedded, above = classifier.embed(batch, masks), classifier.above_embedding()
            factor = None
            if adversary.scaler is not None:  # against underflow in fp16
                factor = adversary.scaler.scale(torch.ones((), device=batch.ids.device)) / batch.num_rows

            def there_and_back(vectors: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
                """Losses ``[rows]`` and gradients at these vectors."""
                vectors.requires_grad_()
                read = replace(embedded, vectors=vectors)
                logits = classifier.read_embedded(read, batch, masks, self.recurrent_dtype)
                losses = self.losses(logits, batch)
                return losses.detach(), torch.autograd.grad(losses.sum(), [vectors, *above], factor)

            clean, first = there_and_back(embedded.vectors.detach())
            again, second = there_and_back(adversary.moved(embedded, first[0], classifier.embedding.weight))
            # Not in place: an LSTM returns the same tensor as the gradient of both biases.
            gradients = torch._foreach_add(first, second)
            if factor is not None:
                gradients = torch._foreach_div(gradients, factor)
            total: torch.Tensor = _Known.apply((clean + again).sum(), gradients, embedded.vectors, *above)
            return total

    def divisor(self, batch: StepBatch) -> int:
        """Divisor of the losses: rows of the step over all processes."""
        return batch.global_rows

    def losses(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The loss of each row of a batch, ``[rows]``: for its labels, or for soft labels if it is unlabelled."""
        losses = loss_per_row(logits, batch, self.smoothing, self.class_weights)
        return losses if batch.labelled else self.soft_weight * losses
