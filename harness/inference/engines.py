# SPDX-License-Identifier: Apache-2.0
"""Where a model lies (a run, a bundle, an export, a repository of the Hugging Face hub), and which engine computes it.

An engine is one line of ``ENGINES`` and a subclass of ``harness.inference.scorer.Scorer``. Nothing here imports torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from harness.inference.scorer import Scorer
from harness.rundir.bundle_files import INT8, ONNX, bundle_directory, read_info
from preprocessing.base.errors import ConfigError, DataError, require
from preprocessing.base.installed import is_importable, load, needed
from preprocessing.base.terminal import Guarded

Engine: TypeAlias = Literal["auto", "torch", "onnx", "onnx-int8"]
ENGINES = {
    "torch": "harness.inference.torch_scorer:TorchScorer",
    "onnx": "harness.inference.onnx_scorer:OnnxScorer",
    "onnx-int8": "harness.inference.onnx_scorer:Int8Scorer",
}
"""Engine -> ``module:class`` of its ``Scorer``."""
SCHEME = "hf://"
FILES = ["*.json", "*.arrow", "*.safetensors", "*.onnx", "*.md"]
"""What an export has: nothing else of a repository is downloaded."""


def open_scorer(
    place: str | Path, engine: str = "auto", batch_rows: int = 128, settled: Mapping[str, str] | None = None
) -> Scorer:
    """Load and verify the model of a run, a bundle, an export folder, or a repository of the hub (``hf://owner/name``).

    ``settled`` is what the engine's ``settle`` gave. Raises ``UserError`` with one sentence.
    """
    directory = bundle_directory(local(place))
    return scorer_class(engine_of(directory, engine))(directory, batch_rows, settled)


def scorer_class(engine: str) -> type[Scorer]:
    """The class that computes with this engine."""
    found: type[Scorer] = load(ENGINES[engine])
    return found


def engine_of(directory: Path, engine: str) -> str:
    """The engine that reads a bundle directory on this machine: a key of ``ENGINES``.

    ``auto`` is torch, and ONNX Runtime where torch cannot be imported. Raises ``UserError`` with one sentence.
    """
    require(engine in ("auto", *ENGINES), "engine", engine, f"one of {', '.join(('auto', *ENGINES))}")
    read_info(directory)  # what a place lacks is said before what this machine lacks
    if engine == "auto" and is_importable("torch"):
        return "torch"
    if engine == "torch" and not is_importable("torch"):
        raise ConfigError("engine: torch cannot be imported here; pip install torch brings it")
    if engine != "auto":
        return engine
    forms = [name for name in (ONNX, INT8) if (directory / name).is_file()]
    if not forms:
        without = f"torch cannot be imported here, and {directory} holds no {ONNX}"
        raise ConfigError(f"{without}: install torch, or export the run with `python -m harness export --onnx`")
    return "onnx-int8" if forms == [INT8] else "onnx"


def local(place: str | Path) -> Path:
    """A folder on this machine: ``place`` itself, or the copy of a repository of the hub, which is downloaded if need
    be.

    Raises ``ConfigError`` for a wrong address, ``DataError`` for a repository that cannot be had.
    """
    text = str(place)
    if not text.startswith(SCHEME):
        return Path(place)
    repository, _, revision = text.removeprefix(SCHEME).rstrip("/").partition("@")
    if repository.count("/") != 1:
        raise ConfigError(f"{text}: a model of the hub is named hf://OWNER/NAME, or hf://OWNER/NAME@REVISION")
    needed("huggingface_hub", text, "hub")
    import huggingface_hub

    try:
        with without_bars():
            return Path(huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=FILES))
    except Exception as error:  # its errors share no class, and nothing of ours is called
        raise DataError(f"{text}: cannot be had ({' '.join(str(error).split())[:300]})") from None


@contextmanager
def without_bars() -> Iterator[None]:
    """The hub's library shows no progress bars inside the block, in a command: our stderr escapes cursor movements.

    HF_HUB_DISABLE_PROGRESS_BARS decides where it is set, and in a notebook the bars stay.
    """
    from huggingface_hub import constants, utils

    decided = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None
    if decided or not isinstance(sys.stderr, Guarded) or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()
