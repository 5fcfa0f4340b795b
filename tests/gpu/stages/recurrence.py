# SPDX-License-Identifier: Apache-2.0
"""Each path of one BiLSTM layer, by units, rows and precision: milliseconds, and whether the fused kernel gives the
gradients of the packed path, as a run asks at its start.
"""

from __future__ import annotations

import torch

from harness.model.recurrent import VariableLengthLSTM
from harness.ranks.precision import runnable
from harness.training.recurrence import fastest, measured
from tests.gpu.corpus import MEDIAN
from tests.gpu.findings import Findings, Setting

SHAPES = [(64, 64), (128, 16), (128, 64), (128, 512), (128, 4096), (256, 64)]
"""Hidden units and rows."""


def run(setting: Setting, findings: Findings) -> None:
    """Rows around the median length of film reviews, three steps of each path."""
    for hidden, rows in [(16, 4)] if setting.small else SHAPES:
        lengths = torch.linspace(1.5, 0.5, rows).mul(12 if setting.small else MEDIAN).long()
        lstm = VariableLengthLSTM(hidden, hidden).to(setting.device)
        lstm.flatten_parameters()
        for precision in sorted({"fp32", "bf16", "fp16"} & runnable(setting.device).keys()):
            what = f"{hidden} units, {rows} rows, {precision}"
            found = measured(lstm, [lengths] * 3, precision, ("packed", "fused", "padded"))
            findings.figure(what, found)
            wanted = hidden <= (64 if precision == "fp32" else 128) and not setting.small
            findings.add(what, str(fastest([found], rows)), isinstance(found["fused"], float) if wanted else None)
