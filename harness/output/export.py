# SPDX-License-Identifier: Apache-2.0
"""``padless export RUN --output DIR``: a folder to share, with a model card.

It is written to a temporary folder, which is then renamed. An ONNX file is compared with torch first.
"""

from __future__ import annotations

import hashlib
import html
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.baselines.measured import find_results
from harness.inference.bundle import Bundle
from harness.inference.scorer import OnnxScorer, require_onnxruntime
from harness.metrics.figures import show_figure, show_figures
from harness.model.registry import num_outputs, num_parameters
from harness.output.export_config import ExportConfig
from harness.output.onnx_graph import check_exportable, export_onnx
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
from harness.rundir.records import read_environment, read_run_config
from harness.rundir.results import read_measured
from padless.core import atomic
from padless.core.atomic import storage_errors
from padless.core.errors import DataError
from padless.core.installed import VERSION, require_package
from padless.core.split_names import TRAIN
from padless.core.terminal import Screen, percent, plain_line, printable, public
from preprocessing.dataset.shards import VOCABULARY
from preprocessing.text.vocabulary import UNK

MAX_DIFFERENCE = 1e-4
"""Maximum difference of a probability between ONNX and torch."""
NUM_LENGTHS, RANDOM_BATCHES, MAX_ROWS = 64, 8, 48
NUM_COMMON_IDS = 40
"""Half of the random texts have only this many ids, so that words and pairs repeat within a text."""


def main(config: ExportConfig) -> None:
    """Write a temporary folder, then rename it. Raises ``UserError`` and leaves no files in that case."""
    source, folder, screen = bundle_directory(config.run), Path(config.output), Screen(quiet=config.quiet)
    bundle = Bundle(source)
    bundle.encode([])  # checks the text→ids function
    require_package("huggingface_hub", "export", "hub")
    if config.onnx:
        require_package("onnxscript", "--onnx", "onnx")
        require_onnxruntime("--onnx")
        check_exportable(bundle.model)
    records = records_of(source, bundle.info)
    info = replace(
        bundle.info,
        vectors=without_folders(bundle.info.vectors),
        started_from=without_folders(bundle.info.started_from),
        onnx_sha256=None,
    )
    with storage_errors(folder, otherwise="name another --output"), atomic.new_folder(folder) as temporary:
        (temporary / info.weights).write_bytes(read_named(source / info.weights, info.weights_sha256, INDEX))
        shutil.copyfile(source / VOCABULARY, temporary / VOCABULARY)
        if config.onnx:
            network = export_onnx(bundle.model, info)
            atomic.write_bytes(temporary / ONNX, network)
            info = replace(info, onnx_sha256=hashlib.sha256(network).hexdigest())
        write_info(temporary, info)
        parity = compare_with_torch(bundle, OnnxScorer(temporary), screen) if config.onnx else {}
        name = config.name or (run_of(source) or source).resolve().name
        parameters = num_parameters(bundle.model.config, info.vocabulary_size, num_outputs(info))
        atomic.write_text(temporary / CARD, render_model_card(config, name, info, parameters, records, parity))
    screen.print_text(f"written to {folder}")


def without_folders(start: dict[str, Any] | None) -> dict[str, Any] | None:
    """The origin of a bundle's weights, without paths of the machine that made it."""
    if start is None or not isinstance(start.get("source"), str):
        return start
    return {**start, "source": Path(public(start["source"])).name}


def run_of(bundle: Path) -> Path | None:
    """The run directory around a bundle, if there is one."""
    return bundle.parent if bundle.name == BUNDLE and (bundle.parent / CONFIG).is_file() else None


def compare_with_torch(bundle: Bundle, onnx: OnnxScorer, screen: Screen) -> dict[str, Any]:
    """Compare ONNX Runtime with torch on random ids: ``NUM_LENGTHS`` lengths from 1 to the bundle's longest text, in a
    geometric series, then batches of mixed lengths.

    Prints and returns the largest ``difference`` of a probability, the number of ``texts``, and ``longest``. Raises
    ``DataError`` if a probability differs by more than ``MAX_DIFFERENCE`` or is not finite.
    """
    random, longest = np.random.default_rng(0), bundle.encoder.pipeline.spec.max_tokens
    vocabulary_size = bundle.info.vocabulary_size
    sizes = random.integers(1, MAX_ROWS + 1, RANDOM_BATCHES)
    series = np.unique(np.geomspace(1, longest, NUM_LENGTHS).round().astype(int))
    batches = [series, *((longest ** random.random(size)).astype(int) for size in sizes)]
    worst = 0.0
    for lengths in batches:
        tops = np.where(np.arange(len(lengths)) % 2, vocabulary_size, min(vocabulary_size, UNK + NUM_COMMON_IDS))
        encoded = [random.integers(UNK, top, size) for top, size in zip(tops, lengths, strict=True)]
        _, wanted = bundle.decision.predictions(bundle.score(encoded))
        difference = float(np.abs(onnx.score(encoded, PROBABILITIES) - wanted).max())
        worst = max(worst, difference if np.isfinite(difference) else np.inf)
    if worst > MAX_DIFFERENCE:
        raise DataError(
            f"--onnx: a probability of the ONNX network differs from torch's by {worst:.2g}, more than "
            f"{MAX_DIFFERENCE:g}; nothing was exported: try another version of onnxruntime, or export without --onnx"
        )
    texts = sum(map(len, batches))
    screen.fact(
        "onnx",
        f"no probability of {texts:,} random texts of 1 to {longest} tokens differs from torch's by over {worst:.2g}",
    )
    return {"difference": worst, "texts": texts, "longest": longest}


TEMPLATE = Path(__file__).with_name("card.md.j2")
SETTINGS = ("epochs", "global_batch", "seed", "lr")
"""Settings of the training in a card."""
CLASSES = 30
"""Maximum number of classes in a table."""
MARKUP = re.compile(r"([\\`*_\[\]~|#!])")
"""Characters with a meaning in Markdown."""


def markdown(text: str) -> str:
    """A name on one line, with the markup of Markdown and HTML escaped."""
    return MARKUP.sub(r"\\\1", html.escape(" ".join(plain_line(public(text)).split()), quote=False))


def markdown_code(text: str) -> str:
    """A name as Markdown code, where backticks become apostrophes; one with markup of HTML as ``markdown``."""
    code = " ".join(plain_line(public(text)).split()).replace("`", "'")
    return markdown(text) if {"<", "&"} & {*code} else f"`{code}`"


def records_of(bundle: Path, info: BundleInfo) -> dict[str, Any]:
    """Records of the training of a bundle; missing ones are empty. ``run_config`` and ``environment``; ``splits`` with
    their rows, classes and lengths; ``figures`` of these weights on the test split, or else on validation; and
    ``linear``, those of the TF-IDF baseline on the same split. Raises ``DataError`` for a damaged file of the run.
    """
    names = ("run_config", "environment", "figures", "linear")
    records: dict[str, Any] = {**{name: {} for name in names}, "splits": info.splits}
    if (run := run_of(bundle)) is None:
        return records
    records |= {"run_config": read_run_config(run), "environment": read_environment(run)}
    if measured := read_measured(run):
        records["figures"] = measured.figures
        with suppress(DataError):
            figures_by_split = find_results(run, records["run_config"].get("data", ""), info.dataset)[1]
            records["linear"] = figures_by_split.get(measured.split, {})
    return records


def render_model_card(
    config: ExportConfig,
    name: str,
    info: BundleInfo,
    parameters: int,
    records: dict[str, Any],
    onnx: dict[str, Any],
) -> str:
    """The model card: README.md in the format of the hub; ``onnx``: the result of ``compare_with_torch``, empty
    without an ONNX file.
    """
    from huggingface_hub import ModelCard, ModelCardData

    figures, run_config, train = records["figures"], records["run_config"], records["splits"].get(TRAIN, {})
    spec = info.text["spec"]
    is_of_language = {spec["stop_words"], spec["lemmatizer"]} != {"none"} or spec["tokenizer"].startswith("nltk")
    language = config.language or (spec["language"] if is_of_language else None)
    metadata = ModelCardData(
        license=config.license,
        language=language,
        library_name="padless",
        pipeline_tag="text-classification",
        tags=["text-classification", "padless", "lstm", *(["onnx"] if onnx else [])],
    )
    settings = {**run_config, "lr": run_config.get("optim", {}).get("lr")}
    facts: dict[str, Any] = {
        **records,
        "config": config,
        "language": language,
        "name": name,
        "info": info,
        "parameters": parameters,
        "version": VERSION,
        "spec": spec,
        "most": CLASSES,
        "measured": show_figures(figures, info.labels),
        "training": {key: settings[key] for key in SETTINGS if settings.get(key) is not None},
        "cut": train.get("lengths", {}).get(str(spec["max_tokens"]), 0) / train.get("rows", 1),
        "onnx": onnx,
        "code": markdown_code,
        "accuracy": partial(show_figure, key="accuracy", labels=info.labels),
        "markdown": lambda value: markdown(str(value)),
        "number": "{:,.0f}".format,
        "percent": percent,
    }
    return printable(str(ModelCard.from_template(metadata, str(TEMPLATE), **facts)))
