# SPDX-License-Identifier: Apache-2.0
"""What ``python -m harness doctor`` knows of machines, datasets, run directories and ranks: plain values.

``machine`` measures them, ``diagnosis`` judges them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.ranks.network import Route

NOTHING = "none"
"""In place of a dataset, or of a run directory: there is none to look at."""


@dataclass(frozen=True)
class Gpu:
    """One visible CUDA device; bytes of memory."""

    name: str
    memory: int
    free: int


@dataclass(frozen=True)
class Machine:
    """What the first process of a machine sees of it."""

    host: str
    processes: int = 1
    """Processes that the launcher started on this machine."""
    device: str = "auto"
    """The device that was asked for."""
    asked: str = "either"
    """What accelerate's options or its file ask for: gpu, cpu or either."""
    gpus: tuple[Gpu, ...] = ()
    driver: bool = False
    """Whether an NVIDIA driver is loaded."""
    cuda_build: str | None = None
    """The CUDA version that torch was built with; None for a build without."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES, if it is set."""
    cores: int = 1
    """Cores that this process may use."""
    all_cores: int = 1
    quota: float | None = None
    """CPUs' worth of time that a control group grants; None: no limit."""
    threads: int = 1
    """Threads that each process computes with."""
    slurm_cpus: int | None = None
    """SLURM_CPUS_PER_TASK, inside a job."""
    open_files: tuple[int, int] = (1 << 20, 1 << 20)
    """Soft and hard limit of open files."""
    shards: int = 0
    """Files of the dataset that a process keeps open."""
    memlock: int | None = None
    """Bytes that a process may lock in memory; None: no limit."""
    infiniband: bool = False
    shm: int | None = None
    """Size of /dev/shm in bytes; None where there is none."""
    machines: int = 1
    """Machines of the launch, as far as the launcher told its ranks."""
    own_address: str | None = None
    """What this machine's name resolves to here; None if to nothing."""
    route: Route | None = None
    """How it comes to the other machines, where there are others; None if that cannot be told."""


@dataclass(frozen=True)
class Data:
    """A dataset as one machine sees it."""

    host: str
    path: str
    kind: str
    """File system type."""
    problem: str | None = None
    """The sentence with which training would refuse it."""
    fingerprint: str = ""
    summary: str = ""
    staging: str = ""
    """Where shards will be copied to, with the reason."""
    mapped_over_network: bool = False


@dataclass(frozen=True)
class RunFolder:
    """The place of a run directory as one machine sees it."""

    host: str
    path: str
    kind: str
    free: int = 0
    needed: int = 0
    """Bytes that checkpoints and the bundle will take, estimated."""
    problem: str | None = None
    """The sentence with which training would refuse it."""
    fsync_s: float = 0.0
    state: str | None = None
    """What would become of the run that it already holds."""


@dataclass(frozen=True)
class Rank:
    """What one process will compute with."""

    rank: int
    host: str
    device: str
    precision: str
    """Effective, with its reason."""
    problem: str | None = None
    """The sentence with which training would refuse the device or the precision."""
    cudnn: int | None = None
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """How the ranks met, and one sum over all of them through the path that gradients take."""

    ranks: int
    nodes: int
    backend: str
    met_s: float = 0.0
    sum_bytes: int = 0
    """0: the sum was not tried."""
    sum_s: float = 0.0
    right: bool = True
