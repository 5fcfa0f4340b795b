# SPDX-License-Identifier: Apache-2.0
"""Keys of metrics and trackers."""

from __future__ import annotations

from dataclasses import dataclass, field

from preprocessing.base.errors import require


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Trackers that receive the metrics too; ``metrics.jsonl`` in the run directory always comes first."""

    tracker: str = "none"
    """Name of one of Accelerate's trackers, such as wandb, or several with commas; none for metrics.jsonl alone."""
    project: str = "padless"
    """Project name that the tracker files the run under."""
    name: str | None = None
    """Display name of the run; the run directory's name unless given."""
    group: str | None = None
    """What W&B puts runs together by; null: the dataset, and for launch --seeds or --folds the folder of the runs."""
    tags: list[str] = field(default_factory=list)
    """Words to find the run by at W&B, as in [baseline, long]."""
    log_bundle: bool = False
    """Also send the best weights to W&B, as an artifact, when the run has finished."""
    log_every: int = 20
    """Optimizer steps between two lines of metrics."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.log_every >= 1, "tracking.log_every", self.log_every, "at least 1")

    @property
    def trackers(self) -> list[str]:
        """The trackers' names as a list."""
        names = [name.strip() for name in self.tracker.split(",")]
        return [name for name in names if name not in {"", "none"}]
