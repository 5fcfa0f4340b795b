# SPDX-License-Identifier: Apache-2.0
"""``submit``: scripts equal golden files; values cannot inject shell code; refusals before submission."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.__main__ import main as harness
from harness.slurm import jobs
from harness.slurm.config import SubmitConfig
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError
from tests.commands import ROOT

pytestmark = pytest.mark.thorough

CHAIN = (
    "prepare --config imdb -o data/imdb",
    "train data/imdb --config imdb -o runs/imdb",
    "evaluate runs/imdb --data data/imdb --split validation",
)
SITE = ("--config", "launch/slurm/site.yaml")
GOLDEN = {
    "launch/slurm/1-prepare.sbatch": (*SITE, CHAIN[0]),
    "launch/slurm/2-train.sbatch": (*SITE, CHAIN[1]),
    "launch/slurm/3-evaluate.sbatch": (*SITE, CHAIN[2]),
    "tests/slurm/golden/seeds.sbatch": (
        "train --config quickstart --run runs/many",
        *("--array.seeds", "0,1,5", "--array.at_once", "2", "--gpus", "a100:2", "--processes", "4"),
        *("--python", "apptainer exec --nv 'my image.sif' python", "--time", "2-00:00:00", "--memory", "0"),
        *("--train.sbatch", "--qos=long 'constraint=a100|h100'", "--restarts", "3"),
    ),
    "tests/slurm/golden/quoted.sbatch": (
        """train --config quickstart --run "runs/it's mine" --tracking.name '$(rm -rf x) `y` "z" \\ #'""",
        *("--array.seeds", "0,1", "--python", "python3", "--hook", "launch/slurm/site.sh"),
        *("--account", 'a "b" \\ #c $(d)', "--sbatch", "comment='two words' exclusive", "--logs", "/scratch/my logs"),
    ),
}
"""File -> what was typed to make it."""


def typed(*words: str) -> SubmitConfig:
    """The command line as ``submit`` reads it."""
    return cli.parse(SubmitConfig, words, prog="submit")


def made(*words: str) -> list[jobs.Job]:
    return jobs.jobs_of(typed(*words))


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_script_is_the_file(name: str) -> None:
    """To update the file: padless submit WORDS --output FOLDER, or --print > FILE."""
    (job,) = made(*GOLDEN[name])
    assert jobs.render(job) == (ROOT / name).read_text(encoding="utf-8")


def test_the_printed_chain_is_its_scripts_and_the_lines_say_what_is_asked(capsys) -> None:
    assert harness(["submit", *SITE, *CHAIN, "--print"]) == 0
    shown = capsys.readouterr()
    said = " ".join(shown.err.split())
    assert shown.out == "\n".join((ROOT / name).read_text() for name in list(GOLDEN)[:3])
    for part in (
        "prepare: account lab, partition cpu, nodes 4, cpus 32, time 04:00:00, ",
        "--reservation=course, for data/imdb; log logs/%x-%j.log",
        "train: account lab, partition gpu, nodes 2, gpus 4, cpus 32, memory 200G, time 12:00:00, ",
        "--reservation=course, for runs/imdb; log logs/%x-%j.log",
    ):
        assert part in said


def test_scripts_are_written_with_the_commands_that_chain_them(tmp_path: Path, capsys) -> None:
    folder, logs = tmp_path / "my scripts", tmp_path / "logs"
    assert harness(["submit", *SITE, *CHAIN, "--logs", str(logs), "--output", str(folder)]) == 0
    names = [Path(name).name for name in list(GOLDEN)[:3]]
    for name in names:
        expected = (ROOT / "launch/slurm" / name).read_text().replace("logs=logs", f"logs={logs}")
        assert (folder / name).read_text() == expected.replace("=logs/%x", f"={logs}/%x")
    after = "sbatch --dependency=afterok:JOB --kill-on-invalid-dep=yes"
    said = [f"sbatch '{folder}/{names[0]}'", *(f"{after} '{folder}/{name}'" for name in names[1:])]
    assert capsys.readouterr().out.splitlines() == said
    assert logs.is_dir()


@pytest.mark.processes
def test_without_slurm_and_with_logs_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    chain = ["submit", "prepare a.csv -o d", "train d -o r", "report r/seed-0"]
    with pytest.raises(ConfigError, match="sbatch: not found here; submit on a machine of the cluster, or --print"):
        harness(chain)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/logs: .*Not a directory.*; name another folder"):
        harness([*chain, "--logs", "file/logs"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_an_array_shares_preprocessing_and_its_first_task_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(jobs, "ask", lambda command, script="": asked.append(command) or "7")
    prepare, train = made(*CHAIN[:2], "--array.parts", "64", "--array.at_once", "8")
    lines = jobs.directives(prepare).splitlines()
    assert {"#SBATCH --array=0-63%8", "#SBATCH --output=%x-%A_%a.log"} < {*lines}
    assert "--array" not in jobs.directives(train)
    with pytest.raises(ConfigError, match=r"prepare: executor\.share: shares make a new dataset in a directory"):
        made("prepare a.csv -o s3://bucket/data", "--array.parts", "64")
    jobs.submit([prepare, train])
    submitted = ["sbatch", "--parsable"]
    assert asked == [submitted, [*submitted, "--dependency=afterok:7_0", jobs.AFTER]]


def test_own_keys_come_before_those_of_all() -> None:
    words = ("--gpus", "4", "--nodes", "3", "--partition", "all", "--single.gpus", "0", "--train.partition", "mine")
    prepare, train, evaluate = made(*words, *CHAIN)
    assert (prepare.resources.gpus, prepare.resources.nodes, prepare.resources.partition) == (None, 3, "all")
    assert (train.resources.gpus, train.resources.nodes, train.resources.partition) == ("4", 3, "mine")
    assert (evaluate.resources.gpus, evaluate.resources.nodes) == ("0", 1)
    assert "gpus-per-node" not in jobs.directives(evaluate)


def test_site_lines_are_taken_in_every_spelling() -> None:
    config = SubmitConfig(jobs=["train"], sbatch=["--reservation=week exclusive", "comment='a b'"])
    found = [("reservation", "week"), ("exclusive", None), ("comment", "a b")]
    assert config.further() == found
    config = typed("train d", "--sbatch", "--exclusive --comment='a b'", "--name", "n")
    assert (config.further(), config.name) == (found[1:], "n")
    with pytest.raises(ConfigError, match=r"^sbatch: 'a=b\\n#SBATCH' is out of range: expected a text of one line"):
        typed("train d", "--sbatch", "a=b\n#SBATCH")
