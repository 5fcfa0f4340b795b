# SPDX-License-Identifier: Apache-2.0
"""On a card. Networks and the loader give what they give on a CPU, on both recurrent paths; copies arrive whole. The
real trainer, in this process: layouts, resuming, DDP, skipped steps, memory, waits.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.batch import Batch, Layout
from harness.config import CheckpointConfig, ModelConfig, OptimConfig, RunConfig
from harness.data.loader import Loader
from harness.data.order import OrderSpec, order_over
from harness.distributed.precision import set_tf32
from harness.model.classifier import Classifier, Objective
from harness.model.dropout import EMBEDDING, HEAD, draw_masks
from harness.model.language import LanguageModel, LanguageObjective
from harness.model.linear_part import WidePart
from harness.rundir import checkpoint
from harness.training.linear_fit import fit_wide
from harness.training.writer import Checkpointer
from preprocessing.dataset.shards import read_manifest
from tests.gpu.device import DEVICE, ON_CUDA, REVIEWS, TORCH_DEVICE, cuda_alone, skip_without
from tests.helpers.batches import CPU, loader_of
from tests.helpers.checkpoints import state_of
from tests.helpers.datasets import split_of
from tests.helpers.trainers import all_steps, make_trainer, session_for, train

pytestmark = pytest.mark.processes  # on CUDA accelerate starts nvidia-smi
INDEX_FIELDS = ("row", "time", "position", "starts", "grid")


def make_loader(dataset: Path, layout: Layout, device: torch.device, **options: Any) -> Loader:
    split = split_of(dataset)
    order = order_over(split, OrderSpec(seed=0, global_batch=32))
    return loader_of(split, order, layout=layout, device=device, **options)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("task", ["last", "max+mean", "language_model"])
def test_both_layouts_on_cuda_equal_the_cpu(dataset: Path, layout: Layout, task: str) -> None:
    set_tf32(False)
    size, rates = read_manifest(dataset).vocabulary_size, {"dropout": 0.3, "word_dropout": 0.2}
    losses, gradients = [], []
    for layout_tried, device in (("padded", CPU), (layout, TORCH_DEVICE)):
        torch.manual_seed(0)
        objective: Objective | LanguageObjective
        if task == "language_model":
            model = LanguageModel(ModelConfig(embedding_dim=16, hidden_size=16, **rates), size)
            objective = LanguageObjective(model.to(device), candidates=30).to(device)
        else:
            shape = ModelConfig(embedding_dim=16, hidden_size=16, num_layers=2, pooling=task, **rates)
            objective = Objective(Classifier(shape, size).to(device))
        objective.classifier.recurrent.flatten_parameters()
        losses_of_layout = []
        for step in make_loader(dataset, layout_tried, device, prepare=objective.prepare).steps(0):
            for batch in step.micro_batches:
                loss = objective(batch)
                loss.backward()
                losses_of_layout.append(loss.item())
        losses.append(losses_of_layout)
        gradients.append([parameter.grad.cpu() for parameter in objective.parameters()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for theirs, actual in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_every_row_arrives_whole_with_ids_beyond_int16(reviews: Path, layout: Layout) -> None:
    """So do its dropout masks and its places in a packed batch."""
    arrived, largest = [], []

    def prepare(step: int, batch: Batch) -> None:
        batch.masks = draw_masks(2, step, batch, {EMBEDDING: 3, HEAD: 5}, 0.3, 0.1)

    for device in (CPU, TORCH_DEVICE):
        rows = {}
        for step in make_loader(reviews, layout, device, prepare=prepare).steps(0):
            for batch in step.micro_batches:
                ids = batch.widen_ids().cpu()
                largest.append(int(ids.max()))
                tensors = [batch.labels, batch.masks.unknown_tokens, *batch.masks.keep.values()]
                if batch.index is not None:
                    tensors += [getattr(batch.index, name) for name in INDEX_FIELDS]
                rows[tuple(batch.rows.tolist())] = (
                    ids.tolist(),
                    batch.lengths.tolist(),
                    *(x.tolist() for x in tensors),
                )
        arrived.append(rows)
    assert arrived[0] == arrived[1]
    assert sum(map(len, arrived[1])) == REVIEWS
    assert min(largest) > 32_768


@pytest.mark.parametrize(("layout", "longest"), [("padded", 2), ("packed", 3)])
def test_the_linear_part_says_on_cuda_what_it_says_on_a_cpu(dataset: Path, layout: Layout, longest: int) -> None:
    manifest, outputs = read_manifest(dataset), []
    split, tokens = split_of(dataset), [""] * manifest.vocabulary_size
    for device in (CPU, TORCH_DEVICE):
        wide = WidePart(1 << 12, 1, longest)
        fit_wide(wide, split, np.ones(2), tokens)
        wide.to(device)
        assert float(wide.table.abs().max()) > 0.1
        outputs.append(
            [
                wide(batch).cpu()
                for step in make_loader(dataset, layout, device).steps(0)
                for batch in step.micro_batches
            ]
        )
    for theirs, actual in zip(*outputs, strict=True):
        torch.testing.assert_close(actual, theirs, rtol=1e-4, atol=1e-5)


SHAPE = ModelConfig(embedding_dim=16, hidden_size=16, num_layers=2, dropout=0.2, word_dropout=0.1, pooling="max+mean")
STEPS = 6


def configuration(data: Path, run: Path, **keys: object) -> RunConfig:
    options = {"precision": "fp32", "global_batch": REVIEWS // 12, "epochs": 2, "model": SHAPE, **keys}
    return RunConfig(data=str(data), run=str(run), device=DEVICE, **options)


def floats(losses: list[torch.Tensor]) -> list[float]:
    return [float(loss) for loss in losses]


def test_a_training_goes_on_from_its_state(reviews: Path, tmp_path: Path) -> None:
    config = configuration(reviews, tmp_path, optim=OptimConfig(ema=0.9))
    with session_for(config) as session:
        uninterrupted = make_trainer(config, session)
        steps = all_steps(uninterrupted)
        train(uninterrupted, steps, STEPS)
        tensors, values = uninterrupted.state()
        saver = Checkpointer(tmp_path, CheckpointConfig(), session.device, lambda: None)
        saver.save(tensors, state_of(uninterrupted.step, trainer=values), wait=True)
        copies = [copy for tensor_by_name in saver.copies.values() for copy in tensor_by_name.values()]
        assert all(copy.is_pinned() == ON_CUDA for copy in copies)
        expected = floats(train(uninterrupted, steps, STEPS))
        resumed = make_trainer(config, session)
        resumed.load(checkpoint.verify_checkpoint(checkpoint.checkpoint_path(tmp_path, STEPS)))
        resumed.model.train()
        assert resumed.step == STEPS
        actual = floats(train(resumed, resumed.loader.steps(0, STEPS), STEPS))
        assert actual == pytest.approx(expected, rel=1e-5)
        assert resumed.meter.counts["hash"] == uninterrupted.meter.counts["hash"]
        (resumed_tensors, _), (expected_tensors, _) = resumed.state(), uninterrupted.state()
        for file, tensors_by_name in expected_tensors.items():
            for name, tensor in tensors_by_name.items():
                torch.testing.assert_close(resumed_tensors[file][name], tensor, rtol=1e-3, atol=1e-5)


def test_a_planted_inf_is_skipped_and_counted(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp16, where the loss scaler skips steps by itself."""
    config = configuration(dataset, tmp_path, precision="fp16" if ON_CUDA else "fp32", optim=OptimConfig(ema=0.9))
    with session_for(config) as session:
        accelerator = session.accelerator
        if not ON_CUDA:  # accelerate scales no loss on a CPU
            monkeypatch.setattr(accelerator, "scaler", torch.amp.GradScaler("cpu"))
            monkeypatch.setattr(accelerator, "native_amp", True)
            monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
        trainer = make_trainer(config, session)
        steps = all_steps(trainer)
        train(trainer, steps, STEPS)
        parameters = trainer.parameters
        copies = [tensor.detach().clone() for tensor in parameters]
        scale = accelerator.scaler.get_scale()
        hook = trainer.objective.classifier.head.weight.register_hook(lambda gradient: gradient * torch.inf)
        train(trainer, steps, 1)
        hook.remove()
        assert int(trainer.skips_in_a_row) == 1
        assert all(map(torch.equal, parameters, copies))
        assert accelerator.scaler.get_scale() < scale
        train(trainer, steps, 3)
        assert not any(map(torch.equal, parameters, copies))


@cuda_alone
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("rows", [16, 192])
def test_the_host_never_waits(reviews: Path, tmp_path: Path, layout: str, precision: str, rows: int) -> None:
    """Also with a linear part, when a log line begins, and for more than 3,072 ids, for which torch sorts the gradient
    of an embedding by another kernel; ranks exchange requests meanwhile, as in a run.
    """
    skip_without(precision)
    model = replace(SHAPE, wide=1 << 12, wide_ngrams=2 if layout == "padded" else 3)
    keys = {"global_batch": rows, "epochs": 30, "micro_batch": rows // 2 + 1, "optim": OptimConfig(ema=0.9)}
    config = configuration(reviews, tmp_path, precision=precision, recurrence=layout, model=model, **keys)
    with session_for(config) as session:
        trainer = make_trainer(config, session)
        steps = all_steps(trainer)
        train(trainer, steps, 3)
        try:
            torch.cuda.set_sync_debug_mode("error")
            with pytest.raises(RuntimeError):  # so that a wait would be noticed
                trainer.parameters[0].flatten()[0].item()
            for batch in itertools.islice(steps, 20):
                trainer.update(batch)
                trainer.world.start_maximum(np.array([trainer.step]), "a request")()
            read_figures = trainer.begin_figures()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert trainer.step == 23
        assert read_figures()["rows"] == 23 * rows
