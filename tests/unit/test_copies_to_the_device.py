# SPDX-License-Identifier: Apache-2.0
"""What the loader asks of CUDA, watched without it: the CPU stands in for the card, and every call is written down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from harness.batch import Batch, Layout, StepBatch
from harness.data.batches import Assembler, RankSlice, hand_over
from harness.data.loader import Loader
from harness.data.order import OrderSpec, order_over
from preprocessing.dataset.shards import Split, read_manifest
from tests.datasets import write_dataset

CARD = torch.device("cuda", 0)


class PretendCuda(TorchFunctionMode):
    """Whatever is asked of ``CARD`` the CPU does; ``said`` is what was asked, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.said: list[str] = []
        self.stream = "training"
        self.pinned: set[int] = set()
        self.alive: list[torch.Tensor] = []  # or other memory would come to lie where pinned memory was
        self.kept: set[int] = set()
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: "loading")
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self)
        monkeypatch.setattr(torch.cuda, "Event", lambda: self)

    @contextmanager
    def on(self, stream: str) -> Iterator[None]:
        before, self.stream = self.stream, stream
        yield
        self.stream = before

    def synchronize(self) -> None:
        self.said.append(f"wait for {self.stream}")

    def record(self, stream: str) -> None:
        self.said.append(f"event on {stream}")

    def wait_event(self, event: object) -> None:
        self.said.append(f"{self.stream} waits for the event")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "record_stream":
            self.kept.add(args[0].untyped_storage().data_ptr())
            return None
        if name == "pin_memory":
            copy = args[0].clone()
            self.pinned.add(copy.untyped_storage().data_ptr())
            self.alive.append(copy)
            return copy
        if name == "to" and CARD in args:
            how = "pinned" if args[0].untyped_storage().data_ptr() in self.pinned else "pageable"
            waits = "" if kwargs.get("non_blocking") else ", waiting"
            self.said.append(f"copy {how} on {self.stream}{waits}")
            return args[0].clone()
        if kwargs.get("device") == CARD:
            kwargs["device"] = "cpu"
        pinned = kwargs.pop("pin_memory", False)
        made = func(*args, **kwargs)
        if pinned:
            self.pinned.add(made.untyped_storage().data_ptr())
            self.alive.append(made)
        return made


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    root: Path = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 60, "validation": 10})
    return Split(root, read_manifest(root), "train")


def assembled(split: Split, layout: Layout, device: torch.device) -> list[StepBatch]:
    """Three steps in one group, as the loader's thread makes them, handed over."""
    order = order_over(split, OrderSpec(seed=0, global_batch=16))
    loader = Loader(split, order, rank=0, world_size=1, layout=layout, device=device)
    assembler = loader._assembler()
    assert isinstance(assembler, Assembler)
    share = RankSlice(order.window(0, 0), range(3), rank=0, world_size=1, micro_batch=8, even=True)
    assembler.enter(order.window(0, 0), share)
    batches, event = assembler(assembler.buffers[0], range(share.numbers(2).stop))
    steps = [
        StepBatch(0, step, [batches[number] for number in share.numbers(step)], global_rows=16, copied=event)
        for step in range(3)
    ]
    for step in steps:
        hand_over(step)
    return steps


def values(batch: Batch) -> list[Any]:
    sizes = None if batch.batch_sizes is None else batch.batch_sizes.tolist()
    tensors = (batch.ids, batch.lengths, batch.labels, batch.device_lengths)
    return [batch.rows.tolist(), sizes, *(tensor.tolist() for tensor in tensors)]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_group_of_steps_crosses_the_bus_in_two_copies(
    split: Split, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels with lengths, and ids; from pinned memory, beside the training; whole, and kept until they were read."""
    expected = assembled(split, layout, torch.device("cpu"))
    with PretendCuda(monkeypatch) as cuda:
        cuda.said.clear()
        steps = assembled(split, layout, CARD)
    for step, other in zip(steps, expected, strict=True):
        for ours, theirs in zip(step.micro_batches, other.micro_batches, strict=True):
            assert values(ours) == values(theirs)
            assert torch.equal(ours.device_lengths, ours.lengths)
            assert ours.sent_lengths is not None
            for tensor in (ours.ids, ours.labels, ours.sent_lengths):
                assert tensor.untyped_storage().data_ptr() in cuda.kept
    copies = [said for said in cuda.said if said.startswith("copy")]
    assert set(copies) == {"copy pinned on loading"}
    assert len(copies) == 2
    assert cuda.said[len(copies) :] == ["event on loading", *["training waits for the event"] * 3]
