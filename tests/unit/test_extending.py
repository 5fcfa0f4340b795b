# SPDX-License-Identifier: Apache-2.0
"""The registries: runs each example of docs/extending.md unchanged."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch

from harness.config import LANGUAGE_MODEL, ModelConfig, RunConfig
from harness.model import registry
from harness.model.classifier import Classifier
from harness.model.language import LanguageModel
from harness.model.registry import num_parameters
from harness.output import tracking
from harness.output.tracking import TrackerObserver, check_tracker
from harness.rundir.records import Ending
from padless.core import cli
from preprocessing.text import spec as spec_module
from preprocessing.text.resources import resolve_pipeline
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer
from tests.helpers.attempt import OPENING
from tests.helpers.batches import packed_batch, padded_batch, single_row

pytestmark = pytest.mark.thorough

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text()
HEADINGS = {
    "A pooling": (registry, registry.POOLINGS),
    "A tokenizer": (spec_module, spec_module.TOKENIZERS),
    "A tracker": (tracking, tracking.TRACKERS),
}
LENGTHS = (9, 7, 7, 4, 2, 1, 1)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Follow the page under a heading: write the file, then add the line to the registry; returns the new name."""

    def follow(heading: str) -> str:
        section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        code, line = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
        registry_module, entries = HEADINGS[heading]
        ((name, entry),) = eval(f"{{{line}}}", vars(registry_module)).items()
        code_path = entry if isinstance(entry, str) else getattr(entry, "code", None) or entry.rules
        module = ModuleType(code_path.partition(":")[0])
        exec(code, module.__dict__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(entries, name, entry)
        return name

    return follow


SMALL = ModelConfig(embedding_dim=6, hidden_size=5, num_layers=2)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_pooling_gives_a_row_what_it_gives_it_alone(example: Callable[[str], str], bidirectional: bool) -> None:
    """Padded or packed, in a batch or alone."""
    words = ["data", "--model.pooling", example("A pooling")]
    assert cli.parse(RunConfig, words, prog="test").model.pooling == "attention"
    padded = padded_batch(LENGTHS, 30)
    for pooling in registry.POOLINGS:  # with the new one
        config = dataclasses.replace(SMALL, pooling=pooling, bidirectional=bidirectional)
        model = Classifier(config, 30, 3).double()
        logits_alone = torch.cat([model(single_row(padded, row)) for row in range(len(LENGTHS))])
        for logits in (model(padded), model(packed_batch(padded))):
            torch.testing.assert_close(logits, logits_alone, rtol=0, atol=1e-12)
        assert num_parameters(config, 30, 3) == sum(value.numel() for value in model.parameters())


def test_parameters_are_counted_without_the_network() -> None:
    config = dataclasses.replace(SMALL, wide=64, wide_ngrams=3)
    network, language_model = Classifier(config, 30, 1), LanguageModel(config, 30)
    parameters = [*network.parameters(), network.wide.table, network.wide.bias]
    assert num_parameters(config, 30, 1) == sum(value.numel() for value in parameters)
    tied = sum(value.numel() for value in language_model.parameters())
    assert num_parameters(config, 30, 1, LANGUAGE_MODEL) == tied


def test_a_tokenizer(example: Callable[[str], str]) -> None:
    name = example("A tokenizer")
    tokens = Tokenizer(resolve_pipeline(TextSpec(tokenizer=name)))(["东京 <b>X</b>", "", "东&amp;"])
    assert tokens.types.take(tokens.codes).to_pylist() == ["东", "京", "x", "东", "&"]
    assert tokens.offsets.tolist() == [0, 3, 3, 5]


def test_a_tracker(example: Callable[[str], str], tmp_path: Path) -> None:
    config = RunConfig(run=str(tmp_path), tracking=tracking.TrackingConfig(tracker=example("A tracker")))
    check_tracker(config.tracking)
    observer = TrackerObserver(config)
    observer.start(OPENING)
    observer.log("train", {"step": 1, "loss": 0.5})
    observer.log("train", {"step": 2, "loss": 0.25, "padding": None})
    observer.close(Ending("finished", 2))
    assert pd.read_csv(tmp_path / "table/train.csv").to_dict("list") == {"step": [1, 2], "loss": [0.5, 0.25]}
    assert (tmp_path / "table/state.txt").read_text() == "finished\n"
