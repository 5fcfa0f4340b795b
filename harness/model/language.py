# SPDX-License-Identifier: Apache-2.0
"""The language model that a classifier may start from: its embedding and first recurrent layer, each direction of which
predicts the next token that it will read.

A backward direction reads a text from its end, so its next token is the one before; both directions of one layer are
two language models that cost no more than a classifier's layer. Layers above it see both directions, and so what they
would have to predict: they are left out. A token's output vector is its embedding, compared with a projection of the
state (Press and Wolf, 2017; Inan et al., 2017), plus a bias per token.

Embedding and recurrent layer have the names that they have in a ``Classifier``; all else begins with
``language_model``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from harness.batch import Batch, send
from harness.config import ModelConfig
from harness.model.candidates import FIRST
from harness.model.dropout import EMBEDDING, HEAD, Masks
from harness.model.embedded import build_embedding
from harness.model.full_softmax import PREDICTIONS, log_losses
from harness.model.recurrent import PackedIndex, VariableLengthLSTM
from harness.model.registry import CELLS, check_model
from harness.model.sampled_softmax import pieces
from harness.model.targets import NEXT_TOKEN, Targets
from preprocessing.base.installed import load
from preprocessing.text.vocabulary import PAD, UNK


@dataclass(frozen=True)
class Direction:
    """Who predicts what in one direction of a batch; ``N`` predictions, later ones further from where it began."""

    at: torch.Tensor
    """int64 ``[N]``: the state that predicts."""
    target: torch.Tensor
    """int64 ``[N]``: the position, in the order of ids, of the token that is predicted."""


@dataclass(frozen=True)
class Pairs:
    """All pairs of tokens at one distance in their text: each predicts the other, in one of the directions."""

    rows: torch.Tensor
    """int64 ``[N]``: the row of each pair."""
    directions: list[Direction]


@dataclass(frozen=True)
class Reading:
    """A batch as the recurrent layer read it."""

    ids: torch.Tensor
    """``[positions]``: time-major, with padding or without."""
    vectors: torch.Tensor
    """``[positions, embedding_dim]``: the tokens' own, before anything was dropped."""
    candidates: torch.Tensor
    """``[candidates, embedding_dim]``."""
    states: list[torch.Tensor]
    """``[positions, hidden]`` of each direction: what the recurrent layer gave, in its own order."""
    batch: Batch
    index: PackedIndex

    def pairs(self, distance: int) -> Pairs:
        """Who predicts what at a distance."""
        return pairs_of(self.batch, self.index, len(self.states), distance)


class OutputLayer(nn.Module):
    """What the language model has beside the layers that it shares with a classifier."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        """A projection for each direction, and one bias for each token."""
        super().__init__()
        directions = 2 if config.bidirectional else 1
        self.projection = nn.ModuleList(
            nn.Linear(config.hidden_size, config.embedding_dim, bias=False) for _ in range(directions)
        )
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))


class LanguageModel(nn.Module):
    """One recurrent layer whose directions each predict the next token."""

    wide = None
    """A classifier's linear part; a language model has none."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        """Weights are drawn from torch's global generator: seed it first. Of ``config``, layers above the first,
        pooling and wide part are left out.
        """
        super().__init__()
        check_model(config)
        self.config = config
        self.embedding = build_embedding(config, vocabulary_size)
        self.recurrent = VariableLengthLSTM(
            config.embedding_dim,
            config.hidden_size,
            bidirectional=config.bidirectional,
            cell=load(CELLS[config.cell].code),
        )
        self.language_model = OutputLayer(config, vocabulary_size)

    @property
    def num_directions(self) -> int:
        """How many tokens are predicted for each token but the first or last of a text."""
        return len(self.language_model.projection)

    @torch.no_grad()
    def start_bias(self, counts: np.ndarray) -> None:
        """Begin with the frequencies of tokens, so that training need not learn them first.

        ``counts`` int64 ``[vocabulary]``; each counts one more than it is.
        """
        shares = (counts.astype(np.float64) + 1) / (counts.sum() + len(counts))
        self.language_model.bias.copy_(torch.from_numpy(np.log(shares)))

    def holds_embedding(self, step: int) -> bool:
        """Whether the embedding stays what it is in optimizer ``step`` (from 0)."""
        frozen = self.config.freeze_embedding
        return frozen is not None and (frozen == "always" or step < frozen)

    @property
    def drops(self) -> bool:
        """Whether training wants masks."""
        return self.config.dropout > 0 or self.config.word_dropout > 0

    def masks(self, seed: int, step: int, batch: Batch) -> Masks:
        """What is dropped from the rows of a batch in optimizer ``step``: tokens that are read, though not those that
        are predicted; features of their vectors; features of the states that predict.
        """
        masks = Masks.of(seed, step, batch.rows, batch.ids.device)
        if not self.config.dropout:
            return masks
        sizes = {EMBEDDING: self.config.embedding_dim, HEAD: self.recurrent.output_size}
        return masks.together(sizes, self.config.dropout)

    def read(
        self,
        batch: Batch,
        candidates: torch.Tensor | None = None,
        masks: Masks | None = None,
        dtype: torch.dtype | None = None,
    ) -> Reading:
        """Run the recurrent layer over a batch. ``candidates`` int64 are looked up along the way, in one go with all
        tokens of the batch: the gradient of a lookup is as large as the vocabulary, whatever was looked up.
        """
        padded = batch.batch_sizes is None
        index = PackedIndex.of(batch.device_lengths, longest(batch), batch.num_tokens)
        ids = (batch.widened().t() if padded else batch.widened()).reshape(-1)
        more = ids.new_empty(0) if candidates is None else candidates.to(ids.dtype)
        looked_up = self.embedding(torch.cat((ids, more, ids.new_full((1,), UNK))))
        vectors, candidate_vectors, unknown = looked_up.split([len(ids), len(more), 1])
        inputs = self._dropped(vectors, unknown, batch, index, masks)
        if padded:
            shaped = inputs.view(-1, batch.num_rows, inputs.shape[1])
            outputs = self.recurrent.forward_padded(shaped, batch.device_lengths, None, dtype)
            states = [output.reshape(-1, output.shape[2]) for output in outputs]
        else:
            assert batch.batch_sizes is not None
            packed, _ = self.recurrent.forward_packed(PackedSequence(inputs, batch.batch_sizes), None, dtype)
            states = list(packed.data.split(self.recurrent.hidden_size, dim=1))
        return Reading(ids, vectors, candidate_vectors, states, batch, index)

    def _dropped(
        self, vectors: torch.Tensor, unknown: torch.Tensor, batch: Batch, index: PackedIndex, masks: Masks | None
    ) -> torch.Tensor:
        """What the recurrent layer reads of the vectors ``[positions, embedding_dim]``."""
        if masks is None:
            return vectors
        padded, chance = batch.batch_sizes is None, self.config.word_dropout
        if chance and padded:
            time = torch.arange(len(vectors) // batch.num_rows, device=vectors.device)
            vectors = torch.where(masks.tokens(None, time, chance).t().reshape(-1, 1), vectors, unknown)
        elif chance:
            vectors = torch.where(masks.tokens(index.row, index.time, chance)[:, None], vectors, unknown)
        if self.config.dropout:
            mask = masks.features(EMBEDDING, vectors.shape[1], self.config.dropout, vectors.dtype)
            kept = vectors.view(-1, *mask.shape) * mask if padded else vectors * mask[index.row]
            vectors = kept.view(-1, mask.shape[1])
        return vectors

    def projected(self, number: int, states: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What direction ``number`` compares with tokens' vectors: ``[N, embedding_dim]`` of ``states``
        ``[N, hidden]``. The product is computed in ``dtype``.
        """
        weight = self.language_model.projection[number].weight
        assert isinstance(weight, torch.Tensor)
        return functional.linear(states.to(dtype), weight.to(dtype)).to(weight.dtype)

    def row_log_losses(self, batch: Batch, targets: Targets = NEXT_TOKEN) -> tuple[torch.Tensor, torch.Tensor]:
        """float64 ``[rows, directions]`` each: what each row's predictions cost in nats, and what they count, summed.

        They are all that ``targets`` means, by an exact softmax over all tokens (``full_softmax``).
        """
        with torch.autocast(batch.ids.device.type, enabled=False):
            reading = self.read(batch)
            vectors, bias = self.embedding.weight[FIRST:], self.language_model.bias[FIRST:]
            sums = torch.zeros(2, self.num_directions, batch.num_rows, dtype=torch.float64, device=vectors.device)
            for number, (states, wanted) in enumerate(zip(reading.states, tokens_ahead(reading, targets), strict=True)):
                pairs = reading.pairs(1)
                for piece in pieces(len(pairs.rows), 1, PREDICTIONS):
                    at = pairs.directions[number].at[piece]
                    found = wanted[at]
                    projected = self.projected(number, states[at], bias.dtype)
                    losses = log_losses(projected, vectors, bias, (found - FIRST).clamp(min=0))
                    counts = targets.counts(found, losses.dtype) * (found != PAD)
                    both = torch.stack(((losses * counts).sum(1), counts.sum(1))).double()
                    sums[:, number].index_add_(1, pairs.rows[piece], both)
        losses, counts = sums.transpose(1, 2)
        return losses, counts


def longest(batch: Batch) -> int:
    """Time steps of a batch."""
    return batch.ids.shape[1] if batch.batch_sizes is None else len(batch.batch_sizes)


def pairs_of(batch: Batch, index: PackedIndex, num_directions: int, distance: int) -> Pairs:
    """Who predicts what: a token and the one ``distance`` before it predict each other.

    The pairs come in one order in both layouts: time by time, and within a time step row by row.
    """
    rows, sizes = batch.num_rows, batch.batch_sizes
    first = int(batch.lengths.clamp(max=distance).sum())  # tokens that have none so far before them
    row, time = index.row[first:], index.time[first:]
    if sizes is None:
        later = time * rows + row
        before = later - distance * rows
        # Each row of the backward direction is reversed within its own length.
        mirrored = (batch.device_lengths[row] - 1 - time) * rows + row
    else:
        later = torch.arange(first, len(index.row), device=row.device)
        starts = send(torch.cumsum(sizes, 0) - sizes, row.device)
        before = starts[time - distance] + row
        mirrored = later
    forward = Direction(before, later)
    return Pairs(row, [forward, Direction(mirrored, before)][:num_directions])


def tokens_ahead(reading: Reading, targets: Targets) -> list[torch.Tensor]:
    """int64 ``[positions, window]`` for each direction: the ids that the state at each position predicts, by distance;
    ``PAD`` where the text is over.
    """
    found = [reading.ids.new_full((len(reading.ids), targets.window), PAD, dtype=torch.int64) for _ in reading.states]
    for distance in targets.all:
        for wanted, direction in zip(found, reading.pairs(distance).directions, strict=True):
            wanted[direction.at, distance - 1] = reading.ids[direction.target].long()
    return found
