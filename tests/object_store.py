# SPDX-License-Identifier: Apache-2.0
"""A proxy in front of an object store, which counts the objects that are read, cuts bodies, and answers 503 and 429."""

from __future__ import annotations

import http.client
import http.server
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Proxy(http.server.ThreadingHTTPServer):
    """``faults`` are dealt to reads in turn: a status to answer, 1 to cut the body, 0 for none."""

    def __init__(self, *upstream: object) -> None:
        self.upstream, self.gets, self.dealt = upstream, Counter[str](), Counter[int]()
        self.faults: Iterator[int] = itertools.repeat(0)
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    """Passes requests on, and the answers back."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        client = http.client.HTTPConnection(*self.server.upstream, timeout=60)  # type: ignore[misc, arg-type]
        client.request(self.command, self.path, body, dict(self.headers))
        found = client.getresponse()
        status, data = found.status, found.read()
        fault = 0
        if self.command == "GET" and "?" not in self.path:
            fault = next(self.server.faults)
            self.server.dealt[fault] += 1
            self.server.gets[f"{self.path} {self.headers['Range']}"] += not fault
        self.send_response(fault if fault > 1 else status)
        for name, value in found.getheaders():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fault else data)
        self.close_connection = bool(fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def proxy_of(host: str, port: int) -> Iterator[Proxy]:
    """A proxy for this server, while the block runs."""
    with Proxy(host, port) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()
