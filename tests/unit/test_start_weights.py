# SPDX-License-Identifier: Apache-2.0
"""Starting a model from another one's weights: copied parts, messages, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.config import InitConfig, ModelConfig, RunConfig
from harness.model.classifier import Classifier
from harness.ranks.distributed import World
from harness.training import preflight
from harness.training.assembly import Beginning, begin
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.shards import VOCABULARY, read_manifest
from preprocessing.text.vocabulary import PAD, Vocabulary
from tests.bundles import write_drawn
from tests.datasets import shared_dataset

own = shared_dataset({"train": 60, "validation": 10})


other = shared_dataset({"train": 90, "validation": 10}, seed=5)
"""Other texts, whose vocabulary has other ids and shares a part of the tokens."""


def started(data: Path, bundle: Path, **model: Any) -> tuple[Beginning, Classifier, dict[str, torch.Tensor]]:
    """The starting weights of a run; a model that has them; and the weights that it would have had otherwise."""
    config = settings(data, bundle, **model)
    manifest = read_manifest(data)
    beginning = begin(config, manifest, {}, World())
    torch.manual_seed(2)
    made = Classifier(config.model, manifest.vocabulary_size, len(manifest.labels))
    usual = {name: values.clone() for name, values in made.state_dict().items()}
    beginning.put_into(made, config.model.embedding_std)
    return beginning, made, usual


def settings(data: Path, bundle: object, **model: Any) -> RunConfig:
    init = InitConfig(weights=str(bundle))
    run = str(data.parent / "run")
    return RunConfig(
        data=str(data), run=run, model=ModelConfig(**{"embedding_dim": 4, "hidden_size": 4, **model}), init=init
    )


def test_rows_are_matched_by_token(own: Path, other: Path, tmp_path: Path) -> None:
    source = write_drawn(tmp_path / "bundle", other)
    beginning, made, usual = started(own, tmp_path / "bundle")
    mine, theirs = (Vocabulary.read(data / VOCABULARY).tokens.to_pylist() for data in (own, other))
    shared = set(mine) & set(theirs) - {"<pad>"}
    assert 10 < len(shared) < len(mine) - 5
    assert mine.index("great") != theirs.index("great")
    for number, token in enumerate(mine):
        expected = (
            source.embedding.weight[theirs.index(token)] if token in shared else usual["embedding.weight"][number]
        )
        assert torch.equal(made.embedding.weight[number], expected), token
    assert not made.embedding.weight[PAD].any()
    facts, counts = beginning.facts["started_from"], Vocabulary.read(own / VOCABULARY).counts
    assert (facts["words"], facts["vocabulary"]) == (len(shared) - 1, len(mine) - 2)
    has = np.array([token in shared for token in mine])
    assert facts["tokens"] == pytest.approx(counts[has].sum() / counts.sum(), abs=1e-6)
    assert torch.equal(made.head.weight, source.head.weight)
    assert f"{len(shared) - 1} of {len(mine) - 2} words" in str(beginning.choices["weights"])


def test_a_language_model_gives_its_first_layer(own: Path, other: Path, tmp_path: Path) -> None:
    weights = write_drawn(tmp_path / "lm", other, language=True).state_dict()
    beginning, made, usual = started(own, tmp_path / "lm", num_layers=2, wide=64)
    now = made.state_dict()
    for name in now:
        if name.startswith("recurrent.layers.0."):
            assert torch.equal(now[name], weights[name]), name
        elif name != "embedding.weight":
            assert torch.equal(now[name], usual[name]), name
    assert beginning.facts["started_from"]["taken"] == ["embedding", "recurrent layer 1"]
    usually = {"recurrent layer 2": "there is none", "head": "there is none"}
    assert beginning.facts["started_from"]["as_usual"] == usually
    (line,) = map(str, beginning.choices.values())
    assert "embedding, recurrent layer 1 of a language model; as usual start recurrent layer 2: there is none; " in line


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [({"labels": ["positive", "negative"]}, "other classes"), ({"pooling": "mean"}, "model.pooling mean")],
)
def test_a_part_that_would_mean_something_else_is_not_taken(
    own: Path, tmp_path: Path, theirs: dict[str, Any], reason: str
) -> None:
    """Nor is the linear part, which every run learns from its own rows."""
    source = write_drawn(tmp_path / "bundle", own, wide=64, **theirs)
    beginning, made, usual = started(own, tmp_path / "bundle", wide=64)
    assert beginning.facts["started_from"]["as_usual"] == {"head": reason}
    assert torch.equal(made.head.weight, usual["head.weight"])
    assert not made.wide.table.any()
    taken = made.recurrent.state_dict()["layers.0.weight_hh_l0"]
    assert torch.equal(taken, source.recurrent.state_dict()["layers.0.weight_hh_l0"])


def test_what_cannot_be_started_from_is_refused_before_any_process_starts(own: Path, tmp_path: Path) -> None:
    manifest = read_manifest(own)

    def check(source: object) -> None:
        preflight.check_start(settings(own, source), manifest)

    write_drawn(tmp_path / "run" / "bundle", own, hidden_size=5, bidirectional=False)
    with pytest.raises(ConfigError, match=r"of another shape; set model\.hidden_size to 5 \(now 4\) and model\.bidir"):
        check(tmp_path / "run")
    write_drawn(tmp_path / "whole", own)
    check(tmp_path / "whole")
    (tmp_path / "whole" / VOCABULARY).unlink()
    with pytest.raises(DataError, match=r"vocabulary\.arrow is missing"):
        check(tmp_path / "whole")


def test_a_run_that_goes_on_reads_nothing(own: Path, tmp_path: Path) -> None:
    write_drawn(tmp_path / "bundle", own)
    beginning, _, _ = started(own, tmp_path / "bundle")
    manifest = read_manifest(own)
    gone = settings(own, tmp_path / "gone")
    again = begin(gone, manifest, {}, World(), json.loads(json.dumps(beginning.facts)))
    assert (again.weights, again.facts) == (None, beginning.facts)
    (line,) = map(str, again.choices.values())
    assert f"{tmp_path / 'bundle'}: the run began with them; " in line
    assert begin(gone, manifest, {}, World(), {"vectors": None}).facts == {"vectors": None}
