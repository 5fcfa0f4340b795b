# SPDX-License-Identifier: Apache-2.0
"""A run at Weights & Biases: one id and one curve however often the job is requeued.

Steps are values of the rows (``train/step``), never W&B's own step, which drops rows at or below the last one after a
resume. Everything W&B writes lies in the run directory, artifacts on their way included, so that a login node can send
what a compute node could not.
"""

from __future__ import annotations

import os
import secrets
import string
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.rundir.layout import BUNDLE, tracker_folder
from harness.tracking.accelerate_tracker import AccelerateTracker, is_number
from harness.tracking.journal import Journal
from harness.tracking.trackers import wandb_mode
from harness.tracking.tracking import FINISH_S
from preprocessing.dataset.shards import MANIFEST

INIT_S = 80.0
"""How long W&B's server may take to answer before this attempt goes on offline."""
LINEAGE_S = 5.0
"""How long the end waits for the question which the dataset's artifact asks the server."""
PROBE_BYTES = 1 << 16
"""What must fit into W&B's folder at the end; its log is flushed in smaller pieces."""
KINDS = ("train", "validation", "test")


class WandbTracker(AccelerateTracker):
    """Accelerate's W&B tracker, with what W&B offers beyond rows of numbers."""

    def start(self) -> str:
        """Begin or go on with the run; offline if the server cannot be reached."""
        set_folders(self.run)
        import wandb

        mode = wandb_mode()
        try:
            self.tracker = self._make(self._options(mode))
        except Exception as error:
            if mode == "offline":
                raise
            reason = " ".join(str(error).split())[:300]
            traceback.print_exc()
            wandb.teardown(1)  # its service still holds the run's id
            self.tracker = self._make(self._options("offline"))
            self.wire.tell(warn=f"could not be reached ({reason}); rows are kept offline")
        run = self.tracker.run
        self.tracker.store_init_configuration({**self.spec["config"], **self.spec["facts"]})
        define_metrics(run)
        self.lineage = threading.Thread(target=self._log_dataset, daemon=True)
        self.lineage.start()  # it asks the server and waits for the answer; rows must not
        offline = f"rows are kept in {Path(run.dir).parent}; python -m harness wandb-sync {self.run} sends them"
        return offline if run.offline else run.url

    def _options(self, mode: str | None) -> dict[str, Any]:
        import wandb

        run_id = run_id_for(self.journal)
        return {
            "id": run_id,
            "resume": "allow",
            "name": self.spec["name"],
            "group": self.spec["config"]["tracking"]["group"] or dataset_name(self.spec["facts"]),
            "tags": self.spec["tags"],
            "dir": str(self.run),
            "mode": mode,
            "settings": wandb.Settings(
                console="off",
                silent=True,
                init_timeout=INIT_S,
                finish_timeout=FINISH_S - 2,
                finish_timeout_raises=True,
                x_stats_pid=self.spec["pid"],
            ),
        }

    def _log_dataset(self) -> None:
        """The dataset's manifest as an input of the run: small, and enough to tell which data it was."""
        import wandb

        name, metadata = dataset_name(self.spec["facts"]), {"fingerprint": self.spec["facts"]["dataset"]}
        with self._extra("log the dataset's manifest"):
            artifact = wandb.Artifact(name, type="dataset", metadata=metadata)
            artifact.add_file(str(Path(self.spec["data"]) / MANIFEST))
            # use_artifact refuses to work offline, where this one line does what it does online
            self.tracker.run._log_artifact(artifact, is_user_created=True, use_after_commit=True)

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """One row; its step is one of its values. The best validation, whose weights are kept, stays in the summary."""
        self.tracker.run.log(row_of(kind, values))
        if values.get("best"):
            self.tracker.run.summary.update(row_of("best", values))

    def alert(self, title: str, text: str) -> None:
        """Mail or Slack, as the user has told W&B."""
        with self._extra("send an alert"):
            self.tracker.run.alert(title=title, text=text)

    def summarize(self, name: str, values: dict[str, Any]) -> None:
        """``name/key`` among the values that W&B shows of a run and sorts runs by."""
        self.tracker.run.summary.update(row_of(name, values))

    def close(self, state: str, reason: str) -> None:
        """Say how it ended; a preempted run is marked as one that comes back."""
        run = self.tracker.run
        self.lineage.join(LINEAGE_S)
        self.alert(f"{self.spec['name']} {state}", f"{self.run}: {state}. {reason}".strip())
        if state == "finished" and self.spec["log_bundle"]:
            with self._extra("log the bundle"):
                self._log_bundle()
        if state == "preempted":
            run.mark_preempting()
        kept_here = run.offline
        run.finish(exit_code=0 if state == "finished" else 1)
        if kept_here:
            self._check_room(Path(run.dir).parent)
        self.journal.note(finished=attempt_folder(run))

    @contextmanager
    def _extra(self, what: str) -> Iterator[None]:
        """Run an optional step: if it fails, print a warning and go on."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.wire.tell(say=f"could not {what}: {' '.join(str(error).split())[:300]}")

    def _check_room(self, folder: Path) -> None:
        """Say so if W&B's folder takes no more: W&B itself drops the rows then, and says nothing."""
        probe = folder / "room"
        try:
            probe.write_bytes(bytes(PROBE_BYTES))
        except OSError as error:
            self.wire.tell(warn=f"could not keep all rows: {folder} cannot be written ({error.strerror})")
        finally:
            probe.unlink(missing_ok=True)

    def _log_bundle(self) -> None:
        import wandb

        artifact = wandb.Artifact(f"bundle-{self.tracker.run.id}", type="model")
        artifact.add_dir(str(self.run / BUNDLE))
        self.tracker.run.log_artifact(artifact)


def dataset_name(facts: dict[str, Any]) -> str:
    """What runs on one dataset are grouped by, and its artifact's name."""
    return f"dataset-{facts['dataset'][:12]}"


def set_folders(run: Path) -> None:
    """Let W&B keep files under ``run``: a compute node's home may be small, read-only or gone before the sync."""
    for variable, folder in (("WANDB_DATA_DIR", "staging"), ("WANDB_CACHE_DIR", "cache")):
        os.environ.setdefault(variable, str(tracker_folder(run, "wandb") / folder))
        Path(os.environ[variable]).mkdir(parents=True, exist_ok=True)


def run_id_for(journal: Journal) -> str:
    """A sweep agent's run id, else that of earlier attempts, else a new one; written down before it is used."""
    letters = string.ascii_lowercase + string.digits
    made = "".join(secrets.choice(letters) for _ in range(8))
    run_id = os.environ.get("WANDB_RUN_ID") or journal.run_id or made
    if run_id != journal.run_id:
        journal.note(run_id=run_id)
    return run_id


def attempt_folder(run: Any) -> str:
    """Name of the folder that holds a W&B run's own log."""
    return Path(run.dir).parent.name


def define_metrics(run: Any) -> None:
    """Give every kind of row its own axis."""
    for kind in KINDS:
        run.define_metric(f"{kind}/step")
        run.define_metric(f"{kind}/*", step_metric=f"{kind}/step")


def row_of(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a row under W&B's names."""
    return {f"{kind}/{key}": value for key, value in values.items() if is_number(value)}
