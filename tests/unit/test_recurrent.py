# SPDX-License-Identifier: Apache-2.0
"""Both recurrent paths and the poolings equal a loop over single sequences, in outputs, gradients and every dtype."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from harness.batch import Batch
from harness.config import ModelConfig
from harness.data.batches import pack
from harness.model.classifier import Classifier, Objective
from harness.model.dropout import Masks
from harness.model.pooling import Last, pool_packed, pool_padded
from harness.model.recurrent import Cell, VariableLengthLSTM, in_order, reversal_index, try_recurrence
from harness.ranks.precision import Choice, choose_recurrent_dtype, layout_on
from preprocessing.base.errors import ConfigError

LENGTHS = torch.tensor([9, 7, 7, 4, 2, 1, 1])
SHAPES = [(2, False), (3, True)]


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


@pytest.mark.parametrize(("pooling", "num_classes"), [("last", 2), ("max+mean", 5)])
def test_both_layouts_give_the_model_the_same_logits_and_gradients(pooling: str, num_classes: int) -> None:
    torch.manual_seed(1)
    config = ModelConfig(embedding_dim=6, hidden_size=5, num_layers=2, pooling=pooling, dropout=0.4, word_dropout=0.3)
    model = Classifier(config, 30, num_classes).double()
    plain, dense = make_batches(np.random.default_rng(0))
    padded_logits, packed_logits = (
        model(batch, Masks.of(1, 2, batch.rows, batch.ids.device)) for batch in (plain, dense)
    )
    assert padded_logits.shape == ((8,) if num_classes == 2 else (8, num_classes))
    assert not torch.equal(padded_logits, model(plain))
    torch.testing.assert_close(packed_logits, padded_logits, rtol=0, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(packed_logits.square().sum(), list(model.parameters())),
        torch.autograd.grad(padded_logits.square().sum(), list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


BF16 = torch.bfloat16


@pytest.mark.parametrize(
    ("precision", "device", "layout", "cudnn", "cpu_bf16", "expected"),
    [
        ("bf16", "cuda", "padded", 91_300, False, "bf16: cuDNN 9.13; it takes bf16 from 9.13"),
        ("bf16", "cuda", "packed", 91_002, True, "fp32: cuDNN 9.10; it takes bf16 from 9.13"),
        ("bf16", "cpu", "padded", None, False, "fp32: oneDNN takes no bf16 on this CPU"),
        ("fp16", "cuda", "packed", 90_000, False, "fp16: with loss scaling"),
    ],
)
def test_the_dtype_of_every_precision(
    precision: str, device: str, layout: str, cudnn: int | None, cpu_bf16: bool, expected: str
) -> None:
    assert str(choose_recurrent_dtype(precision, device, layout, cudnn=cudnn, cpu_bf16=cpu_bf16)) == expected


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"precision: fp16 cannot run on cpu: only CUDA scales the loss"):
        choose_recurrent_dtype("fp16", "cpu", "padded", cudnn=None, cpu_bf16=True)


@pytest.mark.parametrize(
    ("wanted", "device", "hidden", "expected"),
    [
        ("auto", "cpu", 1024, "padded: the fast path on a CPU"),
        ("auto", "cuda", 128, "padded: cuDNN's persistent kernels take padded input up to 128 hidden units"),
        ("auto", "cuda", 129, "packed: not measured on this card"),
    ],
)
def test_the_layout(wanted: str, device: str, hidden: int, expected: str) -> None:
    layout, choice = layout_on(torch.device(device), hidden, wanted)
    assert (layout, str(choice)) == (expected.partition(":")[0], expected)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_trial_says_what_comes_out(layout: str) -> None:
    lstm = VariableLengthLSTM(4, 4, 2)
    before = torch.random.get_rng_state()
    assert try_recurrence(lstm, layout, Choice("bf16", "because")) == Choice("bf16", "because")
    assert all(weight.grad is None for weight in lstm.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_trial_that_fails_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cell: Cell, inputs: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        raise RuntimeError("\"_thnn_fused_lstm_cell_cuda\" not implemented for 'BFloat16'")

    monkeypatch.setattr(Cell, "padded", refuse)
    with pytest.raises(ConfigError, match=r"the recurrent layers fail in bf16 on cpu .*; use --precision fp32"):
        try_recurrence(VariableLengthLSTM(4, 4), "padded", Choice("bf16", "because"))


def batch_of_rows(rows: int) -> Batch:
    random = np.random.default_rng(0)
    lengths = np.sort(random.integers(20, 31, rows))[::-1].copy()
    ids = torch.from_numpy(random.integers(2, 50, (rows, int(lengths[0])))).int()
    labels = torch.from_numpy(random.integers(0, 2, rows))
    return Batch(ids, torch.from_numpy(lengths), labels, np.arange(rows))


def make_objective(pooling: str, dtype: torch.dtype | None) -> Objective:
    torch.manual_seed(0)
    shape = ModelConfig(embedding_dim=16, hidden_size=16, num_layers=2, pooling=pooling, dropout=0.1)
    return Objective(Classifier(shape, 50), recurrent_dtype=dtype)


def learned(objective: Objective, batch: Batch, autocast: bool = False) -> dict[str, torch.Tensor]:
    with torch.autocast("cpu", BF16, enabled=autocast):
        loss = objective(batch, 3) / batch.num_rows
    loss.backward()
    return {name: weight.grad for name, weight in objective.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize(
    ("pooling", "limit"),
    [("last", 1 / 64), ("max+mean", 1 / 6)],  # rounding moves a maximum elsewhere
)
def test_gradients_in_bf16_reach_every_weight(pooling: str, limit: float) -> None:
    batch, objective = batch_of_rows(64), make_objective(pooling, BF16)
    exact = copy.deepcopy(objective).double()
    exact.recurrent_dtype = None
    found, expected = learned(objective, batch), learned(exact, batch)
    assert found.keys() == expected.keys() == dict(objective.named_parameters()).keys()
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert gradient.count_nonzero() > 0.8 * expected[name].count_nonzero(), name
        error = (gradient.double() - expected[name]).norm() / expected[name].norm()
        assert error < limit, name


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.float32, torch.float32), (BF16, BF16)])
def test_autocast_has_no_say(dtype: torch.dtype | None, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    plain = Cell.padded

    def noted(cell: Cell, inputs: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        outputs = plain(cell, inputs, weights)
        seen.extend((inputs.dtype, outputs.dtype, *(weight.dtype for weight in weights)))
        return outputs

    monkeypatch.setattr(Cell, "padded", noted)
    batch, results = batch_of_rows(8), []
    for enabled in (False, True):
        objective = make_objective("max+mean", dtype)
        found = learned(objective, batch, autocast=enabled)
        results.append([objective.row_losses, *found.values()])
    assert set(seen) == {wanted}
    for outside, inside in zip(*results, strict=True):
        assert torch.equal(outside, inside)


POOLED = {"max": (True, False), "mean": (False, True), "max+mean": (True, True)}


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
            pooled = torch.cat(pool_padded(leaf, sizes, sizes, *POOLED[pooling]), dim=1)
        else:
            pooled = torch.cat(pool_packed(leaf[real], sizes, sizes, *POOLED[pooling]), dim=1)
        weights = torch.randn(pooled.shape, generator=generator).double() if weights is None else weights
        found.append((pooled, torch.autograd.grad((pooled * weights).sum(), leaf)[0]))
    for pooled, gradient in found[1:]:
        torch.testing.assert_close(pooled, found[0][0], rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, found[0][1], rtol=0, atol=1e-12)


def test_no_atomic_addition_pools_packed_rows() -> None:
    """A scatter adds in whatever order the device comes to it: two equal runs would end elsewhere."""

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    called: set[str] = set()
    lengths = torch.tensor([7, 5, 5, 2])
    tokens = torch.randn(19, 3, requires_grad=True)
    with Recorded():
        torch.cat(pool_packed(tokens, lengths, lengths, True, True), dim=1).sum().backward()
    assert {"amax", "sum", "index_select"} <= called
    assert not {name for name in called if "scatter" in name or "index_add" in name or "index_put" in name}


def test_bf16_is_summed_in_fp32() -> None:
    length = torch.tensor([1000])
    (mean,) = pool_padded(torch.full((1000, 1, 1), 1.0, dtype=torch.bfloat16), length, length, False, True)
    assert mean.dtype == torch.float32
    assert mean.item() == 1.0
