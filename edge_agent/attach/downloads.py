"""Files of a gateway over HTTP: every exchange is bounded in bytes and in time, whatever the gateway sends.

urllib of the standard library: it needs no package, and takes the proxy that the agent's link takes. Redirects are not
followed, since the key would go where they lead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from edge_agent.attach.errors import FINAL
from edge_agent.deadline_socket import Deadline, DeadlineSocket
from edge_agent.foreign_text import printable
from edgedraft import __version__

CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0  # without a byte
MIN_RATE = 20_000.0  # bytes per second, over all but STALL_SECONDS of the time
CHUNK = 1 << 16  # bytes


class DownloadFailed(Exception):
    """A file could not be had; the message says why."""


class GatewayFiles:
    """What a gateway has for the holder of a key."""

    def __init__(self, url: str, key: str) -> None:
        """`url` is what paths are put behind (address.http_url)."""
        self._url, self._key = url, key

    def read(self, path: str, max_bytes: int) -> bytes:
        """A whole file. Raises DownloadFailed."""
        return b"".join(self.chunks(path, max_bytes))

    def chunks(self, path: str, max_bytes: int) -> Iterator[bytes]:
        """A file in pieces as they arrive. Raises DownloadFailed, for more than `max_bytes` too."""
        url = self._url + path
        started, deadline = time.monotonic(), Deadline(STALL_SECONDS)
        received = 0
        try:
            with self._open(url, deadline) as response:
                if response.status != 200:
                    raise DownloadFailed(_refusal(url, response.status))
                if (response.length or 0) > max_bytes:
                    raise DownloadFailed(f"{url}: it would send {response.length} bytes, more than the {max_bytes}")
                while chunk := response.read1(CHUNK):
                    received += len(chunk)
                    if received > max_bytes:
                        raise DownloadFailed(f"{url}: it sends more than {max_bytes} bytes")
                    yield chunk
                    slowest = started + STALL_SECONDS + received / MIN_RATE
                    deadline.at = min(time.monotonic() + STALL_SECONDS, slowest)
        except HTTPError as error:
            error.close()
            raise DownloadFailed(_refusal(url, error.code)) from None
        except (HTTPException, OSError) as error:
            cause = error.reason if isinstance(error, URLError) else error
            raise DownloadFailed(f"{url}: {_failure(cause, received)}") from None

    def _open(self, url: str, deadline: Deadline) -> HTTPResponse:
        request = Request(url, headers={"User-Agent": f"edgedraft/{__version__}"})
        request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        opener = build_opener(_NoRedirects, _Http(deadline), _Https(deadline))
        return opener.open(request, timeout=CONNECT_SECONDS)


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """None: the redirect is an HTTPError."""


class _WithDeadline(HTTPConnection):
    def __init__(self, *arguments: Any, deadline: Deadline, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline = deadline

    def connect(self) -> None:
        super().connect()
        self.sock = DeadlineSocket(self.sock, self._deadline)  # type: ignore[assignment]


class _TlsWithDeadline(_WithDeadline, HTTPSConnection):
    pass


class _Http(HTTPHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(partial(_WithDeadline, deadline=self._deadline), req)  # type: ignore[arg-type]


class _Https(HTTPSHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(partial(_TlsWithDeadline, deadline=self._deadline), req)  # type: ignore[arg-type]


def _refusal(url: str, status: int) -> str:
    if 300 <= status < 400:
        return f"{url}: it redirects (HTTP {status}), which is not followed: pass the address that it redirects to"
    if status == 404:
        return f"{url}: there is no such file (HTTP 404)"
    return FINAL.get(status, f"{url}: it answers HTTP {status}")


def _failure(error: object, received: int) -> str:
    if isinstance(error, TimeoutError):
        return f"it is too slow: {received} bytes arrived" if received else "it does not answer"
    words = printable(str(error) or type(error).__name__)
    return f"it does not speak HTTP as expected: {words}" if isinstance(error, HTTPException) else words
