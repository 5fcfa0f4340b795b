# SPDX-License-Identifier: Apache-2.0
"""What only a CUDA device can show: cuDNN's packed path equals the padded one, copies arrive whole, a run ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.config import ModelConfig
from harness.data.loader import Loader
from harness.data.order import Order, OrderSpec
from harness.model.classifier import Classifier, loss_per_row
from harness.model.dropout import HEAD, Masks
from preprocessing.dataset.shards import Split, read_manifest
from tests.commands import read_metrics, run_module, succeed
from tests.datasets import write_dataset

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 400, "validation": 60, "test": 60})
    return root


def make_loader(dataset: Path, layout: str, device: str) -> Loader:
    split = Split(dataset, read_manifest(dataset), "train")
    spec = OrderSpec(seed=0, global_batch=32)
    order = Order(split.block_starts, lambda block: split.blocks[block].length, spec)
    return Loader(split, order, rank=0, world_size=1, layout=layout, device=torch.device(device))


@pytest.mark.parametrize("pooling", ["last", "max", "mean", "max+mean"])
def test_packed_on_cuda_equals_padded_on_the_cpu(dataset: Path, pooling: str) -> None:
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    config = ModelConfig(embedding_dim=16, hidden_size=16, num_layers=2, pooling=pooling, dropout=0.3, word_dropout=0.2)
    model = Classifier(config, read_manifest(dataset).vocabulary_size)
    expected, actual = {}, {}
    gradients = []
    for layout, device, found in (("padded", "cpu", expected), ("packed", "cuda", actual)):
        model = model.to(device)
        model.zero_grad()
        for step in make_loader(dataset, layout, device).steps(0):
            for batch in step.micro_batches:
                logits = model(batch, Masks.of(0, step.step, batch.rows, batch.ids.device))
                loss_per_row(logits, batch.labels).sum().backward()
                found.update(zip(batch.rows.tolist(), logits.detach().cpu().tolist(), strict=True))
        gradients.append([parameter.grad.cpu().clone() for parameter in model.parameters()])
    assert sorted(expected) == sorted(actual)
    for row, logit in expected.items():
        assert actual[row] == pytest.approx(logit, abs=1e-5)
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_masks_are_the_same_on_every_device() -> None:
    rows = np.arange(1000)
    here, there = (Masks.of(2, 3, rows, torch.device(device)) for device in ("cpu", "cuda"))
    for chance in (0.1, 0.5):
        drawn = there.features(HEAD, 300, chance, torch.float32)
        assert torch.equal(drawn.cpu(), here.features(HEAD, 300, chance, torch.float32))
        time = torch.arange(400)
        assert torch.equal(there.tokens(None, time.cuda(), chance).cpu(), here.tokens(None, time, chance))


def test_every_row_arrives_whole_on_the_device(dataset: Path) -> None:
    arrived = []
    for device in ("cpu", "cuda"):
        steps = make_loader(dataset, "packed", device).steps(0)
        batches = (batch for step in steps for batch in step.micro_batches)
        arrived.append([(batch.rows.tolist(), batch.widened().cpu().tolist()) for batch in batches])
    assert arrived[0] == arrived[1]
    assert sum(len(rows) for rows, _ in arrived[1]) == 400


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_on_one_gpu_ends_well(dataset: Path, tmp_path: Path, precision: str) -> None:
    arguments = ("--data", dataset, "--run", tmp_path / "run", "--epochs", 3, "--precision", precision)
    small = ("--model.embedding_dim", 32, "--model.hidden_size", 32, "--optim.lr", 0.01, "--global_batch", 32)
    succeed(run_module("harness", "launch", *arguments, *small))
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["effective"]["recurrence"].startswith("packed")
    assert json.loads((tmp_path / "run" / "test.json").read_text())["accuracy"] > 0.8
    losses = [line["loss"] for line in read_metrics(tmp_path / "run", "train")]
    assert losses[-1] < losses[0]


def test_no_step_makes_the_host_wait(dataset: Path, tmp_path: Path) -> None:
    from harness.config import RunConfig
    from harness.model.classifier import Objective
    from harness.ranks.session import open_session
    from harness.training.guard import NonFiniteGuard
    from harness.training.profiling import StepProfiler
    from harness.training.throughput import Meter
    from harness.training.trainer import Trainer

    manifest = read_manifest(dataset)
    loader = make_loader(dataset, "packed", "cuda")
    shape = ModelConfig(embedding_dim=16, hidden_size=16, num_layers=2, dropout=0.2, word_dropout=0.1)
    config = RunConfig(global_batch=32, model=shape)
    with open_session("cuda", "fp32", 60) as session:
        trainer = Trainer(
            config,
            Objective(Classifier(config.model, manifest.vocabulary_size).cuda()),
            loader,
            session.accelerator,
            session.world,
            guard=NonFiniteGuard(3, session.world, tmp_path, loader.split, dataset),
            meter=Meter(session.device),
            profiler=StepProfiler([], tmp_path),
        )
        steps = list(loader.steps(0, 0, 4))
        trainer.update(steps[0])
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in steps[1:]:
                loss, _ = trainer.update(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.isfinite(loss)


def test_a_snapshot_is_pinned_and_equal(dataset: Path, tmp_path: Path) -> None:
    from harness.config import CheckpointConfig, RunConfig
    from harness.data.checks import TRAIN
    from harness.data.residency import DataPlacement, OpenData
    from harness.ranks.session import open_session
    from harness.rundir import checkpoint
    from harness.training.assembly import build_trainer
    from harness.training.checkpointer import Checkpointer

    manifest = read_manifest(dataset)
    small = ModelConfig(embedding_dim=16, hidden_size=16)
    config = RunConfig(data=str(dataset), run=str(tmp_path / "run"), global_batch=32, epochs=1, model=small)
    with open_session("cuda", "fp32", 60) as session:
        data = OpenData(DataPlacement.of(config), manifest, TRAIN, session.world, session.device)
        data.copy()
        data.open()
        trainer = build_trainer(config, session, manifest, data, dict(session.choices))
        trainer.fit()
        saver = Checkpointer(tmp_path, CheckpointConfig(), session.device, lambda: None)
        state = trainer.state()
        saver.prepare(state.tensors)
        saver.save(state.tensors, {"step": trainer.step, "trainer": state.values}, None, wait=True)
        assert all(buffer.is_pinned() for buffer in saver.snapshots.held.values())
        written = checkpoint.verify(checkpoint.path_of(tmp_path, trainer.step))
        for file, named in state.tensors.items():
            for name, tensor in named.items():
                assert torch.equal(written.tensors(file)[name], tensor.cpu())
