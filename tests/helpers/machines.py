# SPDX-License-Identifier: Apache-2.0
"""Two machines on this one: network namespaces that a pair of veth devices joins, each with an address, a host name and
a ``/etc/hosts`` of its own, in which, as on Debian, its own name is 127.0.1.1.

They share the file system. Needs root and iproute2; cuts need
iptables. ``why_not`` says what is missing.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.helpers.commands import ROOT

PORT = 29500
TOOLS = ("ip", "iptables", "unshare")


def why_not() -> str | None:
    """Why two machines cannot be simulated here; None if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent_tools = [tool for tool in TOOLS if shutil.which(tool, path=search_path()) is None]
    if absent_tools:
        return f"needs {', '.join(absent_tools)}"
    name = f"padless-probe-{uuid.uuid4().hex[:6]}"
    is_made = quietly("ip", "netns", "add", name)
    quietly("ip", "netns", "del", name)
    return None if is_made else "network namespaces are refused here"


def search_path() -> str:
    """The PATH, with the folders of administrators' tools."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def tool(*words: str) -> str:
    """Run a command of the system; what it printed."""
    environment = {**os.environ, "PATH": search_path()}
    result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 0, f"{words}: {result.stderr}"
    return result.stdout


def quietly(*words: str) -> bool:
    """Whether a command of the system succeeds."""
    with contextlib.suppress(AssertionError, OSError):
        tool(*words)
        return True
    return False


@dataclass
class Machine:
    """One of the two."""

    namespace: str
    host: str
    address: str
    device: str
    rank: int
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *command: str, log: Path) -> subprocess.Popen[str]:
        """Run a command here."""
        script = f"hostname {self.host} && exec {shlex.join(command)}"
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_SOCKET_IFNAME")}
        with open(log, "a") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", script],
                cwd=ROOT,
                env={**environment, "PATH": search_path(), "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def processes(self) -> list[psutil.Process]:
        """All that run here."""
        processes = []
        for pid in tool("ip", "netns", "pids", self.namespace).split():
            with contextlib.suppress(psutil.Error):
                processes.append(psutil.Process(int(pid)))
        return processes

    def kill(self) -> None:
        """SIGKILL for all, until none is left."""
        deadline = time.monotonic() + 20
        while alive := self.processes():
            assert time.monotonic() < deadline, alive
            for process in alive:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            time.sleep(0.05)
        while self.started:
            self.started.pop().wait(20)

    def run(self, *words: str) -> None:
        """A command of the system in this machine's network."""
        tool("ip", "netns", "exec", self.namespace, *words)


@dataclass
class Two:
    """Both machines and the link between them."""

    a: Machine
    b: Machine

    @property
    def machines(self) -> tuple[Machine, Machine]:
        """Machine 0, where rank 0 is, and machine 1."""
        return self.a, self.b

    def lose(self) -> None:
        """Cut the link: packets are lost in both directions, without an error."""
        for machine in self.machines:
            machine.run("iptables", "-A", "INPUT", "-i", machine.device, "-j", "DROP")

    def restore(self) -> None:
        """Restore the link."""
        for machine in self.machines:
            machine.run("iptables", "-F", "INPUT")


@contextmanager
def two_machines() -> Iterator[Two]:
    """Make them; at the end all their processes are killed and nothing of them is left."""
    tag = uuid.uuid4().hex[:6]
    subnet = f"10.{77 + os.getpid() % 100}.{int(tag[:2], 16)}"
    machines = [
        Machine(f"padless-{tag}-{side}", f"machine-{side}", f"{subnet}.{rank + 1}", f"pl{tag}{side}", rank)
        for rank, side in enumerate("ab")
    ]
    two = Two(*machines)
    try:
        for machine in two.machines:
            tool("ip", "netns", "add", machine.namespace)
            folder = Path("/etc/netns", machine.namespace)
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {machine.host}\n")
            (folder / "resolv.conf").write_text("")
        tool("ip", "link", "add", two.a.device, "type", "veth", "peer", "name", two.b.device)
        for machine in two.machines:
            tool("ip", "link", "set", machine.device, "netns", machine.namespace)
            tool("ip", "-n", machine.namespace, "addr", "add", f"{machine.address}/24", "dev", machine.device)
            for device in ("lo", machine.device):
                tool("ip", "-n", machine.namespace, "link", "set", device, "up")
        yield two
    finally:
        for machine in two.machines:
            with contextlib.suppress(AssertionError):
                machine.kill()
            quietly("ip", "link", "del", machine.device)  # if it did not come so far as its namespace
            quietly("ip", "netns", "del", machine.namespace)
            shutil.rmtree(Path("/etc/netns", machine.namespace), ignore_errors=True)
        with contextlib.suppress(OSError):
            Path("/etc/netns").rmdir()


def launch_on(
    machine: Machine,
    main: Machine,
    *keys: str,
    log: Path,
) -> subprocess.Popen[str]:
    """``padless train`` on one of two machines, with one process on each."""
    values = {
        "config_file": ROOT / "configs/accelerate/multi_node.yaml",
        "num_machines": 2,
        "machine_rank": machine.rank,
        "num_processes": 2,
        "main_process_ip": main.address,
        "main_process_port": PORT,
    }
    places = (f"--{name}={value}" for name, value in values.items())
    words = [sys.executable, "-m", "padless", "train", *places, *keys]
    return machine.start(*words, log=log)
