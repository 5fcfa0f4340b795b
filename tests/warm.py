# SPDX-License-Identifier: Apache-2.0
"""What the fork server of the tally of kills does once, so that no attempt has to: all imports, and option parsers."""

from __future__ import annotations

import importlib

from jsonargparse import ArgumentParser

from harness.config import Recipe
from harness.inference.config import PredictConfig
from preprocessing.base import cli
from preprocessing.config import PreprocessConfig

for name in (
    "torch._dynamo",
    "harness.baseline.results",
    "harness.report.sinks",
    "harness.training.assembly",
    "tests.killed",
):
    importlib.import_module(name)
for name in (
    "harness.predict",
    "harness.inference.torch_scorer",
    "preprocessing.job.pipeline",
    "preprocessing.__main__",
):
    importlib.import_module(name)

_made = {one: cli.parser_for(one) for one in (Recipe, PredictConfig, PreprocessConfig)}
_parser_for = cli.parser_for


def _ready(config_class: type, prog: str | None = None, description: str = "") -> ArgumentParser:
    """A parser that was made before this process was forked."""
    if config_class not in _made:
        return _parser_for(config_class, prog, description)
    _made[config_class].prog = prog or ""
    return _made[config_class]


cli.parser_for = _ready
