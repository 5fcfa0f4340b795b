# SPDX-License-Identifier: Apache-2.0
"""MkDocs hook: documents outside ``docs/`` become pages, links between files become links between pages, and pictures
stand in the page itself, so that they follow its colours."""

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
    "launch/slurm/README.md": "how-to/slurm.md",
}
"""File of the repository -> page of the site, for files that are read where they lie as well."""
SOURCES = {page: path for path, page in PAGES.items()}
LINK = re.compile(r"\[([^][]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
"""A Markdown link: its text, its target and its anchor. Addresses (``https:``) have a colon and are none."""
IMAGE = re.compile(r'<p><img alt="([^"]*)" src="(?:[^"]*/)?pictures/([\w-]+\.svg)" /></p>')


def on_files(files: Any, config: Any) -> Any:
    """Add the documents that lie outside ``docs/``."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as the site wants them; in the repository they name files."""
    return with_links(markdown, page.file.src_uri)


def on_page_content(content: str, **_: Any) -> str:
    """Pictures in place of references to them."""
    return IMAGE.sub(lambda match: picture(html.unescape(match[1]), match[2]), content)


def with_links(markdown: str, page: str) -> str:
    """``markdown`` of a page with its links to files of the repository as links to pages.

    A file that is no page leaves the text of its link. One that does not exist stays, so that the build refuses it.
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
    """A drawing of ``docs/pictures`` as part of the page, read out as ``alt``."""
    drawing = (ROOT / "docs/pictures" / name).read_text(encoding="utf-8")
    drawing = drawing[drawing.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1)
    return f'<figure class="picture">{drawing}</figure>'
