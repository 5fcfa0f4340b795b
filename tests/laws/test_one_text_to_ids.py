# SPDX-License-Identifier: Apache-2.0
"""Law 1: one text→ids function. Shards, prediction and export call the same code; its hash changes when the function
does."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.inference.scorer import OnnxScorer
from padless.core.errors import DataError
from preprocessing.dataset.shards import VOCABULARY, read_manifest
from preprocessing.text.characters import encode
from preprocessing.text.encoder import Encoded, Encoder
from preprocessing.text.resources import resolve_pipeline
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.tokenizer import Tokenizer
from preprocessing.text.vocabulary import Vocabulary, freeze
from tests.helpers.datasets import count
from tests.helpers.report_runs import TEXTS, export, make_run
from tests.reference.hostile import TEXT

SPEC = TextSpec(max_tokens=5, truncate="both")
STOP_WORDS = ("a", "of", "the")
CORPUS = ["A great<br />film, not a bad one &amp; the best of films", "Don’t watch the naïve movie", "", "the"]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    pipeline = TextPipeline(SPEC, STOP_WORDS, {})
    return Encoder(pipeline, freeze(count(Tokenizer(pipeline)(CORPUS))))


def rows(encoded: Encoded) -> list[list[int]]:
    return [encoded.ids[a:b].tolist() for a, b in zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)]


@given(texts=st.lists(st.one_of(TEXT, st.sampled_from(CORPUS)), min_size=1, max_size=8), split_at=st.integers(0, 8))
def test_batch_single_and_any_split_of_a_batch_give_the_same_ids(
    encoder: Encoder, texts: list[str], split_at: int
) -> None:
    encoded = encoder(texts)
    assert rows(encoded) == [row for text in texts for row in rows(encoder([text]))]
    assert rows(encoded) == rows(encoder(texts[:split_at])) + rows(encoder(texts[split_at:]))
    in_utf8 = [encode(text).decode() for text in texts]
    assert rows(encoded) == rows(encoder(pa.array(in_utf8, pa.string())))
    assert rows(encoded) == rows(pickle.loads(pickle.dumps(encoder))(texts))


@pytest.mark.parametrize(
    ("truncate", "expected"),
    [("head", [2, 3, 4]), ("tail", [4, 5, 6]), ("both", [2, 3, 6])],
)
def test_truncation_keeps_the_end_it_names_and_empty_texts_are_one_unk(truncate: str, expected: list[int]) -> None:
    spec = TextSpec(max_tokens=3, truncate=truncate)  # type: ignore[arg-type]
    pipeline = resolve_pipeline(spec)
    vocabulary = freeze(count(Tokenizer(pipeline)(["a a a a a b b b b c c c d d e"])))
    encoded = Encoder(pipeline, vocabulary)(["", "a b c d e", ".", "e zz", ""])
    assert rows(encoded) == [[1], expected, [1], [6, 1], [1]]
    assert encoded.num_tokens.tolist() == [0, 5, 0, 2, 0]


CHANGED_VALUES: dict[str, object] = {
    "html": False,
    "lowercase": False,
    "tokenizer": "nltk",
    "stop_words": "nltk",
    "keep_negations": False,
    "lemmatizer": "wordnet",
    "max_tokens": 6,
    "truncate": "tail",
    "normalize": "nfc",
}


def test_the_hash_changes_with_every_field_of_the_spec() -> None:
    base = TextPipeline(SPEC, STOP_WORDS, {"nltk": "1"})
    assert set(CHANGED_VALUES) == {field.name for field in dataclasses.fields(TextSpec)}
    specs = [dataclasses.replace(SPEC, **{key: value}) for key, value in CHANGED_VALUES.items()]
    changed = [dataclasses.replace(base, spec=spec) for spec in specs]
    assert len({base.hash, *(pipeline.hash for pipeline in changed)}) == 1 + len(CHANGED_VALUES)


def test_the_hash_changes_with_stop_words_resources_and_vocabulary(encoder: Encoder) -> None:
    base = encoder.pipeline
    changed_pipelines = [
        dataclasses.replace(base, stop_words=base.stop_words[1:]),
        dataclasses.replace(base, resources={"nltk": "0"}),
    ]
    assert len({base.hash, *(pipeline.hash for pipeline in changed_pipelines)}) == 3
    smaller = Vocabulary(encoder.vocabulary.tokens[:-1], encoder.vocabulary.counts[:-1])
    assert Encoder(base, smaller).hash != encoder.hash
    assert Encoder(changed_pipelines[0], encoder.vocabulary).hash != encoder.hash
    assert Encoder(base, encoder.vocabulary).hash == encoder.hash


def test_another_version_of_a_resource_stops_before_any_id_is_made(encoder: Encoder) -> None:
    assert TextPipeline.from_json(encoder.pipeline.to_json()) == encoder.pipeline
    pipeline = dataclasses.replace(encoder.pipeline, resources={"nltk": "0.0.1"})
    for make in (Tokenizer, lambda pipeline: Encoder(pipeline, encoder.vocabulary)):
        with pytest.raises(DataError, match=r"nltk 0\.0\.1"):
            make(pipeline)


def test_an_export_reads_texts_with_the_function_of_the_training(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert export(run, "--output", tmp_path / "out", "--onnx", "--quiet") == 0
    manifest = read_manifest(tmp_path / "data")
    training = Encoder(TextPipeline.from_json(manifest.text), Vocabulary.read(tmp_path / "data" / VOCABULARY))
    scorer = OnnxScorer(tmp_path / "out")
    assert scorer.encoder.hash == training.hash == manifest.text_hash
    ids_seen = []

    def run_session(outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        ids_seen.extend(ids[:length].tolist() for ids, length in zip(inputs["ids"], inputs["lengths"], strict=True))
        return [np.zeros(len(inputs["lengths"]), np.float32)]

    scorer.session = SimpleNamespace(run=run_session)
    scorer.score(scorer.encoder.encode_each([*CORPUS, *TEXTS]))
    assert sorted(ids_seen) == sorted(rows(training([*CORPUS, *TEXTS])))
