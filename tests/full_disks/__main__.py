# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.full_disks [--json] [--only PATTERN] [--quick]``: a full disk at every write.

Needs root, to mount a small tmpfs. Prints a line for each trial and the totals; exit code 1 if any trial has a fault.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tests.full_disks.disk import Disk, why_not
from tests.full_disks.scenarios import SCENARIOS, Inputs
from tests.full_disks.sweep import Outcome, Sweep, forked


def preload() -> None:
    """Import what the children need, once; nothing is computed, so that no thread is there to be forked."""
    import importlib

    names = "torch torch._dynamo accelerate pandas scipy.stats sklearn.linear_model safetensors.torch matplotlib.figure"
    names += " pyarrow.parquet torch.profiler jinja2 onnx onnxruntime gensim.models msgspec harness.train"
    names += " harness.training.assembly harness.report.sinks harness.inference.predict harness.export.command"
    names += " harness.inference.new_rows harness.inference.evaluation harness.inference.labelling"
    names += " preprocessing.job.pipeline"
    for name in names.split():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)


def outcomes(folder: Path, only: str = "", *, quick: bool = False) -> Iterator[Outcome]:
    """Every trial of the commands that the pattern ``only`` finds."""
    preload()
    inputs = Inputs(folder / "inputs")
    for make in (lambda: inputs.make() and 0, inputs.make_run):
        ended = forked(make, folder)
        assert ended.code == 0, ended.err
    with Disk(folder / "disk") as disk:
        for scenario in SCENARIOS:
            if re.search(only, scenario.name):
                yield from Sweep(scenario, inputs, disk).trials(quick)


def totals(found: list[Outcome]) -> dict[str, int]:
    """How many places and trials there were, and how many had a fault."""
    places = {(one.scenario, one.place.partition(" (")[0]) for one in found}
    return {"places": len(places), "trials": len(found), "faults": sum(bool(one.faults) for one in found)}


def main(argv: list[str]) -> int:
    """Try all, print what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.full_disks", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", default="", help="a pattern")
    parser.add_argument("--quick", action="store_true", help="one trial a place")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the small disk is taken away then, too
    found = []
    with tempfile.TemporaryDirectory() as folder:
        if reason := why_not(Path(folder)):
            print(f"nothing tried: {reason}", file=sys.stderr)
            return 2
        for one in outcomes(Path(folder), options.only, quick=options.quick):
            found.append(one)
            if not options.json:
                text = f"{one.scenario}: {one.place}: {one.how}: {one.code} {one.said}"
                print(text.replace(folder, ""), *(f"\n    FAULT {fault}" for fault in one.faults), flush=True)
    if options.json:
        print(json.dumps({**totals(found), "trials_of": [asdict(one) for one in found]}, indent=2))
    else:
        print(totals(found))
    return 1 if any(one.faults for one in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
