# SPDX-License-Identifier: Apache-2.0
"""The bench reports every contestant in one unit, and says why one is missing."""

from __future__ import annotations

import sys

import pytest

from preprocessing.base.errors import DataError
from preprocessing.job import bench
from preprocessing.text.spec import TextSpec

TEXTS = ["A great<br />film, isn't it?", "Two bad films &amp; a good one."] * 20


def test_ratios_are_ours_by_theirs_and_the_absent_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(texts: object) -> bench.Run:
        raise bench.UnavailableError("the module tokenizers is not installed")

    monkeypatch.setattr(bench, "_hf_tokenizers", absent)
    result = bench.run_bench(TEXTS, TextSpec(), rounds=1)
    assert result["unit"] == "docs/s"
    assert result["ours"] > 0
    assert result["ratios"] == {name: result["ours"] / rate for name, rate in result["peers"].items()}
    assert {"CountVectorizer", "pandas + regex + str.split", "re.findall + Counter"} <= set(result["peers"])
    assert result["unavailable"]["HF tokenizers, WordLevel"] == "the module tokenizers is not installed"
    assert (result["machine"]["texts"], result["machine"]["rounds"]) == (40, 1)
    table = bench.render(result).splitlines()
    assert table[1].startswith("ours (steady state)")
    assert any(line.endswith("not measured: the module tokenizers is not installed") for line in table)


def test_a_missing_peer_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bs4", None)
    with pytest.raises(bench.UnavailableError, match=r"^bs4 is not installed; pip install beautifulsoup4 brings it$"):
        bench.notebook(TextSpec())


def test_no_texts_is_a_sentence() -> None:
    with pytest.raises(DataError, match="no texts"):
        bench.run_bench([], TextSpec())
