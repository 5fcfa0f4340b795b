# SPDX-License-Identifier: Apache-2.0
"""The commands around the job: inspect, fetch-nltk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.corpora import Command, reviews, write_csv
from tests.datasets import write_dataset

pytestmark = pytest.mark.thorough


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def test_inspect(tmp_path: Path, command: Command) -> None:
    rows, dataset = [*reviews(300), ("word " * 100, "positive")], tmp_path / "out"
    assert command.build(write_csv(tmp_path / "reviews.csv", rows), dataset) == 0
    assert command("inspect", dataset, "--json", "--samples", 3) == 0
    found = json.loads(command.out)
    splits = found["splits"]
    assert {name: split["rows"] for name, split in splits.items()} == {"train": 241, "validation": 30, "test": 30}
    assert splits["test"]["labels"] == {"negative": 15, "positive": 15}
    assert sum(split["truncated"] for split in splits.values()) == 1
    assert splits["train"]["unknown_rate"] == 0 < splits["test"]["unknown_rate"]
    assert sum(splits["train"]["rows_per_width"].values()) == 241
    counts = list(found["frequent_tokens"].values())
    assert counts == sorted(counts, reverse=True)
    samples = [sample for samples in found["samples"].values() for sample in samples]
    assert len(samples) == 9
    for sample in samples:
        text, label = rows[sample["row"] - 1]
        assert sample["label"] == label
        written = zip(sample["text"].split()[:20], text.split(), strict=False)
        assert all(token in (word, "<unk>", "…") for token, word in written)
    assert command("inspect", dataset) == 0
    assert "rows read 301, kept 301; left out: none" in command.out


def test_a_dataset_without_statistics_is_inspected_too(tmp_path: Path, command: Command) -> None:
    write_dataset(tmp_path, {"train": 60, "test": 20})
    assert command("inspect", tmp_path) == 0
    assert command("inspect", tmp_path, "--json") == 0
    assert json.loads(command.out)["splits"]["test"]["rows"] == 20


def test_fetch_nltk_says_what_failed(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from nltk.downloader import Downloader, ErrorMessage

    def pretend(self: Downloader, resource: str, download_dir: str) -> list[Any]:
        assert download_dir == str(tmp_path)
        return [ErrorMessage(resource, "no route to host")] if resource == "wordnet" else []

    monkeypatch.setattr(Downloader, "incr_download", pretend)
    assert command("fetch-nltk", "--dir", tmp_path) == 1
    assert "fetch-nltk: wordnet: no route to host" in command.sentence
