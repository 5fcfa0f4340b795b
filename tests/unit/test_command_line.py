# SPDX-License-Identifier: Apache-2.0
"""Command lines: help without torch, arguments and options, types of values, one form of errors; recipes by name in
any folder, a configuration written for a file.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from harness.config import RunConfig, name_run
from harness.inference.config import PredictConfig
from padless.commands import COMMANDS
from padless.commands import main as padless
from padless.core import cli, configuration
from padless.core.errors import ConfigError
from padless.core.installed import load_object
from preprocessing.config import PreprocessConfig
from tests.helpers.bundles import write_run
from tests.helpers.commands import run_command, succeed

COLUMNS = 80
CLASSES = {load_object(command.config) for command in COMMANDS}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without a checkout, in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_help(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The lines that a request for help prints, without marks and in 80 columns; it ends with exit code 0."""
    with pytest.raises(SystemExit) as ended:
        padless([*words])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= COLUMNS
    assert not re.search(r"`|:\w+:'", "".join(lines))
    return lines


HELP_WITHOUT_TORCH = """
import contextlib, io, sys
from padless.commands import COMMANDS, main
for command in COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main([command.name, "--help"])
    assert not {"torch", "accelerate"} & set(sys.modules), command.name
from harness.distributed import devices
from padless.core.errors import UserError
devices.is_without_cuda = lambda: True
for line in sys.stdin.read().splitlines():
    try:
        code = main(line.split())
    except UserError as error:
        code = error.exit_code
    assert code in (2, 3), f"{line}: {code}"
    assert "torch" not in sys.modules, f"{line} waited for torch"
import harness.baselines.measured, preprocessing.pipeline.build
assert "torch" not in sys.modules, "torch is there before it is needed"
"""
REFUSED = """train nowhere
train data --device cuda -o new
train data -o run --epochs 3
train data -o data/dataset.json
predict run text --device cuda
predict run --input data/dataset.json -o run
explain run text --device cuda
evaluate run data --device cuda
evaluate run data -o data/dataset.json
export run -o run
prepare data --epochs 3
"""


@pytest.mark.processes
def test_neither_help_nor_a_refusal_waits_for_torch(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "refused").write_text(REFUSED)
    program = f"cd {tmp_path}; {sys.executable} -c {shlex.quote(HELP_WITHOUT_TORCH)} < refused"
    assert succeed(run_command(["sh", "-c", program])).returncode == 0


def test_a_bare_command_lists_what_there_is(capsys) -> None:
    assert (padless([]), padless(["--help"])) == (2, 0)
    first_words = re.findall(r"^\S+", capsys.readouterr().out, re.MULTILINE)
    assert all(first_words.count(command.name) == 2 for command in COMMANDS)


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_help_is_narrow_and_has_no_marks(capsys, name: str) -> None:
    pages = [read_help(capsys, name, "--help", *topic) for topic in ([], ["all"])]
    keys = [{line.split()[0] for line in page if line.startswith("--") and "--help" not in line} for page in pages]
    assert len(keys[0]) <= 14, "the first screen has the important keys"
    assert keys[0] <= {*keys[1], "--config", "--print_config"}


def test_keys_with_a_word_are_shown_on_request(capsys) -> None:
    page = " ".join(read_help(capsys, "train", "--epochs", "2", "--help", "order"))
    assert re.findall(r"--\S+\.\S+", page) == ["--order.length_noise"]
    assert "default: 0.003" in page


def parse(config_class: Any, *words: str) -> Any:
    """The configuration that these words give."""
    return cli.parse(config_class, words, prog="test")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part."""

    rate: Annotated[float, Meta(gt=0)] | Literal["auto"] = 0.5
    pair: list[float] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every kind."""

    run: str = "r"
    json: bool = False
    number: Annotated[int, Meta(ge=-1, le=1000)] | None = None
    paths: str | list[str] = ""
    tags: list[str] = field(default_factory=list)
    label_map: dict[str, list[Any]] | Literal["auto"] = "auto"
    labels: dict[str, Any] | str = "auto"
    part: Part = field(default_factory=Part)


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--json", "--paths", "-C gpu"], "json", True),
        (["--run=~/r"], "run", str(Path.home() / "r")),
        (["--paths", "[a, b]"], "paths", ["a", "b"]),
        (["--tags", "a, b", "--tags=c"], "tags", ["a", "b", "c"]),
        (["--run", "- a = b"], "run", "- a = b"),
        (["--label_map", "{bad: [0], good: [1]}"], "label_map", {"bad": ["0"], "good": ["1"]}),
        (["--labels", "{good: [1, yes], bad: no}"], "labels", {"good": ["1", "yes"], "bad": "no"}),
        (["--part.pair", "0.1,2", "--part.weights", "{b: 3}"], "part", Part(pair=[0.1, 2.0], weights={"b": 3.0})),
    ],
)
def test_values_have_the_types_of_their_fields(argv: list[str], key: str, value: object) -> None:
    assert getattr(parse(Options, *argv), key) == value


def test_words_win_over_files_which_come_in_their_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = (folder / f"{number}.yaml" for number in (1, 2, 3))
    first.write_text("run: a\nnumber: 1\npart:\n  rate: auto\n  weights: {x: 1}\nlabels:\n  on: [yes, 012]\n  off:\n")
    second.write_text("run: b\npart: {pair: [1, 2]}\n")
    words = ["--number", "5", "--config", "1.yaml", "--config=2.yaml"]
    options = parse(Options, *words)
    assert (options.run, options.number, options.labels) == ("b", 5, {"on": ["yes", "012"], "off": "null"})
    assert options.part == Part(rate="auto", pair=[1.0, 2.0], weights={"x": 1.0})
    with pytest.raises(SystemExit):
        parse(Options, "--print_config", *words)
    third.write_text(capsys.readouterr().out)
    assert parse(Options, "--config", "3.yaml") == options


@pytest.mark.parametrize(
    ("argv", "key"),
    [
        (["--run", "a", "--run=b"], "run"),
        (["--part.weights.b", "3"], "part.weights"),
        (["--labels", '{a: "\\ud83d"}'], "labels"),
        (["--labels", "{a:neg, b:pos}"], "labels"),
        (["--run", "--json"], "run"),
        (["--config", "list.yaml"], "list.yaml"),
        (["--config", "empty.yaml"], "empty.yaml"),
    ],
)
def test_what_a_key_does_not_take_is_refused(folder: Path, argv: list[str], key: str) -> None:
    (folder / "list.yaml").write_text("[a]: 1\n")
    (folder / "empty.yaml").write_text("# only a comment\n")
    with pytest.raises(ConfigError, match=re.escape(key)):
        parse(Options, *argv)


LIKE_KEYS = ["--help", "quiet", "yes", "-o", "--json", "--", "-", "in.csv", "a, b", "[a]", "~/a", "null"]
WORD = st.one_of(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.sampled_from(LIKE_KEYS))


@given(texts=st.lists(WORD, min_size=1))
def test_what_follows_two_dashes_is_predicted_as_it_stands(texts: list[str]) -> None:
    config = parse(PredictConfig, "--json", "run", "--", *texts)
    assert (config.run, config.texts, config.input, config.json) == ("run", texts, None, True)
    assert parse(PredictConfig, "run", f"--texts={texts[0]}").texts == texts[:1]


def test_a_word_is_no_switch() -> None:
    config = parse(PredictConfig, "run", "--json", "yes", "--quiet", "true", "json")
    assert (config.texts, config.quiet, config.json) == (["yes", "json"], True, True)
    with pytest.raises(ConfigError, match=r"in\.csv"):
        parse(PredictConfig, "run", "in.csv", "--", "a text")
    config = parse(PredictConfig, "run", "--texts", "good, but long", "--texts", "[a")
    assert config.texts == ["good, but long", "[a"]


def test_a_file_of_keys_stands_on_the_default_recipe(folder: Path) -> None:
    (folder / "mine.yaml").write_text("epochs: 3\n")
    (folder / "whole.yaml").write_text("default_recipe: false\nepochs: 3\n")
    assert parse(RunConfig, "--config", "mine.yaml") == parse(RunConfig, "--epochs", "3")
    assert parse(RunConfig, "--config", "whole.yaml") == RunConfig(epochs=3)


@pytest.mark.parametrize("kind", sorted(CLASSES, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_absurd_numbers_are_refused(kind: type) -> None:
    """For every numeric option of every command; the error names the key."""
    for key, option in configuration.options_of(kind).items():
        if option.kinds & {int, float} and str not in option.kinds:
            for value in ("nan" if float in option.kinds else "9" * 20, "-1"):
                with pytest.raises(ConfigError, match=re.escape(key)):
                    option.parse(value)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["train", "pretrain", "preprocess"])
def test_every_recipe_is_valid(kind: str) -> None:
    config_class, key = (PreprocessConfig, "--output=d") if kind == "preprocess" else (RunConfig, "--run=r")
    names = configuration.recipe_names(kind)
    assert len(names) >= 3
    for name in names:
        parse(config_class, key, "--config", f"{kind}/{name}")


def test_a_recipe_is_found_by_name_unless_a_file_here_has_it(folder: Path) -> None:
    config = parse(RunConfig, "--config", "imdb", "--config=quickstart", "--epochs", "9")
    assert (name_run(config).run, config.epochs) == ("runs/quickstart", 9)
    assert parse(RunConfig, "--config", "pretrain/imdb").task == "language_model"
    (folder / "imdb").write_text("run: mine\n")
    assert parse(RunConfig, "--config", "imdb").run == "mine"


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("padless trai", ["train"]),
        ("padless train --num_processes 2 --optim.warm", ["--optim.warmup"]),
        ("padless train --precision b", ["bf16"]),
        ("padless train data", []),
    ],
)
def test_a_shell_completes_commands_keys_and_values(capsys, monkeypatch, line: str, completions: list[str]) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert padless(["--complete", "padless", line.split()[-1]]) == 0
    assert capsys.readouterr().out.split() == completions
    assert padless(["--completion", "bash"]) == 0
    assert "complete -o default -C 'padless --complete' padless" in capsys.readouterr().out
