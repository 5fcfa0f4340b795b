# SPDX-License-Identifier: Apache-2.0
"""``python -m harness bench loader``: rows/s of the loader beside what people use, over the same rows, side by side.

Every contender gives batches of the same number of rows, all as wide as the widest shard, with lengths and labels, in
a random order of its own. Contenders take turns; each turn of a slow one has fewer batches. ``numpy copy`` moves the
same number of bytes from the shards in the order in which they lie there, ``numpy take`` the very rows of our batches
from one array in memory: neither knows which rows come next, where they lie, or who wants them.
"""

from __future__ import annotations

import importlib.util
import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, TensorDataset

from harness.bench import alternate, check_sizes, result, show
from harness.config import require
from harness.data.loader import Loader
from harness.data.order import OrderSpec, order_over
from preprocessing.base.split_names import TRAIN
from preprocessing.dataset.shards import Manifest, Split, read_manifest, write_shard

Run = Callable[[], None]
TURN_ROWS = 50_000
PAUSE_S = 0.05
"""After each turn: worker processes read ahead for the next one, and should not take a core from another contender."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Loading batches of token ids on the CPU, beside PyTorch's, Hugging Face's, Lightning's and MosaicML's loaders."""

    data: str | None = None
    """Dataset directory; rows of its widest shards are loaded. null: random rows in a temporary directory."""
    rows: int = 100_000
    """Rows to make up where no dataset is given."""
    width: int = 256
    """Their width in tokens."""
    batch: int = 512
    """Rows per batch."""
    rounds: int = 9
    """Turns of each contender; the median counts."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_sizes(self, "rows", "width", "batch", "rounds")
        require(self.width >= 2, "width", self.width, "at least 2")


def main(config: LoaderConfig) -> None:
    """Measure and print."""
    show(measure(config), as_json=config.json)


@dataclass(frozen=True)
class Rows:
    """What every contender loads."""

    split: Split
    ids: np.ndarray
    """The same rows as one array in memory, ``[rows, width]``."""
    length: np.ndarray
    label: np.ndarray
    batch: int
    folder: Path
    """For peers that want files of their own."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's ids."""
        return self.ids[0].nbytes

    def as_tensor_dtype(self) -> np.ndarray:
        """The ids in a type that tensors have, of the same width in bytes."""
        return self.ids.view(np.int16) if self.ids.dtype == np.uint16 else self.ids


def loader(config: LoaderConfig) -> dict[str, Any]:
    """Measure. Raises ``DataError`` for a dataset that cannot be read."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = open_rows(config, folder)
        contenders: dict[str, tuple[Run, int]] = {}
        private: dict[str, float] = {}
        for name, prepare in PEERS.items():
            before = private_bytes()
            prepared = prepare(rows)
            if prepared is None:
                continue
            contenders[name] = prepared
            prepared[0]()
            private[name] = (private_bytes() - before) / 1e6
        seconds = alternate({name: run for name, (run, _) in contenders.items()}, config.rounds, PAUSE_S)
        speeds = {name: contenders[name][1] / median for name, median in seconds.items()}
        values = result("rows/s", speeds)
        values["batch"], values["width"] = config.batch, int(rows.ids.shape[1])
        values["rows"], values["id_bytes"] = len(rows.ids), rows.ids.itemsize
        values["mb_per_s"] = {name: speed * rows.row_bytes / 1e6 for name, speed in speeds.items()}
        values["private_mb"] = private
        values["not_installed"] = [name for name in PEERS if name not in contenders]
        return values


def open_rows(config: LoaderConfig, folder: Path) -> Rows:
    """The widest shards of the training split of a dataset, or of one made up."""
    if config.data is None:
        root, manifest = folder, made_up(folder, config.rows, config.width)
    else:
        root, manifest = Path(config.data), read_manifest(config.data)
    widest = max(info.width for info in manifest.splits[TRAIN])
    infos = [info for info in manifest.splits[TRAIN] if info.width == widest]
    split = Split(root, replace(manifest, splits={TRAIN: infos}), TRAIN)
    columns = [np.concatenate([getattr(block, name) for block in split.blocks]) for name in ("ids", "length", "label")]
    return Rows(split, columns[0], columns[1].astype(np.int64), columns[2].astype(np.int64), config.batch, folder)


def made_up(root: Path, rows: int, width: int) -> Manifest:
    """Random rows of more than half the width, as a narrow shard of a big vocabulary would hold them."""
    random = np.random.default_rng(0)
    ids = random.integers(2, 1 << 15, (rows, width), dtype=np.uint16)
    lengths = random.integers(width // 2 + 1, width + 1, rows)
    ids[np.arange(width) >= lengths[:, None]] = 0
    info = write_shard(root, f"{TRAIN}/00000-w{width:04d}.arrow", ids, lengths, lengths % 2, np.arange(rows))
    facts = {"vocabulary_hash": "", "text": {}, "text_hash": ""}
    splits = {TRAIN: [info]}
    return Manifest(["0", "1"], splits, "uint16", 8192, 1 << 15, **facts)  # type: ignore[arg-type]


def private_bytes() -> int:
    """Memory that this process and its children have for themselves, in bytes; a page that they share counts once.

    Pages of a mapped file do not count, not even where nobody else maps it: they are the kernel's cache, which it drops
    when memory is wanted.
    """
    me = psutil.Process()
    return sum(private_bytes_of(process) for process in [me, *me.children(recursive=True)])


def private_bytes_of(process: psutil.Process) -> int:
    """The share of one process: anonymous and shared memory (proc_pid_smaps(5)).

    A system that does not tell them from mapped files gives what the process shares with nobody, those included.
    """
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return process.memory_full_info().uss
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def ours(rows: Rows) -> tuple[Run, int]:
    """The loader as training uses it: whole epochs, order and row bookkeeping included."""
    order = order_over(rows.split, OrderSpec(seed=0, global_batch=rows.batch))
    loader = Loader(rows.split, order, rank=0, world_size=1, layout="padded", device=torch.device("cpu"))
    epochs = itertools.count()

    def epoch() -> None:
        seen = sum(step.micro_batches[0].num_rows for step in loader.steps(next(epochs)))
        assert seen == len(rows.ids)

    return several(epoch, rows)


def numpy_copy(rows: Rows) -> tuple[Run, int]:
    """Consecutive rows of the mapped shards into one buffer."""
    out = np.empty((rows.batch, rows.ids.shape[1]), rows.ids.dtype)

    def epoch() -> None:
        for block in rows.split.blocks:
            for start in range(0, len(block.ids), rows.batch):
                piece = block.ids[start : start + rows.batch]
                np.copyto(out[: len(piece)], piece)

    return several(epoch, rows)


def numpy_take(rows: Rows) -> tuple[Run, int]:
    """The rows of our batches, out of one array in memory, when somebody has already said which and sorted them."""
    order = order_over(rows.split, OrderSpec(seed=0, global_batch=rows.batch))
    picked = [np.sort(order.batch_rows(0, step)) for step in range(order.steps_per_epoch)]
    out = np.empty((rows.batch, rows.ids.shape[1]), rows.ids.dtype)

    def epoch() -> None:
        for batch in picked:
            rows.ids.take(batch, 0, out[: len(batch)], "clip")

    return several(epoch, rows)


def several(epoch: Run, rows: Rows) -> tuple[Run, int]:
    """A run of as many epochs as make ``TURN_ROWS`` rows, for what is so fast that one may take a millisecond."""
    count = -(-TURN_ROWS // len(rows.ids))

    def run() -> None:
        for _ in range(count):
            epoch()

    return run, count * len(rows.ids)


def turns(batches: Callable[[], Iterator[Any]], rows: Rows, count: int) -> tuple[Run, int]:
    """A run of ``count`` batches that starts over where an epoch ends."""
    count = max(1, min(count, len(rows.ids) // rows.batch))
    stream: Iterator[Any] = iter(())

    def run() -> None:
        nonlocal stream
        for _ in range(count):
            if next(stream, None) is None:
                stream = batches()
                next(stream)

    return run, count * min(rows.batch, len(rows.ids))


def tensor_dataset(workers: int) -> Callable[[Rows], tuple[Run, int]]:
    """What most people write."""

    def prepare(rows: Rows) -> tuple[Run, int]:
        arrays = (rows.as_tensor_dtype(), rows.length, rows.label)
        dataset = TensorDataset(*(torch.from_numpy(array) for array in arrays))
        batches: DataLoader = DataLoader(
            dataset, rows.batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
        )
        return turns(lambda: iter(batches), rows, 40)

    return prepare


def huggingface(rows: Rows) -> tuple[Run, int] | None:
    """The shards' own Arrow tables, mapped, in torch format."""
    if importlib.util.find_spec("datasets") is None:
        return None
    import datasets

    tables = [pa.ipc.open_file(pa.memory_map(str(shard.path))).read_all() for shard in rows.split.shards]
    dataset = datasets.Dataset(datasets.table.InMemoryTable(pa.concat_tables(tables))).with_format("torch")
    batches: DataLoader = DataLoader(dataset, rows.batch, shuffle=True, drop_last=True)
    return turns(lambda: iter(batches), rows, 20)


def litdata(rows: Rows) -> tuple[Run, int] | None:
    """Lightning's streaming dataset, from its own chunks on the local disk."""
    if importlib.util.find_spec("litdata") is None:
        return None
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    folder = rows.folder / "litdata"
    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes="64MB")
    for number in range(min(len(rows.ids), 20 * rows.batch)):
        writer.add_item(number, sample(rows, number))
    writer.done()
    writer.merge()
    dataset = StreamingDataset(str(folder), shuffle=True, drop_last=True)
    batches = StreamingDataLoader(dataset, batch_size=rows.batch, num_workers=0)
    return turns(lambda: iter(batches), rows, 10)


def mosaicml(rows: Rows) -> tuple[Run, int] | None:
    """MosaicML's streaming dataset, from its own shards on the local disk."""
    if importlib.util.find_spec("streaming") is None:
        return None
    try:
        from streaming import MDSWriter, StreamingDataset
    except ImportError:
        return None

    folder = rows.folder / "mds"
    columns = {"ids": f"ndarray:{rows.as_tensor_dtype().dtype}:{rows.ids.shape[1]}", "length": "int", "label": "int"}
    count = max(1, min(10, len(rows.ids) // rows.batch)) * min(rows.batch, len(rows.ids))
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for number in range(count):
            writer.write(sample(rows, number))
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=rows.batch)
    batches: DataLoader = DataLoader(dataset, rows.batch)

    def run() -> None:
        """A whole epoch: its threads end with it, and would otherwise miss the files when those are gone."""
        seen = sum(len(batch["label"]) for batch in batches)
        assert seen == count

    return run, count


def sample(rows: Rows, number: int) -> dict[str, Any]:
    """One row as peers store it."""
    ids = rows.as_tensor_dtype()[number]
    return {"ids": ids, "length": int(rows.length[number]), "label": int(rows.label[number])}


PEERS: dict[str, Callable[[Rows], tuple[Run, int] | None]] = {
    "ours": ours,
    "numpy copy": numpy_copy,
    "numpy take": numpy_take,
    "TensorDataset + DataLoader": tensor_dataset(0),
    "TensorDataset + DataLoader, 2 workers": tensor_dataset(2),
    "Hugging Face datasets + DataLoader": huggingface,
    "LitData": litdata,
    "MosaicML streaming": mosaicml,
}


def measure(config: LoaderConfig) -> dict[str, Any]:
    """``loader`` without the peers' warnings, which are about their own choices."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return loader(config)
