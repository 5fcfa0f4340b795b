# SPDX-License-Identifier: Apache-2.0
"""One bidirectional layer, forward and backward, over packed and padded input: the table that `auto` may follow."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from harness.model.recurrent import VariableLengthLSTM
from harness.ranks.precision import full_fp32
from harness.training.throughput import synchronize
from tests.gpu.corpus import MEDIAN
from tests.gpu.findings import Findings, Setting
from tests.gpu.timing import described, seconds, work

HIDDEN, BATCHES = (128, 256, 512, 1024), (64, 512, 4096)
SMALL_HIDDEN, SMALL_BATCHES, SMALL_TIME = (16,), (8, 64), 40
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROUNDS, ENOUGH_S, TIME_LEFT_S = 5, 0.4, 105.0
LAYOUTS = ("padded", "packed")


def run(setting: Setting, findings: Findings) -> None:
    """A line for each cell, the smallest first; then which layout each hidden size wants."""
    full_fp32()
    device = torch.device(setting.device, 0) if setting.device == "cuda" else torch.device("cpu")
    hiddens, batches = (SMALL_HIDDEN, SMALL_BATCHES) if setting.small else (HIDDEN, BATCHES)
    longest = SMALL_TIME if setting.small else MEDIAN
    deadline = time.monotonic() + TIME_LEFT_S
    table: list[dict[str, Any]] = []
    cells = [(hidden, batch, precision) for hidden in hiddens for batch in batches for precision in DTYPES]
    for hidden, batch, precision in sorted(cells, key=lambda cell: cell[0] * cell[1]):
        name = f"hidden {hidden}, batch {batch}, {precision}"
        if time.monotonic() > deadline:
            findings.add(name, "not measured: no time left")
            continue
        cell = {layout: measured(layout, hidden, batch, precision, longest, device) for layout in LAYOUTS}
        findings.add(name, "; ".join(f"{layout} {cell[layout]['text']}" for layout in LAYOUTS))
        table.append({"hidden": hidden, "batch": batch, "precision": precision, **cell})
        findings.figure("table", table)
    for hidden in hiddens:
        verdict(findings, hidden, [cell for cell in table if cell["hidden"] == hidden])
    if setting.small:
        findings.skip("CUDA events, kernels a step, busy share")


def measured(
    layout: str, hidden: int, batch: int, precision: str, longest: int, device: torch.device
) -> dict[str, Any]:
    """Real tokens a second, kernels a step and busy share; or why not."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        step, tokens = contender(layout, hidden, batch, DTYPES[precision], longest, device)
        step()
        synchronize(device)
        once = seconds(step, device, 1)
        repeats = max(1, min(20, int(ENOUGH_S / ROUNDS / once)))
        rounds = ROUNDS if once < ENOUGH_S / 8 else 1
        speed = tokens / statistics.median(seconds(step, device, repeats) for _ in range(rounds))
        found = work(step, device) if once < ENOUGH_S else None
    except torch.OutOfMemoryError:
        return {"tokens_per_s": None, "text": "out of memory"}
    except RuntimeError as error:
        return {"tokens_per_s": None, "text": f"cannot ({' '.join(str(error).split())[:100]})"}
    facts = {} if found is None else {"kernels": found.kernels, "busy": found.busy}
    text = f"{speed:,.0f} tokens/s" + (f", {described(found)}" if found is not None else "")
    return {"tokens_per_s": speed, "text": text, **facts}


def contender(
    layout: str, hidden: int, batch: int, dtype: torch.dtype, longest: int, device: torch.device
) -> tuple[Callable[[], None], int]:
    """A step over rows of almost one length, as bucketing makes them, and its real tokens; as training does it, with
    weights and gradients in fp32 that are cast at each step.
    """
    torch.manual_seed(0)
    lstm = VariableLengthLSTM(hidden, hidden).to(device)
    lstm.flatten_parameters()
    lengths = longest - torch.arange(batch) * 4 // batch
    tokens = int(lengths.sum())
    on_device = lengths.to(device)
    sizes = (torch.arange(longest)[:, None] < lengths).sum(1)
    shape = (longest, batch, hidden) if layout == "padded" else (tokens, hidden)
    inputs = torch.randn(shape, device=device, requires_grad=True)
    leaves = [inputs, *lstm.parameters()]

    def step() -> None:
        if layout == "padded":
            outputs = lstm.forward_padded(inputs, on_device, None, dtype)
        else:
            outputs = [lstm.forward_packed(PackedSequence(inputs, sizes), None, dtype)[0].data]
        torch.autograd.backward(outputs, [torch.ones_like(one) for one in outputs])
        for leaf in leaves:
            leaf.grad = None

    return step, tokens


def verdict(findings: Findings, hidden: int, cells: list[dict[str, Any]]) -> None:
    """Which layout is the faster at this hidden size, in most cells, and by how much."""
    ratios = [
        cell["padded"]["tokens_per_s"] / cell["packed"]["tokens_per_s"]
        for cell in cells
        if cell["padded"]["tokens_per_s"] and cell["packed"]["tokens_per_s"]
    ]
    if not ratios:
        findings.add(f"verdict for hidden {hidden}", "nothing to compare")
        return
    faster = "padded" if statistics.median(ratios) > 1 else "packed"
    spread = f"padded / packed {min(ratios):.2f} to {max(ratios):.2f}, median {statistics.median(ratios):.2f}"
    findings.add(f"verdict for hidden {hidden}", f"{faster}: {spread}")
