# SPDX-License-Identifier: Apache-2.0
"""What ``python -m harness doctor`` makes of what it saw: pure functions from facts to lines, so that every line can
be tested on facts that this machine does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.launch.facts import Data, Machine, Network, Rank, RunFolder
from harness.ranks.network import GLOO
from preprocessing.base.printable import size
from preprocessing.base.screen import WIDTH, wrapped

State = Literal["ok", "warn", "fix"]
BUSY_SHARE = 0.1
"""A GPU with more than this share of its memory taken is shared with somebody."""
SPARE_FILES = 256
"""Files that Python, torch and the sockets between processes hold open, beside the shards."""
SHM_BYTES = 1 << 30
SLOW_FSYNC_S = 1.0
SLOW_BYTES_PER_S = 100e6
"""Gradients that travel slower than this between nodes are on the wrong network."""
RECURRENT_BF16_CUDNN = 91300
"""First cuDNN whose LSTM computes in bf16, as ``torch.backends.cudnn.version()`` counts."""
VANISHING = {"tmpfs", "ramfs"}


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``fix`` means that training would fail, or not do what was asked."""

    check: str
    state: State
    message: str
    host: str = ""
    """The machine it is about; empty for what concerns all of them."""


def judge_machine(machine: Machine) -> list[Finding]:
    """All lines about one machine."""
    parts = {
        "gpus": judge_gpus(machine),
        "cores": judge_cores(machine),
        "open files": judge_open_files(machine),
        "locked memory": judge_memlock(machine),
        "/dev/shm": judge_shm(machine),
        **({"interface": judge_interface(machine)} if machine.machines > 1 else {}),
    }
    return [Finding(check, state, message, machine.host) for check, (state, message) in parts.items()]


def judge_gpus(machine: Machine) -> tuple[State, str]:
    """Devices, and whether the processes fit them."""
    found, processes = len(machine.gpus), machine.processes
    asks = machine.device == "cuda" or (machine.device == "auto" and machine.asked == "gpu")
    if not found:
        if machine.device == "cpu" or (not asks and not (machine.asked == "either" and machine.driver)):
            return "ok", "none; training runs on the CPU"
        return "fix", f"no CUDA device is visible: {why_no_gpu(machine)}; or pass --device cpu"
    names = ", ".join(f"{gpu.name} ({size(gpu.free)} of {size(gpu.memory)} free)" for gpu in machine.gpus)
    if machine.device == "cpu":
        return "warn", f"{names}: not used, since --device cpu was asked for"
    if machine.asked == "cpu" and not asks:
        return "ok", f"{names}: not used, since accelerate's configuration names no gpu_ids"
    if processes > found and not asks:
        return "warn", f"{names}: not used, since {processes} processes cannot share {found}; --num_processes {found}"
    if processes > found:
        return "fix", f"{names}: {processes} processes on {found}; start {found} on each machine, with --num_processes"
    busy = [place for place, gpu in enumerate(machine.gpus) if gpu.free < (1 - BUSY_SHARE) * gpu.memory]
    if busy:
        return "warn", f"{names}: other programs take memory of GPU {', '.join(map(str, busy))}; see nvidia-smi"
    if processes < found:
        return "warn", f"{names}: {processes} of {found} used; pass --num_processes to use all"
    return "ok", names


def why_no_gpu(machine: Machine) -> str:
    """The likeliest cause, with what to do."""
    if not machine.driver:
        return "there is no NVIDIA driver here; ask the scheduler for a machine with GPUs"
    if machine.cuda_build is None:
        return "this torch was built without CUDA; install one built with it"
    if machine.visible is not None and not machine.visible.strip("-1 "):
        return f"CUDA_VISIBLE_DEVICES is {machine.visible!r}; ask the scheduler for GPUs, as in --gpus-per-node=1"
    return f"the driver may be too old for CUDA {machine.cuda_build}, which torch was built with; see nvidia-smi"


def judge_cores(machine: Machine) -> tuple[State, str]:
    """Cores that may be used, beside what was asked for and what will run on them."""
    cores, processes, threads = machine.cores, machine.processes, machine.threads
    shown = f"{cores} of {machine.all_cores} cores for {count(processes, 'process', 'processes')}"
    if machine.slurm_cpus is not None and machine.slurm_cpus > cores:
        wanted = machine.slurm_cpus
        return "fix", f"{shown}, but SLURM gave {wanted} to the task; export SRUN_CPUS_PER_TASK={wanted} before srun"
    if machine.quota is not None and machine.quota < cores:
        return "warn", f"{shown}, but a control group grants the time of {machine.quota:g} only; raise the CPU limit"
    if cores < processes:
        return "warn", f"{shown}: each waits for the others' turns; ask for more CPUs, as in --cpus-per-task"
    if threads * processes > cores:
        return "warn", f"{shown}, {threads} threads each; set OMP_NUM_THREADS={max(1, cores // processes)}"
    return "ok", f"{shown}, {count(threads, 'thread', 'threads')} each"


def judge_open_files(machine: Machine) -> tuple[State, str]:
    """Whether a process may open every shard, twice: to read it and to watch it."""
    soft, hard = machine.open_files
    needed = 2 * machine.shards + SPARE_FILES
    if soft >= needed:
        return "ok", f"{soft:,} allowed, about {needed:,} needed"
    if hard >= needed:
        return "fix", f"{soft:,} allowed, about {needed:,} needed; run 'ulimit -n {needed}' before the launcher"
    return "fix", f"at most {hard:,} allowed, about {needed:,} needed; write fewer, larger shards (--shards.rows)"


def judge_memlock(machine: Machine) -> tuple[State, str]:
    """InfiniBand locks its buffers."""
    allowed = "no limit" if machine.memlock is None else size(machine.memlock)
    if not machine.infiniband:
        return "ok", f"{allowed}; no InfiniBand here"
    if machine.memlock is None:
        return "ok", f"{allowed}, as InfiniBand needs"
    return "warn", f"{allowed}, but InfiniBand locks more; run 'ulimit -l unlimited', or have it set for SLURM's daemon"


def judge_shm(machine: Machine) -> tuple[State, str]:
    """NCCL passes gradients between the GPUs of a machine through it; nothing else here does."""
    shown = "none" if machine.shm is None else size(machine.shm)
    if (machine.shm or 0) >= SHM_BYTES or len(machine.gpus) < 2 or machine.processes < 2:
        return "ok", f"{shown}; only NCCL uses it"
    return "warn", f"{shown}: NCCL may find no room between GPUs; start the container with --shm-size=1g or --ipc=host"


def judge_interface(machine: Machine) -> tuple[State, str]:
    """The network interface that ranks will be told, since gloo would offer the address of the machine's own name."""
    route, address = machine.route, machine.own_address
    if route is None:
        return "fix", f"none leads to the other machines for certain; export {GLOO}=NAME, see ip address"
    if not route.address:
        return "fix", f"{GLOO} is {route.interface}, and no such interface with an address is up here; see ip address"
    if route.by_user or (address is not None and not address.startswith("127.")):
        return "ok", str(route)
    shown = f"{machine.host} is {address} here" if address else f"{machine.host} is no address here"
    return "ok", f"{route}; the ranks are told so, since {shown}, where no other machine comes in"


def judge_data(seen: list[Data]) -> list[Finding]:
    """The dataset, as every machine sees it: whole, the same, and close enough."""
    findings = []
    for data in seen:
        if data.problem is not None:
            findings.append(Finding("data", "fix", data.problem, data.host))
        elif data.fingerprint != seen[0].fingerprint:
            message = f"{data.path} is another dataset here than on {seen[0].host}; put it where all machines see it"
            findings.append(Finding("data", "fix", message, data.host))
        else:
            shown = f"{data.path} on {data.kind}: {data.summary}"
            findings.append(Finding("data", "ok", shown, data.host))
            slow = "; every page comes over the network: name a local directory with --stage_dir"
            state: State = "warn" if data.mapped_over_network else "ok"
            message = f"staging {data.staging}{slow if data.mapped_over_network else ''}"
            findings.append(Finding("staging", state, message, data.host))
    return findings


def judge_run(seen: list[RunFolder], unseen: list[str]) -> list[Finding]:
    """The run directory; ``unseen`` names machines that do not see what the first one wrote."""
    findings = []
    for folder in seen:
        place = f"{folder.path} on {folder.kind}"
        room = f"{size(folder.free)} free" + (f", about {size(folder.needed)} needed" if folder.needed else "")
        state: State = "ok"
        if folder.problem is not None:
            state, message = "fix", folder.problem
        elif folder.host in unseen:
            state = "fix"
            message = f"{place}: not the directory that {seen[0].host} sees; name one that all machines share"
        elif folder.free < folder.needed:
            state, message = "fix", f"{place}: {room}; make room, or name another directory with --run"
        elif folder.kind in VANISHING:
            state, message = "warn", f"{place}: gone when the machine restarts; name a directory on a disk with --run"
        elif folder.fsync_s > SLOW_FSYNC_S:
            state, message = "warn", f"{place}: {room}; a small write took {folder.fsync_s:.1f} s: busy or failing disk"
        else:
            holds = f"; {folder.state}" if folder.state else ""
            message = f"{place}: {room}; a file was written, flushed and renamed{holds}"
        findings.append(Finding("run", state, message, folder.host))
    return findings


def judge_ranks(ranks: list[Rank]) -> list[Finding]:
    """Versions and arithmetic: able, and the same everywhere."""
    first = ranks[0]
    findings = [Finding("versions", "ok", ", ".join(f"{name} {value}" for name, value in first.versions.items()))]
    for rank in ranks[1:]:
        for name, value in first.versions.items():
            if rank.versions.get(name) != value:
                other = rank.versions.get(name, "no version")
                message = f"{name} is {other} on rank {rank.rank}, {value} on rank 0; install the same everywhere"
                findings.append(Finding("versions", "fix", message, rank.host))
    for rank in ranks:
        if rank.problem is not None:
            findings.append(Finding("precision", "fix", rank.problem, rank.host))
        elif rank.device != first.device:
            message = f"rank {rank.rank} would train on {rank.device}, rank 0 on {first.device}; name one with --device"
            findings.append(Finding("precision", "fix", message, rank.host))
        elif rank.precision != first.precision and first.problem is None:
            message = f"rank {rank.rank} would compute in {rank.precision}; rank 0 in {first.precision}; name one"
            findings.append(Finding("precision", "fix", f"{message} with --precision", rank.host))
        elif rank is first:
            findings.append(judge_precision(rank))
    return findings


def judge_precision(rank: Rank) -> Finding:
    """Whether the recurrent layers compute in what the rest computes in."""
    recurrent = rank.device != "cuda" or not rank.precision.startswith("bf16") or rank.cudnn is None
    if recurrent or (rank.cudnn or 0) >= RECURRENT_BF16_CUDNN:
        return Finding("precision", "ok", f"{rank.precision}, on {rank.device}")
    message = f"{rank.precision}, on cuda; LSTM in bf16 needs cuDNN 9.13, here is {rank.cudnn}; install a newer torch"
    return Finding("precision", "warn", message)


def judge_network(network: Network) -> list[Finding]:
    """The meeting of the ranks, and their first sum."""
    if network.ranks == 1:
        message = "one process: nobody to meet; options of accelerate launch try it, as in --num_processes 2"
        return [Finding("rendezvous", "ok", message)]
    shown = f"{network.ranks} ranks on {count(network.nodes, 'machine', 'machines')}"
    met = Finding("rendezvous", "ok", f"{shown} met in {network.met_s:.2f} s")
    if not network.sum_bytes:
        return [met, Finding("all-reduce", "warn", "not tried, since not all ranks can compute as asked; see above")]
    if not network.right:
        message = f"the sum over {network.ranks} ranks is wrong over {network.backend}; check the network and the GPUs"
        return [met, Finding("all-reduce", "fix", message)]
    speed = network.sum_bytes / max(network.sum_s, 1e-9)
    shown = f"{size(network.sum_bytes)} over {network.backend} in {1000 * network.sum_s:.1f} ms"
    if network.nodes > 1 and speed < SLOW_BYTES_PER_S:
        message = f"{shown}: slow; see which interface {network.backend} took (NCCL_DEBUG=INFO, GLOO_SOCKET_IFNAME)"
        return [met, Finding("all-reduce", "warn", message)]
    return [met, Finding("all-reduce", "ok", f"{shown}, the sum is right")]


def count(number: int, one: str, many: str) -> str:
    """``1 process``, ``2 processes``."""
    return f"{number} {one if number == 1 else many}"


def merged(findings: list[Finding]) -> list[Finding]:
    """Lines that all machines share are said once, without a name; the order stays."""
    hosts = {finding.host for finding in findings if finding.host}
    lines: dict[tuple[str, State, str], list[str]] = {}
    for finding in findings:
        lines.setdefault((finding.check, finding.state, finding.message), []).append(finding.host)
    result = []
    for (check, state, message), where in lines.items():
        everywhere = "" in where or set(where) == hosts
        result += [Finding(check, state, message, host) for host in ([""] if everywhere else sorted(set(where)))]
    return result


def exit_code(findings: list[Finding]) -> int:
    """0 if nothing needs fixing, else 2."""
    return 2 if any(finding.state == "fix" for finding in findings) else 0


def render(findings: list[Finding], width: int = WIDTH) -> str:
    """The report for people: state, check, what was seen; wrapped at words below itself."""
    lines = []
    for finding in findings:
        where = f"{finding.host}: " if finding.host else ""
        head = f"{finding.state:<5} {finding.check:<14} "
        lines += wrapped(f"{where}{finding.message}", width, len(head), first=head)
    return "\n".join(lines)
