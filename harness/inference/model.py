# SPDX-License-Identifier: Apache-2.0
"""A trained model as a Python object: texts in, labels, probabilities or a frame out, with scikit-learn's names."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
import pyarrow as pa

from harness.inference.scorer import Engine, engine_of, local, open_scorer, scorer_class
from harness.rundir.bundle_files import bundle_directory, read_classifier
from harness.scores.metrics import predicted_labels, probabilities
from preprocessing.base.atomic import temporary_folder
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.terminal import shortened
from preprocessing.labels import as_found, typed_values

if TYPE_CHECKING:
    import pandas as pd

    from harness.inference.bundle import Bundle
    from harness.inference.explanation import Explanation

Texts: TypeAlias = "str | Iterable[str] | pd.Series[Any] | pa.Array | pa.ChunkedArray"
ENDINGS = (".json", ".arrow", ".safetensors", ".onnx")
"""The files of a bundle or export that a pickle holds."""
CHUNK_ROWS = 2048
"""Texts encoded and scored at once, so that memory does not grow with their number."""


class Model:
    """A model with the text→ids code of its training. ``padless.load`` makes one; it can be pickled.

    Texts are a list, a pandas column, an array or any other iterable of strings; a single string is one text. Empty
    texts are predicted like any other. Anything but a string raises ``DataError``, which names its index.
    """

    def __init__(self, place: str | Path, engine: Engine = "auto", device: str = "auto") -> None:
        """See ``load``."""
        self.place, self.engine, self.device = place, engine, device
        directory = bundle_directory(local(place))
        settled = scorer_class(engine_of(directory, engine)).settle(read_classifier(directory), device, "fp32")
        scorer = open_scorer(directory, engine, settled=settled)
        self._scorer, self._files = scorer, dict[str, bytes]()
        self.classes_ = typed_values(scorer.labels, scorer.label_type)
        """The classes, as values of the label column of the training, in the order of ``predict_proba``'s columns."""

    def predict(self, texts: Texts) -> np.ndarray:
        """The class of each text, a value of ``classes_``."""
        return self.classes_[self.numbers(texts)]

    def numbers(self, texts: Texts) -> np.ndarray:
        """The class of each text as its index in ``classes_``, int64 ``[texts]``."""
        return predicted_labels(self._calibrated(texts), self._scorer.decision.threshold)

    def predict_frame(self, texts: Texts) -> pd.DataFrame:
        """A row for each text: ``predicted``, its class, and ``probability_LABEL`` for each class.

        The columns are those that the command ``predict`` writes. The rows have the index of a pandas column, so that
        ``frame.join(model.predict_frame(frame["text"]))`` joins predictions and texts.
        """
        import pandas as pd

        index = texts.index if isinstance(texts, pd.Series) else None
        return pd.DataFrame(self._scorer.columns(self._calibrated(texts)), index=index)

    def predict_proba(self, texts: Texts) -> np.ndarray:
        """Calibrated probabilities, float64 ``[texts, classes]``, with the classes in the order of ``classes_``."""
        return probabilities(self._calibrated(texts))

    def explain(self, text: str, label: str | float | None = None) -> Explanation:
        """How much each word of a text adds to the logit of ``label``, or of the class predicted for the text.

        In a notebook the text is shown in colour; ``to_frame`` has a row for each token. Raises ``ConfigError`` for an
        unknown class, or without weights and torch, ``DataError`` for anything but a string.
        """
        if not isinstance(text, str):
            raise DataError(f"{shown(text)} is not a text; explain takes one, so call it for each of several")
        if not hasattr(self._scorer, "model"):
            raise ConfigError(f"{self.place}: explanations need the weights and torch; load the run or its bundle")
        from harness.inference.explanation import explain

        return explain(cast("Bundle", self._scorer), [text], as_found(label))[0]

    def _calibrated(self, texts: Texts) -> np.ndarray:
        """Calibrated logits, shaped like the scorer's, computed in chunks."""
        parts = [self._scorer.score(self._scorer.encode(some)) for some in chunks(texts)]
        outputs = () if len(self.classes_) == 2 else (len(self.classes_),)
        return self._scorer.decision.calibrated(np.concatenate([np.empty((0, *outputs)), *parts]))

    def keep(self) -> Model:
        """Hold the bytes of its files, so that it can be pickled when they are gone."""
        if not self._files:
            found = [path for path in self._scorer.directory.iterdir() if path.suffix in ENDINGS]
            self._files = {path.name: path.read_bytes() for path in found}
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """The bytes of the bundle, which are verified when they are read again."""
        return restored, (self.keep()._files, str(self.place), self.engine, self.device)

    def __repr__(self) -> str:
        return f"<padless model {self.place}: {len(self.classes_)} classes: {', '.join(self._scorer.labels)}>"


def restored(files: Mapping[str, bytes], place: str, engine: Engine, device: str) -> Model:
    """A pickled model. Raises ``UserError`` for a damaged one."""
    with temporary_folder() as folder:
        for name, content in files.items():
            (folder / Path(name).name).write_bytes(content)
        model = Model(folder, engine, device).keep()
    model.place = place
    return model


def load(place: str | Path, engine: Engine = "auto", device: Literal["auto", "cpu", "cuda"] = "auto") -> Model:
    """The model of a run, of a bundle, of an export, or of a repository of the hub, named as ``hf://owner/name``.

    It has the best weights, and the vocabulary and text code of their training. ``engine`` is ``torch``; ``onnx`` or
    ``onnx-int8``, ONNX Runtime, for an export with that file; or ``auto``, torch if it can be imported, else ONNX
    Runtime. ``device``: where torch computes; auto takes a CUDA device if there is one. Files are verified first and
    never executed. Raises ``UserError`` for a missing or damaged model.
    """
    return Model(place, engine, device)


def chunks(texts: Texts) -> Iterator[list[str]]:
    """Lists of at most ``CHUNK_ROWS`` texts. Raises ``DataError``, which names the index, for anything but a string."""
    if isinstance(texts, bytes | Mapping) or hasattr(texts, "columns") or not isinstance(texts, Iterable):
        what = "is no list of strings, and no column of a table"
        raise DataError(f'a {type(texts).__name__} {what}; give one, as in table["text"]')
    every: Any = [texts] if isinstance(texts, str) else texts
    numbered = enumerate(every.to_pylist() if isinstance(every, pa.Array | pa.ChunkedArray) else every)
    while some := list(itertools.islice(numbered, CHUNK_ROWS)):
        for place, text in some:
            if not isinstance(text, str):
                raise DataError(f"texts[{place}] is {shown(text)}, not a text; leave it out, or give it one")
        yield [text for _, text in some]


def shown(value: object) -> str:
    """A value for a message, shortened."""
    return shortened(repr(value), 40)
