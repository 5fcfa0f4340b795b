# SPDX-License-Identifier: Apache-2.0
"""What the template shows of one run, beside its charts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from harness.config import flat
from harness.report.classes import class_rows, confusions, labels_of_split, matrix, metric_names
from harness.report.facts import RunFacts
from harness.report.marked import mistakes_of
from harness.rundir.layout import CONFIG
from harness.settings.task import LANGUAGE_MODEL
from preprocessing.base.printable import public_values

FEW_LABELS = 5
"""Up to so many labels the table of splits has a column for each."""


def view(run: RunFacts, name: str) -> dict[str, Any]:
    """Everything but charts, by the names that the template uses."""
    measured, labels = run.measured, run.labels
    shown: dict[str, Any] = {"split": None, "figures": None, "mistakes": [], "classes": [], "matrix": []}
    if measured is not None:
        shown = {
            "split": measured.split,
            "figures": measured.figures,
            "mistakes": mistakes_of(measured.figures, run.originals, run.manifest),
            "classes": class_rows(measured.figures, run.manifest),
            "matrix": matrix(measured.figures),
            "confusions": confusions(measured.figures),
            "slices": [entry for entry in measured.figures["slices"] if entry["by"] != "label"],
            "coloured": {label: slot for slot, label in enumerate(run.curves)} if len(labels) > 2 else {},
        }
    return {
        "name": name,
        "facts": run,
        "labels": labels,
        "pretrained": run.config.get("task") == LANGUAGE_MODEL,
        "metrics": metric_names(len(labels)),
        "settings": flat(run.config),
        "state": run.status.get("state", "unknown"),
        "step": run.status.get("step") or run.train[-1]["step"] if run.train else 0,
        "splits": split_rows(run),
        "label_rows": label_rows(run),
        "verdicts": [line for line in run.speed if line.get("verdict")],
        "reproduce": reproduce(run),
        "evaluate": evaluate_command(run),
        "dataset_config": dataset_config(run),
        **shown,
    }


def split_rows(run: RunFacts) -> list[dict[str, Any]]:
    """Rows, shares of the labels, tokens and lengths of each split, from the manifest."""
    if run.manifest is None:
        return []
    result = []
    for name, shards in run.manifest.splits.items():
        rows = run.manifest.rows(name)
        lengths: dict[int, int] = {}
        for shard in shards:
            for length, count in shard.lengths.items():
                lengths[int(length)] = lengths.get(int(length), 0) + count
        ordered = sorted(lengths)
        below = np.cumsum([lengths[length] for length in ordered])
        known = run.manifest.statistics.get("splits", {}).get(name, {})
        labels = labels_of_split(run.manifest, name)
        result.append(
            {
                "name": name,
                "rows": rows,
                "labels": shares_of(labels, rows) if len(labels) <= FEW_LABELS else [],
                "largest": extreme(labels, rows, most=True),
                "smallest": extreme(labels, rows, most=False),
                "tokens": sum(shard.tokens for shard in shards),
                "median": ordered[int(np.searchsorted(below, rows / 2))],
                "longest": ordered[-1],
                "truncated": known["truncated"] / rows if "truncated" in known else None,
                "unknown": known.get("unknown_rate"),
            }
        )
    return result


def shares_of(labels: Mapping[str, int], rows: int) -> list[float | None]:
    """The share of each class in a split; None in one whose rows have no labels."""
    return [count / rows if any(labels.values()) else None for count in labels.values()]


def extreme(labels: Mapping[str, int], rows: int, *, most: bool) -> tuple[str, float | None]:
    """The class with the most or the fewest rows of a split, and its share; neither where rows have no labels."""
    if not any(labels.values()):
        return "", None
    name = (max if most else min)(labels, key=lambda label: labels[label])
    return name, labels[name] / rows


def label_rows(run: RunFacts) -> list[tuple[str, list[int]]]:
    """Rows of each class in each split, where they have no place in the table of splits; the largest first."""
    if run.manifest is None or len(run.manifest.labels) <= FEW_LABELS:
        return []
    splits = [labels_of_split(run.manifest, name) for name in run.manifest.splits]
    table = [(label, [split[label] for split in splits]) for label in run.manifest.labels]
    return sorted(table, key=lambda entry: -sum(entry[1]))


def reproduce(run: RunFacts) -> list[str]:
    """Commands that make the run again, as a shell reads them."""
    environment = run.environment
    lines = []
    if revision := environment.get("git_revision"):
        clean = revision.removesuffix("-dirty")
        changed = "" if clean == revision else "   # and changes that were not committed"
        lines.append(f"git checkout {clean}{changed}")
    if versions := environment.get("versions"):
        lines.append("# " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    config = run.directory / CONFIG
    processes = str(environment.get("effective", {}).get("processes", "1")).partition(":")[0].strip()
    options = f"--config {shlex.quote(str(config))} --run {shlex.quote(f'{run.directory}-again')}"
    several = f"--num_processes {processes} " if processes != "1" else ""
    lines.append(f"python -m harness launch {several}{options}")
    return lines


def evaluate_command(run: RunFacts) -> str:
    """The command that measures the best weights on validation, so that the next report can show that."""
    places = f"--run {shlex.quote(str(run.directory))} --data {shlex.quote(str(run.config['data']))}"
    return f"accelerate launch -m harness.evaluate {places} --split validation"


def dataset_config(run: RunFacts) -> str | None:
    """The configuration of the preprocessing, as YAML; None without a manifest."""
    config = public_values(run.manifest.provenance.get("config")) if run.manifest else None
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else None
