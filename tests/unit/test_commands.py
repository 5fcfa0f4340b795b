# SPDX-License-Identifier: Apache-2.0
"""The command tables of both packages: help without torch, words beside options, switches, one form of mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main as benchmarks
from harness.__main__ import main as harness
from preprocessing.__main__ import main as preprocessing
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "launch",
    "plan",
    "doctor",
    "submit",
    "baseline",
    "predict",
    "explain",
    "evaluate",
    "label",
    "export",
    "report",
    "recipes",
    "checkpoint",
    "wandb-sync",
)
BENCHMARKS = ("text", "loader", "recurrence", "train", "pretrain", "predict", "limits", "corpora", "curve")
STEPS = "run, check, inspect, vectors, fetch-nltk"
HELP_WITHOUT_TORCH = """
import contextlib, io, sys
from harness.__main__ import main as harness
from preprocessing.__main__ import main as preprocessing
shown = io.StringIO()
for main, words in [
    *((harness, [name]) for name in {names}),
    *((harness, ["checkpoint", name]) for name in ("list", "verify", "diff")),
    *((preprocessing, [name]) for name in ("run", "check", "inspect", "fetch-nltk")),
]:
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    found = {{"torch", "accelerate"}} & set(sys.modules)
    assert not found, f"{{words}} brought {{found}}"
    assert "usage: " in shown.getvalue(), words
    shown.truncate(0)
"""


@pytest.mark.processes
def test_no_help_waits_for_torch() -> None:
    script = HELP_WITHOUT_TORCH.format(names=NAMES)
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("main", "words", "lines"),
    [
        (harness, [], [f"  {name}" for name in NAMES]),
        (harness, ["checkpoint"], ["  list RUN ", "  verify RUN ", "  diff RUN [STEP STEP]"]),
        (preprocessing, [], ["  run ", "  check D ", "  inspect D ", "  vectors D ", "  fetch-nltk "]),
        (benchmarks, [], [f"  {name}" for name in BENCHMARKS]),
    ],
)
def test_a_bare_command_lists_what_there_is(capsys, main, words: list[str], lines: list[str]) -> None:
    assert (main(words), main([*words, "--help"])) == (2, 0)
    bare, asked = capsys.readouterr().out.split("usage: ")[1:]
    assert bare == asked
    listed = [line for line in bare.splitlines() if line.startswith("  ")]
    assert len(listed) == len(lines)
    assert all(line.startswith(head) for line, head in zip(listed, lines, strict=True))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_help(capsys, name: str) -> None:
    with pytest.raises(SystemExit) as left:
        benchmarks([name, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: python -m benchmarks {name} ")
    assert "\n  --json " in shown


@pytest.mark.parametrize(
    ("argv", "alone", "options"),
    [
        (["RUN", "--json"], ["RUN"], [["--json"]]),
        (["--json", "RUN"], ["RUN"], [["--json"]]),
        (["--json", "true", "RUN"], ["RUN"], [["--json", "true"]]),
        (["--json=false", "RUN"], ["RUN"], [["--json=false"]]),
        (["a", "--run", "RUN", "b"], ["a", "b"], [["--run", "RUN"]]),
        (["--samples", "-1", "D"], ["D"], [["--samples", "-1"]]),
        (["--run", "RUN", "--", "--json", "b"], ["--json", "b"], [["--run", "RUN"]]),
        (["-h"], [], [["--help"]]),
        (["--help", "model", "RUN"], ["RUN"], [["--help", "model"]]),
        (["--help=model", "RUN"], ["RUN"], [["--help", "model"]]),
        (["RUN", "--help", "--json"], ["RUN"], [["--help"], ["--json"]]),
        (["--run"], [], [["--run"]]),
    ],
)
def test_words_stand_apart_from_options(argv: list[str], alone: list[str], options: list[list[str]]) -> None:
    assert cli.apart(argv, {"--json"}) == (alone, options)


@pytest.mark.parametrize(
    ("main", "words", "sentence"),
    [
        (benchmarks, "recurence", "python -m benchmarks: recurence: no such command; did you mean recurrence?"),
        (harness, "checkpoint lst R", "python -m harness checkpoint: lst: no such command; did you mean list?"),
        (harness, "fit", "python -m harness: fit: no such command; it is launch here"),
        (harness, "prepare", "python -m harness: prepare: no such command; it is python -m preprocessing run here"),
        (preprocessing, "fit", "python -m preprocessing: fit: no such command; it is python -m harness launch here"),
        (preprocessing, "--output d", f"python -m preprocessing: --output: a command comes first; there are {STEPS}"),
        (harness, "checkpoint list", "no run named: python -m harness checkpoint list RUN takes one run directory"),
        (harness, "checkpoint list a b", "'b': python -m harness checkpoint list RUN takes one run directory"),
        (harness, "checkpoint list a --jsn", "--jsn: no such option; did you mean --json?"),
        (harness, "plan --worldsize 2", "--worldsize: no such option; did you mean --world_size?"),
        (harness, "plan --optim.lrr 2", "--optim.lrr: no such option; did you mean --optim.lr?"),
        (harness, "plan stray", "'stray' belongs to no option: values follow a name, as in --config FILE"),
        (harness, "doctor --data d stray", "'stray' belongs to no option: values follow a name, as in --config FILE"),
        (harness, "doctor --data d --jso", "--jso: no such option; did you mean --json?"),
        (preprocessing, "check", "no dataset named: python -m preprocessing check D takes one dataset directory"),
        (preprocessing, "inspect d --smaples 3", "--smaples: no such option; did you mean --samples?"),
        (preprocessing, "inspect d --samples x", "samples: expected int, got x"),
        (benchmarks, "text --source.paht x", "--source.paht: no such option; did you mean --source.path?"),
        (preprocessing, "run", "--output is missing: --help says what belongs there"),
        (harness, "baseline --json", "--data is missing: --help says what belongs there"),
        (benchmarks, "text --rounds x", "rounds: expected int, got x"),
    ],
)
def test_mistakes_have_one_form(main, words: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main(words.split())
    assert str(caught.value) == sentence


def test_a_recipe_of_the_training_is_taken_by_plan(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: nowhere\noptim:\n  lrr: 1\n")
    with pytest.raises(ConfigError) as caught:
        harness(["plan", "--config", str(recipe), "--world_size", "2"])
    assert str(caught.value) == f"{recipe}: unknown key 'optim.lrr'; did you mean optim.lr?"
