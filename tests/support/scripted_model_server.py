"""A model server that answers over real sockets what a test tells it to, lies and failures included."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], Any]


class ScriptedModelServer:
    """`answers` maps paths to what is sent back as JSON, or to a function of handler and body that returns it.

    A function that returns None has written its response itself. Other paths are answered with 404. `requests` records
    (path, headers, body).
    """

    def __init__(self, port: int = 0) -> None:
        self.answers: dict[str, Any] = {}
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                scripted.answer(self)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients that give up are part of the tests

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(length) or b"{}")
        self.requests.append((handler.path, dict(handler.headers), body))
        found = self.answers.get(handler.path)
        if callable(found):
            found = found(handler, body)
            if found is None:
                return
        if found is None:
            send(handler, b"", 404)
        else:
            send(handler, found if isinstance(found, bytes) else json.dumps(found).encode())

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for asked, _, body in self.requests if asked == path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def send(handler: BaseHTTPRequestHandler, content: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


@contextmanager
def scripted_model_server() -> Iterator[ScriptedModelServer]:
    server = ScriptedModelServer()
    try:
        yield server
    finally:
        server.close()
