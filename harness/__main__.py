# SPDX-License-Identifier: Apache-2.0
"""``python -m harness COMMAND``: everything but the two entry points that run under ``accelerate launch``."""

from __future__ import annotations

import sys
from collections.abc import Callable

from preprocessing import cli


def launch(argv: list[str]) -> int:
    """Train: accelerate launch with checks before it, quiet failures and true exit codes."""
    from harness.launcher import main

    return main(argv)


def predict(argv: list[str]) -> int:
    """Predict raw texts, or every row of a file, with the best weights of a run."""
    from harness.predict import PredictConfig
    from harness.predict import predict as run

    texts, options = leading_texts(argv)
    prog = 'python -m harness predict ["text" …]'
    return run(cli.parse(PredictConfig, options, prog=prog, description=predict.__doc__ or ""), texts)


def leading_texts(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split texts from options, wherever the texts stand: every option but a switch takes the word that follows it."""
    texts: list[str] = []
    options: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            texts += words
        elif word.startswith("--") and len(word) > 2:
            options.append(word)
            if "=" not in word and word not in ("--help", "--print_config", "--json"):
                options += [value for value in [next(words, None)] if value is not None]
        elif word == "-h":
            options.append("--help")
        else:
            texts.append(word)
    return texts, options


def report(argv: list[str]) -> int:
    """Everything known of a run, or of several side by side, in one HTML file."""
    from harness.report import main

    return main(argv)


def plan(argv: list[str]) -> int:
    """Steps, padding, memory and balance of a run, from the manifest alone; --verify proves the order."""
    from harness.plan import main

    return main(argv)


def bench(argv: list[str]) -> int:
    """Measure this machine: recurrence, loader; each beside what people use today."""
    from harness.bench import main

    return main(argv)


def checkpoint(argv: list[str]) -> int:
    """List, verify or compare the checkpoints of a run."""
    from harness.checkpoint_cli import main

    return main(argv)


def doctor(argv: list[str]) -> int:
    """Whether a training would run here: devices, limits, file systems, network; each line ok or what to change."""
    from harness.doctor import main

    return main(argv)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "launch": launch,
    "plan": plan,
    "doctor": doctor,
    "predict": predict,
    "report": report,
    "checkpoint": checkpoint,
    "bench": bench,
}


def main(argv: list[str]) -> int:
    """Dispatch to a command."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m harness COMMAND [options]   (COMMAND --help says more)\n")
        for name, command in COMMANDS.items():
            print(f"  {name:<12} {command.__doc__}")
        print("\n  accelerate launch -m harness.train and -m harness.evaluate are the entry points of every rank.")
        return 0 if argv else 2
    name, rest = cli.choose(COMMANDS, argv, "python -m harness")
    return COMMANDS[name](rest)


if __name__ == "__main__":
    sys.exit(cli.run(main))
