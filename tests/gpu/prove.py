# SPDX-License-Identifier: Apache-2.0
"""Prove what only a card can show: ``python tests/gpu/prove.py --out DIR [--device cuda] [--cards N] [--stages a,b]``.

One card is enough: two ranks share it then, over gloo. With ``--cards N`` N ranks take one each, over NCCL. After two
minutes it is known whether each path is right, whether it trains, and how fast it is; ``--write`` puts these lines into
docs/how-to/gpu-machine.md.

It takes at most ten minutes, makes its own data, and needs no network. Each stage runs in a process of its own within
a limit of its own and writes what it finds to ``DIR/stages/NAME.json`` at once. When one crashes or hangs, the others
go on. ``DIR/prove.json`` has everything, ``DIR/prove.md`` is the table; both are written anew after each stage. The
exit code is 0 if every claim holds. Stages that measure time run alone, the others side by side.

It wants Python 3.10 or later (3.12 was in mind), and at its start names the packages that are missing and the command
that installs them (``--no-index --find-links WHEELS`` on a machine without a network), and what Triton needs to build
its launcher. Nothing here imports nltk, simplemma, stop-words or matplotlib. Without matplotlib a run says that it
writes no report. Logs of stages that fail lie in ``DIR/logs``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
PACKAGES = {"yaml": "pyyaml", "sklearn": "scikit-learn"} | {
    name: name
    for name in (
        *("torch", "accelerate", "pyarrow", "numpy", "pandas", "safetensors", "pytest", "psutil", "jinja2", "msgspec"),
        *("threadpoolctl", "scipy", "joblib", "rich", "cloudpickle", "hypothesis", "narwhals"),
    )
}
"""Module -> its package: all that the stages import."""


def missing(device: str) -> list[str]:
    """What has to be installed first, in sentences."""
    packages = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    said = [f"packages are missing: {sys.executable} -m pip install {' '.join(packages)}"] if packages else []
    if device == "cuda" and not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        said.append("Triton needs a C compiler: apt-get install gcc, or set CC")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if device == "cuda" and not header.is_file():
        said.append(f"Triton needs Python's headers, {header}: apt-get install python3-dev")
    return said


if __name__ == "__main__" and (wanting := missing("cpu" if "cpu" in sys.argv else "cuda")):
    sys.exit("\n".join(wanting))

from tests.gpu.findings import Findings, markdown  # noqa: E402 - the path comes first
from tests.gpu.launching import finish  # noqa: E402
from tests.gpu.stages import STAGES, Stage  # noqa: E402

LIMIT_S = 580
"""What all takes at most; ten minutes with the start of Python and the making of data."""
PAGE, BEGIN, END = ROOT / "docs/how-to/gpu-machine.md", "<!-- proof -->", "<!-- end of the proof -->"
LEAST_S = 8
"""A stage that has less than this is not begun."""
ROWS = {
    "cuda": {"train": 20_000, "validation": 1_000, "test": 1_000},
    "cpu": {"train": 640, "validation": 64, "test": 64},
}


class Proof:
    """The stages, their processes, and what is known so far."""

    def __init__(self, out: Path, scratch: Path, device: str, stages: list[Stage], cards: int = 1) -> None:
        """``out`` gets the results, ``scratch`` runs and logs."""
        self.out, self.scratch, self.device, self.stages, self.cards = out, scratch, device, stages, cards
        self.deadline = time.monotonic() + LIMIT_S
        self.found: dict[str, Findings] = {}
        self.lock = threading.Lock()
        (out / "stages").mkdir(parents=True, exist_ok=True)

    def run(self) -> int:
        """Run all; how many claims do not hold."""
        together = [] if self.device == "cpu" else [stage for stage in self.stages if not stage.alone]
        leading = self.stages[:1] if self.stages[0].alone else []
        for stage in leading:
            self.stage(stage)
        threads = [threading.Thread(target=self.stage, args=(stage,)) for stage in together]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for stage in self.stages:
            if stage not in together + leading:
                self.stage(stage)
        return sum(found.failures for found in self.found.values())

    def stage(self, stage: Stage) -> None:
        """Run one in a process of its own; never raises because of what it does."""
        path = self.out / "stages" / f"{stage.name}.json"
        path.unlink(missing_ok=True)
        patience = 3 if self.device == "cpu" else 1  # no device is held meanwhile, and other work may share the cores
        limit_s = min(patience * stage.limit_s, self.deadline - time.monotonic())
        if limit_s < LEAST_S:
            self.keep(stage, Findings(path, state="not run", error="no time left"))
            return
        started = time.monotonic()
        where = (self.out, self.scratch / stage.name, self.scratch / "data")
        with (self.out / "stages" / f"{stage.name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.gpu.stages", stage.name, *map(str, where), self.device, str(self.cards)],
                cwd=ROOT,
                env=environment(self.device),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code = finish(process, limit_s)
        found = Findings.read(path)
        if code or found.state == "running":
            found.state = "timed out" if code == -signal.SIGKILL else "failed"
            found.error = found.error or f"exit code {code}, of a limit of {limit_s:.0f} s"
        found.seconds = time.monotonic() - started
        found.write()
        if found.failures:
            for log in (self.scratch / stage.name).rglob("*.log"):
                target = self.out / "logs" / stage.name / log.relative_to(self.scratch / stage.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(log, target)
        self.keep(stage, found)

    def keep(self, stage: Stage, found: Findings) -> None:
        """Take up what a stage found, and write all that is known."""
        with self.lock:
            self.found[stage.name] = found
            known = [(one.title, self.found[one.name]) for one in self.stages if one.name in self.found]
            (self.out / "prove.md").write_text(markdown(self.device, known), encoding="utf-8")
            values = {name: asdict(one) | {"path": one.path.name} for name, one in self.found.items()}
            (self.out / "prove.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
            print(f"{stage.title}: {found.state} after {found.seconds:.0f} s, {found.failures} failures", flush=True)


def environment(device: str) -> dict[str, str]:
    """What a stage inherits: this tree, and no card where none is asked for."""
    hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "passive"} if device == "cpu" else {}
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", **hidden}


def write_into(page: Path, table: str) -> None:
    """Replace what stands between the marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    assert rest.count(END) == 1, f"{page} has no place for a table"
    page.write_text(f"{before}{BEGIN}\n{table}{END}{after}", encoding="utf-8")


def of_torch(expression: str) -> str:
    """What torch says of the cards, asked in a process of its own, since this one is to hold nothing of them."""
    asked = [sys.executable, "-c", f"import torch; print(torch.cuda.{expression})"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def main(argv: list[str]) -> int:
    """Parse, make data, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--cards", type=int, default=1, metavar="N", help="cards for trainings of several ranks")
    parser.add_argument("--write", action="store_true", help="put the lines of the first stage into the documentation")
    parser.add_argument("--stages", default=",".join(stage.name for stage in STAGES), help="names, with commas")
    options = parser.parse_args(argv)
    wanted = options.stages.split(",")
    unknown = sorted(set(wanted) - {stage.name for stage in STAGES})
    if unknown:
        parser.error(f"--stages: {', '.join(unknown)}: no such stage; there are {', '.join(s.name for s in STAGES)}")
    if options.device == "cuda" and (seen := int(of_torch("device_count()"))) < options.cards:
        parser.error(
            f"{seen} CUDA devices are visible to torch, not {options.cards}; --device cpu tries the script itself"
        )
    from tests.gpu.corpus import write_corpus

    with tempfile.TemporaryDirectory(prefix="padless-proof-") as folder:
        out = options.out.resolve()
        stages = [stage for stage in STAGES if stage.name in wanted]
        proof = Proof(out, Path(folder), options.device, stages, options.cards)
        write_corpus(Path(folder, "data"), ROWS[options.device])
        failures = proof.run()
    if options.write:
        name = "cpu" if options.device == "cpu" else of_torch("get_device_name()")
        write_into(PAGE, markdown(name, [(stages[0].title, proof.found[stages[0].name])]))
    print((out / "prove.md").read_text(encoding="utf-8"))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
