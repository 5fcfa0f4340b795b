# SPDX-License-Identifier: Apache-2.0
"""``python -m harness dashboard``: a W&B workspace as code, built and validated without a server.

What the sections show is data, in ``SECTIONS``. Every plot has the rows' own steps as its axis, so a requeued run is
one curve.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from harness.tracking.trackers import has_wandb_key, is_installed
from preprocessing.base.errors import ConfigError, UserError

MODULE = "wandb_workspaces"
Plot = tuple[str, str, tuple[str, ...]]
"""Title, axis, and what is drawn over it."""

SECTIONS: dict[str, tuple[Plot, ...]] = {
    "learning": (
        ("Training loss", "train/step", ("train/loss",)),
        ("Log loss", "validation/step", ("validation/log_loss",)),
        ("Perplexity of a language model", "validation/step", ("validation/perplexity",)),
        ("Accuracy", "validation/step", ("validation/accuracy", "validation/balanced_accuracy")),
        ("Gradient norm before clipping", "train/step", ("train/grad_norm",)),
        ("Learning rate", "train/step", ("train/lr",)),
        ("Steps skipped for a gradient that was not finite", "train/step", ("train/skipped",)),
    ),
    "throughput": (
        ("Real tokens per second", "train/step", ("train/tokens_per_s",)),
        ("Rows per second", "train/step", ("train/rows_per_s",)),
        ("Share of the peak that is used (MFU)", "train/step", ("train/mfu",)),
        ("How much slower the slowest rank is", "train/step", ("train/rank_spread",)),
    ),
    "data": (
        ("Share of time spent waiting for data", "train/step", ("train/data_wait",)),
        ("Share of padding in what is computed", "train/step", ("train/padding",)),
        ("Epoch", "train/step", ("train/epoch",)),
    ),
    "evaluation": (
        ("F1", "validation/step", ("validation/f1",)),
        ("ROC AUC", "validation/step", ("validation/roc_auc",)),
        ("PR AUC", "validation/step", ("validation/pr_auc",)),
        ("Calibration error (ECE)", "validation/step", ("validation/ece",)),
    ),
    "system": (
        ("Memory, most of all ranks", "train/step", ("train/memory_bytes",)),
        ("GPU utilization", "RelativeTime(Wall)", (r"system/gpu\.\d+\.gpu$",)),
        ("GPU memory", "RelativeTime(Wall)", (r"system/gpu\.\d+\.memoryAllocated$",)),
        ("CPU utilization of the trainer", "RelativeTime(Wall)", ("system/cpu",)),
        ("Disk read and written", "RelativeTime(Wall)", (r"system/disk\..*\.(in|out)$",)),
    ),
}
TEST_BARS = ("test/accuracy", "test/f1", "test/roc_auc")
"""What the evaluation section shows of each run's one test, as bars."""
COLUMNS = ("summary:best/accuracy", "summary:test/accuracy", "config:optim.lr", "config:seed")


@dataclass(frozen=True, kw_only=True)
class DashboardConfig:
    """Build a W&B workspace: learning, throughput, data, evaluation, system."""

    save: str | None = None
    """ENTITY/PROJECT to save it to, as a new view."""
    name: str = "padless"
    """The view's name."""
    json: bool = False
    """Print the workspace as W&B stores it."""


def main(config: DashboardConfig) -> None:
    """Build, validate, then print or save."""
    if not is_installed(MODULE):
        raise ConfigError("dashboard needs the package wandb-workspaces: pip install 'padless[dashboard]'")
    entity, project = split_target(config.save)
    workspace = build(entity, project, config.name)
    spec = workspace._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
    if config.save is not None:
        print(f"saved as {save(workspace)}")
    elif config.json:
        print(json.dumps(spec, indent=2))
    else:
        for section in workspace.sections:
            print(f"{section.name:<12} {', '.join(panel.title for panel in section.panels)}")
        print("valid; --save ENTITY/PROJECT puts it there, --json prints it")


def split_target(target: str | None) -> tuple[str, str]:
    """``ENTITY/PROJECT`` as two names. Raises ``ConfigError`` if it is not two, or cannot be saved to."""
    if target is None:
        return "entity", "project"
    entity, _, project = target.partition("/")
    if not entity or not project or "/" in project:
        raise ConfigError(f"save: {target!r} is no place: expected ENTITY/PROJECT, as in its address at W&B")
    if not has_wandb_key():
        raise ConfigError("save: needs a key for W&B: set WANDB_API_KEY, or run `wandb login`")
    return entity, project


def build(entity: str, project: str, name: str) -> Any:
    """The workspace; its classes check every field as it is made."""
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports.v2 import BarPlot

    sections = []
    for title, plots in SECTIONS.items():
        panels = [line_plot(plot) for plot in plots]
        if title == "evaluation":
            panels.append(BarPlot(title="Test, once, with the best weights", metrics=list(TEST_BARS)))
        sections.append(workspaces.Section(name=title, panels=panels, is_open=title in ("learning", "throughput")))
    columns = workspaces.RunsetSettings(pinned_columns=list(COLUMNS))
    return workspaces.Workspace(entity=entity, project=project, name=name, sections=sections, runset_settings=columns)


def line_plot(plot: Plot) -> Any:
    """A line over the rows' own steps; names that hold a backslash are patterns."""
    from wandb_workspaces.reports.v2 import LinePlot

    title, axis, names = plot
    if any("\\" in name for name in names):
        return LinePlot(title=title, x=axis, metric_regex="|".join(names))
    return LinePlot(title=title, x=axis, y=list(names))


def save(workspace: Any) -> str:
    """Save as a new view; its address. Raises ``UserError`` (exit code 1) with W&B's reason if that fails."""
    try:
        return str(workspace.save().url)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"save: {workspace.entity}/{workspace.project} did not take it ({reason})") from None
