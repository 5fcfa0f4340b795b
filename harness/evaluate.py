# SPDX-License-Identifier: Apache-2.0
"""Exact evaluation on any number of processes, and the entry point of ``accelerate launch -m harness.evaluate``.

Every row is scored once, in fp32, without padding the last batch and without collectives until the one gather at the
end; the number of distinct rows is then asserted (law 5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.config import require
from preprocessing.base import atomic, cli

if TYPE_CHECKING:
    import torch

    from harness.batch import Batch, Layout
    from harness.data.device import DeviceRows
    from harness.inference.bundle import Bundle
    from harness.model.classifier import Classifier
    from harness.ranks.distributed import World
    from preprocessing.dataset.shards import Manifest, Split

PROG = "accelerate launch -m harness.evaluate"
FORMAT, FORMAT_VERSION = "padless-evaluation", 1


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
    stage_dir: str = "auto"
    """Where the split is copied once per node: a directory, none, or auto, which copies from network file systems."""
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
    """float64 ``[rows]`` for two classes, ``[rows, classes]`` for more; the model's own, before calibration."""
    lengths: np.ndarray
    """int64 ``[rows]``: tokens of each row."""
    unknown: np.ndarray
    """int64 ``[rows]``: how many of them are not in the vocabulary."""


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
    resident: DeviceRows | None = None,
    guard: Callable[[], None] | None = None,
) -> Scores:
    """Run ``model`` over a split, each rank over its share, and give everybody all scores.

    ``pause`` is called on all ranks every few batches and may raise to end the evaluation there. ``resident`` and
    ``guard`` are the ``Loader``'s: tokens that lie on the device already, and who watches the split's files.
    """
    import torch

    from harness.data.loader import Loader
    from harness.data.order import OrderSpec, order_over

    spec = OrderSpec(seed=0, global_batch=batch_rows * world.world_size, shuffle=False)
    order = order_over(split, spec)
    loader = Loader(
        split,
        order,
        rank=world.rank,
        world_size=world.world_size,
        layout=layout,
        device=device,
        resident=resident,
        guard=guard,
    )
    parts: list[tuple[np.ndarray, ...]] = []
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for step in loader.steps(0):
            if pause is not None and step.step % PAUSE_EVERY == 0:
                pause()
            parts += [facts_of(batch, model(batch)) for batch in step.micro_batches]
    model.train(was_training)
    outputs = 1 if model.num_classes == 2 else model.num_classes
    table = np.empty((0, FACTS + outputs), np.float64)
    if parts:
        *facts, logits = (np.concatenate(column) for column in zip(*parts, strict=True))
        table = np.column_stack([*(fact.view(np.float64) for fact in facts), logits.reshape(len(logits), outputs)])
    table = world.gather_rows(table, f"the scores of split {split.name}")
    numbers, labels, lengths, unknown = np.ascontiguousarray(table[:, :FACTS].T).view(np.int64)
    assert len(numbers) == len(np.unique(numbers)) == len(split), "a row was scored twice, or not at all"
    order_of_rows = np.argsort(numbers)
    scores = table[:, FACTS:] if model.num_classes > 2 else table[:, FACTS]
    return Scores(*(column[order_of_rows] for column in (numbers, labels, scores, lengths, unknown)))


FACTS = 4
"""Integer columns of the table that ranks exchange: row, label, length, unknown tokens."""


def facts_of(batch: Batch, logits: torch.Tensor) -> tuple[np.ndarray, ...]:
    """Row, label, length and unknown tokens (int64 ``[rows]`` each) and float64 logits of a batch that was scored."""
    import torch

    from harness.model.recurrent import packed_rows
    from preprocessing.text.vocabulary import UNK

    unknown = batch.ids == UNK
    if batch.batch_sizes is None:
        counts = unknown.sum(1)
    else:
        rows = packed_rows(batch.batch_sizes, len(unknown), unknown.device)
        counts = unknown.new_zeros(batch.num_rows, dtype=torch.int64).index_add_(0, rows, unknown.long())
    tensors = [tensor.cpu().numpy() for tensor in (batch.labels, batch.lengths, counts, logits.double())]
    return tuple(np.array(column) for column in (batch.rows, *tensors))  # copies: the loader uses its buffers again


def assess(scores: Scores, bundle: Bundle, split: Split) -> dict[str, Any]:
    """All that ``SPLIT.json`` holds: metrics after calibration with intervals, calibration, slices and mistakes.

    Rank 0 alone calls this; it needs nobody else. The model of ``bundle`` lies on its device.
    """
    from harness.inference.mistakes import METHOD, most_confident_mistakes
    from harness.scores.intervals import bootstrap
    from harness.scores.metrics import Reliability, classification_metrics, log_loss_per_row, per_class
    from harness.scores.subgroups import slices

    decision, names, labels = bundle.info.decision, bundle.info.labels, scores.labels
    logits = decision.calibrated(scores.logits)
    before, after = Reliability.of(scores.logits, labels), Reliability.of(logits, labels)
    metrics = classification_metrics(logits, labels, decision.threshold)
    found = (scores.rows, labels, scores.logits)
    bundle.model.eval()
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "split": split.name,
        "dataset": bundle.info.dataset,
        "step": bundle.info.step,
        "temperature": decision.temperature,
        "threshold": decision.threshold,
        **metrics,
        "labels": names,
        "intervals": bootstrap(logits, labels, decision.threshold),
        "per_class": per_class(metrics["confusion"], names),
        "calibration": {
            "bins": len(before.rows),
            "ece_before": before.error,
            "log_loss_before": float(log_loss_per_row(scores.logits, labels).mean()),
            "before": before.to_json(),
            "after": after.to_json(),
        },
        "slices": slices(logits, labels, scores.lengths, scores.unknown, names, decision.threshold),
        "mistakes": most_confident_mistakes(bundle.model, split, bundle.vocabulary, *found, names, decision),
        "mistakes_method": METHOD,
    }


def write_results(directory: Path, name: str, scores: Scores, manifest: Manifest, values: dict[str, Any]) -> None:
    """Write ``NAME.json`` (what ``assess`` found) and ``NAME-predictions.parquet`` (one line per row of the split)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from harness.scores.metrics import predicted_labels, probabilities

    logits = scores.logits / values["temperature"]
    chances = probabilities(logits)
    names = np.array(manifest.labels, dtype=object)
    columns: dict[str, Any] = {
        "row": scores.rows,
        "label": names[scores.labels],
        "predicted": names[predicted_labels(logits, values["threshold"])],
    }
    for number, label in enumerate(manifest.labels):
        columns[f"probability_{label}"] = chances[:, number]
    with atomic.replacing(directory / f"{name}-predictions.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary)
    atomic.write_json(directory / f"{name}.json", values)


SHOWN = ("accuracy", "f1", "roc_auc", "pr_auc", "log_loss", "ece")


def describe(values: dict[str, Any]) -> str:
    """Metrics as one readable line, with the interval of the accuracy where there is one."""
    shown = {name: f"{name} {values[name]:.4f}" for name in SHOWN if values[name] is not None}
    if "intervals" in values:
        low, high = values["intervals"]["accuracy"]
        shown["accuracy"] += f" ({low:.4f} to {high:.4f})"
    return f"{values['rows']:,} rows: " + ", ".join(shown.values())


def describe_calibration(values: dict[str, Any]) -> str:
    """What temperature and threshold did, as one readable line."""
    before = values["calibration"]
    line = (
        f"calibration: temperature {values['temperature']:.3f} took ece from {before['ece_before']:.4f} to "
        f"{values['ece']:.4f}, log_loss from {before['log_loss_before']:.4f} to {values['log_loss']:.4f}"
    )
    return line if len(values["labels"]) > 2 else f"{line}; threshold {values['threshold']:.4f}"


def numbers_of(values: dict[str, Any]) -> dict[str, Any]:
    """The single figures among all values, for a line of metrics.jsonl and for trackers."""
    left_out = ("format_version", "step")
    kinds = (int, float, type(None))
    return {name: value for name, value in values.items() if isinstance(value, kinds) and name not in left_out}


def main(argv: list[str]) -> int:
    """Parse, load, score, write; the same command on 1 or N processes."""
    config = cli.parse(EvaluateConfig, argv, prog=PROG, description=EvaluateConfig.__doc__ or "")
    from harness.ranks.session import open_session

    with open_session(config.device, "fp32", config.timeout_s) as session:
        from harness.data.residency import DataPlacement, OpenData
        from harness.inference.bundle import read_bundle, same_text
        from harness.rundir.layout import BUNDLE
        from preprocessing.dataset.shards import read_manifest

        world, device = session.world, session.device
        with world.together("loading weights and dataset"):
            bundle = read_bundle(Path(config.run, BUNDLE))
            manifest = read_manifest(config.data)
            same_text(bundle.info, manifest, config.data)
        world.handshake({"weights": bundle.info.weights_sha256, "dataset": manifest.fingerprint})
        placement = DataPlacement(data=config.data, timeout_s=config.timeout_s, stage_dir=config.stage_dir)
        data = OpenData(placement, manifest, config.split, world, device, only=True)
        with world.together("staging the dataset"):
            data.copy()
        with world.together("opening the dataset"):
            data.open()
        if world.is_main:
            print(*(f"{name:<10} {choice}" for name, choice in data.choices.items()), sep="\n")
        split = data.splits[config.split]
        model = bundle.model.to(device)
        model.recurrent.flatten_parameters()
        scores = score(
            model,
            split,
            world,
            batch_rows=config.batch,
            layout=session.layout,
            device=device,
            resident=data.rows,
            guard=data.guard.check_sizes,
        )
        if world.is_main:
            values = assess(scores, bundle, split) | {"dataset": manifest.fingerprint}
            directory = Path(config.output) if config.output else Path(config.run, "evaluation")
            write_results(directory, config.split, scores, manifest, values)
            print(f"{config.split}: {describe(values)}")
            print(f"{config.split}: {describe_calibration(values)}")
            print(f"written to {directory}/{config.split}.json and {config.split}-predictions.parquet")
    return 0


if __name__ == "__main__":
    from harness.ranks.exit import leave, run_rank

    leave(run_rank(main))
