# SPDX-License-Identifier: Apache-2.0
"""Texts that look for trouble: broken markup, every kind of character, and hypothesis strategies made of both."""

from __future__ import annotations

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
