# SPDX-License-Identifier: Apache-2.0
"""The fused kernel: gradients in fp32 at 64 units, whose limit hides no error, and what ``first`` asks of each path;
times beside those of cuDNN's packed path, and whether it gives the same gradients.
"""

from __future__ import annotations

from harness.ranks.precision import choose_precision
from tests.gpu.findings import Findings, Setting
from tests.gpu.stages import first, recurrence, suite


def run(setting: Setting, findings: Findings) -> None:
    """fp32, then the precision that ``auto`` chooses."""
    first.judge_paths(setting, findings, ["fused"], "fp32", 64)
    first.judge_paths(setting, findings, ["fused"], choose_precision("auto", setting.device).value, 128)
    recurrence.time_paths(setting, findings, ("packed", "fused"))
    suite.run_tests(setting, findings, "fused")
