# SPDX-License-Identifier: Apache-2.0
# What type checkers read of padless.py. A single module cannot say that it is typed (PEP 561), so the wheel brings this
# as padless-stubs; tests/unit/test_packaging.py holds it to the module.
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from harness.inference.text_classifier import TextClassifier as TextClassifier
from harness.inference.text_classifier import load as load
from harness.rundir.metrics_log import read_metrics as read_metrics
from harness.rundir.results import open_predictions as open_predictions
from preprocessing.base.errors import UserError as UserError
from preprocessing.dataset.frames import Dataset as Dataset

__version__: str

def prepare(
    source: pd.DataFrame | pa.Table | str | Path | Sequence[str | Path],
    *,
    text: str | list[str] | None = None,
    label: str | None = None,
    output: str | Path,
    config: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Dataset: ...
def open_dataset(path: str | Path) -> Dataset: ...
