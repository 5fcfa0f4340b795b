# SPDX-License-Identifier: Apache-2.0
"""Recipes by name in any folder: valid, found, overridden by a local file, refused with a list of names, copied."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.__main__ import main as harness
from harness.config import RunConfig
from preprocessing.base import cli, configuration
from preprocessing.base.errors import ConfigError
from preprocessing.config import PreprocessConfig

TRAIN = "default imdb imdb-gpu imdb-pretrained imdb-quick imdb-unlabelled quickstart seed"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without a checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["train", "pretrain", "preprocess"])
def test_every_recipe_is_valid(kind: str) -> None:
    config_class, more = (PreprocessConfig, ["--output", "d"]) if kind == "preprocess" else (RunConfig, [])
    found = [
        cli.parse(config_class, ["--config", f"{kind}/{name}", *more], prog="test")
        for name in configuration.names(kind)
    ]
    assert len(found) > 1
    assert all(isinstance(one, config_class) for one in found)


def test_a_recipe_is_found_by_name_unless_a_file_here_has_it(folder: Path) -> None:
    both = cli.parse(RunConfig, ["--config", "imdb.yaml", "--config=quickstart", "--epochs", "9"], prog="test")
    assert (both.run, both.epochs) == ("runs/quickstart", 9)
    assert cli.parse(RunConfig, ["--config", "pretrain/imdb"], prog="test").task == "language_model"
    (folder / "imdb.yaml").write_text("run: mine\n")
    assert cli.parse(RunConfig, ["--config", "imdb"], prog="test").run == "mine"


def test_recipes_are_listed_and_copied_to_where_a_checkout_has_them(folder: Path, capsys) -> None:
    assert harness(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert " ".join(re.findall(r"^  (\S+) ", shown.partition("pretrain:")[0], re.MULTILINE)) == TRAIN
    assert set(re.findall(r"^(\w+):", shown, re.MULTILINE)) == {path.name for path in configuration.SHIPPED.iterdir()}
    harness(["recipes", "imdb", "accelerate/cpu"])
    copied = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml"))
    places = ("accelerate/cpu", "preprocess/imdb", "pretrain/imdb", "train/imdb")
    assert copied == sorted(capsys.readouterr().out.split()) == [f"configs/{place}.yaml" for place in places]
    mine = folder / "configs/train/imdb.yaml"
    mine.write_text("epochs: 1\n")
    with pytest.raises(ConfigError, match=r"^configs/train/imdb\.yaml: is there already and differs; --overwrite"):
        harness(["recipes", "imdb"])
    harness(["recipes", "imdb", "--overwrite"])
    assert mine.read_bytes() == configuration.file_of("train", "imdb").read_bytes()
