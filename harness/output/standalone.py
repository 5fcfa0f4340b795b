# SPDX-License-Identifier: Apache-2.0
"""Predicts the classes of texts with the files beside it; needs onnxruntime and numpy, and nothing else.

    python predict.py "a text" "another text"
    python predict.py < texts.txt

Prints a line of JSON for each text. Standard input has one text on each line. From Python:
``Predictor(folder).predict(texts)``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from preprocessing.text.characters import clean, decode, encode, num_head_tokens, tokens_of

BATCH_ROWS, BATCH_TOKENS, BLOCK_ROWS = 128, 8192, 4096
PAD, UNK = 0, 1
LABEL_TYPES: dict[str, Any] = {"text": str, "int": int, "float": float, "bool": "true".__eq__}


class Predictor:
    """The model of a folder that ``padless export --onnx`` wrote."""

    def __init__(self, folder: Path) -> None:
        """Raises ``OSError`` or ``ValueError`` for a missing or damaged file."""
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        self.info = json.loads((folder / "bundle.json").read_bytes())
        tokens = json.loads((folder / "vocabulary.json").read_bytes())
        network = (folder / "model.onnx").read_bytes()
        if hashlib.sha256(network).hexdigest() != self.info["onnx_sha256"]:
            raise ValueError(f"{folder / 'model.onnx'}: its sha256 is not the one in bundle.json; restore it")
        if len(tokens) != self.info["vocabulary_size"]:
            raise ValueError(f"{folder / 'vocabulary.json'}: not as long as bundle.json says; restore it")
        self.spec: Any = SimpleNamespace(**self.info["text"]["spec"])
        self.stop_words = set(self.info["text"]["stop_words"])
        self.id_by_token = dict(zip(tokens, range(len(tokens)), strict=True)) | {tokens[PAD]: UNK}
        self.labels = [*map(LABEL_TYPES[self.info["label_type"]], self.info["labels"])]
        self.session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])

    def encode(self, text: str) -> list[int]:
        """The ids of a text, at least one."""
        text = decode(encode(text))  # replaces lone surrogates
        words = tokens_of(clean(text) if self.spec.html else text, self.spec)
        ids = [self.id_by_token.get(word, UNK) for word in words if word not in self.stop_words]
        num_head, num_cut = num_head_tokens(self.spec), max(0, len(ids) - self.spec.max_tokens)
        return ids[:num_head] + ids[num_head + num_cut :] or [UNK]

    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        """For each text what ``padless predict --json`` prints: label, probabilities, share of unknown words."""
        ids_by_row = dict(enumerate(map(self.encode, texts)))
        rows_left = sorted(ids_by_row, key=lambda row: -len(ids_by_row[row]))  # longest first
        predictions: list[dict[str, Any]] = [{} for _ in texts]
        while rows_left:
            longest = len(ids_by_row[rows_left[0]])
            num_rows = max(1, min(BATCH_ROWS, BATCH_TOKENS // longest))
            rows, rows_left = rows_left[:num_rows], rows_left[num_rows:]
            lengths = np.array([len(ids_by_row[row]) for row in rows], np.int32)
            padded = np.full((len(rows), longest), PAD, np.int32)
            for number, row in enumerate(rows):
                padded[number, : lengths[number]] = ids_by_row[row]
            (logits,) = self.session.run(["logits"], {"ids": padded, "lengths": lengths})
            for row, probabilities in zip(rows, self.probabilities(logits), strict=True):
                unknown_share = ids_by_row[row].count(UNK) / len(ids_by_row[row])
                predictions[row] = {"text": texts[row], "predicted": self.choose_label(probabilities)}
                for label, probability in zip(self.info["labels"], probabilities.tolist(), strict=True):
                    predictions[row][f"probability_{label}"] = probability
                predictions[row]["unknown_share"] = round(unknown_share, 4)
        return predictions

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float64 ``[rows, classes]``."""
        calibrated = logits.astype(np.float64) / self.info["temperature"]
        if logits.ndim == 1:
            calibrated = np.stack((-calibrated, calibrated), axis=1)
        if logits.ndim == 1 or self.info.get("thresholds"):
            return np.exp(-np.logaddexp(0.0, -calibrated))
        exponentials: np.ndarray = np.exp(calibrated - calibrated.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def choose_label(self, probabilities: np.ndarray) -> Any:
        """The label of a text, or all of them where a text may have several."""
        if thresholds := self.info.get("thresholds"):
            return [self.labels[number] for number in np.flatnonzero(probabilities >= np.array(thresholds))]
        if len(self.labels) == 2:
            return self.labels[int(probabilities[1] >= self.info["threshold"])]
        return self.labels[int(probabilities.argmax())]


def main() -> None:
    """Predict the arguments, or the lines of standard input."""
    if sys.argv[1:] in (["-h"], ["--help"]) or (len(sys.argv) == 1 and sys.stdin.isatty()):
        sys.exit(__doc__)
    lines: Iterable[str] = (decode(line).rstrip("\r\n") for line in sys.stdin.buffer)
    texts = iter(sys.argv[1:] or lines)
    try:
        predictor = Predictor(Path(__file__).parent)
        while block := [*islice(texts, BLOCK_ROWS)]:
            for prediction in predictor.predict(block):
                print(json.dumps(prediction))
    except (OSError, ValueError) as error:
        print(f"predict.py: {error}", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
