# SPDX-License-Identifier: Apache-2.0
"""What words add, computed on a card: complete there too, and what a CPU says."""

from __future__ import annotations

import numpy as np
import pytest

from harness.batch import Layout
from harness.model.attribution import attributions
from harness.ranks.precision import full_fp32
from tests.gpu.device import TORCH_DEVICE, on_device
from tests.unit.test_attribution import TEXTS, make_model

pytestmark = on_device


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_scores_on_cuda_are_those_of_a_cpu(cell: str, layout: Layout) -> None:
    full_fp32()
    model = make_model(3, wide=True, cell=cell, num_layers=2)
    columns = [0, 1, 2, 1, 0]
    expected = attributions(model, TEXTS, columns, layout)
    found = attributions(model.to(TORCH_DEVICE), TEXTS, columns, layout)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.is_complete
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=2e-2 * np.abs(theirs.scores).max())
