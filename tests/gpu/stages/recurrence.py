# SPDX-License-Identifier: Apache-2.0
"""Each path of one BiLSTM layer, fused, packed and padded: gradients against fp64 on the CPU, and seconds of a step."""

from __future__ import annotations

import torch

from harness.model.recurrent import VariableLengthLSTM
from harness.ranks.precision import DTYPES, layout_of, recurrent_dtype, runnable
from harness.training.recurrence import fastest, measured, passing
from tests.gpu.corpus import MEDIAN
from tests.gpu.findings import Findings, Setting

LIMITS = {"fp32": 1e-4, "bf16": 0.05, "fp16": 0.01}
"""Largest error of a gradient, relative to its norm."""
SHAPES = [(64, 64), (128, 16), (128, 64), (128, 512), (128, 4096), (256, 64)]
"""Hidden units and rows."""


def run(setting: Setting, findings: Findings) -> None:
    """Rows around the median length of film reviews; fp64 only where it takes seconds."""
    torch.backends.cudnn.allow_tf32 = False
    for hidden, rows in [(16, 4)] if setting.small else SHAPES:
        lengths = torch.linspace(1.5, 0.5, rows).mul(12 if setting.small else MEDIAN).long()
        torch.manual_seed(0)
        lstm = VariableLengthLSTM(hidden, hidden)
        exact = passing(lstm.double(), "packed", lengths, torch.float64)() if rows <= 64 else None
        lstm.float().to(setting.device).flatten_parameters()
        for precision in sorted(LIMITS.keys() & runnable(setting.device)):
            steps = measured(lstm, [lengths] * 3, precision)
            what = f"{hidden} units, {rows} rows, {precision}"
            findings.figure(what, steps)
            fits = hidden <= (64 if precision == "fp32" else 128) and not setting.small
            findings.add(what, str(fastest([steps], rows)), isinstance(steps["fused"], float) if fits else None)
            for path in [path for path, one in steps.items() if exact and isinstance(one, float)]:
                lstm.fused = path == "fused"
                dtype = recurrent_dtype(precision, setting.device, path)
                found = passing(lstm, layout_of(path), lengths, DTYPES[dtype.value])()
                lstm.fused = False
                pairs = zip(found, exact, strict=True)
                off = max(float((one.cpu() - other).norm() / other.norm()) for one, other in pairs)
                findings.add(f"{what}: gradients {path}, {dtype.value}", f"off by {off:.1e}", off <= LIMITS[precision])
