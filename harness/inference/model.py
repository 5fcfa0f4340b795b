# SPDX-License-Identifier: Apache-2.0
"""A trained model as a Python object: texts in, labels, probabilities or a frame out, with scikit-learn's names."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
import pyarrow as pa

from harness.inference.scorer import Engine, open_scorer, pad_texts
from harness.model.registry import num_outputs
from harness.rundir.results import label_column
from padless.core.atomic import temporary_folder
from padless.core.errors import ConfigError, DataError, require
from padless.core.untrusted import quote_value
from preprocessing.labels import convert_names, name_label_value

if TYPE_CHECKING:
    import pandas as pd

    from harness.inference.bundle import Bundle
    from harness.inference.explanation import Explanation

Texts: TypeAlias = "str | Iterable[str] | pd.Series[Any] | pa.Array | pa.ChunkedArray"
CHUNK_ROWS = 2048
"""Texts encoded and scored at once, so that memory does not grow with their number."""


class Model:
    """The model of a run, of a bundle, of an export, or of a repository of the hub, named as ``hf://owner/name``.

    It has the best weights, and the vocabulary and text code of their training. ``engine`` is ``torch``; ``onnx``, ONNX
    Runtime, for an export with that file; or ``auto``, torch if it can be imported, else ONNX Runtime. ``device``:
    where torch computes; auto takes a CUDA device if there is one. Files are verified first and never executed. Raises
    ``UserError`` for a missing or damaged model. A pickle or a copy holds the bytes of the files.

    Texts are a list, a pandas column, an array or any other iterable of strings; a single string is one text. Empty
    texts are predicted like any other. Anything but a string raises ``DataError``, which names its index.
    """

    def __init__(
        self, path: str | Path, engine: Engine = "auto", device: Literal["auto", "cpu", "cuda"] = "auto"
    ) -> None:
        """Read and verify."""
        require(device in ("auto", "cpu", "cuda"), "device", device, "one of auto, cpu, cuda")
        require(isinstance(path, str | Path), "path", path, "the directory of a run, a bundle or an export")
        self.path, self.engine, self.device = path, engine, device
        self._open(path)

    def _open(self, path: str | Path) -> None:
        self._scorer = open_scorer(path, self.engine, device=self.device)
        self._files = dict[str, pa.Buffer]()
        """The content by name, for copies: mapped, it takes no memory and stays when a training replaces the files."""
        for file in filter(Path.is_file, self._scorer.directory.iterdir()):
            with suppress(FileNotFoundError):  # a training has just replaced it
                self._files[file.name] = pa.memory_map(str(file)).read_buffer()
        self.classes_ = convert_names(self._scorer.labels, self._scorer.label_type)
        """The classes, as values of the label column of the training, in the order of ``predict_proba``'s columns."""

    def predict(self, texts: Texts) -> np.ndarray:
        """The class of each text, a value of ``classes_``; where a text may have several labels, the list of them."""
        predicted, _ = self._scorer.decision.predictions(self._logits(texts))
        return label_column(predicted, self._scorer.labels, self._scorer.label_type)

    def predict_frame(self, texts: Texts) -> pd.DataFrame:
        """A row for each text: ``predicted``, its class, and ``probability_LABEL`` for each class.

        The columns are those that the command ``predict`` writes. The rows have the index of a pandas column, so that
        ``frame.join(model.predict_frame(frame["text"]))`` joins predictions and texts.
        """
        import pandas as pd

        index = texts.index if isinstance(texts, pd.Series) else None
        return pd.DataFrame(self._scorer.columns(self._logits(texts)), index=index)

    def predict_proba(self, texts: Texts) -> np.ndarray:
        """Calibrated probabilities, float64 ``[texts, classes]``, with the classes in the order of ``classes_``."""
        return self._scorer.decision.predictions(self._logits(texts))[1]

    def encode(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """The inputs of an exported network: ids, int32 ``[texts, time]``, and lengths, int32 ``[texts]``."""
        encoded = [ids for chunk in chunks(texts) for ids in self._scorer.encoder.encode_each(chunk)]
        return pad_texts(encoded), np.array([len(ids) for ids in encoded], np.int32)

    def explain(self, text: str, label: str | float | None = None) -> Explanation:
        """How much each word of a text adds to the logit of ``label``, or of the class predicted for the text.

        In a notebook the text is shown in colour. Raises ``ConfigError`` for an
        unknown class, or without weights and torch, ``DataError`` for anything but a string.
        """
        if not isinstance(text, str):
            raise DataError(f"{quote_value(text)} is not a text; explain takes one, so call it for each of several")
        if not hasattr(self._scorer, "model"):
            raise ConfigError(f"{self.path}: explanations need the weights and torch; load the run or its bundle")
        from harness.inference.explanation import explain

        return explain(cast("Bundle", self._scorer), text, name_label_value(label))

    def _logits(self, texts: Texts) -> np.ndarray:
        """The scorer's logits, computed in chunks."""
        parts = [self._scorer.score(self._scorer.encoder.encode_each(chunk)) for chunk in chunks(texts)]
        outputs = num_outputs(self._scorer.info)
        return np.concatenate([np.empty((0, outputs) if outputs > 1 else 0), *parts])

    def __getstate__(self) -> dict[str, Any]:
        """With the bytes of the files that were loaded, so that a copy needs no directory."""
        return {**vars(self), "_scorer": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Verify the files as at the first time. Raises ``UserError`` for damaged ones."""
        vars(self).update(state)
        with temporary_folder() as folder:
            for name, content in self._files.items():
                (folder / name).write_bytes(content)
            self._open(folder)

    def __repr__(self) -> str:
        return f"<padless model {self.path}: {len(self.classes_)} classes: {', '.join(self._scorer.labels)}>"


load = Model
"""The model of a path, as in ``padless.load("runs/mine", device="cpu")``."""


def chunks(texts: Texts) -> Iterator[list[str]]:
    """Lists of at most ``CHUNK_ROWS`` texts. Raises ``DataError``, which names the index, for anything but a string."""
    is_other = isinstance(texts, bytes | Mapping | set | frozenset) or not isinstance(texts, Iterable)
    if is_other or hasattr(texts, "columns") or getattr(texts, "ndim", 1) != 1:
        problem = "is no list of strings, and no column of a table"
        raise DataError(f'a {type(texts).__name__} {problem}; give one, as in table["text"]')
    values: Any = [texts] if isinstance(texts, str) else texts
    numbered = enumerate(values.to_pylist() if isinstance(values, pa.Array | pa.ChunkedArray) else values)
    while chunk := list(itertools.islice(numbered, CHUNK_ROWS)):
        for index, text in chunk:
            if not isinstance(text, str):
                raise DataError(f"texts[{index}] is {quote_value(text)}, not a text; leave it out, or give it one")
        yield [text for _, text in chunk]
