# SPDX-License-Identifier: Apache-2.0
"""The classifier: embedding → recurrent layers → pooling over real tokens → logits in fp32."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from harness.config import ModelConfig
from harness.data.loader import Batch
from harness.recurrent import VariableLengthLSTM, dropout_mask, dropout_per_sequence, packed_rows
from preprocessing.vocabulary import PAD


class Classifier(nn.Module):
    """LSTM text classifier. Two classes share one logit (that of class 1); more have one logit each."""

    def __init__(self, config: ModelConfig, vocabulary_size: int, num_classes: int = 2) -> None:
        """Weights are drawn from torch's global generator: seed it first."""
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.embedding = nn.Embedding(vocabulary_size, config.embedding_dim, padding_idx=PAD)
        self.recurrent = VariableLengthLSTM(
            config.embedding_dim,
            config.hidden_size,
            config.num_layers,
            bidirectional=config.bidirectional,
            dropout=config.dropout,
        )
        self.head = nn.Linear(self.recurrent.output_size, 1 if num_classes == 2 else num_classes)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits of at least fp32: ``[rows]`` for two classes, ``[rows, classes]`` for more; rows as in the batch."""
        pooled = self._packed(batch) if batch.batch_sizes is not None else self._padded(batch)
        with torch.autocast(pooled.device.type, enabled=False):
            pooled = pooled.to(self.head.weight.dtype)
            if self.training and self.config.dropout:
                pooled = pooled * dropout_mask(pooled, tuple(pooled.shape), self.config.dropout)
            logits = self.head(pooled)
        return logits.squeeze(1) if self.num_classes == 2 else logits

    def _padded(self, batch: Batch) -> torch.Tensor:
        embedded = self.embedding(batch.widened())
        embedded = dropout_per_sequence(embedded, self.config.dropout, self.training)
        lengths = batch.lengths.to(embedded.device)
        outputs, state = self.recurrent.forward_padded(embedded, lengths)
        if self.config.pooling == "last":
            return state
        real = (torch.arange(outputs.shape[1], device=outputs.device) < lengths[:, None])[:, :, None]
        if self.config.pooling == "max":
            return outputs.masked_fill(~real, -torch.inf).amax(1)
        return outputs.masked_fill(~real, 0).sum(1) / lengths[:, None]

    def _packed(self, batch: Batch) -> torch.Tensor:
        """Only real tokens exist here, from the embedding to the pooled vector."""
        assert batch.batch_sizes is not None
        embedded = self.embedding(batch.widened())
        rows = packed_rows(batch.batch_sizes, len(embedded), embedded.device)
        if self.training and self.config.dropout:
            shape = (batch.num_rows, embedded.shape[1])
            embedded = embedded * dropout_mask(embedded, shape, self.config.dropout)[rows]
        outputs, state = self.recurrent.forward_packed(PackedSequence(embedded, batch.batch_sizes))
        if self.config.pooling == "last":
            return state
        pooled = outputs.data.new_zeros(batch.num_rows, outputs.data.shape[1])
        if self.config.pooling == "max":
            index = rows[:, None].expand_as(outputs.data)
            return pooled.scatter_reduce(0, index, outputs.data, "amax", include_self=False)
        return pooled.index_add(0, rows, outputs.data) / batch.lengths.to(pooled.device)[:, None]


def loss_per_row(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of each row, ``[rows]``: binary with logits for one logit, softmax for several.

    Smoothing spreads a share of the label evenly over all classes (Szegedy et al., 2016), for two classes as for more;
    ``class_weights`` ``[classes]`` multiplies the loss of a row by the weight of its label.
    """
    if logits.dim() == 1:
        targets = labels.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
        losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    else:
        losses = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    return losses if class_weights is None else losses * class_weights.to(losses.dtype)[labels]


def num_parameters(model: nn.Module) -> int:
    """How many numbers the model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


class Objective(nn.Module):
    """The loss around a classifier: the module that is wrapped for mixed precision and DDP.

    Evaluation calls ``classifier`` itself, in fp32 and without collectives.
    """

    row_losses: torch.Tensor
    """``[rows]``: the losses of the latest batch, detached, for whoever must find a row that went wrong."""

    def __init__(
        self, classifier: Classifier, *, label_smoothing: float = 0.0, class_weights: torch.Tensor | None = None
    ) -> None:
        """``classifier`` stays reachable as an attribute; ``class_weights`` ``[classes]`` lies on its device."""
        super().__init__()
        self.classifier = classifier
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights
        self.wishes: nn.Parameter | None = None
        self.wished: torch.Tensor | None = None

    def carry_wishes(self, count: int, device: torch.device) -> None:
        """Have a parameter that is always zero and whose gradient is ``wished``; see ``harness.agreement``."""
        self.wishes = nn.Parameter(torch.zeros(count, device=device))
        self.wished = torch.zeros(count, device=device)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Sum over the batch's rows of each row's loss; the caller divides by the rows of the whole step."""
        losses = loss_per_row(
            self.classifier(batch),
            batch.labels,
            label_smoothing=self.label_smoothing,
            class_weights=self.class_weights,
        )
        self.row_losses = losses.detach()
        total = losses.sum()
        if self.wishes is None or self.wished is None:
            return total
        return total + (self.wishes * self.wished).sum()
