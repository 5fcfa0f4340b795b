# SPDX-License-Identifier: Apache-2.0
"""The fused LSTM without a card: the interpreter's numbers against torch's, and what the compiler makes of the kernels;
and how a run chooses between the paths of its recurrent layers.
"""

from __future__ import annotations

import importlib
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

from harness.model.recurrent import VariableLengthLSTM, check_fused
from harness.ranks.precision import DTYPES
from harness.training import recurrence
from preprocessing.base.errors import ConfigError

pytestmark = pytest.mark.thorough
FUSED = "harness.model.fused"
SHARED = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
"""Compute capability -> shared memory that a block may have (CUDA C++ Programming Guide, technical specifications)."""
REGISTERS = 65_536


def load_fused() -> ModuleType:
    """The module anew: Triton decides at its decorators whether kernels are interpreted."""
    pytest.importorskip("triton", reason="needs Triton: pip install 'padless[fused]'")
    sys.modules.pop(FUSED, None)
    return importlib.import_module(FUSED)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The kernels on the CPU. Triton's interpreter holds bf16 as uint16, and multiplies these bits unless widened."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    module = load_fused()
    interpreter, language = map(importlib.import_module, ("triton.runtime.interpreter", "triton.language"))

    def dot(self: Any, *operands: Any) -> Any:
        def widen(operand: Any) -> np.ndarray:
            is_bf16 = operand.dtype.scalar == language.bfloat16
            return (operand.data.astype(np.uint32) << 16).view(np.float32) if is_bf16 else operand.data

        first, second, total = operands[:3]
        product = np.matmul(widen(first), widen(second), dtype=np.float32)
        return interpreter.TensorHandle(product + total.data, total.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)
    yield module
    sys.modules.pop(FUSED)


def run_pass(lstm: VariableLengthLSTM, lengths: list[int], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Outputs, final states and all gradients, in fp64, of a packed pass in ``dtype``."""
    generator = torch.Generator().manual_seed(1)
    random_options = {"generator": generator, "dtype": torch.float64}
    inputs = torch.randn(sum(lengths), lstm.layers[0].input_size, **random_options).requires_grad_()
    sizes = (torch.tensor(lengths) > torch.arange(lengths[0])[:, None]).sum(1)
    outputs, state = lstm.forward_packed(PackedSequence(inputs, sizes), None, dtype)
    results = {"outputs": outputs.data.double(), "state": state.double()}
    losses = [(value * torch.randn(value.shape, **random_options)).sum() for value in results.values()]
    loss = torch.stack(losses).sum()
    names, weights = zip(*lstm.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, [inputs, *weights])
    results = {name: value.detach() for name, value in results.items()}
    return results | dict(zip(["inputs", *names], gradients, strict=True))


CASES = [
    ([5, 3, 3, 1], 32, 2, True),
    ([1], 48, 1, True),
    ([*range(6, 1, -1)] + [1] * 60, 64, 1, True),  # 65 rows: five programs, whose last has one row
    ([400, 1], 16, 1, False),
    ([4, 2, 1], 128, 1, True),
    ([3, 2], 256, 1, True),  # which no card would hold
]


@pytest.mark.parametrize(("lengths", "hidden", "layers", "bidirectional"), CASES)
def test_the_kernel_is_torchs_packed_lstm(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, lengths, hidden: int, layers: int, bidirectional: bool
) -> None:
    monkeypatch.setattr(kernels, "SHARED_BYTES", 1 << 30)
    torch.manual_seed(0)
    lstm = VariableLengthLSTM(24, hidden, layers, bidirectional=bidirectional).double()
    exact = run_pass(lstm, lengths, torch.float64)
    lstm.fused = True
    bounds = {torch.float32: 1e-5, torch.bfloat16: 1 / 40}  # of the norm; bf16 rounds to 2**-9 in every step
    for dtype, bound in bounds.items() if lengths[0] < 400 else [(torch.float32, 1e-5)]:
        results = run_pass(lstm, lengths, dtype)
        assert results.keys() == exact.keys()
        for name, value in results.items():
            off = float((value - exact[name]).norm())
            assert off <= bound * float(exact[name].norm()), (name, dtype)
        if dtype == torch.float32:
            torch.testing.assert_close(results["outputs"], exact["outputs"], rtol=0, atol=1e-5)


def test_open_forget_gates_keep_their_gradient_in_bf16(kernels: ModuleType) -> None:
    """bf16 rounds 0.999 to 1, whose derivative is 0."""
    torch.manual_seed(0)
    lstm = VariableLengthLSTM(24, 32).double()
    with torch.no_grad():
        lstm.layers[0].bias_ih_l0[32:64] += 4
    exact = run_pass(lstm, [40] * 16, torch.float64)["layers.0.weight_hh_l0"]
    lstm.fused = True
    off = run_pass(lstm, [40] * 16, torch.bfloat16)["layers.0.weight_hh_l0"] - exact
    assert float(off.norm()) < 0.025 * float(exact.norm())


def test_a_kernel_that_fails_its_trial_is_refused(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    lstm, lengths, right = VariableLengthLSTM(8, 16), torch.tensor([3, 1]), kernels.Walk.lstm
    recurrence.try_fused(lstm, lengths, "fp32")

    def wrong(walk: Any, data: torch.Tensor, weights: list[torch.Tensor]) -> Any:
        outputs, states = right(walk, data, weights)
        return outputs * 1.01, states

    for kernel, problem in ((wrong, r"its gradients are off by \d.\de-02"), (lambda *_: [].pop(), "pop from empty")):
        monkeypatch.setattr(kernels.Walk, "lstm", kernel)
        with pytest.raises(ConfigError, match=rf"failed its trial \({problem}.*\); use --recurrence packed"):
            recurrence.try_fused(lstm, lengths, "fp32")
    assert not lstm.fused
    assert all(weight.grad is None for weight in lstm.parameters())


@pytest.mark.parametrize(("hidden", "dtype"), [(256, "bf16"), (128, "fp32"), (24, "bf16")])
def test_what_the_kernel_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch, hidden: int, dtype: str) -> None:
    pytest.importorskip("triton")
    lstm = VariableLengthLSTM(8, hidden)
    with pytest.raises(ConfigError, match=rf"takes .*, not {hidden} in {dtype}; use --recurrence packed"):
        check_fused(lstm, DTYPES[dtype])
    check_fused(VariableLengthLSTM(8, 64), DTYPES[dtype])
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ConfigError, match=r"pip install 'padless\[fused\]' brings it"):
        check_fused(lstm, DTYPES[dtype])


def test_all_ranks_take_the_path_whose_slowest_rank_is_the_fastest() -> None:
    tables = [{"packed": 0.003, "padded": 0.001}, {"packed": 0.004, "padded": math.inf}]
    assert str(recurrence.fastest_path(tables)) == "packed: measured for the first steps: packed 4.00 ms, padded inf ms"
    assert recurrence.fastest_path([dict.fromkeys(tables[0], math.inf)]) is None
    tables[1]["padded"] = 0.0034
    path = recurrence.fastest_path(tables)
    assert path is not None
    assert path.value == "padded"


def compile_kernel(kernel: Any, capability: int, shape: dict[str, Any], dtype: str) -> Any:
    """A kernel for cards of a compute capability, as ``harness.model.fused`` launches it."""
    compiler, target = map(importlib.import_module, ("triton.compiler", "triton.backends.compiler"))
    names, types = kernel.arg_names, {"cells": "*fp32", "plan": "*i64", "num_rows": "i32"}
    constants = {name: shape[name] for name in names if name in shape}
    signature = {name: types.get(name, f"*{dtype}") for name in names} | dict.fromkeys(constants, "constexpr")
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in names if signature[name].startswith("*")}
    constant_by_index = {(names.index(name),): constants[name] for name in constants}
    source = compiler.ASTSource(kernel, signature, constant_by_index, aligned)
    options = {name: shape[name] for name in ("num_warps", "num_stages", "enable_fp_fusion")}
    return compiler.compile(source, target=target.GPUTarget("cuda", capability, 32), options=options)


COMPILED = [
    *product(SHARED, [64], ("bf16", "fp16", "fp32", "tf32")),
    *product((80, 90, 100), (112, 128), ("bf16", "fp16")),
]
"""Compute capability, hidden units, precision: all that fits."""


@pytest.mark.processes
@pytest.mark.parametrize("name", ["forward_kernel", "backward_kernel"])
@pytest.mark.parametrize(
    ("capability", "hidden", "precision"),
    [(90, 128, "bf16"), *(pytest.param(*case, marks=pytest.mark.slow) for case in COMPILED)],
)
def test_it_fits_a_card_without_spills(
    name: str, capability: int, hidden: int, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    module, dtype = load_fused(), precision.replace("tf32", "fp32")
    gates = torch.empty(1, 2, 4, hidden, dtype=DTYPES[dtype])
    shape = module.shape_of(gates) | {"FAST": dtype != "fp32"} | ({"PRECISION": "tf32"} if precision == "tf32" else {})
    kernel = compile_kernel(getattr(module, name), capability, shape, dtype)
    code = tmp_path / "kernel.cubin"
    code.write_bytes(kernel.asm["cubin"])
    tools = Path(importlib.import_module("triton").__file__ or "").parent / "backends" / "nvidia" / "bin"
    process = subprocess.run([tools / "cuobjdump", "-res-usage", code], capture_output=True, text=True, check=True)
    usage = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", process.stdout + process.stderr)}
    assert (usage["STACK"], usage["LOCAL"]) == (0, 0)  # where registers would be spilled to
    assert 32 * shape["num_warps"] * usage["REG"] <= REGISTERS
    assert 2 * 4 * hidden**2 * (2 if dtype == "fp32" else 1) <= kernel.metadata.shared <= SHARED[capability]
    assert ("mma.sync" in kernel.asm["ptx"]) == (precision != "fp32")
    properties = SimpleNamespace(shared_memory_per_block_optin=SHARED[capability])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    fitting = [
        units for units in (64, 128, 256) if module.fits_shared_memory(units, DTYPES[dtype], torch.device("cuda"))
    ]
    assert fitting == ([64] if dtype == "fp32" or SHARED[capability] < 100 << 10 else [64, 128])
