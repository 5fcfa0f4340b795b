# SPDX-License-Identifier: Apache-2.0
"""A run goes on only with its own rows, in its own order."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.config import RunConfig
from harness.data import order
from harness.training.resume import check_dataset
from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.dataset.shards import Manifest, read_manifest
from tests.datasets import write_dataset


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 20, "validation": 5})
    return read_manifest(root)


def checkpoint(manifest: Manifest, **changes: Any) -> Any:
    facts = {"text_hash": manifest.text_hash, "dataset": manifest.fingerprint, "order_version": order.VERSION}
    return SimpleNamespace(path=Path("run/checkpoints/step-7"), state={**facts, **changes})


def config(allow: str = "") -> RunConfig:
    return RunConfig(data="data", run="run", allow=allow)


def test_the_same_rows_in_the_same_order(manifest: Manifest) -> None:
    found = checkpoint(manifest)
    check_dataset(found, manifest, config())  # raises nothing
    assert found.state["order_version"] == order.VERSION == 2  # a new version wants a line in CHANGELOG.md


@pytest.mark.parametrize(
    ("changes", "error", "words", "allow"),
    [
        ({"text_hash": "other"}, DataError, "became ids in another way", None),
        ({"dataset": "other"}, ConfigError, "data: data is not the dataset of run/checkpoints/step-7", "data"),
        ({"order_version": 1}, ConfigError, "order: run/checkpoints/step-7 was written by a padless", "order"),
    ],
)
def test_what_would_miss_or_repeat_rows(
    manifest: Manifest, changes: dict[str, Any], error: type[UserError], words: str, allow: str | None
) -> None:
    with pytest.raises(error, match=words):
        check_dataset(checkpoint(manifest, **changes), manifest, config())
    if allow is not None:
        check_dataset(checkpoint(manifest, **changes), manifest, config(allow))


def test_another_order_of_the_same_dataset_is_no_other_dataset(manifest: Manifest) -> None:
    with pytest.raises(ConfigError) as caught:
        check_dataset(checkpoint(manifest, order_version=1), manifest, config())
    assert "the same dataset comes in another order" in str(caught.value)
    assert "is not the dataset" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        check_dataset(checkpoint(manifest, order_version=1, dataset="other"), manifest, config())
    assert "data is not the dataset" in str(caught.value)


def test_a_checkpoint_without_a_version_has_the_first(manifest: Manifest) -> None:
    old = checkpoint(manifest)
    del old.state["order_version"]
    with pytest.raises(ConfigError, match="version 1 of the order of rows"):
        check_dataset(old, manifest, config())
