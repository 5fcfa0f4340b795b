# SPDX-License-Identifier: Apache-2.0
# What type checkers read of padless.py. A single module cannot say that it is typed (PEP 561), so the wheel brings this
# as padless-stubs; tests/unit/test_architecture.py holds it to the module.
from pathlib import Path
from typing import Any

from harness.inference.model import Model as Model
from harness.inference.model import load as load
from harness.library.commands import Run as Run
from harness.library.commands import prepare as prepare
from harness.library.commands import train as train
from harness.library.estimator import TextClassifier as TextClassifier
from harness.rundir.metrics_log import read_metrics as read_metrics
from preprocessing.base.errors import UserError as UserError
from preprocessing.dataset.inspect import Dataset as Dataset

__version__: str

def open_dataset(path: str | Path) -> Dataset: ...
def __getattr__(name: str) -> Any: ...
