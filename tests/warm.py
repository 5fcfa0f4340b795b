# SPDX-License-Identifier: Apache-2.0
"""What the fork server of the tally of kills does once, so that no attempt has to: all imports."""

from __future__ import annotations

import importlib

for name in (
    "torch._dynamo",
    "harness.baseline.results",
    "harness.report.sinks",
    "harness.training.assembly",
    "tests.killed",
):
    importlib.import_module(name)
for name in (
    "harness.predict",
    "harness.inference.bundle",
    "preprocessing.job.pipeline",
    "preprocessing.__main__",
):
    importlib.import_module(name)
