# SPDX-License-Identifier: Apache-2.0
"""Runs on two ranks that begin with the weights of another model: recorded, the same for all, and never read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.bundles import write_drawn
from tests.commands import read_json
from tests.datasets import shared_dataset
from tests.runs import arguments, train_to_end

pytestmark = pytest.mark.processes

SIZES: dict[str, Any] = {"embedding_dim": 16, "hidden_size": 16}
"""Those of ``tests.runs``."""


data = shared_dataset({"train": 400, "validation": 100, "test": 50})


@pytest.mark.timeout(280, func_only=True)
def test_all_ranks_begin_with_what_rank_0_has_read(data: Path, tmp_path: Path) -> None:
    """One rank and two end alike; both learn the linear part from the rows."""
    write_drawn(tmp_path / "bundle", data, **SIZES, wide=256)
    ends = []
    for number in (1, 2):
        run = tmp_path / f"run-{number}"
        words = arguments(data, run, "--init.weights", str(tmp_path / "bundle"), "--epochs", "1")
        result = train_to_end(*words, processes=number)
        assert result.returncode == 0, result.stderr[-3000:]
        (path,) = (run / "bundle").glob("weights-*.safetensors")
        ends.append(load_file(path))
        facts = read_json(run / "bundle" / "bundle.json")["started_from"]
        assert facts["taken"] == ["embedding", "recurrent layer 1", "head"]
    for name, values in ends[0].items():
        np.testing.assert_allclose(values, ends[1][name], atol=5e-6, err_msg=name)
    for name in ("wide.table", "wide.weights", "wide.bias"):
        np.testing.assert_array_equal(ends[0][name], ends[1][name])
    assert ends[0]["wide.table"].any()
