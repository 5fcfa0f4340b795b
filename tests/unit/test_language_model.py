# SPDX-License-Identifier: Apache-2.0
"""The language model's parts: candidates, the sampled softmax and its memory, its rows, and what it cannot use."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.__main__ import main
from harness.batch import Batch, StepBatch
from harness.config import LanguageModelConfig, ModelConfig, RunConfig
from harness.data.views import rows_of_task
from harness.inference.bundle import read_bundle, write_bundle
from harness.model import language, softmax
from harness.model.language import LanguageModel, LanguageObjective, Targets
from harness.model.softmax import LogUniformSampler, log_losses
from harness.training import preflight
from harness.training.rules import resolve
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.shards import Manifest, ShardInfo, read_manifest
from tests.datasets import write_dataset
from tests.reference import plain_language_model as plain


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 60, "validation": 20, "test": 10, "unlabelled": 40})
    return root


def padded_batch(lengths: list[int], vocabulary_size: int, seed: int = 0) -> Batch:
    """Random ids of rows, longest first."""
    random = np.random.default_rng(seed)
    ids = random.integers(1, vocabulary_size, (len(lengths), lengths[0])).astype(np.int32)
    ids[np.arange(lengths[0]) >= np.array(lengths)[:, None]] = 0
    labels = torch.zeros(len(lengths), dtype=torch.int64)
    return Batch(torch.from_numpy(ids), torch.tensor(lengths), labels, np.arange(len(lengths)))


def packed_batch(batch: Batch) -> Batch:
    """The same rows without padding."""
    packed = torch.nn.utils.rnn.pack_padded_sequence(batch.ids.t(), batch.lengths)
    return replace(batch, ids=packed.data, batch_sizes=packed.batch_sizes)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation gave, oneDNN's workspace of bytes aside."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        sizes = [tensor.numel() for tensor in tensors if tensor.dtype != torch.uint8]
        self.elements = max(self.elements, *sizes, 0)
        return result


def test_memory_grows_with_vocabulary_plus_tokens_and_not_times(monkeypatch: pytest.MonkeyPatch) -> None:
    piece, vocabulary, hidden, dim, candidates = 10_000, 3000, 4, 6, 200
    monkeypatch.setattr(softmax, "CPU_ELEMENTS", piece)
    model = LanguageModel(ModelConfig(embedding_dim=dim, hidden_size=hidden), vocabulary)
    objective = LanguageObjective(model, candidates=candidates)
    batch = padded_batch([60] * 20, vocabulary)
    tokens = batch.num_tokens
    objective(batch, 0)
    with Largest() as training:
        objective(batch, 0).backward()
    with Largest() as validation, torch.inference_mode():
        model.row_log_losses(batch)
    assert training.elements == vocabulary * dim  # the gradient of the embedding
    assert validation.elements <= vocabulary * dim
    assert vocabulary * dim < tokens * candidates / 10 < tokens * vocabulary / 100


@pytest.mark.parametrize("elements", [1, 512 * 7, 1 << 20])
def test_losses_of_a_whole_vocabulary_do_not_depend_on_the_blocks(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax, "CPU_ELEMENTS", elements)
    torch.manual_seed(3)
    projected, vectors, bias = torch.randn(5, 4).double() * 30, torch.randn(23, 4).double(), torch.randn(23).double()
    wanted = torch.tensor([[0, 22], [7, 7], [21, 1], [6, 8], [14, 13]])
    expected = -functional.log_softmax(projected @ vectors.t() + bias, 1).gather(1, wanted)
    torch.testing.assert_close(log_losses(projected, vectors, bias, wanted), expected, rtol=1e-12, atol=1e-12)


def test_both_layouts_and_a_plain_loop_give_the_same_loss() -> None:
    torch.manual_seed(1)
    shape = ModelConfig(embedding_dim=5, hidden_size=4, dropout=0.3, word_dropout=0.3)
    model = LanguageModel(shape, 80).double()
    objective = LanguageObjective(model, candidates=10, seed=7)
    padded = padded_batch([9, 7, 7, 2, 1, 1], 80)
    total = objective(padded, 4)
    rows = objective.row_losses.clone()
    torch.testing.assert_close(objective(packed_batch(padded), 4), total, rtol=1e-12, atol=0)
    torch.testing.assert_close(objective.row_losses, rows, rtol=1e-12, atol=0)
    candidates, tries = plain.draw(80, 10, 7, 4)
    corrections = plain.log_expected(80, tries)
    for number, length in enumerate(padded.lengths.tolist()):
        masks = language.Masks.of(7, 4, padded.rows[number : number + 1], torch.device("cpu"))
        ids = padded.ids[number, :length].tolist()
        expected = sum(loss.item() for loss in plain.row_losses(model, ids, candidates, corrections, masks))
        assert rows[number].item() == pytest.approx(expected, rel=1e-12)
    assert rows[4:].tolist() == [0, 0]  # a row of one token has nothing to predict
    assert rows.sum().item() == pytest.approx(total.item(), rel=1e-12)


def test_a_window_is_predicted_at_distances_that_the_step_decides() -> None:
    """Rows shorter than a distance cost nothing at it, in both layouts."""
    torch.manual_seed(1)
    model = LanguageModel(ModelConfig(embedding_dim=5, hidden_size=4), 80).double()
    counts = np.arange(80)[::-1].copy()
    targets = Targets.of(LanguageModelConfig(window=6, distances=3, frequent=0.002), counts, torch.device("cpu"))
    drawn = [targets.drawn(7, step) for step in range(200)]
    assert all(len(set(some)) == 3 and set(some) <= set(range(1, 7)) for some in drawn)
    assert np.bincount(np.ravel(drawn))[1:].tolist() == pytest.approx([100] * 6, abs=25)
    assert drawn[4] == targets.drawn(7, 4) != targets.drawn(8, 4)
    assert targets.weights is not None
    weights = plain.token_counts(counts.tolist(), 0.002)
    assert targets.weights.tolist() == pytest.approx(weights)
    assert weights[0] == min(weights) < 1 < max(weights)
    assert Targets.of(LanguageModelConfig(window=6), counts, torch.device("cpu")) == Targets(window=6)
    objective = LanguageObjective(model, candidates=10, seed=7, targets=targets)
    padded = padded_batch([9, 7, 4, 2, 1], 80)
    total = objective(padded, 4)
    rows = objective.row_losses.clone()
    torch.testing.assert_close(objective(packed_batch(padded), 4), total, rtol=1e-12, atol=0)
    candidates, tries = plain.draw(80, 10, 7, 4)
    corrections = plain.log_expected(80, tries)
    for number, length in enumerate(padded.lengths.tolist()):
        ids = padded.ids[number, :length].tolist()
        costs = [
            loss.item()
            for distance in drawn[4]
            for loss in plain.row_losses(model, ids, candidates, corrections, None, distance, weights)
        ]
        assert rows[number].item() == pytest.approx(sum(costs) / 3, rel=1e-12, abs=1e-12)
    assert rows.sum().item() == pytest.approx(total.item(), rel=1e-12)


def test_a_step_is_divided_by_its_predictions_over_all_processes() -> None:
    objective = LanguageObjective(LanguageModel(ModelConfig(embedding_dim=4, hidden_size=4), 30), candidates=5)
    assert objective.divisor(StepBatch(0, 0, [], global_rows=10, global_tokens=64)) == 2 * 54
    assert objective.divisor(StepBatch(0, 0, [], global_rows=10, global_tokens=10)) == 1
    batch = padded_batch([1, 1], 30)
    loss = objective(batch, 0)
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in objective.parameters())


def test_nothing_to_predict_is_said(data: Path) -> None:
    whole = read_manifest(data)

    def refusal(**splits: list[ShardInfo]) -> str:
        with pytest.raises(DataError) as caught:
            rows_of_task("language_model", replace(whole, splits=splits), data)
        return str(caught.value)

    one = [replace(info, tokens=info.rows) for info in whole.splits["unlabelled"]]
    head = f"{data}/dataset.json: "
    assert refusal(validation=whole.splits["validation"]).startswith(
        f"{head}no rows to pretrain on: there is no split train or unlabelled; build a dataset"
    )
    assert refusal(train=whole.splits["train"]).startswith(f"{head}no rows to measure perplexity on")
    assert refusal(unlabelled=one, validation=whole.splits["validation"]).startswith(
        f"{head}no row to pretrain on has a second token"
    )


def test_one_recipe_serves_both_tasks(data: Path) -> None:
    """Of a classifier's model a pretraining has the first layer, and keys of labels do nothing."""
    model = replace(RunConfig().model, num_layers=3, wide="auto", pooling="mean")
    config = resolve(RunConfig(task="language_model", data=str(data), run="run", model=model)).config
    assert (config.model.num_layers, config.model.wide, config.model.pooling) == (1, 0, "mean")
    weights = replace(config.optim, class_weights={"nobody": 2.0})
    manifest = preflight.check_data(replace(config, optim=weights), 1)
    assert manifest.rows("train") == 100
    with pytest.raises(ConfigError, match=r"optim.class_weights.nobody"):
        preflight.check_data(replace(config, optim=weights, task="classifier"), 1)


@pytest.fixture
def pretrained(data: Path, tmp_path: Path) -> Path:
    """A run directory with the bundle of a language model."""
    manifest: Manifest = rows_of_task("language_model", read_manifest(data), data)
    model = LanguageModel(ModelConfig(embedding_dim=4, hidden_size=4), manifest.vocabulary_size)
    write_bundle(tmp_path / "run" / "bundle", model, manifest, 7)
    return tmp_path / "run"


@pytest.mark.parametrize("command", [("predict", "a text"), ("explain", "a text"), ("evaluate", "--data", "DATA")])
def test_what_needs_a_classifier_says_so(data: Path, pretrained: Path, command: tuple[str, ...]) -> None:
    words = [str(data) if word == "DATA" else word for word in command]
    with pytest.raises(ConfigError) as caught:
        main([words[0], "--run", str(pretrained), *words[1:]])
    place = pretrained / "bundle"
    assert str(caught.value) == (
        f"{place / 'bundle.json'}: a pretrained language model, which knows no labels; train a classifier that starts "
        f"from it, with --init.weights {place}, and name that run"
    )
    with pytest.raises(ConfigError):
        read_bundle(place)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"window": 0}, "language_model.window: 0 is out of range: expected from 1 to 1,024"),
        ({"window": 4, "distances": 5}, "language_model.distances: 5 is out of range: expected from 1 to the window"),
        ({"frequent": 0.0}, "language_model.frequent: 0.0 is out of range: expected above 0 and at most 1, or null"),
        ({"candidates": 0}, "language_model.candidates: 0"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LanguageModelConfig(**values)
    assert str(caught.value).startswith(sentence)


def test_candidates_are_those_of_the_definition() -> None:
    sampler = LogUniformSampler(300, 40)
    assert np.expm1(sampler.log_missed) == pytest.approx([-share for share in plain.shares(300)], abs=1e-15)
    assert math.fsum(plain.shares(300)) == pytest.approx(1, abs=1e-12)
    for step in range(3):
        drawn = sampler.draw(5, step)
        assert (drawn.ids.tolist(), drawn.tries) == plain.draw(300, 40, 5, step)


def test_expected_counts_are_how_often_a_token_is_a_candidate() -> None:
    sampler, draws = LogUniformSampler(60, 12), 3000
    seen, expected = np.zeros(60), np.zeros(60)
    for step in range(draws):
        drawn = sampler.draw(1, step)
        seen[drawn.ids] += 1
        expected += -np.expm1(sampler.log_missed * drawn.tries)
    noise = np.sqrt(np.maximum(expected * (1 - expected / draws), 1))
    # Stopping at the last distinct token makes the count of tries depend on the draws: a bias of less than 5 %.
    assert np.all(np.abs(seen - expected) <= 4 * noise + 0.05 * expected)
    assert seen.sum() == 12 * draws
    assert seen[0] == 0


@pytest.mark.parametrize(("candidates", "drawn"), [(24, 24), (25, 49), (5000, 49)])
def test_half_of_the_vocabulary_or_more_is_all_of_it(candidates: int, drawn: int) -> None:
    found = LogUniformSampler(50, candidates).draw(0, 0)
    assert len(found.ids) == drawn
    if drawn == 49:
        assert found.ids.tolist() == list(range(1, 50))
        assert found.tries == 0


def test_the_softmax_in_pieces_is_autograd_on_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "CPU_ELEMENTS", 30)
    torch.manual_seed(0)
    shapes = ((17, 5), (17, 5), (17,), (9, 5), (9,))
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    hits = torch.full((17,), 9)
    hits[3], hits[8] = 0, 7
    projected, vectors, bias, candidates, offsets = given
    logits = projected @ candidates.t() + offsets
    logits = logits.masked_fill(torch.arange(9) == hits[:, None], -torch.inf)
    right = (projected * vectors).sum(1) + bias
    expected = torch.logsumexp(torch.cat((logits, right[:, None]), 1), 1) - right
    wanted = torch.autograd.grad(3 * expected.sum(), given)
    total, losses = softmax.sampled_softmax(*given, hits)
    found = torch.autograd.grad(3 * total, given)
    torch.testing.assert_close(losses, expected.detach(), rtol=0, atol=1e-12)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
