# SPDX-License-Identifier: Apache-2.0
"""An export that is not whole: flipped bytes, a pickle, files of another one, paths and sizes that are not true."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import padless
from harness.rundir.bundle_files import CARD, EXPORT, INDEX, INT8, ONNX, read_info
from harness.rundir.json_files import SEAL, seal_of
from harness.rundir.training_facts import FILE as TRAINING
from preprocessing.base import atomic
from preprocessing.dataset.shards import VOCABULARY
from tests.exports import TEXTS, export, make_run
from tests.unit.test_bundle import Trap

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two exports of different weights with the same vocabulary and text pipeline."""
    root = tmp_path_factory.mktemp("two")
    first = make_run(root / "one", wide=64)
    assert export(first, "--output", root / "first", "--int8", "--quiet") == 0
    second = make_run(root / "other", seed=1, wide=64, pooling="mean")
    assert export(second, "--output", root / "second", "--int8", "--quiet") == 0
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """An export of its own, to be damaged."""
    return Path(shutil.copytree(made / "first", tmp_path / "first"))


def attempt(folder: Path, engine: Any) -> tuple[str, Any]:
    """Why an export is refused, or the probabilities of the model in it."""
    try:
        return "", padless.load(folder, engine).predict_proba(TEXTS)
    except padless.UserError as error:
        return str(error), None


def resealed(path: Path, change: Any) -> None:
    """Change an index, and seal it as if a padless had written it."""
    content = json.loads(path.read_text())
    del content[SEAL]
    change(content)
    atomic.write_json(path, {**content, SEAL: seal_of(content)})


def replaced(folder: Path, name: str, data: bytes) -> None:
    """Another content of a file, that the index vouches for."""
    (folder / name).write_bytes(data)
    said = {"bytes": len(data), "sha256": atomic.sha256_file(folder / name)}
    resealed(folder / EXPORT, lambda content: content["files"][name].update(said))


@pytest.mark.parametrize("engine", ["torch", "onnx", "onnx-int8"])
def test_any_flipped_byte_is_found_whatever_reads_it(folder: Path, engine: str) -> None:
    expected = padless.load(folder, engine).predict_proba(TEXTS)  # type: ignore[arg-type]
    random = np.random.default_rng(0)
    for path in sorted(set(folder.iterdir()) - {folder / CARD}):
        whole = path.read_bytes()
        for place in random.integers(0, len(whole), 8):
            content = bytearray(whole)
            content[place] ^= 1 << int(random.integers(8))
            path.write_bytes(content)
            refused, found = attempt(folder, engine)
            # else a blank of export.json: all that the file says is what it said
            assert str(folder) in refused or (path.name == EXPORT and np.array_equal(found, expected)), path
        path.write_bytes(whole)


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_network_of_a_terabyte_is_not_read(folder: Path, engine: str) -> None:
    """A hole, which the index vouches for: its hash alone would take an hour."""
    with open(folder / ONNX, "r+b") as file:
        file.truncate(1 << 40)
    resealed(folder / EXPORT, lambda content: content["files"][ONNX].update(bytes=1 << 40))
    refused, _ = attempt(folder, engine)
    assert refused.startswith(f"{folder / ONNX}: 1,099,511,627,776 bytes, and no ONNX file has more than 2,147,483,648")


def test_the_card_is_anybodys(folder: Path) -> None:
    (folder / CARD).write_text("A better card.")
    assert padless.load(folder, "onnx").predict_proba(TEXTS).shape == (4, 2)
    (folder / CARD).unlink()
    assert padless.load(folder, "onnx").predict_proba(TEXTS).shape == (4, 2)


def test_one_form_of_the_network_is_enough(folder: Path) -> None:
    expected = padless.load(folder, "onnx").predict_proba(TEXTS)
    for name in (INT8, TRAINING, read_info(folder).weights):
        (folder / name).unlink()
    np.testing.assert_array_equal(padless.load(folder, "onnx").predict_proba(TEXTS), expected)
    with pytest.raises(padless.UserError, match=r"holds no model-int8\.onnx; export the run again with --int8"):
        padless.load(folder, "onnx-int8")
    with pytest.raises(padless.UserError, match=r"safetensors: No such file or directory; bundle\.json names these"):
        padless.load(folder, "torch")


def test_a_pickle_is_refused_and_not_executed(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    content = pickle.dumps(Trap(trace))
    (folder / ONNX).write_bytes(content)
    assert "bytes, and export.json says" in attempt(folder, "onnx")[0]
    replaced(folder, ONNX, content)
    assert f"{ONNX}: ONNX Runtime cannot read it" in attempt(folder, "onnx")[0]
    assert not trace.exists()


def test_the_network_of_another_bundle_is_refused(folder: Path, made: Path) -> None:
    data = (made / "second" / ONNX).read_bytes()
    (folder / ONNX).write_bytes(data)
    assert "model.onnx: " in attempt(folder, "onnx")[0]
    replaced(folder, ONNX, data)
    assert attempt(folder, "onnx")[0].endswith("model.onnx: the network of another bundle; export this one again")
    shutil.copy(made / "second" / EXPORT, folder / EXPORT)
    assert attempt(folder, "onnx")[0].endswith(
        "export.json: belongs to another bundle than the bundle.json beside it; export the run again"
    )
    assert "belongs to another bundle" in attempt(folder, "torch")[0]


def test_a_network_of_somebody_elses_is_refused(folder: Path) -> None:
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "g", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    replaced(folder, ONNX, model.SerializeToString())
    assert attempt(folder, "onnx")[0].endswith("not a network that padless has exported: it takes x")


def test_an_index_of_endless_depth_is_refused(folder: Path) -> None:
    for name in (EXPORT, INDEX):
        kept = (folder / name).read_bytes()
        (folder / name).write_text("[" * 200_000)
        assert f"{folder / name}: not readable as JSON" in attempt(folder, "onnx")[0]
        (folder / name).write_bytes(kept)


FACTS = {"bytes": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: content["files"].update({"../x": FACTS}), "names a file outside its own folder ('../x')"),
        (lambda content: content["files"].update({"/etc/passwd": FACTS}), "names a file outside its own folder"),
        (lambda content: content["files"].update({"..": FACTS}), "names a file outside its own folder ('..')"),
        (lambda content: content["files"][ONNX].update(bytes=10**9), "and export.json says 1,000,000,000"),
        (lambda content: content["files"][ONNX].update(bytes=10**15), "and no ONNX file has more than 2,147,483,648"),
        (lambda content: content["files"][ONNX].update(bytes="many"), "Expected `int`, got `str`"),
        (lambda content: content.update(files=[]), "Expected `object`, got `array` - at `$.files`"),
        (lambda content: content.update(format_version=9), "padless-export 9, this padless reads padless-export 1"),
        (lambda content: content.update(more=1), "no key 'more' is known"),
        (lambda content: content.update(bundle="0"), "belongs to another bundle"),
    ],
)
def test_an_index_that_is_not_true_is_refused(folder: Path, change: Any, sentence: str) -> None:
    resealed(folder / EXPORT, change)
    for engine in ("torch", "onnx"):
        assert sentence in attempt(folder, engine)[0]


def test_sizes_that_no_memory_holds_are_refused_before_anything_is_allocated(folder: Path) -> None:
    (folder / EXPORT).unlink()  # which would refuse the others for not belonging together
    shape, kept = read_info(folder).model, (folder / INDEX).read_bytes()
    few = "not the weights of the model in bundle.json: it has too few bytes"
    for change, sentence in (
        ({"vocabulary_size": 10**15}, "vocabulary_size is 1000000000000000, and vocabulary.arrow has 127 entries"),
        ({"model": {**shape, "hidden_size": 1 << 20}}, few),
        ({"model": {**shape, "embedding_dim": 1 << 20}}, few),
        ({"model": {**shape, "num_layers": 10**12}}, "model.num_layers: 1000000000000 is out of range"),
        ({"model": {**shape, "wide": 1 << 26}}, few),
    ):
        resealed(folder / INDEX, lambda content, change=change: content.update(change))
        assert sentence in attempt(folder, "torch")[0]
        (folder / INDEX).write_bytes(kept)


def test_a_vocabulary_that_claims_more_than_memory_is_refused(folder: Path) -> None:
    (folder / EXPORT).unlink()
    path, expected = folder / VOCABULARY, padless.load(folder, "torch").predict_proba(TEXTS)
    whole = path.read_bytes()
    for place in range(len(whole) - 400, len(whole) - 10, 4):
        path.write_bytes(whole[:place] + (1 << 46).to_bytes(8, "little") + whole[place + 8 :])
        refused, found = attempt(folder, "torch")
        assert str(path) in refused or np.array_equal(found, expected)


def test_no_value_of_an_index_ends_in_a_traceback(folder: Path) -> None:
    (folder / EXPORT).unlink()
    path = folder / INDEX
    whole = json.loads(path.read_text())
    places = [(whole, name) for name in whole if name != SEAL] + [(whole["model"], name) for name in whole["model"]]
    refused = 0
    for holder, name in places:
        kept = holder[name]
        for junk in ("8", -1, None, [1], 10**30):
            holder[name] = junk
            del whole[SEAL]
            whole[SEAL] = seal_of(whole)
            path.write_text(json.dumps(whole))
            refused += attempt(folder, "torch")[0] != ""
        holder[name] = kept
    assert refused > 3 * len(places)
