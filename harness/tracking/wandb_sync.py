# SPDX-License-Identifier: Apache-2.0
"""``python -m harness wandb-sync RUN``: send to W&B what a run kept offline, then every row that is missing there.

Each attempt of a run leaves a log of W&B's own under ``RUN/wandb``. They are sent one at a time, and what was sent is
noted in ``RUN/tracking/wandb.jsonl``. A killed attempt loses its last rows, but ``metrics.jsonl`` has them. Rows that
are in none of the logs sent are written to one more log, which is then sent too. A second time there is nothing to do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.rundir import layout
from harness.rundir.layout import METRICS, THROUGHPUT, tracker_folder, tracker_journal
from harness.rundir.metrics_log import read_log
from harness.rundir.records import known_status, read_config
from harness.tracking.journal import Journal
from harness.tracking.trackers import has_wandb_key, is_installed, wandb_url
from harness.tracking.wandb_run import KINDS, attempt_folder, define_metrics, row_of, set_folders
from preprocessing.base.errors import ConfigError, DataError, UserError

PROBE_S = 30.0
SYNC_S = 1800.0
"""How long one attempt may take to send."""
TORN = "ends with an incomplete record"
"""What `wandb sync` says, in place of leaving its marker, when it has sent all that a killed attempt wrote."""
Row = tuple[str, int]
"""What identifies a row of metrics.jsonl: its kind and its step."""


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """Send a run to W&B from a machine with a network, such as a login node."""

    json: bool = False
    """Print what was done as one JSON object."""


def main(config: SyncConfig, words: list[str]) -> None:
    """Sync one run directory, or every run in a folder of many; of those the JSON is a list."""
    (folder,) = map(Path, words)
    runs = [one.path for one in layout.members(folder)]
    for run in runs or [folder]:
        check(run)
    reports = [Sync(run, quiet=config.json).everything() for run in runs or [folder]]
    if config.json:
        print(json.dumps(reports if runs else reports[0]))


def check(run: Path) -> None:
    """Raise a ``UserError`` where nothing can be sent: no run, no W&B, no key, no server."""
    read_config(run)
    if not is_installed("wandb"):
        raise ConfigError("wandb-sync needs the package wandb: pip install 'padless[wandb]'")
    if not tracker_journal(run, "wandb").is_file():
        raise ConfigError(f"{run}: no attempt of this run used W&B; train with --tracking.tracker wandb")
    if not has_wandb_key():
        raise ConfigError("wandb-sync needs a key: set WANDB_API_KEY, or run `wandb login`")
    probe()


def probe() -> None:
    """Raise ``UserError`` (exit code 1) if W&B's server does not answer: wandb itself would go on trying for hours."""
    url = wandb_url()
    query = json.dumps({"query": "query Viewer { viewer { id } }", "variables": {}}).encode()
    headers = {"Content-Type": "application/json"}
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/graphql", query, headers), timeout=PROBE_S).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise UserError(f"{url} answers with error {error.code}; nothing was sent, try again later") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{url} cannot be reached ({reason}); nothing was sent, try again from a login node") from None


class Sync:
    """What one run has kept, what was sent of it, and the rest."""

    def __init__(self, run: Path, *, quiet: bool) -> None:
        """``quiet`` prints nothing on stdout."""
        self.run, self.quiet = run.absolute(), quiet
        self.logs = tracker_folder(self.run, "wandb")
        self.journal = Journal(self.run, "wandb")
        if self.journal.run_id is None:
            raise DataError(f"{self.journal.path}: holds no run id: damaged")
        self.run_id = self.journal.run_id

    def everything(self) -> dict[str, Any]:
        """Send the attempts, then the rows that none of them has; what was done, for machines."""
        set_folders(self.run)
        attempts = [self.attempt(folder) for folder in self.folders()]
        missing = self.missing()
        if missing:
            self.say(f"{len(missing)} rows of {METRICS} are in no attempt that was sent: sending them too")
            attempts.append(self.attempt(self.fill(missing)))
        total = len(self.rows())
        self.say(f"W&B has all {total} rows of {self.run / METRICS} in run {self.run_id}")
        return {"run_id": self.run_id, "rows": total, "filled": len(missing), "attempts": attempts}

    def folders(self) -> list[Path]:
        """Logs of attempts that were offline, oldest first."""
        return sorted(self.logs.glob(f"offline-run-*-{self.run_id}"))

    def log_of(self, folder: str) -> Path:
        """W&B's own log of an attempt."""
        return self.logs / folder / f"run-{self.run_id}.wandb"

    def attempt(self, folder: Path) -> dict[str, Any]:
        """Send one attempt, if it was not sent before."""
        file = self.log_of(folder.name)
        marker = file.with_name(f"{file.name}.synced")
        records = read_own_log(file)
        if not any(record.get("type") == "run" for record in records):
            self.say(f"{folder.name}: empty, the attempt was killed before W&B wrote anything; skipped")
            return {"folder": folder.name, "rows": 0, "state": "empty"}
        rows = len(logged(records))
        if (before := self.journal.sent.get(folder.name)) is not None:
            return {"folder": folder.name, "rows": before, "state": "sent before"}
        said = "" if marker.exists() else send(folder)
        if not marker.exists() and TORN not in said:
            raise UserError(f"{folder}: W&B did not take it; nothing is lost, try again, or see `wandb sync {folder}`")
        self.journal.note(sent=folder.name, rows=rows)
        self.say(f"{folder.name}: {rows} rows sent")
        return {"folder": folder.name, "rows": rows, "state": "sent"}

    def rows(self) -> dict[Row, dict[str, Any]]:
        """The rows of metrics.jsonl, each with its figures of throughput.jsonl, by kind and step."""
        return merge(read_log(self.run), read_log(self.run, THROUGHPUT))

    def missing(self) -> list[tuple[str, dict[str, Any]]]:
        """Rows of metrics.jsonl that W&B does not have, in the file's order."""
        there: set[Row] = set()
        for name, rows in self.journal.sent.items():
            there |= set(logged(read_own_log(self.log_of(name)))[:rows])
        for name in self.journal.finished:
            if name.startswith("run-"):  # it was online, and W&B has said that all of it arrived
                there |= set(logged(read_own_log(self.log_of(name))))
        return [(kind, values) for (kind, step), values in self.rows().items() if (kind, step) not in there]

    def fill(self, missing: list[tuple[str, dict[str, Any]]]) -> Path:
        """Write one more attempt that holds ``missing``; its summary and its end are those of the whole run."""
        import wandb

        project = read_config(self.run)["tracking"]["project"]
        status = known_status(self.run)
        run = wandb.init(
            project=project,
            id=self.run_id,
            resume="allow",
            mode="offline",
            dir=str(self.run),
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True),
        )
        define_metrics(run)
        for kind, values in missing:
            run.log(row_of(kind, values))
        run.summary.update(summarize(self.rows()))
        folder = self.logs / attempt_folder(run)
        run.finish(exit_code=0 if status.get("state") == "finished" else 1)
        return folder

    def say(self, line: str) -> None:
        """Print a line, unless only JSON is wanted."""
        if not self.quiet:
            print(line, flush=True)


def wandb_command(*arguments: str) -> list[str]:
    """W&B's own command line, of the wandb that is installed beside us."""
    return [sys.executable, "-m", "wandb", *arguments]


def send(folder: Path) -> str:
    """``wandb sync`` of one attempt; what it said. Its marker shows whether it worked; its exit code does not."""
    environment = {key: value for key, value in os.environ.items() if key not in ("WANDB_MODE", "WANDB_RUN_ID")}
    try:
        result = subprocess.run(
            wandb_command("sync", str(folder)),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SYNC_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{folder}: not sent within {SYNC_S:.0f} s; nothing is lost, try again") from None
    return result.stdout + result.stderr


def read_own_log(file: Path) -> list[dict[str, Any]]:
    """The records of a log of W&B's, by its own reader; what a kill has cut off at the end is not there."""
    if not file.is_file() or file.stat().st_size == 0:
        return []
    command = wandb_command("leet", "inspect", "--json", str(file))
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=SYNC_S, check=False).stdout
    except subprocess.TimeoutExpired:
        raise UserError(f"{file}: not read by wandb within {SYNC_S:.0f} s; nothing is lost, try again") from None
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def logged(records: list[dict[str, Any]]) -> list[Row]:
    """The rows among a log's records, in order."""
    rows = []
    for record in records:
        if record.get("type") == "history":
            item = record["history"]["item"]
            rows += [(kind, int(item[f"{kind}/step"])) for kind in KINDS if f"{kind}/step" in item]
    return rows


def merge(metrics: list[dict[str, Any]], throughput: list[dict[str, Any]]) -> dict[Row, dict[str, Any]]:
    """Lines of metrics.jsonl by kind and step; a training line gets the speeds of the same step."""
    speeds = {line["step"]: line for line in throughput}
    rows: dict[Row, dict[str, Any]] = {}
    for line in metrics:
        kind, step = line["kind"], int(line["step"])
        both = {**(speeds.get(step, {}) if kind == "train" else {}), **line}
        rows[kind, step] = {key: value for key, value in both.items() if key != "kind"}
    return rows


def summarize(rows: dict[Row, dict[str, Any]]) -> dict[str, Any]:
    """The last value of everything, and the best validation."""
    summary: dict[str, Any] = {}
    for (kind, _), values in rows.items():
        summary |= row_of(kind, values) | (row_of("best", values) if values.get("best") else {})
    return summary
