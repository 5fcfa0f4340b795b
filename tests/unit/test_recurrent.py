# SPDX-License-Identifier: Apache-2.0
"""Both recurrent paths equal a loop over single sequences, in outputs and gradients; padding changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from harness.batch import Batch
from harness.config import ModelConfig
from harness.data.batches import pack
from harness.model.classifier import Classifier
from harness.model.dropout import Masks
from harness.model.pooling import Last
from harness.model.recurrent import Cell, VariableLengthLSTM, in_order, reversal_index

LENGTHS = torch.tensor([9, 7, 7, 4, 2, 1, 1])
SHAPES = [(layers, both) for layers in (1, 2, 3) for both in (False, True)]


def make_lstm(num_layers: int, bidirectional: bool) -> tuple[VariableLengthLSTM, torch.Tensor]:
    torch.manual_seed(0)
    lstm = VariableLengthLSTM(5, 4, num_layers, bidirectional=bidirectional).double()
    return lstm, torch.randn(len(LENGTHS), 9, 5, dtype=torch.float64)


def weighted(outputs: torch.Tensor, state: torch.Tensor, row: int) -> torch.Tensor:
    """A scalar in which every output and state has a weight of its own."""
    generator = torch.Generator().manual_seed(row)
    size = {"generator": generator, "dtype": torch.float64}
    return (outputs * torch.randn(outputs.shape, **size)).sum() + (state * torch.randn(state.shape, **size)).sum()


def gradients(lstm: VariableLengthLSTM, loss: torch.Tensor, inputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [inputs, *lstm.parameters()]))


def loop(lstm: VariableLengthLSTM, inputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """One sequence at a time through nn.LSTM, nothing padded."""
    outputs, states = [], []
    for row, length in enumerate(LENGTHS.tolist()):
        hidden = inputs[row : row + 1, :length]
        for layer in lstm.layers:
            hidden, (state, _) = layer(hidden)
        outputs.append(hidden[0])
        states.append(state.transpose(0, 1).reshape(-1))
    return outputs, torch.stack(states)


def padded(lstm: VariableLengthLSTM, inputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    directions = lstm.forward_padded(inputs.transpose(0, 1), LENGTHS)
    reversal = reversal_index(LENGTHS, inputs.shape[1]) if lstm.bidirectional else None
    outputs = in_order(directions, reversal).transpose(0, 1)
    states = Last(lstm.output_size).padded(directions, LENGTHS, LENGTHS)
    return [outputs[row, :length] for row, length in enumerate(LENGTHS.tolist())], states


def packed(lstm: VariableLengthLSTM, inputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    result, states = lstm.forward_packed(pack_padded_sequence(inputs, LENGTHS, batch_first=True))
    outputs = pad_packed_sequence(result, batch_first=True)[0]
    return [outputs[row, :length] for row, length in enumerate(LENGTHS.tolist())], states


@pytest.mark.parametrize("path", [padded, packed])
@pytest.mark.parametrize(("num_layers", "bidirectional"), SHAPES)
def test_equal_to_a_loop_over_sequences(path, num_layers: int, bidirectional: bool) -> None:
    lstm, inputs = make_lstm(num_layers, bidirectional)
    results = []
    for function in (loop, path):
        leaf = inputs.clone().requires_grad_()
        outputs, states = function(lstm, leaf)
        loss = sum(weighted(outputs[row], states[row], row) for row in range(len(LENGTHS)))
        results.append((outputs, states, gradients(lstm, loss, leaf)))
    (expected, expected_states, expected_grads), (outputs, states, grads) = results
    for ours, theirs in zip([*outputs, states, *grads], [*expected, expected_states, *expected_grads], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", [padded, packed])
def test_what_lies_in_the_padding_changes_nothing(path) -> None:
    lstm, inputs = make_lstm(2, True)
    noisy = inputs.clone()
    for row, length in enumerate(LENGTHS.tolist()):
        noisy[row, length:] = 1e6
    for ours, theirs in zip(path(lstm, noisy)[0], path(lstm, inputs)[0], strict=True):
        assert torch.equal(ours, theirs)


def make_batches(random: np.random.Generator) -> tuple[Batch, Batch]:
    """The same eight rows padded and packed, longest first."""
    length = np.sort(random.integers(1, 12, 8))[::-1].copy()
    ids = random.integers(2, 30, (8, int(length.max()))).astype(np.int16)
    ids[np.arange(ids.shape[1]) >= length[:, None]] = 0
    tokens = torch.empty(int(length.sum()), dtype=torch.int16)
    sizes = torch.from_numpy(pack(torch.from_numpy(ids), length, tokens))
    rows, labels = random.permutation(1000)[:8], torch.zeros(8, dtype=torch.int64)
    rest = (torch.from_numpy(length), labels, rows)
    return Batch(torch.from_numpy(ids), *rest), Batch(tokens, *rest, sizes)


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("pooling", ["last", "max", "mean", "max+mean"])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_both_layouts_give_the_model_the_same_logits_and_gradients(pooling: str, num_classes: int, drops: bool) -> None:
    torch.manual_seed(1)
    config = ModelConfig(embedding_dim=6, hidden_size=5, num_layers=2, pooling=pooling, dropout=0.4, word_dropout=0.3)
    model = Classifier(config, 30, num_classes).double()
    plain, dense = make_batches(np.random.default_rng(0))
    logits = [model(batch, Masks.of(1, 2, batch.rows, batch.ids.device) if drops else None) for batch in (plain, dense)]
    padded_logits, packed_logits = logits
    assert padded_logits.shape == ((8,) if num_classes == 2 else (8, num_classes))
    assert torch.equal(padded_logits, model(plain)) == (not drops)
    torch.testing.assert_close(packed_logits, padded_logits, rtol=0, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(packed_logits.square().sum(), list(model.parameters())),
        torch.autograd.grad(padded_logits.square().sum(), list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pooling", ["last", "max", "mean", "max+mean"])
def test_pooling_looks_at_the_real_tokens_of_one_text_at_a_time(pooling: str) -> None:
    torch.manual_seed(1)
    model = Classifier(ModelConfig(embedding_dim=6, hidden_size=5, pooling=pooling), 30).double()
    plain, _ = make_batches(np.random.default_rng(2))
    (lstm,) = model.recurrent.layers
    expected = []
    for ids, length in zip(plain.ids.tolist(), plain.lengths.tolist(), strict=True):
        outputs, (state, _) = lstm(model.embedding(torch.tensor([ids[:length]])))
        vectors = {
            "last": state.flatten(),
            "max": outputs[0].max(0).values,
            "mean": outputs[0].mean(0),
            "max+mean": torch.cat((outputs[0].max(0).values, outputs[0].mean(0))),
        }
        expected.append(model.head(vectors[pooling])[0])
    torch.testing.assert_close(model(plain), torch.stack(expected), rtol=0, atol=1e-12)


def test_dropout_between_layers_uses_one_mask_per_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    lstm = VariableLengthLSTM(3, 4, 2, dropout=0.5)
    captured = []

    packed = Cell.packed

    def layer(cell: Cell, data: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        captured.append(data)
        return packed(cell, data, *rest)

    monkeypatch.setattr(Cell, "packed", layer)
    sequence = pack_padded_sequence(torch.ones(4, 6, 3), torch.tensor([6, 6, 6, 6]), batch_first=True)
    lstm.forward_packed(sequence, Masks.of(0, 0, np.arange(4), torch.device("cpu")))
    dropped = pad_packed_sequence(sequence._replace(data=captured[1]), batch_first=True)[0] == 0
    assert torch.equal(dropped[:, :1].expand_as(dropped), dropped)
    assert 0.2 < dropped.float().mean() < 0.8
    lstm.forward_packed(sequence)
    assert not (captured[3] == 0).any()
