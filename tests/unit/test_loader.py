# SPDX-License-Identifier: Apache-2.0
"""The loader: content and cost of a batch; unlabelled rows with labelled ones, each once per pass (law 3), and the soft
labels that they are learned with.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from harness.batch import Layout
from harness.config import RunConfig
from harness.data.loader import Loader
from harness.data.order import Order, OrderSpec, order_over, stream_seed
from harness.data.soft_labels import Teacher, check_soft_labels, read_soft_labels, targets_of, write_soft_labels
from harness.inference.evaluation import measured
from harness.scores.calibration import Decision
from harness.training.preflight import check_soft_labels as check_resumed
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.index import write_index
from preprocessing.dataset.shards import Manifest, Split, read_manifest, write_shard
from tests.batches import loader_of
from tests.datasets import rows_in, shared_dataset, split_of

dataset = shared_dataset({"train": 300, "validation": 20, "test": 20}, block_rows=32)


@pytest.fixture(scope="module")
def split(dataset: Path) -> Split:
    return split_of(dataset)


def make_loader(split: Split, order: Order | None = None, layout: Layout = "padded", **options: Any) -> Loader:
    order = order or order_over(split, OrderSpec(seed=1, global_batch=30, window_rows=130))
    return loader_of(split, order, layout=layout, **options)


def test_no_batch_is_overwritten_while_it_is_in_use(tmp_path: Path) -> None:
    """A slow consumer checks a batch, whose ids are its rows, long after the thread has filled all free buffers."""
    ids = np.repeat(np.arange(1, 4_001)[:, None], 4, axis=1).astype(np.uint16)
    columns = (np.full(4_000, 4), np.zeros(4_000, int), np.arange(4_000))
    info = write_shard(tmp_path, "train", 0, ids, *columns, block_rows=50)
    split = Split(
        tmp_path, Manifest(["a", "b"], *write_index(tmp_path, [info]), "uint16", 50, 4_001, "", {}, ""), "train"
    )
    order = order_over(split, OrderSpec(seed=0, global_batch=10))
    for step in itertools.islice(make_loader(split, order).steps(0), 60):
        threading.Event().wait(0.005)
        (batch,) = step.micro_batches
        np.testing.assert_array_equal(batch.ids.numpy(), np.repeat(batch.rows[:, None] + 1, 4, axis=1))


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_short_rows_of_wide_shards_among_long_rows_of_narrow_ones(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only zeros follow a row, for every shard and position in memory, also of shards that are mapped again."""
    monkeypatch.setattr(Split, "most_open", 2)
    random = np.random.default_rng(0)
    infos = []
    for number, width in enumerate((8, 24, 16)):
        length = random.integers(1, width + 1, 40)
        length[0] = width
        ids = random.integers(1, 60_000, (40, width)).astype(np.uint16)
        ids[np.arange(width) >= length[:, None]] = 0
        rows = np.arange(40) + 40 * number
        infos.append(write_shard(tmp_path, "train", number, ids, length, rows % 2, rows, block_rows=16))
    split = Split(
        tmp_path, Manifest(["a", "b"], *write_index(tmp_path, infos), "uint16", 16, 60_000, "", {}, ""), "train"
    )
    expected, seen = rows_in(split), []
    order = order_over(split, OrderSpec(seed=0, global_batch=17))
    steps = (step for rank in (0, 1) for step in make_loader(split, order, layout, rank=rank, world_size=2).steps(0))
    for batch in (batch for step in steps for batch in step.micro_batches):
        tokens = [expected[row].ids for row in batch.rows.tolist()]
        assert batch.labels.tolist() == [expected[row].label for row in batch.rows.tolist()]
        padded = torch.zeros(len(tokens), max(map(len, tokens)), dtype=torch.int32)
        for place, row in enumerate(tokens):
            padded[place, : len(row)] = torch.tensor(row)
        if layout == "packed":
            packed = pack_padded_sequence(padded, batch.lengths, batch_first=True)
            padded = packed.data
            assert torch.equal(batch.batch_sizes, packed.batch_sizes)
        assert torch.equal(batch.widened(), padded)
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(120))


def test_threads_end_with_the_steps_even_when_left_early(split: Split) -> None:
    before = threading.active_count()
    steps = make_loader(split).steps(0)
    next(steps)
    steps.close()
    list(make_loader(split).steps(0))
    assert threading.active_count() == before


def test_an_error_of_the_thread_reaches_the_training_loop(split: Split) -> None:
    def guard() -> None:
        raise DataError("shard.arrow: truncated")

    with pytest.raises(DataError, match="truncated"):
        list(make_loader(split, guard=guard).steps(0))


SEED, BATCH, UNLABELLED_BATCH = 3, 20, 17
LABELLED, UNLABELLED = 90, 61
"""Five steps an epoch, four a pass."""


both = shared_dataset({"train": LABELLED, "validation": 10, "unlabelled": UNLABELLED}, block_rows=16)


def unlabelled_order(split: Split) -> Order:
    return order_over(split, OrderSpec(seed=stream_seed(SEED), global_batch=UNLABELLED_BATCH))


def paired(both: Path, **options: Any) -> Loader:
    split, beside = (split_of(both, name) for name in ("train", "unlabelled"))
    unlabelled = loader_of(beside, unlabelled_order(beside), **options)
    order = order_over(split, OrderSpec(seed=SEED, global_batch=BATCH))
    return loader_of(split, order, unlabelled=unlabelled, **options)


def rows_beside(steps: Any) -> list[list[int]]:
    return [[int(row) for batch in step.unlabelled for row in batch.rows] for step in steps]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_each_row_once_in_every_pass_on_any_number_of_ranks(
    both: Path, world_size: int, micro_batch: int | None
) -> None:
    loaders = [paired(both, rank=rank, world_size=world_size, micro_batch=micro_batch) for rank in range(world_size)]
    split = loaders[0].unlabelled.split
    order, numbers = unlabelled_order(split), split.column("row")
    per_epoch, found = loaders[0].order.steps_per_epoch, []
    for epoch in range(4):
        shares = [rows_beside(loader.steps(epoch)) for loader in loaders]
        found += [sorted(row for share in shares for row in share[step]) for step in range(per_epoch)]
    assert len(found) == 4 * 5 == 5 * order.steps_per_epoch
    for step, rows in enumerate(found):
        assert rows == sorted(numbers[order.batch_rows(*divmod(step, 4))].tolist())
    for first in range(0, 20, 4):
        assert sorted(row for step in found[first : first + 4] for row in step) == list(range(UNLABELLED))
    assert found[:4] != found[4:8]


ROWS = {"train": 40, "validation": 10, "unlabelled": 30}
data = shared_dataset(ROWS, 2, 3)


@pytest.fixture(scope="module")
def manifest(data: Path) -> Manifest:
    return read_manifest(data)


def draw(manifest: Manifest, rows: int = ROWS["unlabelled"]) -> tuple[np.ndarray, np.ndarray]:
    """Rows in another order than the dataset has them, with probabilities."""
    random = np.random.default_rng(rows)
    return random.permutation(rows), random.dirichlet(np.ones(len(manifest.labels)), rows).astype(np.float32)


def teacher_of(manifest: Manifest) -> Teacher:
    facts = {"accuracy": 0.9, "log_loss": 0.3, "rows": 10}
    return Teacher(dataset=manifest.fingerprint, labels=manifest.labels, teacher="run x", validation=facts)


def test_what_is_written_is_read_and_finds_its_rows(data: Path, manifest: Manifest, tmp_path: Path) -> None:
    path, (rows, chances) = tmp_path / "soft.arrow", draw(manifest)
    digest = write_soft_labels(path, teacher_of(manifest), rows, chances)
    found = read_soft_labels(path)
    assert (found.sha256, found.teacher) == (digest, teacher_of(manifest))
    assert found.facts["validation"] == {"accuracy": 0.9, "log_loss": 0.3, "rows": 10}
    assert found.in_words == "of run x, accuracy 0.9000 on validation; 30 rows"
    check_soft_labels(found, data, manifest)
    split = split_of(data, "unlabelled")
    of_row = dict(zip(rows.tolist(), chances.tolist(), strict=True))
    wanted = np.array([of_row[row] for row in split.column("row").tolist()], np.float32)
    targets = targets_of(found, split)
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, wanted[:, 1] if len(manifest.labels) == 2 else wanted)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("dataset", "soft labels of another dataset"),
        ("rows", "29 rows, the dataset has 30 unlabelled; make it again"),
        ("sum", r"row \d+ has \[.*\], which are no probabilities that add up to 1"),
    ],
)
def test_what_does_not_fit_the_dataset(data: Path, manifest: Manifest, tmp_path: Path, wrong: str, words: str) -> None:
    teacher, (rows, chances) = teacher_of(manifest), draw(manifest)
    if wrong == "dataset":
        teacher = replace(teacher, dataset="0" * 64)
    elif wrong == "rows":
        rows, chances = draw(manifest, 29)
    else:
        chances[3] = 0.9
    path = tmp_path / "soft.arrow"
    write_soft_labels(path, teacher, rows, chances)
    with pytest.raises(DataError, match=words) as caught:
        check_soft_labels(read_soft_labels(path), data, manifest)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_teacher_that_may_know_nothing_gets_a_warning(manifest: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
    classes = len(manifest.labels)
    logits = np.random.default_rng(3).normal(size=(90, classes))
    found = measured(logits if classes > 2 else logits[:, 0], np.arange(90) % classes, Decision())
    assert found["accuracy"] < 1 / classes + 0.1
    assert "the teacher is not above chance on validation" in capsys.readouterr().err


def test_a_run_goes_on_with_the_soft_labels_it_began_with() -> None:
    began = SimpleNamespace(path=Path("run/checkpoints/step-7"), state={"soft_labels": {"sha256": "a" * 64}})
    config = RunConfig(data="data", run="run")
    check_resumed(began, "a" * 64, config)
    for found in ("b" * 64, None):
        with pytest.raises(ConfigError, match=r"self_training.labels: the run of run/checkpoints/step-7 began with"):
            check_resumed(began, found, config)
        check_resumed(began, found, replace(config, allow=["self_training.labels"]))
    with pytest.raises(ConfigError, match=r"began with none, now those of sha256 bbbbbbbbbbbb are asked for"):
        check_resumed(SimpleNamespace(path=Path("x"), state={}), "b" * 64, config)
