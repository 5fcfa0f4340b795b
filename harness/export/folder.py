# SPDX-License-Identifier: Apache-2.0
"""The folder that can be handed on: written beside its name, sealed, and then named."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.export.card import render
from harness.export.config import ExportConfig
from harness.export.graph import check_exportable, onnx_model
from harness.export.int8 import Cost, cost_of, dataset_for, quantized
from harness.export.parity import Parity, compare
from harness.export.records import Card, Place, bare, read_records
from harness.inference.bundle import Bundle, read_bundle
from harness.inference.onnx_scorer import session_of
from harness.model.registry import num_parameters
from harness.rundir.bundle_files import (
    CARD,
    INT8,
    OF_BUNDLE,
    ONNX,
    BundleInfo,
    ExportInfo,
    facts_of,
    identity,
    read_weights,
    write_export,
    write_info,
)
from harness.rundir.training_facts import FILE as TRAINING
from preprocessing.base import atomic
from preprocessing.base.installed import VERSION, needed
from preprocessing.base.screen import Screen
from preprocessing.base.storage import storing
from preprocessing.dataset.shards import VOCABULARY, Manifest


def write(config: ExportConfig, place: Place, folder: Path, screen: Screen) -> None:
    """Write the folder beside its name, then give it the name. Raises ``UserError``; nothing is left in that case."""
    bundle = read_bundle(place.bundle)
    bundle.encoder()
    if config.onnx or config.int8:
        needed("onnx", "--onnx", "onnx")
        needed("onnxruntime", "--onnx", "onnx")
        check_exportable(bundle.model)
    records = read_records(place, bundle.info)
    data = dataset_for(bundle.info, config.data, records.config) if config.int8 else None
    info = replace(bundle.info, vectors=bare(bundle.info.vectors), started_from=bare(bundle.info.started_from))
    seal = identity(info)
    with storing(folder, otherwise="name another --output"), atomic.new_folder(folder) as temporary:
        copy_bundle(place.bundle, temporary, info)
        wanted = config.onnx or config.int8
        forms = networks(config, bundle, seal, data, temporary, screen) if wanted else {}
        names = sorted(path.name for path in temporary.iterdir())
        files = {name: facts_of(temporary / name, **forms.get(name, {})) for name in names}
        write_export(temporary, ExportInfo(seal, info.weights_sha256, files, padless=VERSION))
        card = Card(
            name=config.name or (config.push or place.name).rpartition("/")[2],
            license=config.license,
            language=config.language or info.text["spec"]["language"],
            repository=config.push,
            info=info,
            parameters=num_parameters(bundle.model.config, info.vocabulary_size, len(info.labels)),
            records=records,
            files=files,
        )
        atomic.write_text(temporary / CARD, render(card))
    screen.say(f"written to {folder}: {', '.join([*files, CARD])}")


def copy_bundle(source: Path, target: Path, info: BundleInfo) -> None:
    """The files of a bundle; its index says no folders of this machine.

    Raises ``DataError`` for weights that a training has replaced meanwhile.
    """
    (target / info.weights).write_bytes(read_weights(source, info))
    shutil.copyfile(source / VOCABULARY, target / VOCABULARY)
    if (source / TRAINING).is_file():
        shutil.copyfile(source / TRAINING, target / TRAINING)
    write_info(target, info)


def networks(
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
    screen.fact("onnx", told(parity))
    found = {ONNX: {"precision": "fp32", **parity.to_json()}}
    if data is not None:
        small = quantized(network)
        cost = cost_of((session, session_of(small, INT8)), data[0], data[1], decision, config.batch)
        (folder / INT8).write_bytes(small)
        screen.fact("int8", told_cost(cost, len(network), len(small)))
        found[INT8] = {"precision": "int8", "cost": cost.to_json()}
    return found


def told(parity: Parity) -> str:
    """What the comparison with torch found, in a sentence."""
    return (
        f"no probability of {parity.texts:,} random texts, of every length up to {parity.longest}, differs from "
        f"torch's by more than {parity.difference:.2g}"
    )


def told_cost(cost: Cost, whole: int, small: int) -> str:
    """What int8 costs and gives, in a sentence."""
    return (
        f"accuracy {cost.accuracy:.4f} becomes {cost.accuracy_int8:.4f} on {cost.rows:,} rows of {cost.split}, "
        f"labels that change: {cost.changed:,}; {small / whole:.0%} of the bytes, "
        f"{cost.rows_per_s_int8 / cost.rows_per_s:.2f} times the rows/s"
    )
