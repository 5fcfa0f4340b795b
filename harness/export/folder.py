# SPDX-License-Identifier: Apache-2.0
"""The folder that can be handed on: written beside its name, hashed, and then given the name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.export.card import Place, Records, render
from harness.export.config import ExportConfig
from harness.export.forms import compare, cost_of, dataset_for, quantized
from harness.export.graph import check_exportable, onnx_model
from harness.inference.bundle import Bundle, read_bundle
from harness.inference.onnx_scorer import session_of
from harness.model.registry import num_parameters
from harness.rundir.bundle_files import (
    CARD,
    INT8,
    OF_BUNDLE,
    ONNX,
    ExportInfo,
    facts_of,
    identity,
    read_weights,
    write_export,
    write_info,
)
from harness.rundir.training_facts import FILE as TRAINING
from preprocessing.base import atomic
from preprocessing.base.atomic import storing
from preprocessing.base.installed import VERSION, needed
from preprocessing.base.terminal import Screen, public
from preprocessing.dataset.shards import VOCABULARY, Manifest


def write(config: ExportConfig, place: Place, folder: Path, screen: Screen) -> None:
    """Write the folder beside its name, then give it the name. Raises ``UserError``; nothing is left in that case."""
    bundle, wanted = read_bundle(place.bundle), config.onnx or config.int8
    bundle.encoder()
    needed("huggingface_hub", "export", "hub")
    if wanted:
        needed("onnx", "--onnx", "onnx")
        needed("onnxruntime", "--onnx", "onnx")
        check_exportable(bundle.model)
    records = Records.read(place, bundle.info)
    data = dataset_for(bundle.info, config.data, records.config) if config.int8 else None
    info = replace(
        bundle.info,
        vectors=without_folders(bundle.info.vectors),
        started_from=without_folders(bundle.info.started_from),
    )
    seal = identity(info)
    with storing(folder, otherwise="name another --output"), atomic.new_folder(folder) as temporary:
        (temporary / info.weights).write_bytes(read_weights(place.bundle, info))
        shutil.copyfile(place.bundle / VOCABULARY, temporary / VOCABULARY)
        if (place.bundle / TRAINING).is_file():
            shutil.copyfile(place.bundle / TRAINING, temporary / TRAINING)
        write_info(temporary, info)
        measured = write_forms(config, bundle, seal, data, temporary, screen) if wanted else {}
        names = sorted(path.name for path in temporary.iterdir())
        files = {name: facts_of(temporary / name, **measured.get(name, {})) for name in names}
        write_export(temporary, ExportInfo(seal, info.weights_sha256, files, padless=VERSION))
        name = config.name or (config.push or place.name).rpartition("/")[2]
        parameters = num_parameters(bundle.model.config, info.vocabulary_size, len(info.labels))
        atomic.write_text(temporary / CARD, render(config, name, info, parameters, records, files))
    screen.say(f"written to {folder}: {', '.join([*files, CARD])}")


def without_folders(start: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a bundle says of where its weights come from, without the folders of the machine that made it."""
    if start is None or not isinstance(start.get("source"), str):
        return start
    return {**start, "source": Path(public(start["source"])).name}


def write_forms(
    config: ExportConfig, bundle: Bundle, seal: str, data: tuple[Path, Manifest] | None, folder: Path, screen: Screen
) -> dict[str, dict[str, Any]]:
    """Write the ONNX forms of the network; for each file name what was measured of it. ``seal``: that of the bundle.

    Raises ``DataError`` where a form is not the network.
    """
    info, decision = bundle.info, bundle.decision
    network = onnx_model(bundle.model, info.temperature, {OF_BUNDLE: seal, "text_hash": info.text_hash})
    session = session_of(network, ONNX)
    longest = bundle.pipeline.spec.max_tokens
    parity = compare(bundle.model, session, decision, info.vocabulary_size, longest, config.batch)
    (folder / ONNX).write_bytes(network)
    screen.fact(
        "onnx",
        f"no probability of {parity['texts']:,} random texts, of every length up to {longest}, differs from torch's by "
        f"more than {parity['difference']:.2g}",
    )
    found: dict[str, dict[str, Any]] = {ONNX: {"precision": "fp32", **parity}}
    if data is not None:
        small = quantized(network)
        cost = cost_of((session, session_of(small, INT8)), *data, decision, config.batch)
        (folder / INT8).write_bytes(small)
        screen.fact(
            "int8",
            f"accuracy {cost['accuracy']:.4f} becomes {cost['accuracy_int8']:.4f} on {cost['rows']:,} rows of "
            f"{cost['split']}, labels that change: {cost['changed']:,}; {len(small) / len(network):.0%} of the bytes, "
            f"{cost['rows_per_s_int8'] / cost['rows_per_s']:.2f} times the rows/s",
        )
        found[INT8] = {"precision": "int8", "cost": cost}
    return found
