# SPDX-License-Identifier: Apache-2.0
"""Rows of each class and updates, in words before a training: by value."""

from __future__ import annotations

import shlex
from pathlib import Path

from harness.config import RunConfig
from harness.data.checks import few_steps, imbalance
from preprocessing.base import cli


def test_imbalance_says_what_to_do() -> None:
    assert imbalance({"no": 450, "yes": 100}, {}) is None
    said = imbalance({"no": 9000, "yes": 100}, {})
    assert said == (
        "'yes' has 1.1% of the rows, 'no' 90 times as many: accuracy says little of it; look at balanced accuracy and "
        """F1, and weigh it (--optim.class_weights '{"yes":9.5}') or choose --evaluation.threshold f1"""
    )
    said = imbalance({"no": 100, "yes": 9000}, {})  # F1 of 'yes' says nothing of 'no'
    assert said is not None
    assert said.endswith("""look at balanced accuracy, and weigh it (--optim.class_weights '{"no":9.5}')""")
    assert imbalance({"no": 9000, "yes": 100}, {"yes": 3.0}) is None
    assert imbalance({"no": 9000, "yes": 100}, {}, "f1") is None
    said = imbalance({"a": 1000, "b c": 10, "d": 40, "e": 190, "f": 900, "gone": 0}, {})
    assert said is not None
    assert "look at balanced accuracy and macro F1, and" in said
    assert said.endswith("""weigh small classes, as in --optim.class_weights '{"b c":10.0,"d":5.0,"e":2.3}'""")


def test_the_option_that_is_named_is_one(tmp_path: Path) -> None:
    said = imbalance({"it's": 10, "no": 9000, "maybe": 1000}, {})
    assert said is not None
    option = shlex.split(said[said.index("--optim") :])
    weights = cli.parse(RunConfig, option, prog="test").optim.class_weights
    assert weights == {"it's": 30.0, "maybe": 3.0}


def test_few_updates_are_told_with_what_to_do() -> None:
    assert few_steps(80, 3) == "240 updates are few; --epochs 4 makes 320, or lower --global_batch"
