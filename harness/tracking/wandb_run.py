# SPDX-License-Identifier: Apache-2.0
"""A run at Weights & Biases, with one id and one curve over all requeues of the job; and ``wandb-sync``.

Steps are values of the rows (``train/step``), never W&B's own step: after a resume W&B drops rows up to its last one.
W&B writes only into the run directory, staged artifacts included, so that a login node can send what a compute node
could not: ``padless wandb-sync RUN``.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import traceback
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.rundir import layout
from harness.rundir.layout import BUNDLE, METRICS
from harness.rundir.metrics_log import KINDS
from harness.rundir.records import read_config, read_status
from harness.tracking.journal import Journal, Rows
from harness.tracking.observer import serve
from harness.tracking.trackers import AccelerateTracker, is_installed, row_of
from preprocessing.base.errors import ConfigError, UserError
from preprocessing.base.untrusted import one_line

INIT_S = 80.0
"""How long W&B's server may take to answer before this attempt continues offline."""
PROBE_BYTES = 1 << 16
"""Free space that W&B's folder must have at the end; its log is flushed in smaller pieces."""
ANSWER_S = 30.0
"""How long a sync waits for the server's first answer."""
SYNC_S = 1800.0
"""How long one attempt may take to send."""
AGAIN = "nothing is lost, try again"
OFFLINE = "offline-"
"""Prefix of W&B's folder of an offline attempt."""


class WandbTracker(AccelerateTracker):
    """A W&B run, with summary and artifacts."""

    def start(self) -> str:
        """Start or resume the run; offline without a key, or if the server cannot be reached."""
        set_folders(self.run)
        import wandb

        self.earlier = self.journal.last("run_id")
        try:
            self.wandb = self._init(None)
        except Exception as error:  # no key, no server, …
            traceback.print_exc()
            wandb.teardown(1)  # its service still uses the run's id
            self.wandb = self._init("offline")
            self.tell(warn=f"could not begin online ({one_line(error)}); rows are kept offline")
        self.kept_in = Path(self.wandb.dir).parent.name
        self.wandb.config.update({**self.spec["config"], **self.spec["facts"]}, allow_val_change=True)
        for kind in KINDS:  # each has its own axis
            self.wandb.define_metric(f"{kind}/step")
            self.wandb.define_metric(f"{kind}/*", step_metric=f"{kind}/step")
        if self.wandb.offline:
            folder = Path(self.wandb.dir).parent
            return f"rows are kept in {folder}; padless wandb-sync {self.run} sends them"
        return str(self.wandb.url)

    def _init(self, mode: Literal["offline"] | None) -> Any:
        import wandb

        return wandb.init(
            project=self.spec["project"],
            id=run_id_for(self.journal),
            resume="allow",
            name=self.spec["name"],
            group=self.spec["config"]["tracking"]["group"] or f"dataset-{self.spec['facts']['dataset'][:12]}",
            tags=self.spec["tags"],
            dir=str(self.run),
            mode=mode,
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
        if self.kept_in.startswith(OFFLINE):
            check_room(Path(self.wandb.dir).parent)


def check_room(folder: Path) -> None:
    """Raise ``OSError`` if W&B's disk is full: W&B itself drops rows silently."""
    probe = folder / "room"
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
    finally:
        probe.unlink(missing_ok=True)


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


# Sends rows that a run kept offline or lost.


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """Send a run to W&B from a machine with a network, such as a login node."""

    SUBJECT = ("run",)
    run: str
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
    """Send offline attempts, then the rows that none of them has; returns the result for ``--json``.

    The offline log of a killed attempt is not sent: ``metrics.jsonl`` has its rows.
    """

    def tell(say: str = "", warn: str = "") -> None:
        if say and not quiet:
            print(say, flush=True)
        if warn:
            print(f"warning: wandb {warn}", file=sys.stderr, flush=True)

    attempts = []
    for folder in offline_attempts(run):
        attempts.append({"folder": folder.name, "state": send(folder)})
        tell(say=f"{folder.name}: {attempts[-1]['state']}")
    journal = Journal(run, "wandb")
    total, missing = (sum(1 for _ in Rows(run, after).new()) for after in ({}, journal.kept))
    report = {"run_id": journal.last("run_id"), "rows": total, "filled": missing, "attempts": attempts}
    if missing:
        tell(say=f"{missing} rows of {METRICS} are in no finished attempt: sending those missing at W&B")
        status = read_status(run)
        state = status.get("state", "running").replace("running", "crashed")
        try:
            journal.note(start=journal.last("start") | {"pid": 0, "finish_s": SYNC_S})
            serve(journal, tell, lambda _: {"state": state, "limit_s": SYNC_S}, wait_s=0)
        except ConfigError:
            tell(say="the training still runs and keeps or sends them; call wandb-sync again after its end")
            return report | {"filled": 0}
        except Exception as error:
            raise UserError(f"{run}: W&B did not accept all ({one_line(error)}); {AGAIN}") from error
    if len(offline_attempts(run)) > len(attempts):  # the server was lost meanwhile
        raise UserError(f"{run}: the rest was kept offline; {AGAIN}")
    tell(say=f"W&B has all {total} rows of {run / METRICS} in run {journal.last('run_id')}")
    return report


def offline_attempts(run: Path) -> list[Path]:
    """W&B's folders of the offline attempts whose tracker was closed, oldest first."""
    finished = Journal(run, "wandb").all("finished")
    return [run / "wandb" / name for name in finished if name.startswith(OFFLINE)]


def send(folder: Path) -> str:
    """``wandb sync`` of one attempt, unless sent before. Raises ``UserError`` if W&B does not accept it."""
    marker = folder / f"run-{folder.name.rpartition('-')[2]}.wandb.synced"
    if marker.exists():
        return "sent before"
    command = [sys.executable, "-m", "wandb", "sync", str(folder)]
    said = f"no answer within {SYNC_S:.0f} s"
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SYNC_S, check=False)
        said = " ".join(done.stderr.decode(errors="replace").splitlines()[-1:])
    if not marker.exists():  # the exit code of `wandb sync` is not reliable
        raise UserError(f"{folder}: W&B did not take it ({said}); {AGAIN}, or see `wandb sync {folder}`")
    return "sent"
