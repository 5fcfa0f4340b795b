# SPDX-License-Identifier: Apache-2.0
"""``submit``: what it fills into the scripts of ``launch/slurm``; values cannot inject shell code; refusals."""

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
TRAIN = """\
#SBATCH --job-name=padless-train
#SBATCH --account=lab
#SBATCH --partition=gpu
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --mem=200G
#SBATCH --time=12:00:00
#SBATCH --ntasks-per-node=1
#SBATCH --output=logs/%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
#SBATCH --mail-user=you@example.org
#SBATCH --mail-type=END,FAIL
#SBATCH --reservation=course

command=train
python=(python)
hook=launch/slurm/site.sh
max_restarts=20 # of this job, by itself or by SLURM
per_node=0 # processes of each node; 0: one for each GPU, or one
run=runs/imdb
arguments=(data/imdb --config imdb -o runs/imdb)
set -- "${arguments[@]}" "$@"
"""
HOSTILE = (
    """train d --run "runs/it's mine" --tracking.name '$(rm -rf x) `y` "z" \\ #'""",
    *("--python", "apptainer exec --nv 'my image.sif' python", "--restarts", "0", "--processes", "4"),
    *("--account", 'a "b" \\ #c $(d)', "--sbatch", "comment='two words' exclusive", "--logs", "/scratch/my logs"),
)
QUOTED = """\
#SBATCH --job-name=padless-train
#SBATCH --account="a \\"b\\" \\\\ #c $(d)"
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --output="/scratch/my logs/%x-%j.log"
#SBATCH --open-mode=append
#SBATCH --no-requeue
#SBATCH --signal=B:USR2@120
#SBATCH --comment="two words"
#SBATCH --exclusive

command=train
python=(apptainer exec --nv 'my image.sif' python)
hook=
max_restarts=0 # of this job, by itself or by SLURM
per_node=4 # processes of each node; 0: one for each GPU, or one
run='runs/it'"'"'s mine'
arguments=(d --run 'runs/it'"'"'s mine' --tracking.name '$(rm -rf x) `y` "z" \\ #')
set -- "${arguments[@]}" "$@"
"""


def plan(*words: str) -> list[jobs.Job]:
    return jobs.plan_jobs(cli.parse(SubmitConfig, words, prog="submit"))


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("words", "head"), [((*SITE, CHAIN[1]), TRAIN), (HOSTILE, QUOTED)])
def test_a_script_is_the_file_with_its_head_filled_in(words: tuple[str, ...], head: str) -> None:
    (job,) = plan(*words)
    shipped, start = ((ROOT / "launch/slurm" / name).read_text() for name in ("train.sbatch", "start.sh"))
    script = jobs.render_script(job)
    assert script.partition("goes on.\n")[2].partition(jobs.HEAD_END)[0] + jobs.HEAD_END == head
    body = shipped.partition(jobs.HEAD_END)[2].partition("source launch/slurm/start.sh")[2]
    assert script.endswith(f"{start}{body}")
    assert "source launch" not in script


def test_a_chain_has_the_keys_of_each_kind_and_waits_for_the_task_that_completes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("--gpus", "4", "--nodes", "3", "--partition", "all", "--single.gpus", "0", "--train.partition", "mine")
    chain = plan(*words, "--prepare.sbatch", "array=0-63%8", *CHAIN)
    facts = [(job.resources.gpus, job.resources.nodes, job.resources.partition) for job in chain]
    assert facts == [(None, 3, "all"), ("4", 3, "mine"), ("0", 1, "all")]
    assert ["gpus-per-node" in jobs.render_directives(job) for job in chain] == [False, True, False]
    requests = []
    monkeypatch.setattr(jobs, "ask_slurm", lambda command, script="": requests.append(command[2:]) or "7")
    jobs.submit(chain)
    assert requests == [
        [],
        ["--dependency=afterok:7_0", jobs.KILL_ORPHANS],
        ["--dependency=afterok:7", jobs.KILL_ORPHANS],
    ]


def test_nothing_is_left_of_a_chain_that_slurm_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = []

    def ask(command: list[str], script: str = "") -> str:
        programs.append(command[0])
        if len(programs) == 2:
            raise ConfigError("sbatch refused the job: no such partition")
        return "7"

    monkeypatch.setattr(jobs, "ask_slurm", ask)
    with pytest.raises(ConfigError, match="no such partition; cancelled: 7, submitted before it"):
        jobs.submit(plan(*CHAIN))
    assert programs == ["sbatch", "sbatch", "scancel"]


@pytest.mark.processes
def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    chain = ["prepare a.csv -o d", "train d -o r", "report r"]
    for words, sentence in (
        (chain, "sbatch: not found here; submit on a machine of the cluster, or --print"),
        ([*chain, "--logs", "file/logs"], r"file/logs: .*Not a directory.*; name another folder"),
        (chain[1:], r"train: d is not there, and no job before it makes it; put \"prepare FILE -o d\" in front"),
        (
            ["prepare a.csv -o s3://b/d", "--nodes", "2"],
            r"prepare: output: expected a text of one line that is a path of this machine, got",
        ),
        (["train d --num_processes 2"], "train: --num_processes: the job itself gives it; --nodes and --processes"),
        (
            [*chain, "--sbatch", "a=b\n#SBATCH"],
            r"sbatch: expected a text of one line or a list or null, .*'a=b\\n#SBATCH'",
        ),
    ):
        with pytest.raises(ConfigError, match=sentence):
            harness(["submit", *words])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
