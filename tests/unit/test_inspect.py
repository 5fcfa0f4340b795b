# SPDX-License-Identifier: Apache-2.0
"""The commands around the job: inspect, fetch-nltk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.corpora import Command, reviews, write_csv

pytestmark = pytest.mark.thorough


def test_inspect(tmp_path: Path, command: Command) -> None:
    rows, dataset = [*reviews(300), ("word " * 100, "positive")], tmp_path / "out"
    command.build(write_csv(tmp_path / "reviews.csv", rows), dataset)
    assert command("inspect", dataset, "--json", "--samples", 3) == 0
    found = json.loads(command.out)
    splits = found["splits"]
    assert {name: split["rows"] for name, split in splits.items()} == {"train": 241, "validation": 30, "test": 30}
    assert sum(split["truncated"] for split in splits.values()) == 1
    assert sum(splits["train"]["rows_per_width"].values()) == 241
    samples = [sample for samples in found["samples"].values() for sample in samples]
    assert len(samples) == 9
    for sample in samples:
        text, label = rows[sample["row"] - 1]
        assert sample["label"] == label
        assert sample["text"].split()[0] in (text.split()[0], "<unk>")
    assert command("inspect", dataset) == 0
    assert "rows read 301, kept 301; left out: none" in command.out


def test_fetch_nltk_says_what_failed(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from nltk.downloader import Downloader, ErrorMessage

    def pretend(self: Downloader, resource: str, download_dir: str, *_: Any, **__: Any) -> list[Any]:
        assert download_dir == str(tmp_path)
        return [ErrorMessage(resource, "no route to host")] if resource == "wordnet" else []

    monkeypatch.setattr(Downloader, "incr_download", pretend)
    assert command("fetch-nltk", "--dir", tmp_path) == 1
    assert "fetch-nltk: wordnet: no route to host" in command.sentence
