# SPDX-License-Identifier: Apache-2.0
"""Pages in a real browser, on a phone and a desktop, light, dark and printed: reports of 2 to 150 classes;
explanations of malicious texts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.inference.explanation import Explanation, write_all
from harness.report.page import write_report
from tests.corpora import write_csv
from tests.report_runs import write_data, write_run
from tests.unit.test_report_page import HOSTILE, QUOTED

pytestmark = pytest.mark.processes

PHONE, DESK, PAPER = 390, 1440, 740
"""Pixels; paper is an A4 sheet between its margins."""
OVERFLOWING = """[...document.querySelectorAll("body *:not(script)")].filter(part =>
    part.clientWidth && getComputedStyle(part).display !== "inline" && part.scrollWidth > part.clientWidth + 1
).map(part => `${part.tagName}.${part.className}: ${part.scrollWidth} > ${part.clientWidth}`)"""
"""Elements whose content is wider than they are: cut off, laid over a neighbour, or behind a scroll bar."""
SCROLLING = """[...document.querySelectorAll("body *")].filter(part =>
    ["auto", "scroll"].includes(getComputedStyle(part).overflowX)).length"""
COLOURS = """[getComputedStyle(document.querySelector("section")).backgroundColor,
    ...["td", ".note", ".interval", ".verdict", "mark.for"].map(name => document.querySelector(name))
    .filter(part => part).map(part => getComputedStyle(part).color)]"""
OPEN = "open => document.querySelectorAll('details').forEach(part => part.open = open)"
SHOWN = """[...document.querySelectorAll("details:not(.aside) > :not(summary)")].map(part => part.checkVisibility())"""


def relative_luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` by WCAG 2."""
    values = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


class Pages:
    """A report of each kind, made at its first use."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.known: dict[str, Path] = {}

    def __getitem__(self, kind: str) -> Path:
        if kind not in self.known:
            self.known[kind] = write_report(self.runs(kind), self.place / f"{kind}.html")
        return self.known[kind]

    def data(self, number: int) -> Path:
        """A dataset of so many classes; that of two has hostile names and texts."""
        place = self.place / str(number)
        if place.exists():
            return place / "data"
        rows = [
            (f"text {HOSTILE} {QUOTED} {row}</script> {'x' * 300}", (HOSTILE, QUOTED)[row % 2]) for row in range(120)
        ]
        corpus = write_csv(self.place / "hostile.csv", rows) if number == 2 else None
        return write_data(place, number, 300, corpus=corpus)

    def runs(self, kind: str) -> list[Path]:
        """The runs that a page of this kind shows."""
        folder = self.place / f"runs of {kind}"
        if kind == "nine runs":
            return [write_run(folder / f"{seed}", self.data(2), skill=1 + seed / 9, seed=seed) for seed in range(9)]
        number = int(kind.split()[0])
        return [write_run(folder / QUOTED / ("long-name-" * 12), self.data(number), skill=4.0 if number > 2 else 1.0)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    return Pages(tmp_path_factory.mktemp("pages"))


KINDS = ("2 classes", "150 classes", "nine runs")
TWO = ((DESK, "light"), (PHONE, "dark"))
VIEWS = [
    pytest.param(kind, *view, marks=[pytest.mark.slow] * (number > 1 or place == number % 2))
    for number, kind in enumerate(KINDS)
    for place, view in enumerate(TWO)
]
"""Two kinds, each in one view; all of them in both where ``slow`` tests run."""


@pytest.mark.parametrize(("kind", "width", "scheme"), VIEWS)
def test_a_browser_without_network_shows_it_whole(
    browser: Any, pages: Pages, kind: str, width: int, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    try:
        page = context.new_page()
        said = []
        asked = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        address = pages[kind].resolve().as_uri()
        page.goto(address)
        for opened in (False, True):
            page.evaluate(OPEN, opened)
            assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("innerWidth") == width
            assert page.evaluate(OVERFLOWING) == []
        assert page.evaluate(SCROLLING) == 0
        assert (said, asked) == ([], [address])
        charts = page.evaluate(
            "[...document.querySelectorAll('img')].map(one => one.complete * one.naturalWidth && one.width)"
        )
        assert len(charts) >= 6
        assert all(250 < chart <= 460 for chart in charts)
        assert page.evaluate("document.querySelectorAll('h1 *:not(bdi), td bdi *, th bdi *, mark *').length") == 0
        card, *inks = map(relative_luminance, page.evaluate(COLOURS))
        assert (card > 0.5) == (scheme == "light")
        for ink in inks:  # WCAG 2 asks for 4.5
            assert (max(card, ink) + 0.05) / (min(card, ink) + 0.05) > 4.5
    finally:
        context.close()


@pytest.mark.parametrize("kind", ["150 classes", pytest.param("nine runs", marks=pytest.mark.slow)])
def test_on_paper_it_is_light_and_nothing_is_folded_away(browser: Any, pages: Pages, kind: str) -> None:
    context = browser.new_context(viewport={"width": PAPER, "height": 1050}, color_scheme="dark", offline=True)
    try:
        page = context.new_page()
        page.goto(pages[kind].resolve().as_uri())
        assert not any(page.evaluate(SHOWN))
        page.emulate_media(media="print")
        assert all(page.evaluate(SHOWN))
        assert page.evaluate("document.documentElement.scrollWidth") <= PAPER
        assert page.evaluate(OVERFLOWING) == []
        assert page.evaluate("getComputedStyle(document.querySelector('details.aside')).display") == "none"
        card, ink, *_ = map(relative_luminance, page.evaluate(COLOURS))
        assert (card > 0.9, ink < 0.1) == (True, True)
    finally:
        context.close()


HARM = "fine <script>document.title = 'run'</script> <img src=x onerror=alert(1)> dull \x00\x1b[31m " + "long" * 60
STYLES = """() => [...document.querySelectorAll("article mark, .note mark")].map(mark => [
  getComputedStyle(mark).borderBottomStyle, mark.className])"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "why.html"
    dull = HARM.index("dull")
    one = Explanation(
        **{"text": HARM, "label": "<b>good</b>", "predicted": "bad", "probability": 0.4, "tokens": ("fine", "dull")},
        **{"spans": ((0, 4), (dull, dull + 4)), "scores": (1.0, -1.0), "logit": 0.5, "baseline": 0.5},
        num_tokens=2,
    )
    with open(path, "w", encoding="utf-8") as stream:
        assert write_all(stream, "html", "runs/mine", [one, one], numbered=True) == 2
    return path


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), pytest.param(1440, "light", marks=pytest.mark.slow)])
def test_it_is_readable_and_does_nothing(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.goto(page_file.as_uri())
    assert asked == [page_file.as_uri()]
    assert page.title() == "What words add: runs/mine"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    shown = page.locator("article .padless-words").first.inner_text()
    assert shown == HARM.replace("\x00", "\\u0000").replace("\x1b", "\\u001b")
    head = page.locator("article").first.locator(".padless-head b").inner_text()
    assert head.startswith("<b>good</b> 0.4000 (predicted: bad)")
    styles = page.evaluate(STYLES)
    assert len(styles) == 6
    for line, kind in styles:
        assert line == {"for": "solid", "against": "dotted"}[kind]
    page.close()
