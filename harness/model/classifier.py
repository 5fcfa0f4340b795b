# SPDX-License-Identifier: Apache-2.0
"""The classifier: embedding → recurrent layers → pooling over real tokens → logits in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from harness.batch import Batch, StepBatch
from harness.config import ModelConfig, OptimConfig
from harness.model.dropout import EMBEDDING, HEAD, Masks, drop
from harness.model.recurrent import Network, PackedIndex
from harness.model.registry import POOLINGS
from harness.model.wide import TableGradient, WidePart
from preprocessing.base.installed import load
from preprocessing.text.vocabulary import UNK

PLAIN = OptimConfig()


@dataclass(frozen=True)
class Embedded:
    """What the recurrent layers read of a batch."""

    vectors: torch.Tensor
    """``[time, rows, features]`` when padded, ``[tokens, features]`` time-major when packed."""
    index: PackedIndex | None
    """Packed layout only."""


class Classifier(Network):
    """LSTM text classifier. Two classes share one logit (that of class 1); more have one logit each."""

    def __init__(self, config: ModelConfig, vocabulary_size: int, num_classes: int = 2) -> None:
        """Weights are drawn from torch's global generator: seed it first."""
        super().__init__(config, vocabulary_size, config.num_layers, config.dropout)
        self.num_classes = num_classes
        pooling = POOLINGS[config.pooling]
        self.pooling = load(pooling.code)(self.recurrent.output_size)
        self.dropped[HEAD] = self.recurrent.output_size * pooling.vectors
        outputs = 1 if num_classes == 2 else num_classes
        self.head = nn.Linear(self.dropped[HEAD], outputs)
        self.wide = None
        if config.wide:
            binary = config.wide_tf == "binary"
            self.wide = WidePart(config.wide, outputs, config.wide_ngrams, config.wide_tail, binary=binary)

    def forward(
        self, batch: Batch, masks: Masks | None = None, recurrent_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Logits of at least fp32: ``[rows]`` for two classes, ``[rows, classes]`` for more; rows as in the batch.

        ``masks`` of the batch's rows say what is dropped in training; without them nothing is. The recurrent layers
        compute in ``recurrent_dtype``, that of the weights unless given; all else says its dtype itself, so autocast
        changes nothing here. The wide part, if there is one, learns from errors of its own (``Objective``), as if it
        were alone; here its logits are added.
        """
        logits = self.read(batch, masks, recurrent_dtype)
        return logits if self.wide is None else logits + self.wide.share * self.look_up(batch)

    def look_up(self, batch: Batch) -> torch.Tensor:
        """The logits of the wide part alone, as ``read`` gives those of the network."""
        assert self.wide is not None
        return self.shaped(self.wide(batch))

    def shaped(self, outputs: torch.Tensor) -> torch.Tensor:
        """``[rows]`` of ``outputs`` ``[rows, 1]`` for two classes; others stay."""
        return outputs.squeeze(1) if self.num_classes == 2 else outputs

    def read(
        self, batch: Batch, masks: Masks | None = None, recurrent_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """The logits of the network alone; see ``forward``."""
        with torch.autocast(batch.ids.device.type, enabled=False):
            return self.read_embedded(self.embed(batch, masks), batch, masks, recurrent_dtype)

    def embed(self, batch: Batch, masks: Masks | None = None) -> Embedded:
        """What the recurrent layers read of a batch: the vectors of its tokens, some of them dropped."""
        ids, index, row = batch.widened(), None, None
        if batch.batch_sizes is not None:
            index = PackedIndex.of(batch.lengths, batch.device_lengths)
            row = index.row
        if masks is not None and self.config.word_dropout:
            time = torch.arange(ids.shape[1], device=ids.device) if index is None else index.time
            ids = ids.masked_fill(~masks.tokens(row, time, self.config.word_dropout), UNK)
        vectors = self.embedding(ids.t() if index is None else ids)  # time first, as the recurrent layers want it
        return Embedded(drop(vectors, masks, EMBEDDING, self.config.dropout, row), index)

    def read_embedded(
        self,
        embedded: Embedded,
        batch: Batch,
        masks: Masks | None = None,
        recurrent_dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """The logits of the network alone for what ``embed`` gave of the batch, or other vectors in its place."""
        lengths, index = batch.device_lengths, embedded.index
        if index is None:
            outputs = self.recurrent.forward_padded(embedded.vectors, lengths, masks, recurrent_dtype)
            pooled = self.pooling.padded(outputs, batch.lengths, lengths)
        else:
            assert batch.batch_sizes is not None
            packed = PackedSequence(embedded.vectors, batch.batch_sizes)
            packed, state = self.recurrent.forward_packed(packed, masks, recurrent_dtype, index.row)
            pooled = self.pooling.packed(packed.data, state, batch.lengths, lengths)
        pooled = drop(pooled.to(self.head.weight.dtype), masks, HEAD, self.config.dropout)
        return self.shaped(self.head(pooled))

    def above_embedding(self) -> list[nn.Parameter]:
        """All parameters that learn, and read what ``embed`` gives."""
        parts = (self.recurrent, self.pooling, self.head)
        return [held for part in parts for held in part.parameters() if held.requires_grad]


def loss_per_row(
    logits: torch.Tensor, batch: Batch, label_smoothing: float = 0.0, class_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of each row, ``[rows]``: binary with logits for one logit, softmax for several.

    Smoothing spreads a share of the label evenly over all classes (Szegedy et al., 2016), for two classes as for more;
    ``class_weights`` ``[classes]`` multiplies the loss of a row by the weight of its label. The loss with a soft label
    is the mean of those with each class as the label, weighted by the class's probability; it is not smoothed.
    """
    weights = None if class_weights is None else class_weights.to(logits.dtype)
    if batch.labelled:
        if logits.dim() == 1:
            targets = batch.labels.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
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


class _Known(torch.autograd.Function):
    """A loss whose gradients were computed before."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, gradients: Sequence[torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        """``loss`` as a function of ``inputs``, with one of ``gradients`` for each."""
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *errors: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Each gradient times the error of the loss."""
        needed = ctx.needs_input_grad[2:]
        of_inputs = (known * errors[0] if wanted else None for known, wanted in zip(ctx.gradients, needed, strict=True))
        return (None, None, *of_inputs)


@dataclass
class Adversary:
    """Adversarial training (Miyato, Dai and Goodfellow 2017): each text is also read with its embedded tokens moved a
    little, in the direction that raises its loss most.

    The move of a text has one length over all its tokens and features, so it does not depend on what other texts the
    batch has (law 4). The paper normalises the embedding inside the network, so that the network cannot make moves
    small by making vectors large. Here the length is counted in standard deviations of the embedding as it is in this
    step, weighted by how often each word occurs, which does the same. Nothing of it is learned from: Adam would make
    full steps of the tiny gradients that a normalisation has for words that the batch does not have.
    """

    radius: float
    """Length of a move, in standard deviations of the embedding."""
    counts: torch.Tensor
    """``[vocabulary]``: how often each word occurs; on the device of the embedding."""
    scaler: torch.amp.GradScaler | None = None
    """The loss scaling of fp16; the trainer sets it."""

    def moved(self, embedded: Embedded, gradient: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """What the recurrent layers read of the moved texts; ``gradient`` is that of the loss at their vectors."""
        shares = self.counts.to(embedding.dtype) / self.counts.sum()
        around = embedding.detach() - shares @ embedding.detach()
        deviation = (shares @ around.square()).mean().sqrt()
        return embedded.vectors.detach() + of_length_one(gradient, embedded.index) * (self.radius * deviation)


def of_length_one(vectors: torch.Tensor, index: PackedIndex | None) -> torch.Tensor:
    """``vectors``, zero where there is no token, with all numbers of a row together of L2 norm 1. A row of zeros stays
    one.

    Each row is first divided by its largest number, so that no square is too small for its dtype.
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
    """The loss around a classifier: the module that is wrapped for mixed precision and DDP.

    Evaluation calls ``classifier`` itself, in fp32 and without collectives.
    """

    row_losses: torch.Tensor
    """``[rows]``: the losses of the latest batch, detached, for whoever must find a row that went wrong."""
    table_gradient: TableGradient | None = None
    """What the latest batch does to the wide part; None without one."""

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
        """``classifier`` stays reachable as an attribute. ``optim`` says how labels are smoothed, for the network and
        for the wide part; ``class_weights`` ``[classes]`` lies on the classifier's device.

        ``seed`` is that of the run: with the step and the rows it decides what is dropped. ``recurrent_dtype``: what
        the recurrent layers compute in during training; see ``harness.ranks.precision.recurrent_dtype``.
        ``soft_weight`` multiplies the loss of an unlabelled row with a soft label. The network also learns from texts
        that the ``adversary`` moves.
        """
        super().__init__()
        self.classifier = classifier
        self.seed = seed
        self.smoothing = optim.label_smoothing
        self.wide_smoothing = optim.label_smoothing if optim.wide_smoothing is None else optim.wide_smoothing
        self.class_weights = class_weights
        self.recurrent_dtype = recurrent_dtype
        self.soft_weight = soft_weight
        self.adversary = adversary

    def forward(self, batch: Batch, step: int) -> torch.Tensor:
        """Sum over the batch's rows of each row's loss in optimizer ``step``; the caller divides by the rows of the
        whole step: the labelled ones for a labelled batch, the unlabelled ones for another.
        """
        drops = self.training and self.classifier.drops
        masks = self.classifier.masks(self.seed, step, batch) if drops else None
        if self.training and self.adversary is not None:
            losses, total = self.learn_from_moved(self.adversary, batch, masks)
        else:
            logits = self.classifier.read(batch, masks, self.recurrent_dtype)
            losses = self.losses(logits, batch, self.smoothing)
            total = losses.sum()
        self.row_losses = losses.detach()
        wide = self.classifier.wide
        self.table_gradient = None if wide is None else self.errors_of(wide, batch)
        return total

    def learn_from_moved(
        self, adversary: Adversary, batch: Batch, masks: Masks | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each row ``[rows]``, as it is and moved, and the sum of all as a loss to go back from.

        Each of the two passes goes forward and straight back, and only gradients are kept: both need the memory of one,
        and the backward of the first gives the direction of the move too. DDP sees one backward pass, that of the sum.
        The same masks are dropped in both.
        """
        classifier = self.classifier
        with torch.autocast(batch.ids.device.type, enabled=False):
            embedded, above = classifier.embed(batch, masks), classifier.above_embedding()
            factor = None
            if adversary.scaler is not None:  # so that fp16 can hold the gradients
                factor = adversary.scaler.scale(torch.ones((), device=batch.ids.device)) / batch.num_rows

            def there_and_back(vectors: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
                """Losses ``[rows]`` and gradients where these vectors are read."""
                vectors.requires_grad_()
                read = replace(embedded, vectors=vectors)
                logits = classifier.read_embedded(read, batch, masks, self.recurrent_dtype)
                losses = self.losses(logits, batch, self.smoothing)
                return losses.detach(), torch.autograd.grad(losses.sum(), [vectors, *above], factor)

            clean, first = there_and_back(embedded.vectors.detach())
            again, second = there_and_back(adversary.moved(embedded, first[0], classifier.embedding.weight))
            # Never in place: an LSTM hands out one tensor as the gradient of both of its biases.
            gradients = torch._foreach_add(first, second)
            if factor is not None:
                gradients = torch._foreach_div(gradients, factor)
            losses = clean + again
            return losses, _Known.apply(losses.sum(), gradients, embedded.vectors, *above)

    def divisor(self, batch: StepBatch) -> int:
        """Rows of the step over all processes: what the losses are divided by."""
        return batch.global_rows

    def losses(self, logits: torch.Tensor, batch: Batch, smoothing: float) -> torch.Tensor:
        """The loss of each row of a batch, ``[rows]``: by its labels, or by the soft labels of an unlabelled one."""
        losses = loss_per_row(logits, batch, smoothing, self.class_weights)
        return losses if batch.labelled else self.soft_weight * losses

    def errors_of(self, wide: WidePart, batch: Batch) -> TableGradient:
        """What the wide part gets wrong of a batch, by the same loss, as if the network were not there.

        Two models that learned apart err apart, and their sum is better than one that learned both at once: a network
        beside a linear model that knows the training rows by heart has nothing left to learn.
        """
        with torch.autocast(batch.ids.device.type, enabled=False):
            bucket, value = wide.features(batch)
            with torch.no_grad():
                outputs = wide.logits(bucket, value)
            outputs.requires_grad_()
            with torch.enable_grad():
                loss = self.losses(self.classifier.shaped(outputs), batch, self.wide_smoothing).sum()
            (error,) = torch.autograd.grad(loss, outputs)
        return TableGradient(bucket, value, error)
