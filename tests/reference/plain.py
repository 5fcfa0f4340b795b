# SPDX-License-Identifier: Apache-2.0
"""Text → tokens, one text and one character at a time: slow and obvious, to judge the fast one by."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Literal

LETTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
SPACE = set(" \t\n\f\r")


def strip_markup(text: str) -> str:
    """Replace each tag, comment, script and style by one space; what never closes is text."""
    out = []
    heed_quotes = True
    at = 0
    while at < len(text):
        end = -1
        if is_opening(text, at):
            end, heed_quotes = construct_end(text, at, heed_quotes)
        if end < 0:
            out.append(text[at])
            at += 1
        else:
            out.append(" ")
            at = end
    return "".join(out)


def is_opening(text: str, at: int) -> bool:
    """Whether the HTML standard leaves the data state here: `<` and a letter, `/` and a letter, `!` or `?`."""
    first, second = text[at + 1 : at + 2], text[at + 2 : at + 3]
    return text[at] == "<" and (first in LETTERS or first in ("!", "?") or (first == "/" and second in LETTERS))


def construct_end(text: str, at: int, heed_quotes: bool) -> tuple[int, bool]:
    if text[at : at + 4] == "<!--":
        close = text.find("-->", at + 4)
        return (close + 3 if close >= 0 else -1), heed_quotes
    if text[at + 1] in "!?":
        return text.find(">", at) + 1 or -1, heed_quotes
    end = -1
    if heed_quotes:
        end = end_of_quoted_tag(text, at)
        heed_quotes = end >= 0
    if not heed_quotes:
        end = text.find(">", at) + 1 or -1
    if end >= 0:
        for name in ("script", "style"):
            name_end = at + 1 + len(name)
            if text[at + 1 : name_end].lower() == name and re.match(r"[\s/>]", text[name_end : name_end + 1], re.ASCII):
                closing = re.compile(rf"</{name}[\s/>]", re.IGNORECASE | re.ASCII).search(text, end)
                if closing:
                    close = text.find(">", closing.end() - 1)
                    if close >= 0:
                        end = close + 1
    return end, heed_quotes


def end_of_quoted_tag(text: str, at: int) -> int:
    """The end of the tag when `>` inside of a quoted attribute value does not count, -1 if there is none."""
    quote = ""
    after_equals = False
    for position in range(at, len(text)):
        char = text[position]
        if quote:
            if char == quote:
                quote = ""
        elif char == ">":
            return position + 1
        elif char == "=":
            after_equals = True
        elif after_equals and char in "\"'":
            quote, after_equals = char, False
        elif char not in SPACE:
            after_equals = False
    return -1


def clean(text: str) -> str:
    return html.unescape(strip_markup(text))


def kind(char: str) -> str:
    return unicodedata.category(char)[0]


WITHOUT_SPACES = (
    *("CJK", "IDEOGRAPHIC", "HANGZHOU", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "HENTAIGANA"),
    *("THAI", "LAO", "MYANMAR", "KHMER", "YI", "TANGUT", "KHITAN", "JAVANESE", "BALINESE", "TAI", "NEW TAI", "CHAM"),
    *("BUGINESE", "VERTICAL KANA", "VERTICAL IDEOGRAPHIC", "OLD CHINESE", "NUSHU"),
)
"""How the Unicode names of letters begin that are written without spaces."""
SIGNS = "!?\uff01\uff1f"
DIGITS = "0123456789"


def words(text: str, lowercase: bool) -> list[str]:
    """Words with their marks and inner apostrophes, #tags, 3.5, emoji, two of each run of ``!`` and ``?``, letters of
    scripts without spaces.
    """
    for apostrophe in "\u2019\u02bc\uff07":
        text = text.replace(apostrophe, "'")
    for invisible in "\u00ad\u200c\u200d\u2060\ufeff":
        text = text.replace(invisible, "")
    text = unicodedata.normalize("NFC", text)
    tokens_so_far = []
    at = 0
    while at < len(text):
        end = token_end(text, at)
        if end > at:
            word = text[at : min(end, at + 2)] if text[at] in SIGNS else text[at:end]
            tokens_so_far.append(unicodedata.normalize("NFC", word.lower()) if lowercase else word)
        at = max(end, at + 1)
    return tokens_so_far


def is_alone(char: str) -> bool:
    return kind(char) == "L" and unicodedata.name(char, "TANGUT").startswith(WITHOUT_SPACES)


def is_in_word(text: str, at: int) -> bool:
    return at < len(text) and kind(text[at]) in "LN" and not is_alone(text[at])


def token_end(text: str, at: int) -> int:
    """Where the token that begins here ends; ``at`` if none does."""
    char, end = text[at], at + 1
    if char in SIGNS:
        while end < len(text) and text[end] in SIGNS:
            end += 1
        return end
    if unicodedata.category(char) == "So":
        return at if "\u2500" <= char < "\u25a0" or "\u2800" <= char < "\u2900" else end
    if is_alone(char):
        while end < len(text) and kind(text[end]) == "M":
            end += 1
        return end
    if not is_in_word(text, at) and not (char == "#" and is_in_word(text, end)):
        return at
    while end < len(text):
        number = text[end] in ".," and text[end - 1] in DIGITS and text[end + 1 : end + 2] in tuple(DIGITS)
        joins = (text[end] == "'" and text[end - 1] != "#") or number
        if is_in_word(text, end) or (kind(text[end]) == "M" and text[end - 1] != "#"):
            end += 1
        elif joins and is_in_word(text, end + 1):
            end += 2
        else:
            break
    return end


def tokens(
    text: str,
    *,
    strip_html: bool = True,
    lowercase: bool = True,
    form: Literal["NFC", "NFKC"] = "NFKC",
) -> list[str]:
    """The whole of the notebook's pipeline for one text."""
    text = re.sub("[\ud800-\udfff]", "\ufffd", text)
    if strip_html:
        text = clean(text)
    return words(unicodedata.normalize(form, text), lowercase)
