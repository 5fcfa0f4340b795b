# SPDX-License-Identifier: Apache-2.0
"""Texts that look for trouble: broken markup, every kind of character, and hypothesis strategies made of both."""

from __future__ import annotations

import random

from hypothesis import strategies as st

PIECES = st.sampled_from(
    [
        "<br />", "<b>", "</b>", "<", ">", "< ", "<3", "</", "</ b>", "<!--", "-->", "<!", "<?",
        "?>", "<!doctype html>",
        "<script>", "</script>", "<SCRIPT x>", "</sCript >", "<style/>", "</style", "<strong>",
        "<scr", "<a href=\"x>y\">",
        "<a b='c' d=e>", "<a x=\"", "=\"", "='", "'", '"', "=", "&amp;", "&amp", "&lt;br&gt;",
        "&#39;", "&#x2019;", "&", "&#",
        "&#150;", "&#xd800;", "&nbsp;", "&eacute;", "don't", "don’t", "o'", "'n'", "''", "a", "B",
        "é", "e\u0301", "\u0301",
        "\u0338", "ΑΣ", "Σ", "İ", "J\u030c", "ß", "\u200d", "\u00ad", "\ufeff", "\u02bc", "日本",
        "👍🏽", "\0", "\x85", "\u00a0",
        "\x1c", "_", "-", ".", "3.14", "½", "²", "\ud800", "\udfff", "\n", " ", "\u2028", "שלום",
        "مرحبا", "\u0345", "K",
        "#", "!", "?", "！", "1,0", ",", "♥\ufe0f", "🇩🇪", "──", "房间", "か\u3099", "ห้", "한", "\u1112\u1161",
    ]
)  # fmt: skip
TEXT = st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=14).map("".join)


def hostile_texts(count: int) -> list[str]:
    """Control characters, surrogates, right-to-left, emoji, huge words, nested and broken HTML, NUL."""
    rng = random.Random(7)
    ranges = [
        (0, 32),
        (32, 160),
        (0x300, 0x370),
        (0x590, 0x700),
        (0x2000, 0x2070),
        (0xD800, 0xE000),
        (0x1F300, 0x1F700),
    ]
    markup = ["<b", "<a href='", ">", "<!--", "-->", "</", "<script>", "</script>", "&#x110000;", "&#0;", "&lt"]

    def piece(low: int, high: int) -> str:
        return chr(rng.randrange(low, high)) if rng.random() < 0.8 else rng.choice(markup)

    texts = []
    for _ in range(count - 8):
        low, high = rng.choice(ranges)
        texts.append("".join(piece(low, high) for _ in range(rng.randrange(60))))
    million = 1_000_000
    texts += ["x" * million, "é" * million, "a'" * (million // 2), "\0" * million, "'" * million]
    texts += ['<a x=">"' * 100_000, "<script>" * 100_000, "<!--" * 100_000]
    return texts
