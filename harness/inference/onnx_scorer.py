# SPDX-License-Identifier: Apache-2.0
"""An exported network in ONNX Runtime: texts in, logits out, without torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.inference.by_length import in_batches
from harness.inference.sealed import encoder_of, read_sealed
from harness.rundir.bundle_files import EXPORT, IDS, INT8, LENGTHS, LOGITS, OF_BUNDLE, ONNX, read_export, read_model
from harness.scores.calibration import Decision
from preprocessing.base.errors import DataError
from preprocessing.base.installed import needed
from preprocessing.base.untrusted import one_line, readable

QUIET = 3
"""ONNX Runtime's severity of errors: warnings are for whoever builds graphs."""


class OnnxScorer:
    """The network of an export folder, with the text→ids code that it was trained with."""

    def __init__(
        self, directory: Path, batch_rows: int = 128, *, int8: bool = False, threads: int | None = None
    ) -> None:
        """Load and verify the files of an export; ``threads`` as for ``session_of``.

        Raises ``DataError``; ``ConfigError`` without ONNX Runtime.
        """
        name = INT8 if int8 else ONNX
        self.info, vocabulary = read_sealed(directory)
        export = read_export(directory, self.info)
        if export is None:
            made = "`python -m harness export RUN --onnx` makes one"
            raise DataError(f"{directory / EXPORT}: missing: {directory} is no export; {made}")
        data = read_model(directory, export, name)
        needed("onnxruntime", f"{directory / name}", "onnx")
        self.session = session_of(data, str(directory / name), threads)
        if self.session.get_modelmeta().custom_metadata_map.get(OF_BUNDLE) != export.bundle:
            raise DataError(f"{directory / name}: the network of another bundle; export this one again")
        self.encoder = encoder_of(self.info, vocabulary, directory)
        self.labels, self.label_type, self.batch_rows = self.info.labels, self.info.label_type, batch_rows

    @property
    def decision(self) -> Decision:
        """How the logits become probabilities and labels."""
        return Decision(self.info.temperature, self.info.threshold)

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """The ids of each text."""
        return self.encoder.each(texts)

    def score(self, encoded: list[np.ndarray]) -> np.ndarray:
        """The network's own logits of what ``encode`` gave, before calibration: float64 ``[texts]`` for two classes,
        else ``[texts, classes]``.
        """
        return onnx_logits(self.session, encoded, self.batch_rows)

    def exact(self, encoded: list[np.ndarray]) -> np.ndarray:
        """The same: there is one arithmetic."""
        return self.score(encoded)


def session_of(data: bytes, name: str, threads: int | None = None) -> Any:
    """An ONNX Runtime session on the CPU, with ``threads``, or as many as ``OMP_NUM_THREADS`` says, or as there are
    cores.

    Raises ``DataError`` that calls the file ``name`` for what is no ONNX file, or none of padless.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    told = os.environ.get("OMP_NUM_THREADS", "")
    usual = int(told) if told.isdecimal() and int(told) else len(os.sched_getaffinity(0))
    options.intra_op_num_threads = threads or usual
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no class, and none of them is ours
        raise DataError(f"{name}: ONNX Runtime cannot read it ({one_line(error)})") from None
    taken, given = ({one.name for one in some} for some in (session.get_inputs(), session.get_outputs()))
    if taken != {IDS, LENGTHS} or LOGITS not in given:
        inputs = readable(", ".join(sorted(taken)))
        raise DataError(f"{name}: not a network that padless has exported: it takes {inputs}")
    return session


def onnx_logits(session: Any, texts: Sequence[np.ndarray], batch_rows: int) -> np.ndarray:
    """What ``logits_of`` gives, from a session."""

    def read(padded: np.ndarray, lengths: np.ndarray, places: np.ndarray) -> np.ndarray:
        found: np.ndarray = session.run([LOGITS], {IDS: padded, LENGTHS: lengths.astype(np.int32)})[0]
        return found

    return in_batches(texts, batch_rows, read)
