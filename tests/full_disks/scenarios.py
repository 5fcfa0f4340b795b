# SPDX-License-Identifier: Apache-2.0
"""The commands whose writes are tried one by one, each with small inputs that lie on a disk with room."""

from __future__ import annotations

import gzip
import importlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.__main__ import main as harness
from preprocessing.__main__ import main as preprocessing
from preprocessing.base import cli
from tests.bundles import write_run
from tests.commands import PLAIN
from tests.corpora import reviews, write_csv
from tests.datasets import write_dataset, write_random_soft_labels

SMALL = ("--text.max_tokens", "64", "--vocabulary.min_count", "1", "--executor.workers", "1", "--shards.rows", "60")
MODEL = ("--model.embedding_dim", "8", "--model.hidden_size", "8", "--model.wide", "64", "--optim.ema", "0.9")
TRAINING = (*PLAIN, *MODEL, "--epochs", "2", "--global_batch", "16", "--precision", "fp32", "--device", "cpu")
SAVING = ("--checkpoint.every_steps", "6", "--tracking.log_every", "3", "--timeout_s", "60", "--stage_dir", "none")


@dataclass(frozen=True)
class Inputs:
    """What the commands read; all of it lies on a disk with room."""

    root: Path

    def __getattr__(self, name: str) -> str:
        """The path of an input."""
        if name.startswith("_"):
            raise AttributeError(name)
        return str(self.root / name)

    def make(self) -> Inputs:
        """Write them."""
        self.root.mkdir(parents=True, exist_ok=True)
        rows = [(text, label, f"g{number % 40}") for number, (text, label) in enumerate(reviews(160))]
        write_csv(self.root / "plain.csv", rows, header=("text", "label", "group"))
        (self.root / "packed.csv.gz").write_bytes(gzip.compress((self.root / "plain.csv").read_bytes()))
        (self.root / "plain.csv").rename(self.root / "plain")
        shutil.copy(self.root / "plain", self.root / "new.csv")
        write_csv(self.root / "more.csv", [(text,) for text, _ in reviews(70, seed=2)], header=("text",))
        write_dataset(self.root / "data", {"train": 150, "validation": 40, "test": 30, "unlabelled": 30})
        write_random_soft_labels(self.root / "data", "given")
        write_run(self.root / "made")
        shutil.move(self.root / "made" / "run", self.root / "bundle")
        shutil.move(self.root / "made" / "data", self.root / "its")
        return self

    def make_run(self) -> int:
        """A finished training, for the commands that read one; its exit code."""
        return train(("--data", self.data, "--run", str(self.root / "run")))


Act = Callable[[Inputs, Path], int]


@dataclass(frozen=True)
class Scenario:
    """A command, with its output on the small disk."""

    name: str
    act: Act
    before: Act | None = None
    """What lies on the disk already: made with room, outside of the trial."""
    only_said: tuple[str, ...] = ()
    """Places without which the command still does what it is for: a warning and exit code 0 are right."""
    only: str = ""
    """The places that are tried, where others are another scenario's."""
    changing: tuple[str, ...] = ()
    """Files whose bytes are never the same twice: times, addresses, speeds."""


def of(main: Callable[[list[str]], int], *words: str) -> Act:
    """A command line; ``{NAME}`` is an input and ``DISK`` the small disk."""

    def act(inputs: Inputs, disk: Path) -> int:
        known = [getattr(inputs, word[1:-1]) if word[:1] == "{" else word.replace("DISK", str(disk)) for word in words]
        return cli.run(main, known)

    return act


def train(more: tuple[str, ...], *, report: bool = False, module: str = "harness.train") -> int:
    """A training of one process, in this one; leaves the process. Half of its time would be that of its report."""
    from harness.ranks.stopping import leave, run_rank
    from harness.report import sinks

    if not report:
        sinks.write_report_quietly = lambda run: None
    entry = importlib.import_module(module)
    sys.argv = [module, *TRAINING, *SAVING, *more]
    leave(run_rank(entry.main))


def training(*more: str, report: bool = False) -> Act:
    """A training whose run directory lies on the small disk."""

    def act(inputs: Inputs, disk: Path) -> int:
        own = [word.replace("DISK", str(disk)) for word in more]
        return train(("--data", inputs.data, "--run", str(disk / "run"), *own), report=report)

    return act


def pretraining(inputs: Inputs, disk: Path) -> int:
    """A language model whose run directory lies on the small disk."""
    words = ("--data", inputs.data, "--run", str(disk / "run"), "--language_model.candidates", "20")
    return train((*words, "--model.wide", "0"), module="harness.pretrain")


def copied_data(inputs: Inputs, disk: Path) -> int:
    """A dataset that is changed where it lies."""
    shutil.copytree(inputs.data, disk / "data")
    return 0


def store(inputs: Inputs, disk: Path) -> int:
    """The folders of a place to publish to: an object store needs none, this file system does."""
    for split in ("train", "validation", "test"):
        (disk / "store" / split).mkdir(parents=True)
    return 0


CPU = ("--device", "cpu", "--quiet")
PREPARE = ("run", "--source.path", "{packed.csv.gz}", *SMALL)
RICH = ("--splits.group_column", "group", "--splits.folds", "2", "--source.unlabelled_path", "{more.csv}")
SOFT = ("--output", "DISK/soft.arrow")
TO_STORE = ("--staging", "DISK/staging", "--output", "local://DISK/store")
PREDICT = ("predict", "--run", "{bundle}", "--processes", "1", "--part_mb", "0.02", *CPU)
EVALUATE = ("evaluate", "--run", "{run}", "--output", "DISK/e", "--device", "cpu")
TIMES = (r"attempts\.jsonl", r"environment\.json", r"throughput\.jsonl", r"/(state|manifest)\.json", r"config\.yaml")
REPORTS = ("report",)
RUN = ("run/",)
SCENARIOS = (
    Scenario("preprocessing", of(preprocessing, *PREPARE, *RICH, "--source.part_mb", "0.02", "--output", "DISK/out")),
    Scenario(
        "preprocessing over another",
        of(preprocessing, *PREPARE, "--output", "DISK/out", "--overwrite", "--seed", "1"),
        before=of(preprocessing, *PREPARE, "--output", "DISK/out"),
    ),
    Scenario("publication", of(preprocessing, *PREPARE, *TO_STORE), before=store, only="store"),
    Scenario(
        "vectors",
        of(preprocessing, "vectors", "{data}", "--output", "DISK/vectors", "--dim", "8", "--epochs", "1"),
        changing=(r"vectors/cbow-.*\.json",),
    ),
    Scenario("inspect", of(preprocessing, "inspect", "{data}", "--plot", "DISK/plot.png")),
    Scenario("training", training(), changing=TIMES),
    Scenario("a training's report", training(report=True), only="report", only_said=REPORTS, changing=RUN),
    Scenario("profile", training("--profile", "[2,3]"), only="profile", only_said=("profile",), changing=RUN),
    Scenario("pretraining", pretraining, only="run/bundle", changing=RUN),
    Scenario("staging", training("--stage_dir", "DISK/stage"), only="stage/", only_said=REPORTS, changing=RUN),
    Scenario(
        "baseline",
        of(harness, "baseline", "--data", "DISK/data"),
        before=copied_data,
        only_said=("baseline",),
        changing=("baseline/",),
    ),
    Scenario("evaluation", of(harness, *EVALUATE, "--data", "{data}")),
    Scenario("evaluation of new rows", of(harness, *EVALUATE, "--input", "{packed.csv.gz}")),
    *(
        Scenario(f"prediction {kind}", of(harness, *PREDICT, "--input", source, "--output", f"DISK/{output}"))
        for kind, source, output in (
            ("of a file", "{new.csv}", "out.csv"),
            ("into a folder", "{packed.csv.gz}", "out/"),
            ("into Parquet", "{packed.csv.gz}", "out.parquet"),
        )
    ),
    Scenario(
        "explanation",
        of(harness, "explain", "{bundle}", "--input", "{new.csv}", "--rows", "3", "--output", "DISK/e.html", *CPU),
    ),
    *(
        Scenario(f"soft labels of {whom[0]}", of(harness, "label", *whom, "--data", "{data}", *SOFT, *CPU))
        for whom in (("--run", "{run}"), ("--baseline",))
    ),
    Scenario(
        "export",
        of(harness, "export", "{run}", "--output", "DISK/x", "--onnx", "--int8", "--quiet"),
        changing=(r"export\.json", r"README\.md"),
    ),
    Scenario("report", of(harness, "report", "{run}", "--output", "DISK/r.html"), changing=(r"r\.html",)),
    Scenario("recipes", of(harness, "recipes", "imdb", "--output", "DISK/configs")),
)
