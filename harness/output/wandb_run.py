# SPDX-License-Identifier: Apache-2.0
"""A run at Weights & Biases, with one id and one curve over all requeues of the job; and ``wandb-sync``.

Steps are values of the rows (``train/step``), never W&B's own step: after a resume W&B drops rows up to its last one.
An online attempt first sends the rows of ``metrics.jsonl`` that W&B does not have, such as those of a killed attempt;
so does ``padless wandb-sync RUN``, from a login node. ``RUN/tracking/wandb.json`` keeps the run's id.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness.output.tracking import Tracker, is_installed
from harness.rundir.json_files import read_object
from harness.rundir.layout import METRICS, THROUGHPUT, members, open_locked
from harness.rundir.metrics_log import KINDS, read_log
from harness.rundir.records import read_run_config, read_status
from padless.core import atomic
from padless.core.errors import ConfigError, UserError
from padless.core.schema import LocalPath
from padless.core.untrusted import one_line

STATE = "tracking/wandb.json"
"""What is kept of a run between attempts."""
INIT_S = 60.0
"""How long W&B's server may take to answer when a run starts."""
FINISH_S = 28.0
"""How long it may take to accept the last rows: less than a run's end waits for it."""
SYNC_S = 1800.0
"""How long it may take in ``wandb-sync``."""
SERVICE = "wandb-core"
"""Name of W&B's background process."""
TEARDOWN_S = 1.0
"""How long it may take to forget its service after an error."""
LOCK_S = 1.0
"""How long a sync waits for a training that ends just now."""


def read_metric_rows(run: Path) -> list[tuple[str, dict[str, Any]]]:
    """The rows of ``metrics.jsonl``, as kind and figures, each with its figures of ``throughput.jsonl``. Raises
    ``DataError``.
    """
    timing_by_row = {(line["kind"], line["step"]): line for line in read_log(run, THROUGHPUT)}
    rows = []
    for line in read_log(run):
        values = timing_by_row.get((line["kind"], line["step"]), {}) | line
        rows.append((values.pop("kind"), values))
    return rows


def figures_by_chart(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a row, by chart name, such as ``train/loss``."""
    return {f"{kind}/{key}": value for key, value in values.items() if isinstance(value, int | float)}


class WandbTracker(Tracker):
    """A W&B run."""

    finish_s = FINISH_S

    def __init__(self, name: str, run: Path, config: dict[str, Any] | None = None) -> None:
        """``config``: None for the one of the last attempt."""
        import wandb  # now, while no step waits for it

        self.module, self.earlier_rows = wandb, read_metric_rows(run)
        state = read_object(run / STATE) or {}
        super().__init__(name, run, config or state["config"])
        # a sweep agent's run id, else that of earlier attempts
        self.run_id = str(os.environ.get("WANDB_RUN_ID") or state.get("run_id") or secrets.token_hex(4))
        self.step_by_kind: dict[str, int] = {}
        """Kind -> step of the last row that W&B has."""
        self.num_sent = 0

    def start(self) -> str:
        """Start or resume the run, and send the rows of earlier attempts that W&B does not have."""
        self.run.joinpath(STATE).parent.mkdir(exist_ok=True)
        atomic.write_json(self.run / STATE, {"run_id": self.run_id, "config": self.config})
        self.module.setup(self.module.Settings(silent=True))
        is_online = self.module.setup().settings.mode == "online"
        if is_online and self.module.run is None and not self.module.login(prompt=False):
            raise ConfigError("no API key: set WANDB_API_KEY, or call wandb login")
        self.wandb_run = self.open_run()
        self.wandb_run.config.update(self.config, allow_val_change=True)
        for kind in KINDS:  # each has its own axis
            self.wandb_run.define_metric(f"{kind}/step")
            self.wandb_run.define_metric(f"{kind}/*", step_metric=f"{kind}/step")
            self.step_by_kind[kind] = self.wandb_run.summary.get(f"{kind}/step", -1)  # of earlier attempts, online only
        for row in self.earlier_rows:
            self.log(*row)
        return self.wandb_run.url or f"offline; padless wandb-sync {self.run} sends the rows"

    def open_run(self) -> Any:
        """W&B's object of the run; it writes into the run directory."""
        settings = self.config["tracking"]
        return self.module.init(
            **{key: settings[key] for key in ("project", "name", "group")},
            id=self.run_id,
            resume="allow",
            dir=str(self.run),
            settings=self.module.Settings(
                console="off",
                silent=True,
                reinit="create_new",  # a run of the user in this process goes on
                init_timeout=INIT_S,
                finish_timeout=self.finish_s,
                finish_timeout_raises=True,
            ),
        )

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Log one row, with its step as a value, unless W&B has it. The best validation stays in the summary."""
        if values["step"] > self.step_by_kind.get(kind, -1):
            self.wandb_run.log(figures_by_chart(kind, values))
            if values.get("best"):
                self.wandb_run.summary.update(figures_by_chart("best", values))
            self.step_by_kind[kind] = values["step"]
            self.num_sent += 1

    def close(self, state: str) -> None:
        """Finish the run; a preempted one is marked as such."""
        if state == "preempted":
            self.wandb_run.mark_preempting()
        self.wandb_run.finish(exit_code=int(state != "finished"))

    def abandon(self) -> None:
        """Kill W&B's service, so that neither this process nor a pipe waits for it; not while the user has a run.

        Without a teardown now, W&B's own at Python's exit would print a traceback.
        """
        if self.module.run is None:
            for child in psutil.Process().children():
                if SERVICE in child.name():
                    child.kill()
            thread = threading.Thread(target=self.forget_service, daemon=True)
            thread.start()
            thread.join(TEARDOWN_S)

    def forget_service(self) -> None:
        """Take back what W&B would do with its service at Python's exit, which fails without it."""
        with contextlib.suppress(Exception, SystemExit):
            self.module.teardown()


# Sends rows that W&B does not have.


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """Send a run to W&B from a machine with a network, such as a login node."""

    SUBJECT = ("run",)
    run: LocalPath
    """Run directory, or a folder of many."""


def main(config: SyncConfig) -> None:
    """Sync one run directory, or every run in a folder of many."""
    runs = [member.path.absolute() for member in members(config.run)]
    for name in ("WANDB_MODE", "WANDB_RUN_ID"):  # these are for the next training
        os.environ.pop(name, None)
    for run in runs or [Path(config.run).absolute()]:
        sync(run)


def sync(run: Path) -> None:
    """Send the rows of ``metrics.jsonl`` that W&B does not have, and print how many.

    Raises ``UserError`` for no run or one that still runs, without W&B or a key, and if W&B does not accept all.
    """
    read_run_config(run)
    if not is_installed("wandb"):
        raise ConfigError("wandb-sync needs the package wandb: pip install 'padless[wandb]'")
    if not Path(run, STATE).exists():
        raise ConfigError(f"{run}: no attempt of this run used W&B; train with --tracking.tracker wandb")
    with open_locked(run, LOCK_S, "a+"):
        tracker = WandbTracker("wandb", run)
        tracker.finish_s = SYNC_S
        try:
            tracker.start()
            tracker.close(read_status(run).get("state", "failed"))
        except Exception as error:
            tracker.abandon()
            problem = f"W&B did not accept all ({one_line(error)})"
            raise UserError(f"{run}: {problem}; nothing is lost, try again") from error
    rows = f"all {len(tracker.earlier_rows)} rows of {run / METRICS}, {tracker.num_sent} of them new"
    print(f"W&B has {rows}, in run {tracker.run_id}")
