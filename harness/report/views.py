# SPDX-License-Identifier: Apache-2.0
"""What the template shows of one run, beside its charts: classes, confusions, splits, and how to make it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from harness.config import LANGUAGE_MODEL, flat
from harness.report.mistakes import mistakes_of
from harness.report.plots import capital, curves_of, worst_first
from harness.report.runs import RunFacts
from harness.rundir.layout import CONFIG
from harness.scores.figures import FIGURES, title_of
from harness.scores.metrics import confusion_from_json, largest_confusions
from preprocessing.base.split_names import NO_LABEL, TRAIN
from preprocessing.base.terminal import public_values
from preprocessing.dataset.shards import Manifest

MATRIX_CLASSES = 20
"""Most classes whose confusion matrix is shown; beyond that only its largest cells are."""
SMALL_MATRIX = 6
"""Up to so many classes the matrix is all there is to say, and it fits a telephone."""
LISTED_CLASSES = 20
"""Classes that are shown at once; all of them when the reader asks."""
LISTED_CONFUSIONS = 12
LEFT_OUT = ("calibrated_log_loss", "perplexity")
"""Figures that only validations, or only language models, have."""
FEW_LABELS = 5
"""Up to so many labels the table of splits has a column for each."""


def titles(labels: Sequence[str]) -> dict[str, str]:
    """The figures of a classifier, by what a page calls them for these classes."""
    return {
        name: capital(title_of(name, labels)) for name in FIGURES if name not in ("calibrated_log_loss", "perplexity")
    }


def view(run: RunFacts, name: str) -> dict[str, Any]:
    """Everything but charts, by the names that the template uses."""
    curves = curves_of(run)
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
            "coloured": {label: slot for slot, label in enumerate(curves)} if len(labels) > 2 else {},
        }
    return {
        "name": name,
        "facts": run,
        "labels": labels,
        "curves": curves,
        "pretrained": run.config.get("task") == LANGUAGE_MODEL,
        "metrics": titles(labels),
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


def class_rows(figures: Mapping[str, Any], manifest: Manifest | None) -> list[dict[str, Any]]:
    """What is known of each class, the worst first: its figures, the interval of its recall, its rows in training."""
    slices = {entry["name"]: entry for entry in figures["slices"] if entry["by"] == "label"}
    trained = labels_of_split(manifest, TRAIN) if manifest is not None else {}
    return [
        {
            **entry,
            "interval": slices[entry["label"]]["accuracy_interval"] if entry["label"] in slices else None,
            "log_loss": slices[entry["label"]]["log_loss"] if entry["label"] in slices else None,
            "trained": trained.get(entry["label"]),
        }
        for entry in worst_first(figures["per_class"])
    ]


def labels_of_split(manifest: Manifest, split: str) -> dict[str, int]:
    """Rows of each class in a split, by name; 0 for a class that has none there."""
    counts = dict.fromkeys(manifest.labels, 0)
    for shard in manifest.splits.get(split, []):
        for number, rows in shard.labels.items():
            if int(number) != NO_LABEL:
                counts[manifest.labels[int(number)]] += rows
    return counts


def confusions(figures: Mapping[str, Any], most: int | None = LISTED_CONFUSIONS) -> list[dict[str, Any]]:
    """The pairs of a true and another predicted class with the most rows, the largest first."""
    labels = figures["labels"]
    confusion = confusion_from_json(figures, len(labels))
    support = confusion.sum(axis=1).tolist()
    return [
        {"label": labels[true], "predicted": labels[said], "rows": rows, "share": rows / support[true]}
        for true, said, rows in largest_confusions(confusion, most)
    ]


def matrix(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each true class the count of each predicted one, and its share of the row; empty for too many classes."""
    if len(figures["labels"]) > MATRIX_CLASSES:
        return []
    rows = zip(figures["labels"], confusion_from_json(figures, len(figures["labels"])).toarray().tolist(), strict=True)
    return [
        {"label": label, "cells": [(count, count / max(sum(counts), 1)) for count in counts]} for label, counts in rows
    ]
