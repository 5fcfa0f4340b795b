# SPDX-License-Identifier: Apache-2.0
"""MkDocs hook: documents outside ``docs/`` become pages, links between files become links between pages, and pictures
are inlined, so that they use the page's colours."""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "launch/slurm/README.md": "slurm.md",
}
"""File of the repository -> page of the site, for documents outside ``docs/``."""
SOURCES = {page: path for path, page in PAGES.items()}
LINK = re.compile(r"\[([^][]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
"""A Markdown link to a file: its text, its target and its anchor. Web addresses have a colon and do not match."""
FIRST_CELL = re.compile(r"<tr>\n<td><code>([^<]+)</code>")
IMAGE = re.compile(r'<p><img alt="([^"]*)" src="(?:[^"]*/)?pictures/([\w-]+\.svg)" /></p>')


def on_files(files: Any, config: Any) -> Any:
    """Add the documents outside ``docs/``."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace links to files by links to pages."""
    return with_links(markdown, page.file.src_uri)


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Inline pictures; in tables of the reference, make headings of keys and commands for search and links."""
    if page.file.src_uri.startswith("reference/"):
        content = with_headings(content)
    return IMAGE.sub(lambda match: picture(html.unescape(match[1]), match[2]), content)


def with_headings(content: str) -> str:
    """Tables with a heading in the first cell of a row, whose id is the key or ``padless-COMMAND``, each id once."""
    used = set[str]()

    def heading(match: re.Match[str]) -> str:
        name = match[1].replace("padless ", "padless-").partition(" ")[0]
        if name in used:
            return match[0]
        used.add(name)
        return f'<tr>\n<td><h3 id="{name}" class="key"><code>{match[1]}</code></h3>'

    return FIRST_CELL.sub(heading, content)


def with_links(markdown: str, page: str) -> str:
    """``markdown`` of a page with its links to files of the repository as links to pages.

    For a file that is not a page, only the text of its link stays. A link to a missing file stays, so the build fails.
    """
    folder = posixpath.dirname(SOURCES.get(page, f"docs/{page}"))

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        to = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if to is None:
            return text if (ROOT / path).exists() else match[0]
        return f"[{text}]({posixpath.relpath(to, posixpath.dirname(page) or '.')}{anchor})"

    return LINK.sub(link, markdown)


def picture(alt: str, name: str) -> str:
    """A drawing of ``docs/pictures`` as inline SVG; screen readers read ``alt``."""
    drawing = (ROOT / "docs/pictures" / name).read_text(encoding="utf-8")
    drawing = drawing[drawing.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1)
    return f'<figure class="picture">{drawing}</figure>'
