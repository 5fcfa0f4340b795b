# SPDX-License-Identifier: Apache-2.0
"""A run at Weights & Biases, with one id and one curve over all requeues of the job; and ``wandb-sync``.

Steps are values of the rows (``train/step``), never W&B's own step: after a resume W&B drops rows up to its last one.
W&B writes only into the run directory, staged artifacts included, so that a login node can send what a compute node
could not: ``padless wandb-sync RUN``.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import traceback
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.rundir import layout
from harness.rundir.layout import BUNDLE, METRICS
from harness.rundir.metrics_log import KINDS
from harness.rundir.records import read_config, read_status
from harness.tracking.journal import Journal, Rows
from harness.tracking.observer import serve
from harness.tracking.trackers import AccelerateTracker, is_installed, row_of
from preprocessing.base.errors import ConfigError, UserError
from preprocessing.base.schema import Name
from preprocessing.base.untrusted import one_line

INIT_S = 80.0
"""How long W&B's server may take to answer."""
ANSWER_S = 30.0
"""How long a sync waits for the server's first answer."""
SYNC_S = 1800.0
"""How long one attempt may take to send."""


class WandbTracker(AccelerateTracker):
    """A W&B run, with summary and artifacts."""

    def start(self) -> str:
        """Start or resume the run."""
        set_folders(self.run)
        import wandb

        self.earlier = self.journal.last("run_id")
        self.wandb = wandb.init(
            project=self.spec["project"],
            id=run_id_for(self.journal),
            resume="allow",
            name=self.spec["name"],
            group=self.spec["config"]["tracking"]["group"] or f"dataset-{self.spec['facts']['dataset'][:12]}",
            tags=self.spec["tags"],
            dir=str(self.run),
            settings=wandb.Settings(
                console="off",
                silent=True,
                init_timeout=INIT_S,
                finish_timeout=self.spec["finish_s"] - 2,
                finish_timeout_raises=True,
                x_stats_pid=self.spec["pid"],
                x_disable_stats=not self.spec["pid"],
            ),
        )
        self.sends = not self.wandb.offline
        self.wandb.config.update({**self.spec["config"], **self.spec["facts"]}, allow_val_change=True)
        for kind in KINDS:  # each has its own axis
            self.wandb.define_metric(f"{kind}/step")
            self.wandb.define_metric(f"{kind}/*", step_metric=f"{kind}/step")
        return str(self.wandb.url) if self.sends else f"offline; padless wandb-sync {self.run} sends the rows"

    def known(self) -> dict[str, int]:
        """The last steps on the server: a killed attempt has sent more than its journal says."""
        if self.wandb.id != self.earlier:
            return {}
        steps = {kind: self.wandb.summary.get(f"{kind}/step") for kind in KINDS}
        return {kind: int(step) for kind, step in steps.items() if step is not None}

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Log one row, with its step as a value. The best validation stays in the summary."""
        self.wandb.log(row_of(kind, values))
        if values.get("best"):
            self.wandb.summary.update(row_of("best", values))

    def summarize(self, name: str, values: dict[str, Any]) -> None:
        """Add ``name/key`` to W&B's summary of the run."""
        self.wandb.summary.update(row_of(name, values))

    def close(self, state: str) -> None:
        """Finish the run; a preempted one is marked as such."""
        if state == "finished" and self.spec["log_bundle"]:
            try:
                self.wandb.log_artifact(str(self.run / BUNDLE), name=f"bundle-{self.wandb.id}", type="model")
            except Exception as error:
                traceback.print_exc()
                self.tell(say=f"could not log the bundle: {one_line(error)}")
        if state == "preempted":
            self.wandb.mark_preempting()
        self.wandb.finish(exit_code=int(state != "finished"))


def set_folders(run: Path) -> None:
    """Set W&B's folders to ``run``: a compute node's home may be small, read-only or deleted before the sync."""
    for variable, folder in (("WANDB_DATA_DIR", "staging"), ("WANDB_CACHE_DIR", "cache")):
        os.environ.setdefault(variable, str(run / "wandb" / folder))
        Path(os.environ[variable]).mkdir(parents=True, exist_ok=True)


def run_id_for(journal: Journal) -> str:
    """A sweep agent's run id, else that of earlier attempts, else a new one; recorded before it is used."""
    known = journal.last("run_id")
    run_id = str(os.environ.get("WANDB_RUN_ID") or known or secrets.token_hex(4))
    if run_id != known:
        journal.note(run_id=run_id)
    return run_id


# Sends rows that W&B does not have.


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """Send a run to W&B from a machine with a network, such as a login node."""

    SUBJECT = ("run",)
    run: Name
    """Run directory, or a folder of many."""
    json: bool = False
    """Print the result as one JSON object."""


def main(config: SyncConfig) -> None:
    """Sync one run directory, or every run in a folder of many; then the JSON is a list."""
    folder = Path(config.run)
    runs = [one.path for one in layout.members(folder)]
    for name in ("WANDB_MODE", "WANDB_RUN_ID"):  # these are for the next training
        os.environ.pop(name, None)
    for run in runs or [folder]:
        check(run.absolute())
    reports = [sync(run.absolute(), quiet=config.json) for run in runs or [folder]]
    if config.json:
        print(json.dumps(reports if runs else reports[0]))


def check(run: Path) -> None:
    """Raise ``UserError`` if nothing can be sent: no run, no W&B, no server.

    wandb itself would retry for hours if the server does not answer.
    """
    read_config(run)
    if not is_installed("wandb"):
        raise ConfigError("wandb-sync needs the package wandb: pip install 'padless[wandb]'")
    if Journal(run, "wandb").last("start") is None:
        raise ConfigError(f"{run}: no attempt of this run used W&B; train with --tracking.tracker wandb")
    set_folders(run)
    import wandb

    url = wandb.setup().settings.base_url
    try:
        urllib.request.urlopen(url, timeout=ANSWER_S).close()
    except OSError as error:
        if getattr(error, "code", 500) >= 500:  # below 500 the server has answered
            reason = f"{url} cannot be reached ({one_line(error)})"
            raise UserError(f"{reason}; nothing was sent, try again from a login node") from None


def sync(run: Path, *, quiet: bool) -> dict[str, Any]:
    """Send the rows of ``metrics.jsonl`` that no online attempt has sent; returns the result for ``--json``."""

    def tell(say: str = "", warn: str = "") -> None:
        if say and not quiet:
            print(say, flush=True)
        if warn:
            print(f"warning: wandb {warn}", file=sys.stderr, flush=True)

    journal = Journal(run, "wandb")
    total, missing = (sum(1 for _ in Rows(run, after).new()) for after in ({}, journal.kept))
    report = {"run_id": journal.last("run_id"), "rows": total, "filled": missing}
    if missing:
        tell(say=f"{missing} rows of {METRICS} were in no finished online attempt: sending those missing at W&B")
        status = read_status(run)
        state = status.get("state", "running").replace("running", "crashed")
        try:
            journal.note(start=journal.last("start") | {"pid": 0, "finish_s": SYNC_S})
            serve(journal, tell, lambda _: {"state": state, "limit_s": SYNC_S}, wait_s=0)
        except ConfigError:
            tell(say="the training still runs and keeps or sends them; call wandb-sync again after its end")
            return report | {"filled": 0}
        except Exception as error:
            raise UserError(f"{run}: W&B did not accept all ({one_line(error)}); nothing is lost, try again") from error
    tell(say=f"W&B has all {total} rows of {run / METRICS} in run {journal.last('run_id')}")
    return report
