# SPDX-License-Identifier: Apache-2.0
"""The classifier: embedding → recurrent layers → pooling over real tokens → logits in fp32."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional

from harness.batch import Batch, Masks, StepBatch, send
from harness.config import CLASSIFIER, ModelConfig
from harness.model.dropout import EMBEDDING, HEAD, drop
from harness.model.linear_part import WidePart
from harness.model.recurrent import Network
from harness.model.registry import POOLINGS
from padless.core.installed import load_object
from preprocessing.text.vocabulary import UNK


class Classifier(Network):
    """LSTM text classifier. Two classes share one logit (that of class 1); more have one logit each, and so has every
    class where a text may have several labels.
    """

    task, predictions = CLASSIFIER, 0

    def __init__(self, config: ModelConfig, vocabulary_size: int, outputs: int = 1) -> None:
        """``outputs``: number of logits. Weights are drawn from torch's global generator: seed it first."""
        super().__init__(config, vocabulary_size, config.num_layers)
        self.outputs = outputs
        pooling = POOLINGS[config.pooling]
        self.pooling = load_object(pooling.code)(self.recurrent.output_size)
        self.size_by_site[HEAD] = self.recurrent.output_size * pooling.vectors
        self.head = nn.Linear(self.size_by_site[HEAD], outputs)
        self.wide = WidePart(config.wide, outputs, config.wide_ngrams) if config.wide else None
        self.prior: torch.Tensor | None
        self.register_buffer("prior", None, persistent=False)
        """The logits of a text without a known word, ``[]`` for two classes, else ``[classes]``; None, as in training:
        those that the network computes."""

    def forward(
        self, batch: Batch, masks: Masks | None = None, recurrent_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """Logits of at least fp32: ``[rows]`` for two classes, ``[rows, classes]`` for more; rows as in the batch.

        ``masks``: dropout masks of the batch's rows; None: no dropout. The recurrent layers compute in
        ``recurrent_dtype``, by default that of the weights; autocast has no effect here. The logits of a linear part
        are added, though it is trained with a separate loss (``Objective``).
        """
        logits = self.read(batch, masks, recurrent_dtype)
        if self.wide is not None:
            logits = logits + self.wide.share * self.look_up(batch)
        if self.prior is None:
            return logits
        return torch.where(has_known_word(batch).view(-1, *[1] * self.prior.dim()), logits, self.prior.to(logits.dtype))

    def look_up(self, batch: Batch) -> torch.Tensor:
        """The logits of the linear part alone, in the shape of ``read``."""
        assert self.wide is not None
        return self.drop_single_column(self.wide(batch))

    def drop_single_column(self, outputs: torch.Tensor) -> torch.Tensor:
        """``outputs`` ``[rows, 1]`` as ``[rows]`` for two classes; unchanged for more."""
        return outputs.squeeze(1) if self.outputs == 1 else outputs

    def read(
        self, batch: Batch, masks: Masks | None = None, recurrent_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """The logits of the network alone; see ``forward``."""
        with torch.autocast(batch.ids.device.type, enabled=False):
            return self.read_embedded(self.embed(batch, masks), batch, masks, recurrent_dtype)

    def embed(self, batch: Batch, masks: Masks | None = None) -> torch.Tensor:
        """Input of the recurrent layers: the vectors of the batch's tokens, after dropout; ``[time, rows, features]``
        when padded, ``[tokens, features]`` time-major when packed.
        """
        ids, index = batch.widen_ids(), None if batch.batch_sizes is None else batch.build_index()
        if masks is not None and masks.unknown_tokens is not None:
            ids = ids.masked_fill(masks.unknown_tokens, UNK)
        vectors = self.embedding(ids.t() if index is None else ids)  # time first, as the recurrent layers want it
        return drop(vectors, masks, EMBEDDING, None if index is None else index.row)

    def read_embedded(
        self,
        vectors: torch.Tensor,
        batch: Batch,
        masks: Masks | None = None,
        recurrent_dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """The logits of the network alone for a result of ``embed``, or other vectors of its shape."""
        lengths = batch.device_lengths
        if batch.batch_sizes is None:
            outputs = self.recurrent.forward_padded(vectors, lengths, masks, recurrent_dtype)
            pooled = self.pooling.pool_padded(outputs, batch.lengths, lengths)
        else:
            index, sizes = batch.build_index(), batch.batch_sizes
            packed, state = self.recurrent.forward_packed(vectors, sizes, masks, recurrent_dtype, index.row)
            pooled = self.pooling.pool_packed(packed, state, index, batch.lengths, lengths)
        return self.drop_single_column(self.head(drop(pooled.to(self.head.weight.dtype), masks, HEAD)))


def has_known_word(batch: Batch) -> torch.Tensor:
    """Bool ``[rows]``: whether a row has a token other than ``<unk>``."""
    is_word = batch.widen_ids() > UNK  # padding is 0
    if batch.batch_sizes is None:
        return is_word.any(1)
    counts = is_word.new_zeros(batch.num_rows, dtype=torch.int32)
    return counts.index_add(0, batch.build_index().row, is_word.int()) > 0


def loss_per_row(
    logits: torch.Tensor, batch: Batch, label_smoothing: float, class_weights: torch.Tensor | None
) -> torch.Tensor:
    """Cross-entropy of each row, ``[rows]``: binary with logits for one logit, softmax for several.

    Smoothing spreads a share of the label evenly over all classes (Szegedy et al., 2016), also for two classes.
    ``class_weights`` ``[classes]`` multiplies the loss of a row by the weight of its label. Where the batch has
    ``targets`` of a teacher, they take the place of the labels (Hinton et al., 2015).
    """
    if batch.targets is not None:
        targets = batch.targets.to(logits.dtype)
        logits = torch.stack((torch.zeros_like(logits), logits), dim=1) if logits.dim() == 1 else logits
        losses = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
        return losses if class_weights is None else losses * (targets @ class_weights.to(logits.dtype))
    if logits.dim() == 1:
        targets = binary_targets(label_smoothing, logits.dtype, logits.device)[batch.labels]
        losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    else:
        losses = functional.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=label_smoothing)
    return losses if class_weights is None else losses * class_weights.to(logits.dtype)[batch.labels]


def set_loss(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float, class_weights: torch.Tensor | None
) -> torch.Tensor:
    """Sum of the binary cross-entropies of all classes, for ``logits`` and ``labels``, 0 or 1, ``[rows, classes]``.

    ``class_weights`` ``[classes]`` multiplies the loss of rows that have the class; smoothing is as for two classes.
    """
    targets = labels * (1 - label_smoothing) + label_smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=class_weights, reduction="sum")


@lru_cache(maxsize=16)
def binary_targets(smoothing: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """``[2]``: the target of each of two classes; cached."""
    return send(torch.tensor([smoothing / 2, 1 - smoothing / 2], dtype=dtype), device)


class Objective(nn.Module):
    """The loss of a classifier: the module that is wrapped for mixed precision and DDP.

    Evaluation calls ``classifier`` directly, in fp32 and without collectives.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        label_smoothing: float = 0.0,
        seed: int = 0,
        class_weights: torch.Tensor | None = None,
        recurrent_dtype: torch.dtype | None = None,
        members: torch.Tensor | None = None,
    ) -> None:
        """``class_weights`` ``[classes]``: on the classifier's device. ``members``, bool ``[sets, classes]``, too: the
        classes of each label set, if a text may have several labels.

        ``seed``: seed of the run; dropout is a function of seed, step and row. ``recurrent_dtype``: dtype of the
        recurrent layers in training; see ``harness.distributed.precision.recurrent_dtype``.
        """
        super().__init__()
        self.classifier = classifier
        self.seed = seed
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.recurrent_dtype = recurrent_dtype
        self.members = members
        self.guessing_loss = math.log(max(2, classifier.outputs))
        """Of a row for which all classes are equally probable."""
        if members is not None:
            self.guessing_loss = classifier.outputs * math.log(2)

    def prepare(self, step: int, batch: Batch) -> None:
        """Add dropout masks to a batch of optimizer ``step``."""
        batch.masks = self.classifier.masks(self.seed, step, batch)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Sum of the losses of the rows of a prepared batch; the caller divides by ``divisor``."""
        logits = self.classifier.read(batch, batch.masks, self.recurrent_dtype)
        if self.members is not None:
            labels = self.members[batch.labels].to(logits.dtype)
            return set_loss(logits, labels, self.label_smoothing, self.class_weights)
        return loss_per_row(logits, batch, self.label_smoothing, self.class_weights).sum()

    def divisor(self, batch: StepBatch) -> int:
        """Divisor of the losses: rows of the step over all processes."""
        return batch.global_rows
