# SPDX-License-Identifier: Apache-2.0
"""The stages of ``tests/gpu/prove.py``: a file each, with ``run(setting, findings)`` and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """What the driver knows of a stage before it starts it as ``python -m tests.gpu.stages NAME``."""

    name: str
    """Its module here."""
    title: str
    limit_s: float
    """It is killed after this time; what it has found by then stays."""
    alone: bool = False
    """It measures time, so nothing else may use the card meanwhile. The first stage, if it is alone, is run before all
    others."""


STAGES = (
    Stage("first", "Is each path right, does it train, how fast is it", 120, alone=True),
    Stage("versions", "Versions", 40),
    Stage("gradients", "Gradients against fp64 on the CPU", 150),
    Stage("recurrence", "Each path of the recurrent layers", 120, alone=True),
    Stage("suite", "pytest tests/gpu", 200),
    Stage("launches", "Every precision", 200),
    Stage("resume", "Stopped and resumed; run twice", 120),
    Stage("ranks", "Several ranks: one state, and one that is lost", 200),
    Stage("sanitizer", "Kernels under compute-sanitizer", 200),
    Stage("speed", "Benchmarks of a step and of one layer", 300, alone=True),
    Stage("fused", "The fused kernel", 300, alone=True),
)
