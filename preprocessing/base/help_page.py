# SPDX-License-Identifier: Apache-2.0
"""The pages of ``--help``: the first screen has the most important keys and an example.

``--help all``, ``--help model`` (a group) and ``--help optim.lr`` (a key) show more. The texts are the docstrings of
the fields. For an unknown name, ``suggestion`` gives the key that other tools call so, or the nearest name. Names of
other tools are not accepted as aliases, since they seldom mean the same: their ``--batch_size`` counts rows of one
process, ``--global_batch`` rows over all processes.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from preprocessing.base.configuration import Option, choices_of, groups_of, names, options_of
from preprocessing.base.errors import ConfigError
from preprocessing.base.terminal import wrapped

WIDEST = 100
"""Longer lines are hard to read, whatever the terminal's width."""
INDENT = 31
"""Column where the texts begin."""
ALL = "all"
"""The topic with all keys."""


@dataclass(frozen=True)
class Page:
    """The first screen of a command."""

    usage: str
    first: tuple[str, ...] = ()
    """The most important keys; none: all."""
    example: str = ""
    """A complete command."""


def render(page: Page, topic: str, config_class: type, values: Mapping[str, Any]) -> str:
    """The first screen, or the page of a ``topic``: all keys, a group or a key. Raises ``ConfigError`` for another.

    ``values`` replace defaults.
    """
    options, groups = options_of(config_class), groups_of(config_class)

    def described(title: str, keys: Iterable[str]) -> str:
        lines = [
            block(f"--{key} {_default(values.get(key, options[key].default))}", _text(options[key])) for key in keys
        ]
        return "\n".join([title, *lines] if title else lines)

    if topic := topic.removeprefix("--"):
        found = [key for key in options if topic in (ALL, key, *key.split("."))]
        if not found and topic != ALL:
            hint = suggestion(topic, {*groups, *options}, dashes="--help ")
            raise ConfigError(f"--help {topic}: neither a key nor a group of keys{hint}")
        about = (groups[topic].__doc__ or "").partition("\n\n")[0] if topic in groups else ""
        return described(paragraph(f"{topic}: {about}") if about else "", found)
    output = getattr(config_class, "OUTPUT", "output")
    kind = getattr(config_class, "RECIPES", "")
    recipe = f", or a recipe: {', '.join(names(kind))}" if kind else ""
    more = {
        "-o PATH": f"the same as --{output}" if output in options else "",
        f"--help {ALL}": f"all {len(options)} keys; --help KEY: one",
        "--help GROUP": ", ".join(groups),
        "--config FILE": f"a YAML file with any of the keys{recipe}; keys beside it win",
        "--print_config": "print the resulting configuration",
    }
    blocks = [
        "\n".join(wrapped(f"usage: {page.usage}", width(), 7)),
        paragraph(config_class.__doc__ or ""),
        f"for example:\n  {page.example}" if page.example else "",
        described("the most important keys, with their defaults:", page.first or options) if options else "",
        "\n".join(["more:", *(block(name, what, 21) for name, what in more.items() if what)]),
    ]
    return "\n\n".join(filter(None, blocks))


def block(name: str, text: str, column: int = INDENT) -> str:
    """``name``, and ``text`` beside it, from ``column`` on."""
    return "\n".join(wrapped(text, width(), column, first=f"  {name} ".ljust(column)))


def plain(text: str) -> str:
    """A docstring in one line, without the markup of reStructuredText; code in single backticks gets single quotes."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "").replace("`", "'")
    return " ".join(text.split())


def paragraph(text: str) -> str:
    """A docstring as wrapped paragraphs, without markup."""
    return "\n".join(line for part in text.split("\n\n") for line in wrapped(plain(part), width(), 0))


def width() -> int:
    """Characters per line: the terminal's, or 80."""
    return min(shutil.get_terminal_size((80, 24)).columns, WIDEST)


def _text(option: Option) -> str:
    """The text of a key, with its choices unless the text names them all."""
    text, words = plain(option.text), choices_of(option.kind)
    return text if all(word in text for word in words) else f"{text} ({', '.join(words)})"


def _default(value: Any) -> str:
    """A default as it is written in YAML."""
    if isinstance(value, str):
        return value or "''"
    return "…" if value is MISSING else json.dumps(value)


ELSEWHERE = {
    "global_batch": "batch_size per_device_train_batch_size train_batch_size",
    "batch": "batch_size per_device_eval_batch_size eval_batch_size",
    "micro_batch": "gradient_accumulation_steps accumulate_grad_batches",
    "optim.lr": "learning_rate",
    "optim.clip_norm": "max_grad_norm clipnorm gradient_clip_val",
    "epochs": "num_epochs num_train_epochs max_epochs max_steps",
    "patience": "early_stopping_patience",
    "precision": "fp16 bf16 mixed_precision",
    "num_processes": "gpus num_gpus gpu devices n_gpu nproc_per_node world_size",
    "device": "cpu cuda gpus num_gpus gpu devices n_gpu",
    "tracking.tracker": "wandb report_to logger",
    "threads": "num_threads n_jobs num_workers",
    "init.weights": "model_name_or_path pretrained",
    "source.text_column": "text_column text_col text column",
    "text.max_tokens": "max_length max_len max_seq_length",
    "vocabulary.min_count": "min_freq min_df",
    "folds": "n_splits n_folds cv",
    "seed": "random_state random_seed",
}
"""Our key -> its names in scikit-learn, Keras and Hugging Face, if ``nearest`` does not find it. If several keys have a
name, the first that the command takes is suggested."""
REMARKS = {
    "global_batch": " (rows an optimizer step over all processes)",
    "micro_batch": " (most rows a process holds at once; the rest of global_batch is accumulated)",
    "num_processes": " (one process for each GPU)",
}
"""Our key -> how it differs from other tools."""


def suggestion(name: str, known: Collection[str], dashes: str) -> str:
    """The end of a sentence about an unknown key: ``; it is --global_batch here (…)`` or ``; did you mean …?``."""
    last = name.rpartition(".")[2].replace("-", "_").lower()
    meant = [here for here, names in ELSEWHERE.items() if last in names.split()]
    if here := next(filter(known.__contains__, meant), None):
        return f"; it is {dashes}{here} here{REMARKS.get(here, '')}"
    if near := nearest(name, known):
        return f"; did you mean {dashes}{near}?"
    return f"; {meant[0]} is a key of other commands" if meant else "; --help all lists them"


def beside(path: str | Path) -> str:
    """``; did you mean data/mine?``, with the nearest name in the folder of a path that does not exist, or nothing."""
    place = Path(path)
    there = {one.stem: one.name for one in place.parent.glob(f"*{place.suffix}") if one.exists()}
    near = nearest(place.stem, there)
    return f"; did you mean {place.with_name(there[near])}?" if near else ""


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name whose last part is most similar to that of a name."""
    parts = {one.rpartition(".")[2]: one for one in sorted(known)}
    found = difflib.get_close_matches(name.rpartition(".")[2], parts, 1)
    return parts[found[0]] if found else None
