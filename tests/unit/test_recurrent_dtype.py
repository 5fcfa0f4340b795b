# SPDX-License-Identifier: Apache-2.0
"""Which layout and dtype the recurrent layers run in: the rules, and what really comes out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from harness.batch import Batch
from harness.config import ModelConfig, RunConfig
from harness.model import recurrent
from harness.model.classifier import Classifier, Objective
from harness.model.recurrent import Cell, VariableLengthLSTM, try_recurrence
from harness.ranks.precision import Choice, choose_recurrent_dtype, layout_on
from preprocessing.base.errors import ConfigError

BF16 = torch.bfloat16


@pytest.mark.parametrize(
    ("precision", "device", "layout", "cudnn", "cpu_bf16", "expected"),
    [
        ("fp32", "cuda", "padded", 91_300, True, "fp32: as the weights"),
        ("fp32", "cpu", "padded", None, True, "fp32: as the weights"),
        ("bf16", "cuda", "padded", 91_300, False, "bf16: cuDNN 9.13; it takes bf16 from 9.13"),
        ("bf16", "cuda", "packed", 92_000, False, "bf16: cuDNN 9.20; it takes bf16 from 9.13"),
        ("bf16", "cuda", "packed", 91_002, True, "fp32: cuDNN 9.10; it takes bf16 from 9.13"),
        ("bf16", "cuda", "padded", 8907, True, "fp32: cuDNN 8.9; it takes bf16 from 9.13"),
        ("bf16", "cuda", "padded", None, True, "fp32: there is no cuDNN to compute a recurrent layer in bf16"),
        ("bf16", "cpu", "padded", None, True, "bf16: oneDNN takes padded bf16 input"),
        ("bf16", "cpu", "padded", None, False, "fp32: oneDNN takes no bf16 on this CPU"),
        (
            "bf16",
            "cpu",
            "packed",
            None,
            True,
            "fp32: oneDNN takes no packed input, and what runs instead is no faster in bf16",
        ),
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
        ("packed", "cpu", 128, "packed: asked for"),
        ("auto", "cpu", 1024, "padded: the fast path on a CPU"),
        ("auto", "cuda", 128, "padded: cuDNN's persistent kernels take padded input up to 128 hidden units"),
        ("auto", "cuda", 129, "packed: not measured on this card"),
    ],
)
def test_the_layout(wanted: str, device: str, hidden: int, expected: str) -> None:
    layout, choice = layout_on(torch.device(device), hidden, wanted)
    assert (layout, str(choice)) == (expected.partition(":")[0], expected)


def test_the_key_is_one_of_three() -> None:
    assert RunConfig().recurrence == "auto"
    assert RunConfig(recurrence="packed").recurrence == "packed"
    with pytest.raises(ConfigError, match="recurrence: 'reversal' is out of range: expected auto, packed, padded"):
        RunConfig(recurrence="reversal")


@pytest.mark.parametrize(
    ("layout", "wanted", "really"),
    [("padded", "fp32", "fp32"), ("padded", "bf16", "bf16"), ("packed", "fp32", "fp32"), ("packed", "bf16", "bf16")],
)
def test_a_trial_says_what_comes_out(layout: str, wanted: str, really: str) -> None:
    lstm = VariableLengthLSTM(4, 4, 2)
    before = torch.random.get_rng_state()
    found = try_recurrence(lstm, layout, Choice(wanted, "because"))
    assert found == Choice(really, "because")
    assert all(weight.grad is None for weight in lstm.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_trial_says_so_when_something_else_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(cell: Cell, inputs: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        """As CUDA's autocast does, whatever was asked."""
        return plain(cell, inputs.half(), [weight.half() for weight in weights])

    plain = Cell.padded
    monkeypatch.setattr(Cell, "padded", half)
    found = try_recurrence(VariableLengthLSTM(4, 4), "padded", Choice("bf16", "because"))
    assert str(found) == "fp16: what comes out when bf16 is asked for"


def test_a_trial_that_fails_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cell: Cell, inputs: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        raise RuntimeError("\"_thnn_fused_lstm_cell_cuda\" not implemented for 'BFloat16'")

    monkeypatch.setattr(Cell, "padded", refuse)
    with pytest.raises(ConfigError, match=r"the recurrent layers fail in bf16 on cpu .*; use --precision fp32"):
        try_recurrence(VariableLengthLSTM(4, 4), "padded", Choice("bf16", "because"))


def make_batch(rows: int) -> Batch:
    random = np.random.default_rng(0)
    lengths = np.sort(random.integers(20, 31, rows))[::-1].copy()
    ids = torch.from_numpy(random.integers(2, 50, (rows, int(lengths[0])))).int()
    labels = torch.from_numpy(random.integers(0, 2, rows))
    return Batch(ids, torch.from_numpy(lengths), labels, np.arange(rows))


def make_objective(pooling: str, dtype: torch.dtype | None) -> Objective:
    torch.manual_seed(0)
    shape = ModelConfig(embedding_dim=16, hidden_size=16, num_layers=2, pooling=pooling, dropout=0.1)
    return Objective(Classifier(shape, 50), recurrent_dtype=dtype)


def gradients(objective: Objective, batch: Batch, autocast: bool = False) -> dict[str, torch.Tensor]:
    with torch.autocast("cpu", BF16, enabled=autocast):
        loss = objective(batch, 3) / batch.num_rows
    loss.backward()
    return {name: weight.grad for name, weight in objective.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("rows", [64, 512])
@pytest.mark.parametrize(
    ("pooling", "limit"),
    [("last", 1 / 64), ("mean", 1 / 64), ("max", 1 / 6), ("max+mean", 1 / 6)],  # rounding moves a maximum elsewhere
)
def test_gradients_in_bf16_reach_every_weight(rows: int, pooling: str, limit: float) -> None:
    batch, objective = make_batch(rows), make_objective(pooling, BF16)
    exact = copy.deepcopy(objective).double()
    exact.recurrent_dtype = None
    found, expected = gradients(objective, batch), gradients(exact, batch)
    assert found.keys() == expected.keys() == dict(objective.named_parameters()).keys()
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert gradient.count_nonzero() > 0.8 * expected[name].count_nonzero(), name
        error = (gradient.double() - expected[name]).norm() / expected[name].norm()
        assert error < limit, name


@pytest.mark.parametrize(("dtype", "wanted"), [(None, torch.float32), (torch.float32, torch.float32), (BF16, BF16)])
def test_autocast_has_no_say(dtype: torch.dtype | None, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    plain = Cell.padded

    def noted(cell: Cell, inputs: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        outputs = plain(cell, inputs, weights)
        seen.extend((inputs.dtype, outputs.dtype, *(weight.dtype for weight in weights)))
        return outputs

    monkeypatch.setattr(Cell, "padded", noted)
    batch, results = make_batch(8), []
    for enabled in (False, True):
        objective = make_objective("max+mean", dtype)
        found = gradients(objective, batch, autocast=enabled)
        results.append([objective.row_losses, *found.values()])
    assert set(seen) == {wanted}
    for outside, inside in zip(*results, strict=True):
        assert torch.equal(outside, inside)


def test_each_direction_gets_a_buffer_of_its_own() -> None:
    layer = next(VariableLengthLSTM(6, 4).lstms())
    for direction in (0, 1):
        copies = recurrent.direction_weights(layer, direction, BF16)
        weights = [getattr(layer, name) for name in layer._all_weights[direction]]
        assert [tuple(one.shape) for one in copies] == [(16, 6), (16, 4), (16,), (16,)]
        assert [one.storage_offset() for one in copies] == [0, 96, 160, 176]
        assert len({one.untyped_storage().data_ptr() for one in copies}) == 1
        assert copies[0].untyped_storage().nbytes() == 2 * 192
        assert all(torch.equal(one, weight.bfloat16()) for one, weight in zip(copies, weights, strict=True))
    whole = recurrent.layer_weights(layer, BF16)
    assert [one.storage_offset() for one in whole] == [0, 96, 320, 336, 160, 256, 352, 368]


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_fp32_on_the_cpu_takes_the_weights_as_they_are(dtype: torch.dtype | None) -> None:
    layer = next(VariableLengthLSTM(6, 4).lstms())
    names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    for direction, ending in enumerate(("", "_reverse")):
        taken = recurrent.direction_weights(layer, direction, dtype)
        assert [id(one) for one in taken] == [id(getattr(layer, name + ending)) for name in names]
    assert [id(one) for one in recurrent.layer_weights(layer, dtype)] == [id(one) for one in layer.parameters()]
