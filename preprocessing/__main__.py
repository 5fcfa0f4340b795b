# SPDX-License-Identifier: Apache-2.0
"""``python -m preprocessing run | check | inspect | bench | fetch-nltk``: from texts to a dataset directory."""

from __future__ import annotations

import difflib
import sys

from preprocessing import cli
from preprocessing.errors import ConfigError

PROG = "python -m preprocessing"
USAGE = f"""usage: {PROG} COMMAND [options]

  run         --config FILE --output D [--any.key value]   build a dataset directory (run --help lists every key)
  check D                                                  verify every byte of a dataset
  inspect D   [--json] [--plot FILE.png]                   what is in a dataset, and how good it is
  bench       [--json] [--source.path X]                   documents per second, beside what people use today
  fetch-nltk  [--dir D]                                    download the NLTK data that some options need

exit codes: 0 done, 1 the machine failed, 2 the configuration or the command is wrong, 3 the data is wrong
"""


def run_command(argv: list[str]) -> int:
    """Build a dataset."""
    from preprocessing.config import PreprocessConfig
    from preprocessing.pipeline import run, summary_line

    description = "Build a dataset directory from labelled texts; run it again to continue after an interruption."
    config = cli.parse(PreprocessConfig, argv, prog=f"{PROG} run", description=description)
    manifest = run(config)
    print(f"{config.output}: {summary_line(manifest)}, vocabulary {manifest.vocabulary_size:,}")
    return 0


def check_command(argv: list[str]) -> int:
    """Verify a dataset."""
    from preprocessing.pipeline import summary_line
    from preprocessing.shards import read_manifest, verify

    root = only_argument(argv, "check")
    problems = verify(root)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        return 3
    print(f"ok: {root}: {summary_line(read_manifest(root))}")
    return 0


def only_argument(argv: list[str], command: str) -> str:
    """The dataset directory that a command is given."""
    if len(argv) != 1 or argv[0].startswith("-"):
        raise ConfigError(f"{command}: expected one dataset directory, as in {PROG} {command} D")
    return argv[0]


COMMANDS = {"run": run_command, "check": check_command}


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


if __name__ == "__main__":
    sys.exit(cli.run(main))
