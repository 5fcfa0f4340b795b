# SPDX-License-Identifier: Apache-2.0
"""Parts of the model equal plain formulas. The recurrent layouts and the poolings: a loop over single sequences, in
outputs and gradients. The linear part: its features and weights in both layouts, and scikit-learn's optimum.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from harness.batch import Batch, PackedIndex
from harness.config import ModelConfig
from harness.model.classifier import Classifier, Objective
from harness.model.linear_part import WidePart, pad_ids
from harness.model.pooling import Last, MaximumAndMean
from harness.model.recurrent import VariableLengthLSTM, restore_order, reversal_index
from harness.training import linear_fit as training
from harness.training.linear_fit import fit_wide
from preprocessing.dataset.shards import read_manifest
from tests.helpers.batches import packed_batch, padded_batch
from tests.helpers.datasets import split_of, write_dataset

CPU = torch.device("cpu")
LENGTHS = torch.tensor([9, 7, 7, 4, 2, 1, 1])
INDEX = PackedIndex.build(LENGTHS, int(LENGTHS.max()), int(LENGTHS.sum()))
SHAPES = [(2, False), (3, True)]


def make_lstm(num_layers: int, bidirectional: bool) -> tuple[VariableLengthLSTM, torch.Tensor]:
    torch.manual_seed(0)
    lstm = VariableLengthLSTM(5, 4, num_layers, bidirectional=bidirectional).double()
    return lstm, torch.randn(len(LENGTHS), 9, 5, dtype=torch.float64)


def sum_weighted(outputs: torch.Tensor, state: torch.Tensor, row: int) -> torch.Tensor:
    """A scalar: the sum of all outputs and states with different weights."""
    generator = torch.Generator().manual_seed(row)
    size = {"generator": generator, "dtype": torch.float64}
    return (outputs * torch.randn(outputs.shape, **size)).sum() + (state * torch.randn(state.shape, **size)).sum()


def gradients(lstm: VariableLengthLSTM, loss: torch.Tensor, inputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [inputs, *lstm.parameters()]))


def run_in_a_loop(lstm: VariableLengthLSTM, inputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """One sequence at a time through nn.LSTM, nothing padded."""
    outputs, states = [], []
    for row, length in enumerate(LENGTHS.tolist()):
        hidden = inputs[row : row + 1, :length]
        for layer in lstm.layers:
            hidden, (state, _) = layer(hidden)
        outputs.append(hidden[0])
        states.append(state.transpose(0, 1).reshape(-1))
    return outputs, torch.stack(states)


def run_padded(lstm: VariableLengthLSTM, inputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    directions = lstm.forward_padded(inputs.transpose(0, 1), LENGTHS)
    reversal = reversal_index(LENGTHS, inputs.shape[1]) if lstm.bidirectional else None
    outputs = restore_order(directions, reversal).transpose(0, 1)
    states = Last(lstm.output_size).pool_padded(directions, LENGTHS, LENGTHS)
    return [outputs[row, :length] for row, length in enumerate(LENGTHS.tolist())], states


def run_packed(lstm: VariableLengthLSTM, inputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    packed = pack_padded_sequence(inputs, LENGTHS, batch_first=True)
    data, states = lstm.forward_packed(packed.data, packed.batch_sizes)
    states = Last(lstm.output_size).pool_packed(data, states, INDEX, LENGTHS, LENGTHS)
    outputs = pad_packed_sequence(packed._replace(data=data), batch_first=True)[0]
    return [outputs[row, :length] for row, length in enumerate(LENGTHS.tolist())], states


@pytest.mark.parametrize("path", [run_padded, run_packed])
@pytest.mark.parametrize(("num_layers", "bidirectional"), SHAPES)
def test_equal_to_a_loop_over_sequences(path, num_layers: int, bidirectional: bool) -> None:
    lstm, inputs = make_lstm(num_layers, bidirectional)
    results = []
    for function in (run_in_a_loop, path):
        leaf = inputs.clone().requires_grad_()
        outputs, states = function(lstm, leaf)
        loss = sum(sum_weighted(outputs[row], states[row], row) for row in range(len(LENGTHS)))
        results.append((outputs, states, gradients(lstm, loss, leaf)))
    (expected, expected_states, expected_grads), (outputs, states, grads) = results
    for value, theirs in zip([*outputs, states, *grads], [*expected, expected_states, *expected_grads], strict=True):
        torch.testing.assert_close(value, theirs, rtol=0, atol=1e-10)


BF16 = torch.bfloat16


def compute_gradients(objective: Objective, batch: Batch) -> dict[str, torch.Tensor]:
    objective.prepare(3, batch)
    loss = objective(batch) / batch.num_rows
    loss.backward()
    return {name: weight.grad for name, weight in objective.named_parameters() if weight.grad is not None}


def test_gradients_in_bf16_reach_every_weight() -> None:
    torch.manual_seed(0)
    shape = ModelConfig(embedding_dim=16, hidden_size=16, num_layers=2, pooling="last", dropout=0.1)
    objective = Objective(Classifier(shape, 50), recurrent_dtype=BF16)
    batch = padded_batch(sorted([*range(20, 30)] * 6)[::-1], 50)
    exact = copy.deepcopy(objective).double()
    exact.recurrent_dtype = None
    gradient_by_name, expected = compute_gradients(objective, batch), compute_gradients(exact, batch)
    assert gradient_by_name.keys() == expected.keys() == dict(objective.named_parameters()).keys()
    for name, gradient in gradient_by_name.items():
        assert gradient.dtype == torch.float32
        assert gradient.count_nonzero() > 0.8 * expected[name].count_nonzero(), name
        error = (gradient.double() - expected[name]).norm() / expected[name].norm()
        assert error < 1 / 40, name


def pool_in_a_loop(outputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """``[rows, 2 * features]``, a text at a time."""
    texts = [outputs[:length, row] for row, length in enumerate(lengths.tolist())]
    return torch.stack([torch.cat((text.amax(0), text.mean(0))) for text in texts])


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6).map(lambda values: sorted(values, reverse=True)),
    levels=st.integers(1, 40),  # few levels: many tokens share the maximum
    seed=st.integers(0, 1000),
)
@example(lengths=[4, 4, 4], levels=1, seed=0)  # no tail
@example(lengths=[6, 1], levels=2, seed=1)  # a tail of one row
def test_pooling_is_torchs_own_over_one_text_at_a_time(lengths: list[int], levels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(lengths)
    values = torch.randint(-levels, levels + 1, (max(lengths), len(lengths), 3), generator=generator).double()
    is_token = torch.arange(max(lengths))[:, None] < sizes
    pooling, weights, results = MaximumAndMean(3), None, []
    for path in ("loop", "padded", "packed"):
        leaf = values.clone().requires_grad_()
        if path == "loop":
            pooled = pool_in_a_loop(leaf, sizes)
        elif path == "padded":
            pooled = pooling.pool_padded([leaf], sizes, sizes)
        else:
            index = PackedIndex.build(sizes, max(lengths), sum(lengths))
            pooled = pooling.pool_packed(leaf[is_token], leaf, index, sizes, sizes)
        weights = torch.randn(pooled.shape, generator=generator).double() if weights is None else weights
        results.append((pooled, torch.autograd.grad((pooled * weights).sum(), leaf)[0]))
    for pooled, gradient in results[1:]:
        torch.testing.assert_close(pooled, results[0][0], rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, results[0][1], rtol=0, atol=1e-12)


def largest_ratio(has_feature: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How much each feature tells of the labels of the texts: its largest log-count ratio."""
    is_repeated, ratios = has_feature.sum(0) > 1, np.zeros(has_feature.shape[1])
    for label in np.unique(labels):
        with_label, without_label = 1 + has_feature[labels == label].sum(0), 1 + has_feature[labels != label].sum(0)
        share = with_label / with_label[is_repeated].sum()
        other_share = without_label / without_label[is_repeated].sum()
        ratios = np.maximum(ratios, np.abs(np.log(share / other_share)))
    return ratios


def weigh_counts(texts: list[str], labels: np.ndarray, longest: int) -> sparse.csr_matrix:
    """scikit-learn's counts, weighted and scaled by hand, of texts with these labels."""

    def n_grams(text: str) -> list[str]:
        words, ngrams = text.split(), []
        ends = [("end ", words[-20:], 2)] * (longest > 2)
        for prefix, span, max_size in [("", words, longest), *ends]:
            for size in range(1, max_size + 1):
                ngrams += [prefix + " ".join(span[at : at + size]) for at in range(len(span) - size + 1)]
        return ngrams

    vectorizer = CountVectorizer(analyzer=n_grams, binary=True)
    counts = vectorizer.fit_transform(texts).astype(float)
    names = vectorizer.get_feature_names_out()
    least, power = (2, 0.5) if longest < 3 else (5, 0.7)
    is_frequent = (least - 1 < counts.sum(axis=0).A1) | np.array([longest < 3 and " " not in name for name in names])
    counts = counts[:, is_frequent]
    has_feature = counts.toarray() > 0
    idf, ratios = 1 + np.log((1 + len(texts)) / (1 + has_feature.sum(0))), largest_ratio(has_feature, labels)
    ratios[has_feature.sum(0) < 2] = 0
    weights = idf * (0.05 + ratios) ** power
    return normalize(sparse.csr_matrix(counts.multiply(weights)))


def name_words(ids: torch.Tensor) -> str:
    return " ".join(f"w{word_id}" for word_id in ids)


@pytest.mark.parametrize(
    ("longest", "classes", "spelling"),
    [(3, 2, "great{1}{2}"), (2, 3, "{0:c}")],
)
def test_it_is_the_optimum_that_scikit_learn_finds(
    longest: int, classes: int, spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many buckets that no two features collide; words without common pieces; triples, without pieces."""
    monkeypatch.setattr(training, "TOLERANCE", 1e-14)
    monkeypatch.setattr(training, "MAX_SOLVER_STEPS", 2000)
    monkeypatch.setattr(training, "ROWS_PER_MIN", 30)
    monkeypatch.setattr(training, "PIECE_BUCKETS", 1 << 22)
    write_dataset(tmp_path, {"train": 150, "validation": 10}, num_classes=classes)
    manifest, factors = read_manifest(tmp_path), np.linspace(1, 2, classes)
    split = split_of(tmp_path)
    wide = WidePart(1 << 23, 1 if classes == 2 else classes, longest).double()
    tokens = ["", "", *(spelling.format(n + 300, n % 5, n // 5) for n in range(2, manifest.vocabulary_size))]
    summary = fit_wide(wide, split, factors, tokens)
    texts, features, logits, labels = [], [], [], split.column("label")
    for ids, lengths in training.read_rows(split, 1):
        texts += [name_words(row[:length]) for row, length in zip(ids, lengths, strict=True)]
        batch = Batch(ids.int(), lengths, torch.zeros(len(ids)), np.arange(len(ids)))
        features += list(wide.features(*pad_ids(batch))[1])
        logits.append(wide(batch).numpy())
        falling = lengths.argsort(descending=True)
        batch = replace(batch, ids=batch.ids[falling], lengths=lengths[falling])
        assert torch.equal(wide.features(*pad_ids(packed_batch(batch)))[1], wide.features(*pad_ids(batch))[1])
    targets = np.eye(classes)[labels] * factors / len(split)
    theirs = weigh_counts(texts, labels, longest)
    for number, value in enumerate(features):
        np.testing.assert_allclose(np.sort(value[value > 0]), np.sort(theirs[number].data), atol=1e-12)
    model = LogisticRegression(C=6.0 * len(split), tol=1e-10, max_iter=5000)
    repeated = sparse.vstack([theirs] * classes)
    model.fit(repeated, np.repeat(np.arange(classes), len(texts)), sample_weight=targets.T.ravel())
    expected = model.decision_function(theirs)
    logit_array = np.concatenate(logits)
    logit_array = logit_array[:, 0] if classes == 2 else logit_array - logit_array.mean(axis=1, keepdims=True)
    expected = expected if classes == 2 else expected - expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(logit_array, expected, atol=2e-4)
    assert np.ptp(expected) > 0.5
    assert f"{theirs.shape[1]:,} n-grams of {len(texts)} rows" in summary
