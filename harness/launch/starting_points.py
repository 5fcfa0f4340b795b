# SPDX-License-Identifier: Apache-2.0
"""What there is to start from: ``padless recipes`` lists and copies recipes, ``padless init FILE`` writes a
configuration for a file of texts, ``padless runs`` lists runs, ``padless checkpoint RUN`` says from which steps one can
go on.
"""

from __future__ import annotations

import contextlib
import json
import textwrap
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml

from harness.config import LaunchRecipe, flat, to_dict
from harness.rundir import checkpoint, layout
from harness.rundir.json_files import MOST_LINES
from harness.rundir.metrics_log import parse_row
from harness.rundir.records import is_free, known_status, read_config
from harness.rundir.results import read_figures
from harness.scores.figures import CHOSEN_BY
from preprocessing.base import atomic, cli, configuration
from preprocessing.base.atomic import storing
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.help_page import beside, nearest, plain
from preprocessing.base.split_names import TEST
from preprocessing.base.terminal import Column, Screen, counted, public_values, size, table
from preprocessing.base.untrusted import listed, read_bytes
from preprocessing.config import EMBEDDED, PreprocessConfig, SourceConfig, SplitConfig
from preprocessing.corpus import columns, sources
from preprocessing.corpus.tables import sample
from preprocessing.dataset.shards import MANIFEST
from preprocessing.labels import as_found

EVERY = "all"
ASKED = (
    *("output", "source.path", "source.text_column", "source.label_column", "source.labels", "text.max_tokens"),
    *("splits.validation", "splits.test", "splits.column", "splits.group_column", "splits.time_column"),
)
"""Keys of ``prepare`` that are written for any file."""
MEASURED = ("validation", "test")
MAIN = ("accuracy", "perplexity")
"""The figure of a run, by its task."""
RUN_COLUMNS = (
    Column("run", right=False),
    Column("data", right=False, weight=1, shrinks=True),
    Column("step", weight=2),
    Column("validation", "val acc"),
    Column("test", "test acc"),
    Column("changed", right=False),
    Column("state", right=False),
)
NAME_CELLS = 18
"""Cells of the column of names."""


@dataclass(frozen=True, kw_only=True)
class RecipesConfig:
    """List the recipes that come with padless, or copy the named ones, to change them.

    --config takes a name in any folder; copy a recipe only to change it. A name that several kinds have means all of
    them, train/NAME one of them, and all means every recipe.
    """

    SUBJECT = ("names",)
    names: list[str] = field(default_factory=list)
    """Recipes to copy; none: list them."""
    output: str = "configs"
    """Folder to copy to; each recipe keeps its kind, as in configs/train/imdb.yaml."""
    overwrite: bool = False
    """Replace a file that has been changed."""
    json: bool = False
    """Print the list as JSON."""


def recipes(config: RecipesConfig) -> None:
    """List, or copy what was named."""
    known = {
        f"{kind}/{name}": configuration.file_of(kind, name)
        for kind in configuration.KINDS
        for name in configuration.names(kind)
    }
    if config.names:
        chosen = [path for name in config.names for path in paths_named(name, known)]
        copy({Path(config.output, path + configuration.ENDING): known[path] for path in chosen}, config.overwrite)
        return
    listed = [
        {"kind": kind, "name": name, "path": str(file), "about": about(file)}
        for (kind, _, name), file in ((path.partition("/"), file) for path, file in known.items())
    ]
    if config.json:
        print(json.dumps(listed, indent=2))
        return
    screen = Screen()
    for kind, where in configuration.KINDS.items():
        screen.write([f"{kind}: {where}"], "head")
        for one in listed:
            if one["kind"] == kind:
                screen.fact(f"  {one['name']}", one["about"], indent=NAME_CELLS)
    screen.say("padless recipes NAME copies one to configs/, to change it")


def about(file: Path) -> str:
    """The first sentence of the comment at the head of a recipe."""
    head = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    return " ".join(line.lstrip("# ") for line in head).partition(". ")[0].rstrip(".") + "."


def paths_named(word: str, known: Collection[str]) -> list[str]:
    """The recipes, as in ``train/imdb``, that a word names. Raises ``ConfigError`` with the nearest name, or all."""
    wanted = word.removesuffix(configuration.ENDING)
    found = [path for path in known if wanted in (path, path.partition("/")[2]) or wanted == EVERY]
    if not found:
        names = sorted({path.partition("/")[2] for path in known})
        near = nearest(wanted.rpartition("/")[2], names)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(names)}"
        raise ConfigError(f"{word}: padless has no recipe of that name; {hint}")
    return found


@dataclass(frozen=True, kw_only=True)
class TutorialConfig:
    """Write the tutorial's files, to try padless on: messages.csv to learn from, later.csv to evaluate on."""

    output: str = "."
    """Folder to write to."""
    overwrite: bool = False
    """Replace other files of these names."""


def tutorial(config: TutorialConfig) -> None:
    """``padless tutorial``: write the two files."""
    shipped = sorted(Path(sources.__file__).parent.glob("*.csv"))
    copy({Path(config.output, file.name): file for file in shipped}, config.overwrite)
    Screen().say(f"next: padless prepare {Path(config.output, 'messages.csv')} -o data/messages")


def copy(chosen: Mapping[Path, Path], overwrite: bool) -> None:
    """Copy files and say where they are. Raises ``ConfigError`` before anything is written if one was changed there."""
    contents = {target: file.read_bytes() for target, file in chosen.items()}
    for target, content in contents.items():
        if target.exists() and not overwrite and (not target.is_file() or target.read_bytes() != content):
            raise ConfigError(
                f"{target}: is there already and differs; --overwrite replaces it, --output goes elsewhere"
            )
    for target, content in contents.items():
        with storing(target, otherwise="name another --output"):
            atomic.write_bytes(target, content)
        Screen().say(str(target))


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Look at files of labelled texts, and write a configuration with the keys that matter for them: what each means,
    and what was found. padless prepare and padless train take it as --config; each reads its own section.
    """

    SUBJECT = ("source.path",)
    output: str | None = None
    """File to write, which must not exist; null: NAME.yaml here, where NAME is that of the first file."""
    source: SourceConfig = field(default_factory=SourceConfig)
    splits: SplitConfig = field(default_factory=SplitConfig)


def init(config: InitConfig) -> None:
    """Write the configuration. Raises ``ConfigError`` if the file exists, ``DataError`` as ``prepare`` does."""
    name = Path(config.source.path[0].rstrip("/")).name.partition(".")[0].strip("*") or "mine"
    target = Path(config.output or f"{name}.yaml")
    if target.exists():
        raise ConfigError(f"{target}: is there already; name another file with -o")
    found = columns.resolved(list(sources.files(config.source, config.splits)))
    first = next(file for file in found.files if not file.is_unlabelled)
    facts = [*found.lines, *columns.hints(found.files, True)]
    given = found.applied(PreprocessConfig(output=f"data/{name}", source=config.source, splits=config.splits))
    detected: dict[str, Any] = {}
    if first.format != "folder" and first.name != EMBEDDED:
        seen = sample(first)
        values = Counter(map(as_found, seen.values[first.source.label_column]))
        rows = zip(*(seen.values[name] for name in first.source.text_columns), strict=True)
        half, most = np.percentile([len(" ".join(map(str, row)).split()) for row in rows], (50, 95))
        facts.append(f"texts: half have at most {half:,.0f} words, and 1 in 20 more than {most:,.0f}")
        some = listed([f"{label} ({number:,})" for label, number in values.most_common() if label])
        facts.append(f"labels of the {values.total():,} rows looked at: {some}")
        if missing := values[None] + values[""]:
            facts.append(f"{counted(missing, 'row')} without a label: left out by source.missing_label")
            detected["source.missing_label"] = "drop"
        recorded = seen.file.form.recorded if seen.file.form else {}
        detected |= {f"source.{key}": its for key, its in recorded.items() if hasattr(given.source, key)}
    chosen, usual = flat(to_dict(given)) | detected, flat(to_dict(PreprocessConfig(output="")))
    prepared = {key: its for key, its in chosen.items() if key in ASKED or its != usual.get(key, its)}
    trained = {"data": f"data/{name}", **cli.from_file(LaunchRecipe, str(LaunchRecipe.DEFAULT))}
    usage = [f"padless {command} --config {target}" for command in ("prepare", "train")]
    lines = [f"# {plain(line)}" for line in (*usage, *facts)]
    lines += [*section("prepare", PreprocessConfig, prepared), *section("train", LaunchRecipe, trained)]
    with storing(target, otherwise="name another file with -o"):
        atomic.write_text(target, "\n".join(lines) + "\n")
    Screen().say(f"{target}: written, with what was found; next: {usage[0]}")


def section(name: str, config_class: type, values: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a section: each key below its text."""
    yield f"\n{name}:"
    group = ""
    for key, option in configuration.options_of(config_class).items():
        if key in values:
            head, _, last = key.rpartition(".")
            if head != group:
                yield f"  {head}:"
            group, indent = head, "    " if head else "  "
            yield textwrap.indent("\n".join(textwrap.wrap(plain(option.text), 100)), f"{indent}# ")
            written = yaml.safe_dump({last: option.value(values[key])}, allow_unicode=True, width=1 << 20)
            yield textwrap.indent(written, indent).rstrip()


@dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """The runs below a folder, newest first: dataset, step, accuracy on validation (of the best epoch) and on test,
    last change, state. Runs with several seeds or folds are one line, with their mean.
    """

    SUBJECT = ("folder",)
    folder: str = "runs"
    """Where to look, at any depth."""
    json: bool = False
    """Print one JSON list."""


def runs(config: RunsConfig) -> None:
    """List the runs. Raises ``DataError`` if there is no such folder."""
    folder, screen = Path(config.folder), Screen()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder{beside(folder) or '; name the one that holds your runs'}")
    found = sorted(places(folder, set()), key=lambda one: str(one["changed"]), reverse=True)
    if config.json:
        print(json.dumps(found, indent=2))
    elif found:
        screen.table(table(RUN_COLUMNS, list(map(row_of, found)), screen.width))
    else:
        print(f"{folder}: no runs yet; the first: padless train data/mine -o {folder / 'mine'}")


def places(folder: Path, seen: set[Path]) -> Iterator[dict[str, Any]]:
    """The facts of runs below a folder, those of several seeds or folds together. Datasets are not searched."""
    with contextlib.suppress(OSError):  # what may not be read is left out
        if layout.holds_run(folder):
            yield facts_of(folder)
        elif members := layout.members(folder):
            yield together(folder, [facts_of(one.path) for one in members])
        elif (place := folder.resolve()) not in seen and not (folder / MANIFEST).exists():
            seen.add(place)
            for path in sorted(folder.iterdir()):
                if path.is_dir() and not path.name.startswith("."):
                    yield from places(path, seen)


def facts_of(run: Path) -> dict[str, Any]:
    """One run as plain values; what is damaged is left out, and said in ``reason``."""
    written = [path.stat().st_mtime for path in (run / layout.STATUS, run / layout.METRICS, run) if path.exists()]
    facts: dict[str, Any] = {"run": str(run), "data": None, "step": 0, "validation": None, "test": None, "reason": None}
    facts |= {"changed": time.strftime("%Y-%m-%d %H:%M", time.localtime(written[0])), "state": "starting"}
    try:
        facts |= {key: its for key, its in known_status(run).items() if key in facts and its != ""}
        if facts["state"] == "running" and is_free(run):
            facts["state"] = "interrupted"
        facts["data"] = public_values(read_config(run).get("data"))
        log = read_bytes(run / layout.METRICS, MOST_LINES).splitlines(keepends=True)
        rows = (parse_row(line) or {} for line in reversed(log) if b'"best"' in line)
        best = next((row for row in rows if row.get("best")), {})
        figure = next((name for name in MAIN if name in best), MAIN[0])
        facts |= {"figure": figure, "validation": best.get(figure)}
        facts["test"] = (read_figures(run, TEST) or {}).get(figure)
    except (DataError, FileNotFoundError) as error:
        facts["reason"] = facts["reason"] or str(error)
    return facts


def together(folder: Path, each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts of runs of one command: the newest one's, with the means of their figures."""
    found = max(each, key=lambda one: str(one["changed"])) | {"run": str(folder), "runs": each}
    for split in MEASURED:
        values = [one[split] for one in each if one[split] is not None]
        found[split] = fmean(values) if values else None
    return found | {"state": f"{sum(one['state'] == 'finished' for one in each)}/{len(each)} done"}


def row_of(one: Mapping[str, Any]) -> dict[str, str]:
    """A line of the table."""
    cells = {key: f"{one[key]:.4f}" if key in MEASURED else str(one[key]) for key in one if one[key] is not None}
    return cells | {"changed": one["changed"][2:]}


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Every checkpoint of a run, oldest first: step, epochs, best so far, and whether every byte is as written.

    The exit code is 3 if any is damaged.
    """

    SUBJECT = ("run",)
    run: str
    """Run directory."""
    json: bool = False
    """Print one JSON list."""


def checkpoints(config: CheckpointConfig) -> int:
    """Verify and print every checkpoint; returns the exit code. Raises ``DataError`` for what is no run directory."""
    run = config.run
    if not layout.holds_run(run):
        layout.refuse_many(run)
        raise DataError(layout.instead(Path(run)))
    found = [described(run, step) for step in checkpoint.steps(run)]
    if config.json:
        print(json.dumps(found, indent=2))
    elif not found:
        print(f"{run}: no checkpoints yet")
    for one in () if config.json else found:
        if one["damage"]:
            said = f"damaged: {one['damage']}"
        else:
            said = f"whole, {one['epochs_done']} epochs"
            if one["best"] is not None:
                metric = one["metric"].replace("_", " ")
                said += f"; best so far: {metric} {one['best']:.4f} at step {one['best_step']:,}"
        Screen().fact(f"step {one['step']:,}", f"{size(one['bytes'])}, {said}", "warn" if one["damage"] else "")
    return DataError.exit_code if any(one["damage"] for one in found) else 0


def described(run: str, step: int) -> dict[str, Any]:
    """One checkpoint as plain values; ``damage`` is a sentence, or None if every byte is as written."""
    path = checkpoint.path_of(run, step)
    held = sum(file.stat().st_size for file in path.glob("*"))
    facts: dict[str, Any] = {"step": step, "path": str(path), "bytes": held, "damage": None}
    try:
        state = checkpoint.verify(path).state
    except DataError as error:
        return facts | {"damage": str(error)}
    chosen, value = state["selection"], state["selection"]["best"]
    best = {"metric": CHOSEN_BY[chosen["metric"]], "best": value and abs(value), "best_step": chosen["best_step"]}
    return facts | {"epochs_done": state["trainer"]["epochs_done"], **best}
