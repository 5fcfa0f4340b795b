# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.full_disks [--json] [--markdown FILE] [--only PATTERN] [--quick]``: a full disk at every write.

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

from tests.full_disks import others
from tests.full_disks.disk import Disk, why_not
from tests.full_disks.scenarios import SCENARIOS, Inputs
from tests.full_disks.sweep import Outcome, Sweep, forked


def preload() -> None:
    """Import what the children need, once; nothing is computed, so that no thread is there to be forked."""
    import importlib

    names = [
        "torch",
        "torch._dynamo",
        "accelerate",
        "pandas",
        "scipy.stats",
        "sklearn.linear_model",
        "safetensors.torch",
    ]
    names += [
        "matplotlib.figure",
        "pyarrow.parquet",
        "torch.profiler",
        "jinja2",
        "onnx",
        "onnxruntime",
        "gensim.models",
    ]
    names += [
        "msgspec",
        "harness.train",
        "harness.training.assembly",
        "harness.report.sinks",
    ]
    names += ["harness.inference.predict", "harness.export.command", "harness.inference.new_rows"]
    names += ["harness.inference.evaluation", "harness.inference.labelling", "preprocessing.job.pipeline"]
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)


def outcomes(folder: Path, only: str = "", *, quick: bool = False) -> Iterator[Outcome]:
    """Every trial of the commands that the pattern ``only`` finds; ``others: NAME`` is one of the other faults."""
    preload()
    inputs = Inputs(folder / "inputs")
    for make in (lambda: inputs.make() and 0, inputs.make_run):
        ended = forked(make, folder)
        assert ended.code == 0, ended.err
    with Disk(folder / "disk") as disk:
        for scenario in SCENARIOS:
            if re.search(only, scenario.name):
                yield from Sweep(scenario, inputs, disk).trials(quick)
        for fault in others.every():
            if re.search(only, f"others: {fault.name}"):
                yield others.outcome(fault, inputs, disk, folder)


def markdown(found: list[Outcome]) -> str:
    """The table for documents."""
    head = "| command | place | disk | exit code | said | again |\n|---|---|---|---|---|---|\n"
    cells = [
        (one.scenario, f"`{one.place}`", one.how, one.code, one.said.replace("|", "\\|"), one.code_again)
        for one in found
    ]
    return head + "".join(f"| {' | '.join(map(str, row))} |\n" for row in cells)


def totals(found: list[Outcome]) -> dict[str, int]:
    """How many places and trials there were, and how many had a fault."""
    places = {(one.scenario, one.place.partition(" (")[0]) for one in found}
    return {"places": len(places), "trials": len(found), "faults": sum(bool(one.faults) for one in found)}


def main(argv: list[str]) -> int:
    """Try all, print what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.full_disks", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown")
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
    if options.markdown:
        Path(options.markdown).write_text(markdown(found).replace(folder, ""), encoding="utf-8")
    return 1 if any(one.faults for one in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
