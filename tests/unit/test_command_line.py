# SPDX-License-Identifier: Apache-2.0
"""Command lines: help without torch, arguments and options, types of values, one form of errors, completion; recipes
by name in any folder, a configuration written for a file, the list of runs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from benchmarks.__main__ import COMMANDS as BENCHMARKS
from benchmarks.__main__ import main as benchmarks
from harness import evaluate, train
from harness.__main__ import COMMANDS as HARNESS
from harness.__main__ import main
from harness.__main__ import main as harness
from harness.config import LaunchRecipe, RunConfig
from harness.library.commands import train_here
from harness.ranks import stopping
from harness.rundir.results import write_figures
from preprocessing.__main__ import COMMANDS as PREPROCESSING
from preprocessing.__main__ import main as preprocessing
from preprocessing.base import cli, configuration
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.installed import load
from preprocessing.config import PreprocessConfig
from tests.commands import run_command, succeed
from tests.datasets import write_dataset
from tests.runs import small

COLUMNS = 80
Main = Callable[[list[str]], int]


TABLES: list[tuple[Main, Any]] = [(harness, HARNESS), (preprocessing, PREPROCESSING), (benchmarks, BENCHMARKS)]
CLASSES = {load(one.config) for _, table in TABLES for one in table}
PAGES = [(train.main, []), (evaluate.main, []), *((main, [one.name]) for main, table in TABLES for one in table)]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in this process, which keeps its handlers of signals."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setattr(stopping, "install", lambda: None)


def shown(capsys: pytest.CaptureFixture[str], main: Main, *words: str) -> list[str]:
    """The lines that a request for help prints; it ends with exit code 0."""
    try:
        code = main(list(words))
    except SystemExit as left:
        code = left.code
    assert code in (0, None)
    return capsys.readouterr().out.splitlines()


HELP_WITHOUT_TORCH = """
import contextlib, io, sys
from harness.__main__ import COMMANDS, main
from preprocessing.__main__ import main as preprocessing
for run, words in [*((main, [one.name]) for one in COMMANDS), (preprocessing, ["prepare"])]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        run([*words, "--help"])
    found = {"torch", "accelerate"} & set(sys.modules)
    assert not found, f"{words} brought {found}"
from harness.ranks import devices
from preprocessing.base.errors import UserError
devices.is_without_cuda = lambda: True
for line in sys.stdin.read().splitlines():
    try:
        code = main(line.split())
    except UserError as error:
        code = error.exit_code
    assert code in (2, 3), f"{line}: {code}"
    assert "torch" not in sys.modules, f"{line} waited for torch"
import harness.baseline.results, harness.launch.doctor, preprocessing.job.build
assert "torch" not in sys.modules, "torch is there before it is needed"
"""
REFUSED = """train nowhere
train data --device cuda -o new
train data --multi_gpu -o new
train data -o run --epochs 3
train data -o data/dataset.json
predict run text --device cuda
predict run --input data/dataset.json -o run
explain run text --device cuda
explain run text -o run
evaluate run data --device cuda
evaluate run data -o data/dataset.json
export run -o run
prepare data --epochs 3
"""


@pytest.mark.processes
def test_neither_help_nor_a_refusal_waits_for_torch(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 20, "validation": 8})
    train_here(small(tmp_path / "data", tmp_path / "run", epochs=1, baseline="none"), reports=False)
    (tmp_path / "refused").write_text(REFUSED)
    program = f"cd {tmp_path}; {sys.executable} -c {shlex.quote(HELP_WITHOUT_TORCH)} < refused"
    succeed(run_command(["sh", "-c", program]))


@pytest.mark.parametrize(("main", "table"), TABLES)
def test_a_bare_command_lists_what_there_is(capsys, main: Main, table: Any) -> None:
    assert (main([]), main(["--help"])) == (2, 0)
    bare, asked = capsys.readouterr().out.split("usage: ")[1:]
    assert bare == asked
    listed = [line.split()[0].rstrip(",") for line in bare.splitlines() if line.startswith("  ")]
    assert listed == [one.name for one in table]


@pytest.mark.parametrize(("main", "words"), PAGES)
def test_help_is_narrow_and_has_no_marks(capsys, main: Main, words: list[str]) -> None:
    for topic in (["all"], []):
        lines = shown(capsys, main, *words, "--help", *topic)
        assert [line for line in lines if len(line) > COLUMNS or "`" in line or re.search(r":\w+:'", line)] == []
    assert not words or len([line for line in lines if line.startswith("  --")]) <= 20, (
        "the first screen has the important keys"
    )


def test_a_group_and_a_key_are_shown_on_request(capsys) -> None:
    about, _, first, *_ = shown(capsys, harness, "train", "--help", "order")
    assert about.startswith("order: Which rows meet in a batch; with the dataset, seed and global batch")
    assert first.startswith("  --order.length_noise 0.003 ")
    lr = [
        "  --optim.lr auto              Highest learning rate. auto: by the rows of a",
        f"{' ' * 31}step and the classes.",
    ]
    for words in (["--help", "lr"], ["--epochs", "2", "--help=optim.lr"]):
        assert shown(capsys, harness, "train", *words) == lr


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part."""

    rate: Annotated[float, Meta(gt=0)] | Literal["auto"] = 0.5
    pair: tuple[float, float] = (0.0, 1.0)
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every kind."""

    run: str = "r"
    json: bool = False
    number: Annotated[int, Meta(ge=-1, le=1000)] | None = None
    paths: str | list[str] = ""
    tags: list[str] = field(default_factory=list)
    known: dict[str, list[Any]] | Literal["auto"] = "auto"
    labels: dict[str, Any] | str = "auto"
    part: Part = field(default_factory=Part)


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--json"], "json", True),
        (["--run=~/r"], "run", str(Path.home() / "r")),
        (["--paths", "[a, b]"], "paths", ["a", "b"]),
        (["--tags", "a, b"], "tags", ["a", "b"]),
        (["--known", "{bad: 0, good: 1}"], "known", {"bad": ["0"], "good": ["1"]}),
        (["--labels", "{good: [1, yes], bad: no}"], "labels", {"good": ["1", "yes"], "bad": "no"}),
        (["--part.rate=auto", "--part.pair", "[0.1, 2]"], "part", Part(rate="auto", pair=(0.1, 2.0))),
        (["--part.pair", "0.1,2", "--part.weights", "{b: 3}"], "part", Part(pair=(0.1, 2.0), weights={"b": 3.0})),
    ],
)
def test_values_have_the_types_of_their_fields(argv: list[str], key: str, value: object) -> None:
    assert getattr(cli.parse(Options, argv, prog="test"), key) == value


def test_words_win_over_files_which_come_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("run: a\nnumber: 1\npart:\n  rate: auto\n  weights: {x: 1}\nlabels: {on: [yes, 012], off:}\n")
    second.write_text("run: b\npart: {pair: [1, 2]}\n")
    words = ["--number", "5", "--config", str(first), f"--config={second}"]
    found = cli.parse(Options, words, prog="test")
    assert (found.run, found.number, found.labels) == ("b", 5, {"on": ["yes", "012"], "off": "null"})
    assert found.part == Part(rate="auto", pair=(1.0, 2.0), weights={"x": 1.0})
    with pytest.raises(SystemExit):
        cli.parse(Options, ["--print_config", *words], prog="test")
    third = tmp_path / "3.yaml"
    third.write_text(capsys.readouterr().out)
    assert cli.parse(Options, ["--config", str(third)], prog="test") == found


@pytest.mark.parametrize("kind", sorted(CLASSES, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_absurd_numbers_are_refused(kind: type) -> None:
    """For every numeric option of every command; the error names the key."""
    needed = {
        "data": "d",
        "run": "r",
        "output": "o",
        "input": "i.csv",
        "file": "f",
        "files": "[f]",
        "jobs": "[j]",
        "folder": "f",
    }
    every = configuration.options_of(kind)
    words = [f"--{key}={needed[key]}" for key, one in every.items() if one.default is MISSING]
    alone = {"ExportConfig": ["--output=o"], "EvaluateHereConfig": ["--input=i.csv"]}
    for key, option in every.items():
        kinds = set(configuration.alternatives(option.kind)) - {type(None)}
        for value in ("nan", "-1") if float in kinds else ("9" * 20, "-1") if int in kinds and str not in kinds else ():
            with pytest.raises(ConfigError) as refused:
                cli.parse(kind, [*words, *alone.get(kind.__name__, []), f"--{key}={value}"], prog="test")
            assert key.rpartition(".")[2] in str(refused.value)


@pytest.mark.processes
def test_a_shell_completes_commands_keys_values_and_what_is_here(tmp_path: Path) -> None:
    """In bash itself, with what ``register-python-argcomplete`` prints; its ``COMPREPLY`` after a TAB."""
    (tmp_path / "new.csv").touch()
    offered = {
        "padless trai": "train",
        "padless train --num_processes 2 --optim.warm": "--optim.warmup",
        "padless train --precision b": "bf16",
        "padless evaluate runs/a n": "new.csv",
        "padless train --config qu": "quickstart",
    }
    script = """
    eval "$(register-python-argcomplete padless)"
    for COMP_LINE in "$@"; do
        COMP_POINT=${#COMP_LINE} COMPREPLY=()
        _python_argcomplete padless
        echo "${COMPREPLY[*]}"
    done
    """
    where = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COMP_TYPE": "9"}
    command = ["bash", "-c", script, "bash", *offered]
    done = subprocess.run(command, cwd=tmp_path, env=where, capture_output=True, text=True, timeout=120, check=True)
    assert [line.strip() for line in done.stdout.splitlines()] == list(offered.values())


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


def test_help_names_the_recipes(capsys) -> None:
    with pytest.raises(SystemExit):
        harness(["train", "--help"])
    assert f"a recipe: {', '.join(TRAIN.split())};" in " ".join(capsys.readouterr().out.split())


def begun(run: Path, state: str, day: int, accuracy: float) -> None:
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("data: data/mine\n")
    lines = [{"kind": "validation", "step": 5, "accuracy": one, "best": one == accuracy} for one in (accuracy, 0.1)]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (run / "status.json").write_text(json.dumps({"state": state, "step": 10}))
    write_figures(run, "test", {"accuracy": accuracy - 0.25})
    os.utime(run / "status.json", (day * 86_400, day * 86_400))


def test_runs_are_listed_newest_first(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begun(Path("runs/old"), "finished", 1, 0.75)
    begun(Path("runs/a/seed-0"), "running", 5, 0.5)
    Path("runs/a/seed-0/test.json").write_text("{}")
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r"( +\d{4}-\S+ \S+)? +", " ", line) for line in lines] == [
        "run data step best test when state",
        "runs/a/seed-0 data/mine 10 0.5000 interrupted",
        "runs/old data/mine 10 0.7500 0.5000 finished",
    ]
    assert max(map(len, lines)) <= 80
    assert main(["runs", "runs/old", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["run"], one["best"], one["state"]) == ("runs/old", 0.75, "finished")
    Path("runs/old/test.json").write_text("{")
    assert main(["runs", "runs/old"]) == 0
    assert capsys.readouterr().err.startswith("warning: runs/old/test.json: ")
    Path("runs/old/status.json").write_text('{"state": "finisher", "step": 10}')
    assert main(["runs", "runs/old"]) == 0
    out, err = capsys.readouterr()
    assert out.split()[-1] == "damaged"
    assert err.startswith("warning: runs/old/status.json: ")
    assert err.endswith("; remove it, and the run goes on from its newest checkpoint\n")
    with pytest.raises(DataError, match=re.escape(err.removeprefix("warning: ").strip())):
        main(["report", "runs/old"])


def test_a_file_with_two_sections_is_one_for_both_commands(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    sections = "prepare:\n  source.path: mine.csv\n  output: data/mine\ntrain:\n  data: data/mine\n  epochs: 3\n"
    (tmp_path / "mine.yaml").write_text(sections)
    prepared = cli.parse(PreprocessConfig, ["--config", "mine.yaml"], prog="test")
    assert (prepared.output, prepared.source.path) == ("data/mine", ["mine.csv"])
    trained = cli.parse(LaunchRecipe, ["--config", "mine.yaml"], prog="test")
    assert (trained.data, trained.epochs) == ("data/mine", 3)
