# SPDX-License-Identifier: Apache-2.0
"""``bench corpora``: what is there is not done again, the table is right, and the raw texts teach a linear model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.bench import corpora
from harness.bench.corpora import CorporaConfig, finished, learn_from_texts, main, recipe_hash, render, summary
from preprocessing.base.errors import ConfigError
from tests.datasets import sentences

RECIPE = "epochs: 1\nglobal_batch: 32\nprecision: fp32\nmodel:\n  embedding_dim: 8\n  hidden_size: 8\n"


def write_corpus(path: Path, rows: int = 300, classes: int = 2) -> Path:
    texts, labels = sentences(rows, classes, 0, 12)
    split = np.where(np.arange(rows) % 5 == 0, "test", "train")
    lines = [f"{text},c{label},{where}" for text, label, where in zip(texts, labels, split, strict=True)]
    path.write_text("\n".join(["text,label,split", *lines]) + "\n")
    return path


def make_line(file: Path, config: CorporaConfig, seed: int, network: float) -> dict[str, Any]:
    facts = {"split": "test", "rows": 240, "measured_rows": 60, "classes": 2, "linear_on_texts": 0.75}
    facts |= {"linear_on_texts_s": 2.0, "linear_on_shards": 0.7, "linear_on_shards_s": 1.0, "network_s": 60.0}
    key = {"corpus": file.stem, "content": corpora.sha256(file), "recipe": recipe_hash(config), "seed": seed}
    return {**key, **facts, "network": network}


def test_finished_trainings_are_not_done_again(tmp_path: Path, monkeypatch, capsys) -> None:
    """Two of three seeds are there, behind them a line that was cut short: one training is left to do."""
    file = write_corpus(tmp_path / "mine.csv")
    config = CorporaConfig(output=str(tmp_path / "out"))
    finished(config)
    lines = [json.dumps(make_line(file, config, seed, network)) for seed, network in ((0, 0.80), (2, 0.84))]
    (tmp_path / "out" / "figures.jsonl").write_text("\n".join([*lines, '{"corpus": "mi']) + "\n")
    commands: list[tuple[object, ...]] = []

    def record(*arguments: object) -> int:
        commands.append(arguments)
        return 7 if "launch" in arguments else 0

    monkeypatch.setattr(corpora, "run", record)
    monkeypatch.setattr(corpora, "read_manifest", lambda data: SimpleNamespace(rows=lambda name: 60, fingerprint="f"))
    monkeypatch.setattr(corpora, "read_or_learn", lambda *arguments: {"accuracy": 0.75, "seconds": 2.0})
    monkeypatch.setattr(corpora, "read_results", lambda data, fingerprint: {"test": {}})
    assert main(config, [str(file)]) == 7
    assert [command[:2] for command in commands] == [
        ("preprocessing", "run"),
        ("harness", "baseline"),
        ("harness", "launch"),
    ]
    assert commands[-1][commands[-1].index("--seed") + 1] == 1


def test_the_table_has_means_and_differences(tmp_path: Path) -> None:
    file, config = write_corpus(tmp_path / "mine.csv"), CorporaConfig(output=str(tmp_path / "out"), seeds=[0, 1])
    finished(config)
    lines = [json.dumps(make_line(file, config, seed, network)) for seed, network in ((0, 0.80), (1, 0.84))]
    (tmp_path / "out" / "figures.jsonl").write_text("\n".join(lines) + "\n")
    line = summary(config, file)
    assert line is not None
    assert (line["network"], line["seeds"]) == (pytest.approx(0.82), 2)
    assert line["network_sd"] == pytest.approx(0.0283, abs=1e-4)
    shown = render([line, {**line, "corpus": "other", "network": 0.70}]).splitlines()
    assert shown[1].split() == ["mine", "240", "2", "test", "0.7500", "0.7000", "0.8200", "±", "0.0283", "+7.00"]
    assert shown[3].split() == ["mean", "0.7500", "0.7000", "0.7600", "+1.00"]


def test_another_recipe_or_another_file_is_another_line(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE)
    keys = {recipe_hash(CorporaConfig()), recipe_hash(CorporaConfig(recipe=str(recipe)))}
    recipe.write_text(RECIPE + "seed: 4\n")
    keys |= {recipe_hash(CorporaConfig(recipe=str(recipe))), recipe_hash(CorporaConfig(split_column=None))}
    assert len(keys) == 4


def test_the_raw_texts_teach_a_linear_model(tmp_path: Path) -> None:
    """It learns from all rows but those that are measured, and sees the class in a few words of each text."""
    file = write_corpus(tmp_path / "mine.csv", rows=600)
    source = {"text_column": "text", "label_column": "label"}
    manifest: Any = SimpleNamespace(provenance={"config": {"source": source}})
    found = learn_from_texts(CorporaConfig(), file, manifest, "test")
    assert found["accuracy"] > 0.9
    without = learn_from_texts(CorporaConfig(split_column=None), file, manifest, "test")
    assert np.isnan(without["accuracy"])


@pytest.mark.parametrize(
    ("files", "sentence"),
    [(["nowhere.csv"], "nowhere.csv: no such file"), (["a/x.csv", "b/x.csv"], "two of the files have the same name")],
)
def test_wrong_files_get_a_sentence(tmp_path: Path, files: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        main(CorporaConfig(output=str(tmp_path)), files)


@pytest.mark.slow
@pytest.mark.processes
def test_from_file_to_table(tmp_path: Path, capfd) -> None:
    """Everything real: preprocessing, both linear models, training; a second call only shows the table."""
    file, recipe = write_corpus(tmp_path / "mine.csv"), tmp_path / "mine.yaml"
    recipe.write_text(RECIPE)
    config = CorporaConfig(output=str(tmp_path / "out"), recipe=str(recipe), seeds=[3], json=True)
    assert main(config, [str(file)]) == 0
    capfd.readouterr()
    assert main(config, [str(file)]) == 0
    (line,) = json.loads(capfd.readouterr().out)
    assert (line["corpus"], line["split"], line["measured_rows"], line["classes"]) == ("mine", "test", 60, 2)
    assert line["linear_on_shards"] > 0.8
    assert 0.3 < line["network"] <= 1
