# SPDX-License-Identifier: Apache-2.0
"""A hub of one repository on loopback: as much of its protocol as an upload and a download of a few files need."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

REVISION = "1" * 40


@dataclass
class Hub:
    """What it was asked for, and the files that it holds."""

    files: dict[str, bytes] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    refuses: bool = False
    """Answer every request with 403."""
    url: str = ""


def handler_for(hub: Hub) -> type[BaseHTTPRequestHandler]:
    """The requests of one hub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, value: Any, status: int = 200, **headers: str) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, one in headers.items():
                self.send_header(name.replace("_", "-"), one)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.tokens.add(self.headers.get("Authorization"))
            path = urlsplit(self.path).path
            if hub.refuses:
                self.answer({"error": "not yours"}, 403)
            elif path == "/api/repos/create":
                hub.created.append(json.loads(body))
                self.answer({"url": f"{hub.url}/me/mine"})
            elif "/preupload/" in path:
                named = [one["path"] for one in json.loads(body)["files"]]
                self.answer({"files": [{"path": one, "uploadMode": "regular", "shouldIgnore": False} for one in named]})
            elif path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            else:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                url = f"{hub.url}/me/mine/commit/{REVISION}"
                self.answer({"success": True, "commitOid": REVISION, "commitUrl": url, "hookOutput": ""})

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if not path.startswith(("/api/models/me/mine", "/me/mine/")):
                self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            elif "/tree/" in path:
                self.answer([{"type": "file", "path": name, "size": len(data), "oid": digest(data)}
                             for name, data in hub.files.items()])  # fmt: skip
            elif path.startswith("/api/"):
                siblings = [{"rfilename": name} for name in hub.files]
                self.answer({"_id": "0", "id": "me/mine", "sha": REVISION, "siblings": siblings, "tags": []})
            elif (name := path.rpartition("/")[2]) in hub.files:
                data = hub.files[name]
                self.answer(data, ETag=f'"{digest(data)}"', X_Repo_Commit=REVISION)
            else:
                self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    return Handler


def digest(data: bytes) -> str:
    """A name of a content."""
    return hashlib.sha1(data).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_for(hub)) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
