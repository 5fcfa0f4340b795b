# SPDX-License-Identifier: Apache-2.0
"""The workspace as code: its sections survive W&B's own model, and what they show is what runs log."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from harness.config import Recipe
from harness.launch.launcher import split_arguments
from harness.tracking import dashboard
from harness.training.throughput import summarize
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_the_workspace_survives_its_own_wire_format() -> None:
    workspaces = pytest.importorskip("wandb_workspaces.workspaces", reason="needs the extra dashboard")
    from wandb_workspaces.workspaces import internal

    built = dashboard.build("e", "p", "view")
    wire = json.loads(json.dumps(built._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)))
    read = workspaces.Workspace._from_model(internal.View.model_validate(wire))
    assert [section.name for section in read.sections] == ["learning", "throughput", "data", "evaluation", "system"]
    loss = read.sections[0].panels[0]
    assert (loss.title, loss.x.name, [y.name for y in loss.y]) == ("Training loss", "train/step", ["train/loss"])
    gpu = read.sections[4].panels[1]
    assert (gpu.x.name, gpu.metric_regex, gpu.y) == ("RelativeTime(Wall)", r"system/gpu\.\d+\.gpu$", [])
    assert (read.entity, read.project, read.name) == ("e", "p", "view")


def test_every_training_figure_shown_is_one_that_a_run_logs() -> None:
    ranks = {name: np.ones(2, dtype=np.int64) for name in ("rows", "tokens", "padded_tokens", "skipped", "hash")}
    ranks |= {name: np.ones(2) for name in ("loss", "wait_s", "forward_s", "seconds", "memory_bytes")}
    logged = {f"train/{name}" for name in ("step", "epoch", "lr", "grad_norm", *summarize(ranks, 1, 1.0))}
    plots = [plot for section in dashboard.SECTIONS.values() for plot in section]
    shown = {name for _, axis, names in plots for name in (axis, *names) if name.startswith("train/")}
    assert shown - logged == set()


def test_a_place_to_save_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    assert dashboard.split_target("team/project") == ("team", "project")
    for wrong in ("team", "team/", "/project", "a/b/c"):
        with pytest.raises(ConfigError, match="is no place: expected ENTITY/PROJECT"):
            dashboard.split_target(wrong)


@pytest.mark.processes
def test_a_sweep_gives_every_rank_its_values_and_each_trial_a_directory(tmp_path: Path) -> None:
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils", reason="needs the extra wandb")
    sweep = yaml.safe_load((ROOT / "launch" / "sweep.yaml").read_text())
    assert "seed" not in sweep["parameters"]  # the luckiest one would win
    values = {key: spec.get("values", [spec.get("min")])[-1] for key, spec in sweep["parameters"].items()}
    command = utils.create_sweep_command(sweep["command"])
    arguments = utils.create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    words = [word for part in command for word in (arguments["args"] if part == "${args}" else [part])]
    stub = tmp_path / "python"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "WANDB_RUN_ID": "trial7"}
    started = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=30).stdout
    module, *rest = started.splitlines()[1:]
    assert (module, rest[0]) == ("harness", "launch")
    options, training = split_arguments(rest[1:])
    assert options == ["--config_file", "configs/accelerate/cpu.yaml"]
    config = cli.parse(Recipe, training, prog="test")
    assert (config.run, config.tracking.tracker) == ("runs/sweep-trial7", "wandb")
    assert (config.optim.lr, config.model.dropout, config.model.hidden_size, config.seed) == (0.0003, 0.4, 256, 0)
