# SPDX-License-Identifier: Apache-2.0
"""Rows of each class and updates, in words before a training: by value."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from harness.config import RunConfig
from harness.data.checks import class_rows, few_steps, imbalance, in_words
from preprocessing.base import cli
from preprocessing.dataset.shards import Split, read_manifest
from tests.datasets import write_dataset


def test_the_manifest_knows_the_rows_of_each_class(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": 300, "validation": 40}, num_classes=3)
    manifest = read_manifest(tmp_path)
    labels = [int(label) for block in Split(tmp_path, manifest, "train").blocks for label in block.label]
    assert class_rows(manifest, "train") == {f"class{number}": labels.count(number) for number in range(3)}
    assert class_rows(manifest, "test") == {"class0": 0, "class1": 0, "class2": 0}


def test_few_classes_are_named_and_of_many_the_extremes() -> None:
    assert in_words({"neg": 800, "pos": 1795}) == "2: neg 800, pos 1,795 training rows"
    many = {f"class {number}": 100 + number for number in range(77)}
    assert in_words(many) == "77 of 100 (class 0) to 176 (class 76) training rows"
    assert in_words(dict.fromkeys(many, 40)) == "77 of 40 training rows each"


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


@pytest.mark.parametrize(("per_epoch", "epochs"), [(300, 1), (100, 3), (1, 300)])
def test_enough_updates_are_not_spoken_of(per_epoch: int, epochs: int) -> None:
    assert few_steps(per_epoch, epochs) is None


def test_few_updates_are_told_with_what_to_do() -> None:
    assert few_steps(80, 3) == "240 updates are few; --epochs 4 makes 320, or lower --global_batch"
