# SPDX-License-Identifier: Apache-2.0
"""A server on loopback that speaks as much of W&B's protocol as wandb 0.31 needs: runs, resume, sync.

It stores what it receives as W&B does, by offset in each file's stream; it cannot tell what W&B would show.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "tester"
KEY = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class StoredRun:
    """What the server knows of one run."""

    name: str
    project: str
    fields: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, list[str]] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    preempting: bool = False

    def history(self, key: str) -> list[Any]:
        """The values of ``key`` in the rows that hold it, in order."""
        rows = [json.loads(line) for line in self.streams.get("wandb-history.jsonl", [])]
        return [row[key] for row in rows if key in row]

    def summary(self) -> dict[str, Any]:
        """The newest summary."""
        lines = self.streams.get("wandb-summary.json", [])
        return json.loads(lines[-1]) if lines else {}


@dataclass
class Store:
    """Everything that was sent, by all runs."""

    url: str = ""
    runs: dict[str, StoredRun] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    fault: str = ""
    """``hang``: no answer; ``error``: status 500."""
    stopped: threading.Event = field(default_factory=threading.Event)

    def environment(self) -> dict[str, str]:
        """Variables that send wandb here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer one operation."""
        match = re.search(r"(query|mutation)\s+(\w+)", query)
        name = match.group(2) if match else "anonymous"
        answer = getattr(self, f"on_{name.lower()}", None)
        return answer(variables) if answer else {}

    def on_viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer}

    def on_runresumestatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        return {"model": {**self.project(variables["project"]), "bucket": self.bucket(run) if run else None}}

    def on_upsertbucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name") or variables["id"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, StoredRun(name, variables.get("project") or "uncategorized"))
        run.fields |= {key: value for key, value in variables.items() if value is not None}
        return {"upsertBucket": {"bucket": self.bucket(run), "inserted": inserted}}

    def on_createrunfiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        urls = {name: f"{self.url}/upload/{name}" for name in variables["files"]}
        files = [{"name": name, "uploadUrl": url} for name, url in urls.items()]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}

    def project(self, name: str | None) -> dict[str, Any]:
        """A project as GraphQL shows it."""
        return {"id": "p", "name": name, "entity": {"id": "e", "name": ENTITY}}

    def bucket(self, run: StoredRun) -> dict[str, Any]:
        """A run as GraphQL shows it."""
        history, events = (run.streams.get(f"wandb-{name}.jsonl", []) for name in ("history", "events"))
        return {
            "id": f"id-{run.name}",
            "name": run.name,
            "displayName": run.fields.get("displayName"),
            "project": self.project(run.project),
            "summaryMetrics": json.dumps(run.summary()),
            "logLineCount": 0,
            "historyLineCount": len(history),
            "eventsLineCount": len(events),
            "historyTail": json.dumps(history[-1:]),
            "eventsTail": json.dumps(events[-1:]),
            "config": run.fields.get("config") or "{}",
            "tags": run.fields.get("tags") or [],
            "wandbConfig": json.dumps({"t": 1}),
        }

    def stream(self, name: str, body: dict[str, Any]) -> None:
        """A piece of a run's file stream: lines at their offsets."""
        run = self.runs.setdefault(name, StoredRun(name, "unknown"))
        for file, chunk in (body.get("files") or {}).items():
            lines, offset = run.streams.setdefault(file, []), chunk["offset"]
            lines[offset : offset + len(chunk["content"])] = chunk["content"]
        run.preempting |= bool(body.get("preempting"))
        if body.get("complete"):
            run.exit_codes.append(body.get("exitcode", 0))


class Handler(BaseHTTPRequestHandler):
    """HTTP around the store."""

    protocol_version = "HTTP/1.1"
    store: Store

    def body(self) -> bytes:
        """What was sent, unpacked."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def answer(self, content: Any) -> None:
        """Send JSON."""
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def is_answered(self) -> bool:
        """Misbehave as ``fault`` says; False where no answer follows."""
        fault = self.store.fault
        if fault == "hang":
            self.store.stopped.wait()
        elif fault == "error":
            self.send_error(500)
        self.close_connection |= fault == "hang"
        return not fault

    def do_POST(self) -> None:
        data, content = self.body(), {}
        if not self.is_answered():
            return
        with self.store.lock:
            if self.path == "/graphql":
                request = json.loads(data)
                content = {"data": self.store.graphql(request["query"], request.get("variables") or {})}
            elif self.path.endswith("/file_stream"):
                self.store.stream(self.path.split("/")[-2], json.loads(data))
        self.answer(content)

    def do_PUT(self) -> None:
        self.body()
        if self.is_answered():
            self.answer({})

    def do_GET(self) -> None:
        if self.is_answered():
            self.answer({})

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class QuietServer(ThreadingHTTPServer):
    """One thread per connection; clients that hang up are nothing to report."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


@contextmanager
def wandb_server() -> Iterator[Store]:
    """A server that runs in a thread until the block ends."""
    store = Store()
    server = QuietServer(("127.0.0.1", 0), type("Bound", (Handler,), {"store": store}))
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
