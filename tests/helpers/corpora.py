# SPDX-License-Identifier: Apache-2.0
"""Small corpora in every format, and the real command in this process."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from padless.commands import main
from padless.core import cli
from preprocessing.dataset.shards import Manifest, read_manifest
from tests.helpers.commands import later_wins, unwrapped

GOOD, BAD = ("great", "superb", "moving"), ("dull", "awful", "boring")


def reviews(number: int, seed: int = 0, words: int = 40) -> list[tuple[str, str]]:
    """``(text, label)``: texts of up to ``words`` words, all different, labels half and half."""
    random = np.random.default_rng(seed)
    rows = []
    for row in range(number):
        mood = GOOD if row % 2 else BAD
        body = [f"w{int(word)}" for word in random.zipf(1.4, int(random.integers(1, words))) % 300]
        text = " ".join([f"review {row}", *body, str(random.choice(mood))])
        rows.append((text, "positive" if row % 2 else "negative"))
    return rows


def write_csv(
    path: Path, rows: Iterable[Sequence[object]], header: Sequence[str] = ("text", "label"), **dialect: str
) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **dialect)  # type: ignore[arg-type]
        writer.writerows([header, *rows] if header else rows)
    return path


def write_jsonl(path: Path, rows: Iterable[tuple[object, object]]) -> Path:
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def contents(root: Path) -> dict[str, bytes]:
    """Every file below ``root`` with its bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def words_of(source: object, output: object, *more: object) -> list[str]:
    """A command that builds a dataset with small shards and one worker."""
    words = ("prepare", "--source.path", source, "--output", output, "--executor.workers", 1)
    return later_wins(*words, "--text.max_tokens", 64, "--vocabulary.min_count", 1, *more)


def prepare(source: object, output: Path, *more: object) -> Manifest:
    """Build a dataset in this process."""
    assert cli.run(main, words_of(source, output, *more)) == 0
    return read_manifest(output)


class Command:
    """``padless`` in this process; keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, *argv: object) -> int:
        self.capsys.readouterr()
        code = cli.run(main, [str(argument) for argument in argv])
        self.out, err = self.capsys.readouterr()
        self.err = unwrapped(err)
        return code

    def build(self, source: object, output: Path, *more: object) -> Manifest:
        """Build a dataset as ``words_of`` says."""
        assert self(*words_of(source, output, *more)) == 0, self.err
        return read_manifest(output)

    def refused(self, code: int, source: object, output: object, *more: object) -> str:
        """The sentence of ``words_of`` that is refused with this exit code."""
        assert self(*words_of(source, output, *more)) == code, self.err
        return self.sentence

    @property
    def sentence(self) -> str:
        """The one line that an error is; progress lines aside."""
        lines = [line for line in self.err.splitlines() if not line.startswith(("tokenize:", "encode:", "vocabulary:"))]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")
