# SPDX-License-Identifier: Apache-2.0
"""What the doctor makes of facts, most of which this machine does not have; and that it sees this machine right."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config import OptimConfig, RunConfig
from harness.launch import diagnosis, machine
from harness.launch.diagnosis import Finding
from harness.launch.facts import Data, Gpu, Machine, Network, Rank, RunFolder
from harness.model.classifier import Classifier
from harness.ranks.network import Route
from harness.ranks.precision import Choice
from tests.datasets import write_dataset

GB = 10**9
ETH1 = Route("eth1", "10.1.2.3")
H100 = Gpu("H100", 80 * GB, 79 * GB)
NODE = Machine(
    "n1", processes=2, gpus=(H100, H100), driver=True, cuda_build="12.8", cores=16, all_cores=64, threads=5, shm=64 * GB
)


def state(check: str, facts: Machine) -> tuple[str, str]:
    """State and message of one line about a machine."""
    (found,) = [finding for finding in diagnosis.judge_machine(facts) if finding.check == check]
    return found.state, found.message


def test_a_good_machine_has_nothing_but_ok() -> None:
    assert [finding.state for finding in diagnosis.judge_machine(NODE)] == ["ok"] * 5
    assert state("cores", NODE) == ("ok", "16 of 64 cores for 2 processes, 5 threads each")
    assert state("gpus", NODE)[1] == "H100 (79.0 GB of 80.0 GB free), H100 (79.0 GB of 80.0 GB free)"
    laptop = Machine("laptop", cores=4, all_cores=4, threads=4, shm=8 * GB)
    assert state("gpus", laptop) == ("ok", "none; training runs on the CPU")


@pytest.mark.parametrize(
    ("check", "changes", "expected", "words"),
    [
        ("gpus", {"gpus": (), "cuda_build": None}, "fix", "this torch was built without CUDA; install one built"),
        ("gpus", {"gpus": (), "visible": ""}, "fix", "CUDA_VISIBLE_DEVICES is ''; ask the scheduler for GPUs"),
        ("gpus", {"gpus": ()}, "fix", "the driver may be too old for CUDA 12.8"),
        ("gpus", {"gpus": (), "driver": False, "device": "cuda"}, "fix", "there is no NVIDIA driver here"),
        ("gpus", {"device": "cpu"}, "warn", "not used, since --device cpu was asked for"),
        ("gpus", {"processes": 3, "asked": "gpu"}, "fix", "3 processes on 2; start 2 on each machine, with --num"),
        ("gpus", {"processes": 3}, "warn", "not used, since 3 processes cannot share 2; --num_processes 2"),
        ("gpus", {"asked": "cpu"}, "ok", "not used, since accelerate's configuration names no gpu_ids"),
        ("interface", {"machines": 2, "own_address": "10.1.2.3", "route": ETH1}, "ok", "eth1 (10.1.2.3): the route to"),
        (
            "interface",
            {"machines": 2, "own_address": "127.0.1.1", "route": ETH1},
            "ok",
            "the ranks are told so, since n1 is 127.0.1.1 here, where no other machine comes in",
        ),
        ("interface", {"machines": 2, "own_address": None, "route": ETH1}, "ok", "since n1 is no address here"),
        ("interface", {"machines": 2}, "fix", "none leads to the other machines for certain"),
        ("interface", {"machines": 2, "route": Route("ib0", "", True)}, "fix", "GLOO_SOCKET_IFNAME is ib0, and no"),
        ("interface", {"machines": 2, "route": Route("ib0", "10.9.0.1", True)}, "ok", "as GLOO_SOCKET_IFNAME says"),
        ("gpus", {"processes": 1}, "warn", "1 of 2 used; pass --num_processes to use all"),
        ("gpus", {"gpus": (H100, replace(H100, free=9 * GB))}, "warn", "other programs take memory of GPU 1"),
        ("cores", {"slurm_cpus": 32}, "fix", "SLURM gave 32 to the task; export SRUN_CPUS_PER_TASK=32 before srun"),
        ("cores", {"quota": 1.5}, "warn", "a control group grants the time of 1.5 only"),
        ("cores", {"cores": 1}, "warn", "1 of 64 cores for 2 processes: each waits"),
        ("cores", {"threads": 16}, "warn", "16 threads each; set OMP_NUM_THREADS=8"),
        (
            "open files",
            {"open_files": (1024, 4096), "shards": 500},
            "fix",
            "1,024 allowed, about 1,256 needed; run 'ul",
        ),
        ("open files", {"open_files": (1024, 1024), "shards": 500}, "fix", "fewer, larger shards (--shards.rows)"),
        ("locked memory", {"infiniband": True, "memlock": 8_000_000}, "warn", "8 MB, but InfiniBand locks more; run"),
        ("/dev/shm", {"shm": 64_000_000}, "warn", "64 MB: NCCL may find no room between GPUs; start the container"),
    ],
)
def test_what_is_wrong_with_a_machine_is_said_with_what_to_change(
    check: str, changes: dict[str, object], expected: str, words: str
) -> None:
    found, message = state(check, replace(NODE, **changes))  # type: ignore[arg-type]
    assert found == expected
    assert words in message
    others = [line for line in diagnosis.judge_machine(replace(NODE, **changes)) if line.check != check]  # type: ignore[arg-type]
    assert {line.state for line in others} == {"ok"}


def test_a_dataset_that_another_machine_sees_differently() -> None:
    first = Data("n1", "data/x", "nfs4", fingerprint="a", summary="5 rows", staging="/tmp: near")
    second = replace(first, host="n2", fingerprint="b")
    lines = diagnosis.judge_data([first, second])
    assert [(line.check, line.state, line.host) for line in lines] == [
        ("data", "ok", "n1"),
        ("staging", "ok", "n1"),
        ("data", "fix", "n2"),
    ]
    assert lines[-1].message == "data/x is another dataset here than on n1; put it where all machines see it"
    far = diagnosis.judge_data([replace(first, mapped_over_network=True)])
    assert (far[1].state, far[1].message) == (
        "warn",
        "staging /tmp: near; every page comes over the network: name a local directory with --stage_dir",
    )


@pytest.mark.parametrize(
    ("changes", "unseen", "expected", "words"),
    [
        ({}, [], "ok", "runs/x on nfs4: 50.0 GB free, about 7.0 GB needed; a file was written, flushed and renamed"),
        ({"state": "the run goes on from step 7"}, [], "ok", "and renamed; the run goes on from step 7"),
        ({"problem": "/x cannot be written; name another"}, [], "fix", "/x cannot be written; name another"),
        ({"free": 6 * GB}, [], "fix", "6.0 GB free, about 7.0 GB needed; make room"),
        ({"kind": "tmpfs"}, [], "warn", "gone when the machine restarts"),
        ({"fsync_s": 2.5}, [], "warn", "a small write took 2.5 s"),
        ({}, ["n1"], "fix", "not the directory that n1 sees"),
    ],
)
def test_the_run_directory(changes: dict[str, object], unseen: list[str], expected: str, words: str) -> None:
    folder = replace(RunFolder("n1", "runs/x", "nfs4", 50 * GB, 7 * GB, fsync_s=0.02), **changes)  # type: ignore[arg-type]
    (line,) = diagnosis.judge_run([folder], unseen)
    assert line.state == expected
    assert words in line.message


def test_ranks_must_be_alike() -> None:
    good = Rank(0, "n1", "cuda", "bf16: the GPU computes it natively", cudnn=91900, versions={"torch": "2.13"})
    lines = diagnosis.judge_ranks([good, replace(good, rank=1, host="n2")])
    assert [(line.check, line.state) for line in lines] == [("versions", "ok"), ("precision", "ok")]
    lines = diagnosis.judge_ranks([good, replace(good, rank=1, host="n2", versions={"torch": "2.12"})])
    assert ("fix", "torch is 2.12 on rank 1, 2.13 on rank 0; install the same everywhere") in [
        (line.state, line.message) for line in lines
    ]
    lines = diagnosis.judge_ranks([good, replace(good, rank=1, host="n2", precision="fp32: no native bf16")])
    assert lines[-1].message.startswith("rank 1 would compute in fp32")
    lines = diagnosis.judge_ranks([good, replace(good, rank=1, host="n2", device="cpu")])
    assert lines[-1].message == "rank 1 would train on cpu, rank 0 on cuda; name one with --device"
    (_, old) = diagnosis.judge_ranks([replace(good, cudnn=90100)])
    assert (old.state, "cuDNN 9.13, here is 90100" in old.message) == ("warn", True)
    (_, refused) = diagnosis.judge_ranks([replace(good, problem="precision: fp16 cannot run")])
    assert (refused.state, refused.message) == ("fix", "precision: fp16 cannot run")


def test_the_network() -> None:
    met, summed = diagnosis.judge_network(Network(16, 2, "nccl", 1.5, 10_000_000, 0.001))
    assert met.message == "16 ranks on 2 machines met in 1.50 s"
    assert (summed.state, summed.message) == ("ok", "10 MB over nccl in 1.0 ms, the sum is right")
    assert diagnosis.judge_network(Network(16, 2, "nccl", 1.5, 10_000_000, 0.5))[1].state == "warn"
    assert diagnosis.judge_network(Network(16, 1, "nccl", 1.5, 10_000_000, 0.5))[1].state == "ok"
    assert diagnosis.judge_network(Network(16, 2, "nccl", 1.5, 10_000_000, 0.001, right=False))[1].state == "fix"
    assert diagnosis.judge_network(Network(16, 2, "nccl", 1.5))[1].message.startswith("not tried, since not all ranks")


def test_lines_that_all_machines_share_are_said_once() -> None:
    same = [Finding("cores", "ok", "16", host) for host in ("n1", "n2")]
    apart = [Finding("gpus", "ok", "2", "n1"), Finding("gpus", "fix", "none", "n2")]
    lines = diagnosis.merged([*same, *apart])
    assert lines == [Finding("cores", "ok", "16"), *apart]
    assert diagnosis.exit_code(lines) == 2
    assert diagnosis.exit_code(lines[:2]) == 0
    assert diagnosis.render(lines).splitlines()[2] == "fix   gpus           n2: none"


def test_a_long_line_goes_on_below_itself() -> None:
    said = "no CUDA device is visible: the driver may be too old for CUDA 13.0, which torch was built with"
    lines = diagnosis.render([Finding("gpus", "fix", said, "a-machine-with-a-long-name.cluster")]).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("fix   gpus           a-machine-with-a-long-name.cluster: no CUDA device is")
    assert {line[:21] for line in lines[1:]} == {" " * 21}
    assert " ".join(line[21:] for line in lines) == f"a-machine-with-a-long-name.cluster: {said}"


def test_control_groups_bound_the_cores(tmp_path: Path) -> None:
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "job" / "step" / "cpu.max").write_text("max 100000\n")
    assert machine.cpu_quota(tmp_path, "0::/job/step\n") == 1.5
    assert machine.cpu_quota(tmp_path, "0::/other\n") is None
    assert machine.cpu_quota(tmp_path, "4:cpu:/job\n") is None


def test_this_machine_is_seen_as_it_is(tmp_path: Path) -> None:
    found = machine.look_at_machine(RunConfig(), None)
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.open_files[0] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    folder = machine.look_at_run(RunConfig(run=str(tmp_path / "deep" / "run")), None)
    assert (folder.problem, list(tmp_path.iterdir())) == (None, [])
    assert 0 < folder.fsync_s < 60
    blocked = tmp_path / "file"
    blocked.write_text("")
    refused = machine.look_at_run(RunConfig(run=str(blocked / "run")), None)
    wanted = f"{blocked} cannot be written (Not a directory); name a directory you may write, with --run"
    assert refused.problem == wanted
    assert machine.try_step("cpu", "fp32") is None


def test_what_a_run_needs_and_what_would_become_of_it(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 64, "validation": 10, "test": 10})
    config = RunConfig(data=str(tmp_path / "data"), run=str(tmp_path / "run"), optim=OptimConfig(ema=0.99))
    data, manifest = machine.look_at_data(config, 2)
    assert manifest is not None
    assert (data.problem, data.fingerprint) == (None, manifest.fingerprint)
    parameters = sum(weight.numel() for weight in Classifier(config.model, manifest.vocabulary_size).parameters())
    assert machine.look_at_run(config, manifest).needed == (2 + 2) * 16 * parameters
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "status.json").write_text('{"state": "failed", "step": 3}')
    assert machine.look_at_run(config, manifest).state == "the run begins anew: it has no checkpoint"
    never = machine.look_at_run(replace(config, resume="never"), manifest)
    assert never.problem is not None
    assert "already holds a run" in never.problem
    few, _ = machine.look_at_data(config, 100)
    assert few.problem == f"{tmp_path / 'data' / 'dataset.json'}: 64 training rows for 100 processes; start fewer"


def test_each_rank_tries_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(machine, "choose_device", lambda wanted: Choice("cuda", "made up"))
    monkeypatch.setattr(machine, "choose_precision", lambda wanted, device: Choice("fp32", "made up"))
    monkeypatch.setattr(machine, "try_step", lambda device, precision: tried.append(device))
    for rank in ("0", "3"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        machine.look_at_rank(RunConfig())
    assert tried == ["cuda:0", "cuda:3"]
