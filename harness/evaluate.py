# SPDX-License-Identifier: Apache-2.0
"""Exact evaluation on any number of processes, and the entry point of ``accelerate launch -m harness.evaluate``.

Every row is scored once, in fp32, without padding the last batch and without collectives until the one gather at the
end; the number of distinct rows is then asserted (law 5).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.config import require
from preprocessing import atomic, cli

if TYPE_CHECKING:
    import torch

    from harness.data.loader import Layout
    from harness.distributed import World
    from harness.model import Classifier
    from preprocessing.shards import Manifest, Split

PROG = "accelerate launch -m harness.evaluate"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate the best weights of a run on one split of a dataset."""

    run: str
    """Run directory whose bundle is evaluated."""
    data: str
    """Dataset directory; its vocabulary must be the one of the training."""
    split: str = "test"
    """Split to evaluate."""
    output: str | None = None
    """Directory for SPLIT.json and SPLIT-predictions.parquet; RUN/evaluation unless given."""
    batch: int = 512
    """Rows per batch and process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; auto takes CUDA devices when there are any."""
    timeout_s: int = 600
    """Longest wait of one process for another."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        require(self.timeout_s >= 1, "timeout_s", self.timeout_s, "at least 1")


@dataclass(frozen=True)
class Scores:
    """Logits and labels of every row of a split, in the order of the source; the same on every rank."""

    rows: np.ndarray
    """int64 ``[rows]``: row numbers in the source, ascending."""
    labels: np.ndarray
    """int64 ``[rows]``."""
    logits: np.ndarray
    """float64 ``[rows]`` for two classes, ``[rows, classes]`` for more."""


PAUSE_EVERY = 8
"""Batches of an evaluation between two looks at whether to stop; the ranks meet there."""


def score(
    model: Classifier,
    split: Split,
    world: World,
    *,
    batch_rows: int,
    layout: Layout,
    device: torch.device,
    pause: Callable[[], None] | None = None,
) -> Scores:
    """Run ``model`` over a split, each rank over its share, and give everybody all scores.

    ``pause`` is called on all ranks every few batches and may raise to end the evaluation there.
    """
    import torch

    from harness.data.loader import Loader
    from harness.data.order import OrderSpec, order_over

    spec = OrderSpec(seed=0, global_batch=batch_rows * world.world_size, shuffle=False)
    order = order_over(split, spec)
    loader = Loader(split, order, rank=world.rank, world_size=world.world_size, layout=layout, device=device)
    parts: list[tuple[np.ndarray, torch.Tensor, torch.Tensor]] = []
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for step in loader.steps(0):
            if pause is not None and step.step % PAUSE_EVERY == 0:
                pause()
            parts += [(batch.rows, batch.labels, model(batch)) for batch in step.micro_batches]
    model.train(was_training)
    columns = 2 + (1 if model.num_classes == 2 else model.num_classes)
    table = np.empty((0, columns), np.float64)
    if parts:
        rows = np.concatenate([part[0] for part in parts]).view(np.float64)[:, None]
        labels = torch.cat([part[1] for part in parts]).cpu().numpy().view(np.float64)[:, None]
        logits = torch.cat([part[2] for part in parts]).double().cpu().numpy().reshape(len(rows), -1)
        table = np.concatenate((rows, labels, logits), axis=1)
    table = world.gather_rows(table, f"the scores of split {split.name}")
    numbers, classes = (np.ascontiguousarray(table[:, i]).view(np.int64) for i in (0, 1))
    assert len(numbers) == len(np.unique(numbers)) == len(split), "a row was scored twice, or not at all"
    by_row = np.argsort(numbers)
    scores = table[by_row, 2:]
    return Scores(numbers[by_row], classes[by_row], scores[:, 0] if model.num_classes == 2 else scores)


def write_results(directory: Path, name: str, scores: Scores, manifest: Manifest, values: dict[str, Any]) -> None:
    """Write ``NAME.json`` (metrics) and ``NAME-predictions.parquet`` (one line per row of the split)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from harness.metrics import predicted_labels, probabilities

    chances = probabilities(scores.logits)
    names = np.array(manifest.labels, dtype=object)
    columns: dict[str, Any] = {
        "row": scores.rows,
        "label": names[scores.labels],
        "predicted": names[predicted_labels(scores.logits, values["threshold"])],
    }
    for number, label in enumerate(manifest.labels):
        columns[f"probability_{label}"] = chances[:, number]
    with atomic.replacing(directory / f"{name}-predictions.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary)
    atomic.write_json(directory / f"{name}.json", values)


def describe(values: dict[str, Any]) -> str:
    """Metrics as one readable line."""
    shown = [
        f"{name} {values[name]:.4f}" for name in ("accuracy", "f1", "roc_auc", "log_loss") if values[name] is not None
    ]
    return f"{values['rows']:,} rows: " + ", ".join(shown)


def main(argv: list[str]) -> int:
    """Parse, load, score, write; the same command on 1 or N processes."""
    config = cli.parse(EvaluateConfig, argv, prog=PROG, description=EvaluateConfig.__doc__ or "")
    from harness.session import open_session

    with open_session(config.device, "fp32", config.timeout_s) as session:
        from harness.bundle import read_bundle, same_text
        from harness.metrics import classification_metrics
        from harness.rundir import BUNDLE
        from preprocessing.shards import Split, read_manifest

        world, device = session.world, session.device
        with world.together("loading weights and dataset"):
            bundle = read_bundle(Path(config.run, BUNDLE))
            manifest = read_manifest(config.data)
            same_text(bundle.info, manifest, config.data)
            split = Split(config.data, manifest, config.split)
        world.handshake({"weights": bundle.info.weights_sha256, "dataset": manifest.fingerprint})
        model = bundle.model.to(device)
        model.recurrent.flatten_parameters()
        scores = score(model, split, world, batch_rows=config.batch, layout=session.layout, device=device)
        if world.is_main:
            threshold = bundle.info.threshold
            values = classification_metrics(scores.logits, scores.labels, threshold)
            values |= {"split": config.split, "threshold": threshold, "dataset": manifest.fingerprint}
            directory = Path(config.output) if config.output else Path(config.run, "evaluation")
            write_results(directory, config.split, scores, manifest, values)
            print(f"{config.split}: {describe(values)}")
            print(f"written to {directory}/{config.split}.json and {config.split}-predictions.parquet")
    return 0


if __name__ == "__main__":
    from harness.ranks import run_rank

    sys.exit(run_rank(main))
