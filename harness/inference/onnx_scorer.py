# SPDX-License-Identifier: Apache-2.0
"""Logits of texts from an export, by ONNX Runtime on a CPU. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.inference.scorer import Scorer, in_batches
from harness.rundir.bundle_files import EXPORT, IDS, INT8, LENGTHS, LOGITS, OF_BUNDLE, ONNX, read_export, read_model
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.installed import needed
from preprocessing.base.untrusted import one_line

QUIET = 3
"""ONNX Runtime's severity of errors: warnings concern the author of a graph."""


class OnnxScorer(Scorer):
    """The network of an export folder."""

    file = ONNX

    @staticmethod
    def settle(device: str, precision: str) -> dict[str, str]:
        """A CPU, in the precision of the file. Raises ``ConfigError`` for what it cannot do."""
        if device == "cuda":
            raise ConfigError("device: ONNX Runtime computes on CPUs here; leave --device out, or set --engine torch")
        if precision == "bf16":
            raise ConfigError("precision: an ONNX file has its own; leave --precision out, or set --engine torch")
        return {"device": "cpu", "precision": "fp32"}

    def open(self) -> None:
        """See ``Scorer.open``; ``ConfigError`` without ONNX Runtime."""
        path = self.directory / self.file
        export = read_export(self.directory, self.info)
        if export is None:
            made = "`python -m harness export RUN --onnx` makes one"
            raise DataError(f"{self.directory / EXPORT}: missing: {self.directory} is no export; {made}")
        data = read_model(self.directory, export, self.file)
        needed("onnxruntime", f"{path}", "onnx")
        self.session = session_of(data, str(path), None if self.settled is None else 1)
        if self.session.get_modelmeta().custom_metadata_map.get(OF_BUNDLE) != export.bundle:
            raise DataError(f"{path}: the network of another bundle; export this one again")

    def score(self, encoded: list[np.ndarray]) -> np.ndarray:
        """See ``Scorer.score``."""
        return onnx_logits(self.session, encoded, self.batch_rows)


class Int8Scorer(OnnxScorer):
    """The network whose weights are rounded to eight bits."""

    file = INT8


def session_of(data: bytes, name: str, threads: int | None = None) -> Any:
    """An ONNX Runtime session on the CPU, with ``threads``, or as many as there are cores.

    Raises ``DataError`` that calls the file ``name`` for what is no ONNX file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no class, and none of them is ours
        raise DataError(f"{name}: ONNX Runtime cannot read it ({one_line(error)})") from None


def onnx_logits(session: Any, texts: Sequence[np.ndarray], batch_rows: int, output: str = LOGITS) -> np.ndarray:
    """What ``harness.inference.bundle.logits_of`` gives, from a session; or another of its outputs."""

    def read(padded: np.ndarray, lengths: np.ndarray, places: np.ndarray) -> np.ndarray:
        found: np.ndarray = session.run([output], {IDS: padded, LENGTHS: lengths.astype(np.int32)})[0]
        return found

    return in_batches(texts, batch_rows, read)
