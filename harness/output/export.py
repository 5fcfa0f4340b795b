# SPDX-License-Identifier: Apache-2.0
"""``padless export RUN --output DIR``: a folder to share, with a model card.

It is written to a temporary folder, which is then renamed. An ONNX file is compared with torch first. Beside it is
``predict.py``, which predicts without padless: a copy of ``standalone.py`` with the module that it imports.
"""

from __future__ import annotations

import hashlib
import html
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.inference.bundle import Bundle
from harness.inference.config import ExportConfig
from harness.inference.scorer import OnnxScorer, require_onnxruntime
from harness.metrics.figures import show_figure, show_figures
from harness.model.registry import num_outputs, num_parameters
from harness.output import standalone
from harness.output.onnx_graph import export_onnx, quantize_weights
from harness.output.run_facts import RunFacts
from harness.rundir.bundle_files import (
    CARD,
    INDEX,
    ONNX,
    PROBABILITIES,
    BundleInfo,
    bundle_directory,
    read_named,
    write_info,
)
from harness.rundir.layout import BUNDLE, CONFIG
from padless.core import atomic
from padless.core.atomic import storage_errors
from padless.core.errors import DataError
from padless.core.installed import VERSION, require_package
from padless.core.split_names import TRAIN
from padless.core.terminal import Screen, percent, plain_line, printable, public
from preprocessing.dataset.shards import VOCABULARY
from preprocessing.text import characters
from preprocessing.text.spec import TextSpec
from preprocessing.text.vocabulary import UNK

MAX_DIFFERENCE = 1e-4
"""Maximum difference of a probability between ONNX and torch."""
SCRIPT, TOKENS = "predict.py", "vocabulary.json"
NUM_LENGTHS = 64
NUM_COMMON_IDS = 40
"""Half of the random texts have only this many ids, so that words and pairs repeat within a text."""


def main(config: ExportConfig) -> None:
    """Write a temporary folder, then rename it. Raises ``UserError`` and leaves no files in that case."""
    source, folder, screen = bundle_directory(config.run), Path(config.output), Screen(quiet=config.quiet)
    bundle = Bundle(source)
    bundle.encoder.encode_each([])  # checks the text→ids function
    require_package("huggingface_hub", "export", "hub")
    if config.onnx:
        require_package("onnxscript", "--onnx", "onnx")
        require_onnxruntime("--onnx")
    run = source.parent if source.name == BUNDLE and (source.parent / CONFIG).is_file() else None
    facts = RunFacts(run) if run is not None else None
    info = replace(
        bundle.info,
        vectors=without_folders(bundle.info.vectors),
        started_from=without_folders(bundle.info.started_from),
        onnx_sha256=None,
    )
    with storage_errors(folder, otherwise="name another --output"), atomic.new_folder(folder) as temporary:
        (temporary / info.weights).write_bytes(read_named(source / info.weights, info.weights_sha256, INDEX))
        shutil.copyfile(source / VOCABULARY, temporary / VOCABULARY)
        write_info(temporary, info)
        onnx = write_network(temporary, bundle, info, screen, int8=config.int8) if config.onnx else {}
        name = (run or source).resolve().name
        atomic.write_text(temporary / CARD, render_model_card(config, name, info, facts, onnx))
    screen.print_text(f"written to {folder}")


def write_network(folder: Path, bundle: Bundle, info: BundleInfo, screen: Screen, *, int8: bool) -> dict[str, Any]:
    """Write the network for ONNX Runtime, compared with torch, and ``predict.py``; with ``int8`` its weights are
    rounded after the comparison. Returns the facts for the card.

    Raises ``DataError`` if a probability differs by more than ``MAX_DIFFERENCE`` or is not finite.
    """

    def write(network: bytes) -> OnnxScorer:
        atomic.write_bytes(folder / ONNX, network)
        write_info(folder, replace(info, onnx_sha256=hashlib.sha256(network).hexdigest()))
        return OnnxScorer(folder)

    network, texts = export_onnx(bundle.model, info), draw_texts(bundle)
    difference = measure_difference(bundle, write(network), texts)
    if not difference <= MAX_DIFFERENCE:  # NaN, too
        raise DataError(
            f"--onnx: a probability of the ONNX network differs from torch's by {difference:.2g}, more than "
            f"{MAX_DIFFERENCE:g}; nothing was exported: try another version of onnxruntime, or export without --onnx"
        )
    sample = f"{len(texts):,} random texts of 1 to {max(map(len, texts))} tokens"
    screen.fact("onnx", f"no probability of {sample} differs from torch's by over {difference:.2g}")
    facts = {"difference": difference, "sample": sample}
    if int8:
        rounded = quantize_weights(network)
        difference = measure_difference(bundle, write(rounded), texts)
        sizes = f"{len(rounded) / 1e6:.1f} MB in place of {len(network) / 1e6:.1f}"
        screen.fact("int8", f"{sizes}; probabilities of these texts differ by {difference:.2g} at most")
        facts["int8_difference"] = difference
    return {**facts, "has_script": write_script(folder, bundle, screen)}


def write_script(folder: Path, bundle: Bundle, screen: Screen) -> bool:
    """Write ``predict.py``, the module that it imports and the tokens of the vocabulary.

    Returns False, and prints why, if the text pipeline needs another package.
    """
    spec = bundle.encoder.pipeline.spec
    if (spec.tokenizer, spec.lemmatizer) != (TextSpec.tokenizer, TextSpec.lemmatizer):
        options = f"text.tokenizer {spec.tokenizer} with text.lemmatizer {spec.lemmatizer} needs other packages"
        screen.fact(SCRIPT, f"not written: {options}; `padless predict` can read this folder")
        return False
    module = Path(characters.__file__)
    script = Path(standalone.__file__).read_text(encoding="utf-8")
    atomic.write_text(folder / SCRIPT, script.replace(f"from {characters.__name__} ", f"from {module.stem} "))
    shutil.copyfile(module, folder / module.name)
    atomic.write_json(folder / TOKENS, bundle.vocabulary.tokens.to_pylist())
    return True


def without_folders(start: dict[str, Any] | None) -> dict[str, Any] | None:
    """The origin of a bundle's weights, without paths of the machine that made it."""
    if start is None or not isinstance(start.get("source"), str):
        return start
    return {**start, "source": Path(public(start["source"])).name}


def draw_texts(bundle: Bundle) -> list[np.ndarray]:
    """The ids of random texts: twice ``NUM_LENGTHS`` lengths from 1 to the bundle's longest text, in a geometric
    series.
    """
    random, longest = np.random.default_rng(0), bundle.encoder.pipeline.spec.max_tokens
    vocabulary_size = bundle.info.vocabulary_size
    lengths = np.unique(np.geomspace(1, longest, NUM_LENGTHS).round().astype(int))
    end_ids = (vocabulary_size, min(vocabulary_size, UNK + NUM_COMMON_IDS))
    return [random.integers(UNK, end_id, length) for end_id in end_ids for length in lengths]


def measure_difference(bundle: Bundle, onnx: OnnxScorer, texts: list[np.ndarray]) -> float:
    """The largest difference of a probability between ONNX Runtime and torch."""
    _, wanted = bundle.decision.predictions(bundle.score(texts))
    return float(np.abs(onnx.score(texts, PROBABILITIES) - wanted).max())


TEMPLATE = Path(__file__).with_name("card.md.j2")
MARKUP = re.compile(r"([\\`*_\[\]~|#!])")
"""Characters with a meaning in Markdown."""


def markdown(value: Any) -> str:
    """A value on one line, with the markup of Markdown and HTML escaped."""
    return MARKUP.sub(r"\\\1", html.escape(" ".join(plain_line(public(str(value))).split()), quote=False))


def render_model_card(
    config: ExportConfig,
    name: str,
    info: BundleInfo,
    run: RunFacts | None,
    onnx: dict[str, Any],
) -> str:
    """The model card: README.md in the format of the hub; ``run``: that of the bundle, if there is one; ``onnx``: the
    result of ``write_network``, empty without an ONNX file.
    """
    from huggingface_hub import ModelCard, ModelCardData

    train, max_tokens = info.splits.get(TRAIN), str(info.text["spec"]["max_tokens"])
    metadata = ModelCardData(
        license=config.license,
        library_name="padless",
        pipeline_tag="text-classification",
        tags=["text-classification", "padless", "lstm", *(["onnx"] if onnx else [])],
    )
    facts: dict[str, Any] = {
        "run": run,
        "config": config,
        "name": name,
        "info": info,
        "parameters": num_parameters(info.model, info.vocabulary_size, num_outputs(info)),
        "version": VERSION,
        "show_figures": show_figures,
        "cut": train["lengths"].get(max_tokens, 0) / train["rows"] if train else 0,
        "onnx": onnx,
        "show_figure": show_figure,
        "markdown": markdown,
        "number": "{:,.0f}".format,
        "percent": percent,
    }
    return printable(str(ModelCard.from_template(metadata, str(TEMPLATE), **facts)))
