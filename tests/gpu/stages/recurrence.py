# SPDX-License-Identifier: Apache-2.0
"""Each of cuDNN's paths for a BiLSTM layer, by units, rows and precision: milliseconds, as a run measures at first."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.model.recurrent import VariableLengthLSTM
from harness.ranks.precision import DTYPES, runnable
from harness.training.recurrence import CUDNN, fastest, measured
from tests.gpu.corpus import MEDIAN
from tests.gpu.findings import Findings, Setting

SHAPES = [(64, 64), (128, 16), (128, 64), (128, 512), (128, 4096), (256, 64)]
"""Hidden units and rows."""


def run(setting: Setting, findings: Findings) -> None:
    """cuDNN's paths."""
    time_paths(setting, findings, CUDNN)


def time_paths(setting: Setting, findings: Findings, paths: Sequence[str]) -> None:
    """Rows around the median length of film reviews, three steps of each path."""
    for hidden, rows in [(16, 4)] if setting.small else SHAPES:
        lengths = torch.linspace(1.5, 0.5, rows).mul(12 if setting.small else MEDIAN).long()
        lstm = VariableLengthLSTM(hidden, hidden).to(setting.device)
        lstm.flatten_parameters()
        for precision in sorted({"fp32", "bf16", "fp16"} & runnable(setting.device).keys()):
            what = f"{hidden} units, {rows} rows, {precision}"
            found = measured(lstm, [lengths] * 3, precision, paths)
            findings.figure(what, found)
            wanted = "fused" in found and lstm.fits(DTYPES[precision]) and not setting.small
            findings.add(what, str(fastest([found], rows)), isinstance(found["fused"], float) if wanted else None)
