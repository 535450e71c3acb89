"""JSON over HTTP to a model server, which is not trusted: every exchange is bounded in bytes and in time.

http.client of the standard library: it needs no package, follows no redirects, takes no proxy from the environment and
keeps connections alive, which on one machine saves more than a draft token takes to compute.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from edge_agent.deadline_socket import Deadline, DeadlineSocket
from edge_agent.foreign_text import printable

MAX_RESPONSE = 1 << 22  # bytes of a body
CONNECT_SECONDS = 3.0
PROBE_SECONDS = 5.0  # for whatever is asked but a completion
MAX_IDLE = 32  # connections that are kept
MAX_REASON = 1024  # bytes of a body that are looked at for a server's own words

T = TypeVar("T")


class ServerError(Exception):
    """The model server failed, or answered what no correct one does; the message is for a person."""


class UnexpectedAnswer(ServerError):
    """Not the answer of the API that was expected."""


class NoSuchPath(UnexpectedAnswer):
    """HTTP 404 or 405: the server does not have this endpoint."""


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """Where a server is. `authorization` is the header's value, empty for none; `shown` has no credentials."""

    scheme: str
    host: str
    port: int
    prefix: str = ""
    authorization: str = field(default="", repr=False)

    @property
    def shown(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"

    @property
    def is_local(self) -> bool:
        """Whether this is a loopback address, so that the server runs on this machine."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_server_url(url: str, key: str = "") -> ServerUrl:
    """A model server's URL as users write it, with or without /v1. Raises ValueError for anything but http(s).

    `key` is sent as a bearer token; credentials in the URL as Basic authorization.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the draft server's URL looks like http://127.0.0.1:8080")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if not key.isascii() or not key.isprintable():
        raise ValueError("the draft server's key has characters that no HTTP header may have")
    authorization = f"Bearer {key}" if key else ""
    if not key and parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
    prefix = parts.path.rstrip("/").removesuffix("/v1")
    return ServerUrl(parts.scheme, parts.hostname, port, prefix, authorization)


@dataclass(frozen=True, slots=True)
class _Connection:
    http: HTTPConnection
    sock: DeadlineSocket

    def close(self) -> None:
        self.http.close()


class HttpClient:
    """Exchanges with one server; any thread may use it. Each exchange has a connection to itself."""

    def __init__(self, url: ServerUrl, may_connect: Callable[[], bool] = lambda: True) -> None:
        """`may_connect` is asked before each new connection: another process may be at the port by then."""
        self.url = url
        self._may_connect = may_connect
        self._idle: deque[_Connection] = deque()
        self._lock = threading.Lock()
        self._tls = ssl.create_default_context() if url.scheme == "https" else None

    def get(self, path: str, kind: type[T], seconds: float = PROBE_SECONDS) -> T:
        """The response to GET `path`, decoded as `kind`. Raises ServerError."""
        return _decode(self._exchange("GET", path, None, seconds), kind, path)

    def post(self, path: str, body: Any, kind: type[T], seconds: float = PROBE_SECONDS) -> T:
        """The response to POST `path` with `body` as JSON, decoded as `kind`. Raises ServerError."""
        return _decode(self._exchange("POST", path, json.dumps(body).encode(), seconds), kind, path)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.close()

    def _exchange(self, method: str, path: str, body: bytes | None, seconds: float) -> bytes:
        deadline = Deadline(seconds)
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None:
            try:
                return self._send(connection, method, path, body, deadline)
            except (HTTPException, ConnectionError):
                pass  # the server had closed it while it was idle; a completion may be asked for twice
            except OSError as error:
                raise _failure(error, seconds) from None
        try:
            return self._send(self._connect(deadline), method, path, body, deadline)
        except (HTTPException, OSError) as error:
            raise _failure(error, seconds) from None

    def _connect(self, deadline: Deadline) -> _Connection:
        if not self._may_connect():
            raise ServerError("another user's process is there now")
        timeout = min(CONNECT_SECONDS, deadline.seconds_left())
        host, port = self.url.host, self.url.port
        if self._tls is not None:
            http: HTTPConnection = HTTPSConnection(host, port, timeout=timeout, context=self._tls)
        else:
            http = HTTPConnection(host, port, timeout=timeout)
        http.connect()
        sock = DeadlineSocket(http.sock, deadline)
        http.sock = sock  # type: ignore[assignment]
        return _Connection(http, sock)

    def _send(self, connection: _Connection, method: str, path: str, body: bytes | None, deadline: Deadline) -> bytes:
        """One exchange on this connection, which is kept if it may be used again."""
        keep = False
        try:
            connection.sock.deadline = deadline
            headers = {"Accept": "application/json"}
            if body is not None:
                headers["Content-Type"] = "application/json"
            if self.url.authorization:
                headers["Authorization"] = self.url.authorization
            connection.http.request(method, self.url.prefix + path, body, headers)
            response = connection.http.getresponse()
            content = response.read(MAX_RESPONSE + 1)
            if len(content) > MAX_RESPONSE:
                raise ServerError(f"{path}: its answer has more than {MAX_RESPONSE} bytes")
            keep = response.isclosed() and not response.will_close
            _check_status(response, content, path)
            return content
        finally:
            if keep and len(self._idle) < MAX_IDLE:
                with self._lock:
                    self._idle.append(connection)
            else:
                connection.close()


def _check_status(response: HTTPResponse, content: bytes, path: str) -> None:
    """Raises ServerError for any status but 200."""
    if response.status == 200:
        return
    if 300 <= response.status < 400:
        raise ServerError(f"{path}: it redirects (HTTP {response.status}), which is not followed")
    if response.status in (401, 403):
        raise ServerError(f"{path}: it refuses the key (HTTP {response.status}): pass --draft-key")
    if response.status in (404, 405, 501):
        raise NoSuchPath(f"it has no {path} (HTTP {response.status})")
    raise ServerError(f"{path}: HTTP {response.status} {printable(content[:MAX_REASON].decode(errors='replace'))}")


def _decode(content: bytes, kind: type[T], path: str) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnexpectedAnswer(f"{path}: it answers something else than expected: {printable(str(error))}") from None


def _failure(error: Exception, seconds: float) -> ServerError:
    if isinstance(error, TimeoutError):
        return ServerError(f"it did not answer within {seconds:g} s")
    if isinstance(error, HTTPException):
        return ServerError(f"it does not speak HTTP as expected: {printable(str(error) or type(error).__name__)}")
    return ServerError(f"it cannot be reached: {printable(str(error) or type(error).__name__)}")
