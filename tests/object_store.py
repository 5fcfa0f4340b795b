# SPDX-License-Identifier: Apache-2.0
"""A proxy in front of an object store: it counts requests for objects, cuts bodies, and answers 503 and 429."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Fault = Callable[[int], int | None]
"""Of the number of a GET: an HTTP status to answer, 0 to cut the body, None to do neither."""


@dataclass
class Proxy:
    """What passes it."""

    upstream: tuple[str, int]
    fault: Fault = lambda number: None
    gets: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Path and range of each answered GET of an object -> how often."""
    bytes: int = 0
    """Of bodies of ranges of shards."""
    faults: Counter[int] = field(default_factory=Counter)
    number: int = 0

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Pass a request on, and the answer back."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        wanted = None
        is_object = request.command == "GET" and "?" not in request.path
        if is_object:
            self.number += 1
            wanted = self.fault(self.number)
        if wanted:
            self.faults[wanted] += 1
            request.send_response(wanted)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        client = http.client.HTTPConnection(*self.upstream, timeout=60)
        client.request(request.command, request.path, body, dict(request.headers))
        found = client.getresponse()
        data = found.read()
        request.send_response(found.status)
        for name, value in found.getheaders():
            if name.lower() not in ("connection", "transfer-encoding"):
                request.send_header(name, value)
        request.end_headers()
        if wanted == 0:
            self.faults[0] += 1
            request.wfile.write(data[: len(data) // 2])
            request.close_connection = True
            return
        request.wfile.write(data)
        if is_object:
            self.gets[request.path, request.headers.get("Range", "")] += 1
            self.bytes += len(data) if "-w0" in request.path else 0


@contextmanager
def proxy_of(host: str, port: int) -> Iterator[tuple[Proxy, str]]:
    """The proxy, and its address."""
    proxy = Proxy((host, port))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = lambda self: proxy.answer(self)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield proxy, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
