# SPDX-License-Identifier: Apache-2.0
"""``python -m preprocessing run | check | inspect | bench | fetch-nltk``: from texts to a dataset directory."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from typing import NoReturn

from preprocessing.base.errors import ConfigError

PROG = "python -m preprocessing"
USAGE = f"""usage: {PROG} COMMAND [options]; COMMAND --help tells more

  run         --config FILE --output D [--any.key value]   build a dataset directory
  check D                                                  verify every byte of a dataset
  inspect D   [--json] [--plot FILE.png]                   what is in a dataset, and how good it is
  bench       [--json] [--source.path X]                   documents per second, beside what people use today
  fetch-nltk  [--dir D]                                    download the NLTK data that some options need

exit codes: 0 done, 1 the machine failed, 2 the configuration or the command is wrong, 3 the data is wrong
"""


class Options(argparse.ArgumentParser):
    """A parser whose errors are sentences."""

    def __init__(self, command: str, description: str) -> None:
        """The options of one command."""
        super().__init__(prog=f"{PROG} {command}", description=description, allow_abbrev=False)
        self.command = command

    def error(self, message: str) -> NoReturn:
        """Raises ``ConfigError``."""
        raise ConfigError(f"{self.command}: {message}; {self.prog} --help lists what there is")


def run(argv: list[str]) -> int:
    """Build a dataset."""
    from preprocessing.base import cli
    from preprocessing.config import PreprocessConfig
    from preprocessing.job import pipeline

    description = "Build a dataset directory from labelled texts; run it again to continue after an interruption."
    config = cli.parse(PreprocessConfig, argv, prog=f"{PROG} run", description=description)
    manifest = pipeline.run(config)
    print(f"{config.output}: {pipeline.summary_line(manifest)}, vocabulary {manifest.vocabulary_size:,}")
    return 0


def check(argv: list[str]) -> int:
    """Verify a dataset."""
    options = Options("check", "Verify every byte of a dataset; each problem is a line, and the exit code is 3.")
    options.add_argument("dataset", help="dataset directory")
    address = options.parse_args(argv).dataset

    from preprocessing.dataset import remote
    from preprocessing.dataset.shards import read_manifest, verify
    from preprocessing.job.pipeline import summary_line

    root = remote.local(address)
    problems = verify(root)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        return 3
    print(f"ok: {address}: {summary_line(read_manifest(root))}")
    return 0


def inspect(argv: list[str]) -> int:
    """Show what is in a dataset."""
    options = Options(
        "inspect", "Label balance, lengths, truncation, unknown tokens, padding, duplicates, sample rows."
    )
    options.add_argument("dataset", help="dataset directory")
    options.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    options.add_argument("--plot", metavar="FILE.png", help="draw lengths, ladder, balance, unknown rate and padding")
    options.add_argument("--samples", type=int, default=2, help="rows of each split to read back (default 2)")
    chosen = options.parse_args(argv)

    from preprocessing.dataset import remote
    from preprocessing.dataset.inspect import inspect, plot, render

    found = inspect(remote.local(chosen.dataset), max(chosen.samples, 0))
    print(json.dumps(found, indent=2, ensure_ascii=False) if chosen.json else render(found))
    if chosen.plot:
        plot(found, chosen.plot)
    return 0


def bench(argv: list[str]) -> int:
    """Measure documents per second beside what people use today."""
    options = Options(
        "bench",
        "Documents per second of this configuration, beside pandas + NLTK, HF tokenizers, CountVectorizer and others "
        "when installed: one core each, alternating, medians. Takes --config and every key of run (--source.path X).",
    )
    options.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options.add_argument("--rounds", type=int, default=3, help="rounds to take the median of (default 3)")
    options.add_argument("--texts", type=int, default=25_000, help="texts to read at most (default 25000)")
    chosen, rest = options.parse_known_args(argv)

    from preprocessing.base import cli
    from preprocessing.config import PreprocessConfig
    from preprocessing.corpus.readers import first_texts
    from preprocessing.job.bench import render, run_bench

    config = cli.parse(PreprocessConfig, [*rest, "--output", "unused"], prog=options.prog)
    texts = first_texts(config.source, config.splits, max(chosen.texts, 1))
    result = run_bench(texts, config.text, max(chosen.rounds, 1))
    print(json.dumps(result, indent=2, ensure_ascii=False) if chosen.json else render(result))
    return 0


def fetch_nltk(argv: list[str]) -> int:
    """Download NLTK's data."""
    options = Options(
        "fetch-nltk", "Download NLTK's stop words, WordNet and sentence models; nothing else ever downloads."
    )
    options.add_argument("--dir", help="where to put it; set NLTK_DATA to it afterwards (default: NLTK's own choice)")
    options.add_argument("--index", metavar="URL", help="index.xml of a mirror")
    chosen = options.parse_args(argv)

    from preprocessing.text.fetch import fetch_nltk

    print(f"fetch-nltk: all there, in {fetch_nltk(chosen.dir, chosen.index)}")
    return 0


COMMANDS = {"run": run, "check": check, "inspect": inspect, "bench": bench, "fetch-nltk": fetch_nltk}


def main(argv: list[str]) -> int:
    """Dispatch one command. Raises ``ConfigError`` for an unknown one, naming the nearest."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise ConfigError(f"{argv[0]!r} is no command; {hint}")
    return COMMANDS[argv[0]](argv[1:])


if __name__ == "__main__":  # worker processes import this module too, and need no command line
    from preprocessing.base.cli import run as run_cli

    sys.exit(run_cli(main))
