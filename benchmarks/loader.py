# SPDX-License-Identifier: Apache-2.0
"""``loader``: rows/s of the loader and of common alternatives, over the same rows in one run.

Every contender yields batches with the same number of rows, all as wide as the widest shard, with lengths and labels,
in its own random order. Contenders take turns; slow ones have fewer batches per turn.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.measuring import BenchmarkConfig, Size, alternate, print_result
from harness.data.loader import Loader
from harness.data.order import OrderSpec, order_over
from padless.core.split_names import TRAIN
from preprocessing.dataset.index import write_index
from preprocessing.dataset.shards import Block, Manifest, Split, write_shard

Epoch = Callable[[], Iterable[Any]]


@dataclass(frozen=True, kw_only=True)
class LoaderConfig(BenchmarkConfig):
    """Loading batches of random token ids on the CPU, compared with PyTorch's loader."""

    rows: Size = 100_000
    """Number of random rows."""
    width: Annotated[int, Meta(ge=2, le=1 << 24)] = 256
    """Their width in tokens."""
    batch: Size = 512
    """Rows per batch."""


def main(config: LoaderConfig) -> None:
    """Rows/s of each contender."""
    with tempfile.TemporaryDirectory() as folder:
        split = write_random(Path(folder), config)
        turns: dict[str, Callable[[], object]] = {}
        rows_by_name: dict[str, int] = {}
        for name, (prepare, max_batches) in CONTENDERS.items():
            batches = max_batches and max(1, min(max_batches, config.rows // config.batch))
            turns[name] = turn(prepare(split, config.batch), batches)
            rows_by_name[name] = config.batch * batches if batches else config.rows
        seconds = alternate(turns, config.rounds)
        speeds = {name: rows_by_name[name] / median for name, median in seconds.items()}
        print_result(
            config, "rows/s", speeds, size=f"{config.rows:,} rows of {config.width}, batches of {config.batch}"
        )


def turn(epoch: Epoch, batches: int | None) -> Callable[[], object]:
    """A function that reads a whole epoch, or ``batches`` batches of endless epochs."""
    if batches is None:
        return lambda: deque(epoch(), 0) and None
    stream = itertools.chain.from_iterable(iter(epoch, None))
    return lambda: deque(itertools.islice(stream, batches), 0) and None


def write_random(root: Path, config: LoaderConfig) -> Split:
    """Random rows, each longer than half the width, in one shard with a large vocabulary."""
    random, width = np.random.default_rng(0), config.width
    ids = random.integers(2, 1 << 15, (config.rows, width), dtype=np.uint16)
    lengths = random.integers(width // 2 + 1, width + 1, config.rows)
    ids[np.arange(width) >= lengths[:, None]] = 0
    info = write_shard(root, TRAIN, 0, Block(ids, lengths, lengths % 2, np.arange(config.rows)))
    facts = {"vocabulary_hash": "", "text": {}, "text_hash": ""}
    return Split(root, Manifest(["a", "b"], *write_index(root, [info]), "uint16", 8192, 1 << 15, **facts), TRAIN)  # type: ignore[arg-type]


def padless_loader(split: Split, batch: int) -> Epoch:
    """The loader as in training: whole epochs, including order and row bookkeeping."""
    order = order_over(split, OrderSpec(seed=0, global_batch=batch))
    loader = Loader(split, order, rank=0, world_size=1, layout="padded", device=torch.device("cpu"))
    epochs = itertools.count()
    return lambda: loader.steps(next(epochs))


def tensor_dataset(split: Split, batch: int, workers: int = 0) -> Epoch:
    """The usual PyTorch code, over one array of all rows in memory, of the same size in a dtype of torch."""
    ids = np.concatenate([block.ids for block in split.blocks]).view(np.int16)
    lengths = np.concatenate([block.length for block in split.blocks]).astype(np.int64)
    labels = np.concatenate([block.label for block in split.blocks]).astype(np.int64)
    dataset = TensorDataset(*map(torch.from_numpy, (ids, lengths, labels)))
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    batches: DataLoader = DataLoader(dataset, batch, shuffle=True, drop_last=True, **options)  # type: ignore[arg-type]
    return lambda: iter(batches)


CONTENDERS: dict[str, tuple[Callable[[Split, int], Epoch], int | None]] = {
    "ours": (padless_loader, None),
    "TensorDataset + DataLoader": (tensor_dataset, 40),
    "TensorDataset + DataLoader, 2 workers": (functools.partial(tensor_dataset, workers=2), 40),
}
"""Name -> (function that builds an epoch, batches per turn); None: a whole epoch."""
