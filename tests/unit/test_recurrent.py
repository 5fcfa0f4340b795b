# SPDX-License-Identifier: Apache-2.0
"""Both recurrent paths and the poolings equal a loop over single sequences, in outputs, gradients and every dtype."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from harness.batch import Batch, PackedIndex
from harness.config import ModelConfig
from harness.model import recurrent
from harness.model.classifier import Classifier, Objective
from harness.model.pooling import Last, Maximum, MaximumAndMean, Mean
from harness.model.recurrent import Cell, VariableLengthLSTM, in_order, reversal_index, side_by_side, try_recurrence
from harness.ranks.precision import Choice, layout_on, recurrent_dtype
from preprocessing.base.errors import ConfigError
from tests.batches import padded_batch

CPU = torch.device("cpu")
LENGTHS = torch.tensor([9, 7, 7, 4, 2, 1, 1])
SHAPES = [(2, False), (3, True)]


def make_lstm(num_layers: int, bidirectional: bool) -> tuple[VariableLengthLSTM, torch.Tensor]:
    torch.manual_seed(0)
    lstm = VariableLengthLSTM(5, 4, num_layers, bidirectional=bidirectional).double()
    return lstm, torch.randn(len(LENGTHS), 9, 5, dtype=torch.float64)


def weighted(outputs: torch.Tensor, state: torch.Tensor, row: int) -> torch.Tensor:
    """A scalar: the sum of all outputs and states with different weights."""
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
    states = Last(lstm.output_size).packed(result.data, states, PackedIndex.of(LENGTHS, CPU), LENGTHS, LENGTHS)
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


BF16 = torch.bfloat16


def test_the_dtype_of_every_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, device, layout, cudnn, cpu_bf16, expected in (
        ("bf16", "cuda", "padded", 91_300, False, "bf16"),
        ("bf16", "cuda", "packed", 91_002, True, "fp32"),
        ("bf16", "cpu", "padded", None, False, "fp32"),
        ("bf16", "cpu", "padded", None, True, "bf16"),
        ("bf16", "cpu", "packed", None, True, "fp32"),
        ("fp16", "cuda", "packed", 90_000, False, "fp16"),
        ("tf32", "cuda", "packed", 90_000, False, "fp32"),
    ):
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda number=cudnn: number)
        assert recurrent_dtype(asked, device, layout, bf16_on_cpu=cpu_bf16).value == expected


def test_the_layout() -> None:
    for device, hidden, expected in (
        ("cpu", 1024, "padded: the fast path on a CPU"),
        ("cuda", 128, "padded: cuDNN's persistent kernels take padded input up to 128 hidden units"),
        ("cuda", 129, "packed: not measured on this card"),
    ):
        layout, choice = layout_on(torch.device(device), hidden)
        assert (layout, str(choice)) == (expected[:6], expected)


def test_a_trial_that_fails_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cell: Cell, inputs: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        raise RuntimeError("\"_thnn_fused_lstm_cell_cuda\" not implemented for 'BFloat16'")

    monkeypatch.setattr(Cell, "padded", refuse)
    with pytest.raises(ConfigError, match=r"the recurrent layers fail in bf16 on cpu .*; use --precision fp32"):
        try_recurrence(VariableLengthLSTM(4, 4), "padded", Choice("bf16", "because"))


def learned(objective: Objective, batch: Batch) -> dict[str, torch.Tensor]:
    loss = objective(batch, 3) / batch.num_rows
    loss.backward()
    return {name: weight.grad for name, weight in objective.named_parameters() if weight.grad is not None}


def test_gradients_in_bf16_reach_every_weight() -> None:
    torch.manual_seed(0)
    shape = ModelConfig(embedding_dim=16, hidden_size=16, num_layers=2, pooling="last", dropout=0.1)
    objective = Objective(Classifier(shape, 50), recurrent_dtype=BF16)
    batch = padded_batch(sorted([*range(20, 30)] * 6)[::-1], 50)
    exact = copy.deepcopy(objective).double()
    exact.recurrent_dtype = None
    found, expected = learned(objective, batch), learned(exact, batch)
    assert found.keys() == expected.keys() == dict(objective.named_parameters()).keys()
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert gradient.count_nonzero() > 0.8 * expected[name].count_nonzero(), name
        error = (gradient.double() - expected[name]).norm() / expected[name].norm()
        assert error < 1 / 40, name


POOLED = {"max": Maximum(3), "mean": Mean(3), "max+mean": MaximumAndMean(3)}


def pooled_in_a_loop(outputs: torch.Tensor, lengths: torch.Tensor, pooling: str) -> torch.Tensor:
    """``[rows, parts * features]``, a text at a time."""
    texts = [outputs[:length, row] for row, length in enumerate(lengths.tolist())]
    parts = {"max": [text.amax(0) for text in texts], "mean": [text.mean(0) for text in texts]}
    return torch.cat([torch.stack(parts[name]) for name in pooling.split("+")], dim=1)


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6).map(lambda values: sorted(values, reverse=True)),
    levels=st.integers(1, 40),  # few levels: many tokens share the maximum
    pooling=st.sampled_from(list(POOLED)),
    seed=st.integers(0, 1000),
)
@example(lengths=[4, 4, 4], levels=1, pooling="max+mean", seed=0)  # no tail
@example(lengths=[6, 1], levels=2, pooling="max+mean", seed=1)  # a tail of one row
def test_pooling_is_torchs_own_over_one_text_at_a_time(
    lengths: list[int], levels: int, pooling: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(lengths)
    values = torch.randint(-levels, levels + 1, (max(lengths), len(lengths), 3), generator=generator).double()
    real = torch.arange(max(lengths))[:, None] < sizes
    weights, found = None, []
    for path in ("loop", "padded", "packed"):
        leaf = values.clone().requires_grad_()
        if path == "loop":
            pooled = pooled_in_a_loop(leaf, sizes, pooling)
        elif path == "padded":
            pooled = POOLED[pooling].padded([leaf], sizes, sizes)
        else:
            index = PackedIndex.of(sizes, CPU)
            pooled = POOLED[pooling].packed(leaf[real], leaf, index, sizes, sizes)
        weights = torch.randn(pooled.shape, generator=generator).double() if weights is None else weights
        found.append((pooled, torch.autograd.grad((pooled * weights).sum(), leaf)[0]))
    for pooled, gradient in found[1:]:
        torch.testing.assert_close(pooled, found[0][0], rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, found[0][1], rtol=0, atol=1e-12)


def test_directions_on_two_streams_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for CUDA's streams: what runs where, and whose memory each stream holds."""
    said: list[str] = []

    class Stream(str):
        def wait_stream(self, other: str) -> None:
            said.append(f"{self} waits for {other}")

    class OnCuda(torch.Tensor):
        is_cuda = True

        def record_stream(self, stream: str) -> None:
            said.append(f"{stream} holds {int(self)}")

    def padded(inputs: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        said.append(f"computes {int(inputs)}")
        return inputs + 10

    @contextmanager
    def inside(stream: str) -> Iterator[None]:
        said.append(f"on {stream}")
        yield
        said.append("on main")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(recurrent, "second_stream", lambda device: Stream("second"))
    one, two, weight = (torch.tensor(value).as_subclass(OnCuda) for value in (1, 2, 3))
    found = side_by_side(SimpleNamespace(padded=padded), [one, two], [[weight], [weight]])  # type: ignore[arg-type]
    assert list(map(int, found)) == [11, 12]
    before = ["second waits for main", "on second", "computes 2", "on main", "computes 1", "main waits for second"]
    assert said == [*before, "second holds 2", "second holds 3", "main holds 12"]
