# SPDX-License-Identifier: Apache-2.0
"""Recipes by name in any folder: found, overruled by a file here, refused with those there are, listed and copied."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.__main__ import main as harness
from harness.config import RunConfig
from harness.launch import launcher
from preprocessing.base import cli, config_files
from preprocessing.base.errors import ConfigError
from preprocessing.config import PreprocessConfig

TRAIN = "default, imdb, imdb-gpu, imdb-pretrained, imdb-quick, imdb-unlabelled, quickstart, seed"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without a checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_recipe_is_found_by_name() -> None:
    for words in (["--config", "imdb"], ["--config=imdb"], ["--config", "imdb.yaml"]):
        assert cli.parse(RunConfig, words, prog="test").run == "runs/imdb"
    both = cli.parse(RunConfig, ["--config", "imdb", "--config", "quickstart", "--epochs", "9"], prog="test")
    assert (both.run, both.epochs) == ("runs/quickstart", 9)
    assert cli.parse(PreprocessConfig, ["--config", "imdb", "--output", "d"], prog="test").text.truncate == "both"


def test_a_file_of_that_name_here_wins(folder: Path) -> None:
    (folder / "imdb.yaml").write_text("run: mine\n")
    assert cli.parse(RunConfig, ["--config", "imdb"], prog="test").run == "mine"
    (folder / "imdb").write_text("run: without an ending\n")
    assert cli.parse(RunConfig, ["--config", "imdb"], prog="test").run == "without an ending"
    (folder / "quickstart").mkdir()  # a dataset, say
    assert cli.parse(RunConfig, ["--config", "quickstart"], prog="test").run == "runs/quickstart"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("imbd", f"--config imbd: no such file, nor a recipe of padless; there are {TRAIN}"),
        ("default-2", f"--config default-2: no such file, nor a recipe of padless; there are {TRAIN}"),
        (
            "configs/train/imdb.yaml",
            "--config configs/train/imdb.yaml: no such file; the recipe that comes with padless is --config imdb",
        ),
        ("mine.yaml", "mine.yaml: No such file or directory: name a configuration file that exists"),
        ("a/b.yaml", "a/b.yaml: No such file or directory: name a configuration file that exists"),
        ("", f"--config : no such file, nor a recipe of padless; there are {TRAIN}"),
    ],
)
def test_a_name_that_is_none_is_refused_with_those_there_are(value: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        cli.parse(RunConfig, ["--config", value], prog="test")
    assert str(refused.value) == sentence


def test_a_kind_may_stand_before_a_name(folder: Path) -> None:
    assert config_files.find("pretrain/imdb", "train") == str(config_files.file_of("pretrain", "imdb"))
    assert cli.parse(RunConfig, ["--config", "pretrain/imdb"], prog="test").task == "language_model"


def test_files_of_the_launcher_have_names_too() -> None:
    options, keys = launcher.split_arguments(["--config_file", "cpu", "--data", "d"])
    assert options == ["--config_file", str(config_files.file_of("accelerate", "cpu"))]
    assert keys == ["--data", "d"]
    with pytest.raises(ConfigError, match=r"^--config_file gpus: no such file, nor .* there are cpu, gpu, multi_gpu"):
        launcher.split_arguments(["--config_file=gpus"])


def test_every_recipe_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert harness(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed if one["kind"] == "train"] == TRAIN.split(", ")
    assert (
        {one["kind"] for one in listed}
        == set(config_files.KINDS)
        == {path.name for path in config_files.SHIPPED.iterdir()}
    )
    for one in listed:
        assert one["about"].endswith(".")
        assert Path(one["path"]).is_file()
    assert harness(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    assert all(f"\n  {one['name']} " in shown for one in listed)


def test_recipes_are_copied_to_where_a_checkout_has_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harness(["recipes", "imdb", "accelerate/cpu"])
    copied = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml"))
    places = ("accelerate/cpu", "preprocess/imdb", "pretrain/imdb", "train/imdb")
    assert copied == [f"configs/{place}.yaml" for place in places]
    assert capsys.readouterr().out.split() == [
        f"configs/{kind}.yaml" for kind in ("train/imdb", "pretrain/imdb", "preprocess/imdb", "accelerate/cpu")
    ]
    mine = folder / "configs/train/imdb.yaml"
    assert mine.read_bytes() == config_files.file_of("train", "imdb").read_bytes()
    harness(["recipes", "imdb"])  # the same again
    mine.write_text("epochs: 1\n")
    with pytest.raises(ConfigError, match=r"^configs/train/imdb\.yaml: is there already and differs; --overwrite"):
        harness(["recipes", "all"])
    assert not (folder / "configs/train/seed.yaml").exists()
    harness(["recipes", "all", "--overwrite"])
    assert len(list(folder.rglob("*.yaml"))) == sum(len(config_files.names(kind)) for kind in config_files.KINDS)
    assert mine.read_text() != "epochs: 1\n"


def test_a_recipe_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^imbd: padless has no recipe of that name; did you mean imdb\?$"):
        harness(["recipes", "imbd"])
    with pytest.raises(ConfigError, match=r"^accelerate/imdb: padless has no recipe of that name"):
        harness(["recipes", "accelerate/imdb"])
    with pytest.raises(ConfigError, match="there are cpu, default, gpu, "):
        harness(["recipes", "zzz"])
