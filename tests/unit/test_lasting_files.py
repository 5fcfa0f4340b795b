# SPDX-License-Identifier: Apache-2.0
"""Files of each released version are opened, and give what they gave. Other numbers of formats are refused:
``test_dataset``, ``test_bundle``, ``test_checkpoint``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import padless
from harness.rundir import checkpoint
from harness.rundir.layout import BUNDLE
from tests.helpers.commands import read_json
from tests.helpers.lasting_files import LASTING, TEXTS

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("folder", sorted(LASTING.iterdir()), ids=lambda folder: folder.name)
def test_files_of_a_version_are_opened_and_give_what_they_gave(folder: Path) -> None:
    expected = read_json(folder / "expected.json")
    data = padless.open_dataset(folder / "data")
    assert data.manifest.fingerprint == expected["fingerprint"]
    assert sorted(row for frame in data.values() for row in frame["row"]) == [*range(1, 121)]
    saved = checkpoint.verify_checkpoint(checkpoint.checkpoint_path(folder / "run", expected["step"]))
    (weights,) = (folder / BUNDLE).glob("*.safetensors")
    assert saved.tensors(checkpoint.MODEL).keys() == load_file(weights).keys()
    assert b".py" not in (folder / "onnx" / "model.onnx").read_bytes()  # names of files of the machine that exported it
    for path, backend in ((BUNDLE, "torch"), ("onnx", "onnx")):
        probabilities = padless.load(folder / path, backend).predict_proba(TEXTS)
        np.testing.assert_allclose(probabilities, expected[backend], atol=1e-6)
