# SPDX-License-Identifier: Apache-2.0
"""Files of each released version are opened, and give what they gave. Other numbers of formats are refused:
``test_dataset``, ``test_bundle``, ``test_checkpoint``.

A folder of ``tests/data`` never changes once its version is released. It has the results of ``padless.prepare``, of
``padless.train`` and of ``padless export --onnx`` on the reviews of ``tests/helpers/corpora.py``, with relative paths,
and in ``expected.json`` the predictions of ``TEXTS``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import padless
from harness.rundir import checkpoint
from harness.rundir.layout import BUNDLE
from tests.helpers.commands import ROOT, read_json

pytestmark = pytest.mark.thorough

TEXTS = ["a superb film", "review 7: w1, w2 and w3 were boring!", "", "Ein Film, der w1 heißt"]
VERSIONS = sorted((ROOT / "tests" / "data").iterdir())


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
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
