"""Files of a gateway that is broken or hostile: every exchange ends, with a reason, and the key goes nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from edge_agent.attach import downloads
from edge_agent.attach.downloads import DownloadFailed, GatewayFiles
from tests.support.scripted_model_server import ScriptedModelServer, scripted_model_server, send

PATH = "/attach/drafts/file"
MOST = 1000


@pytest.fixture
def server() -> Iterator[ScriptedModelServer]:
    with scripted_model_server() as server:
        yield server


def read(server: ScriptedModelServer) -> bytes:
    return GatewayFiles(server.url, "secret").read(PATH, MOST)


def raw(*pieces: bytes, pause: float = 0.0, endless: bool = False) -> Callable[[BaseHTTPRequestHandler, Any], None]:
    """Write these bytes and close, or if it is `endless` write the last piece for ever, each time after a pause."""

    def answer(handler: BaseHTTPRequestHandler, body: Any) -> None:
        handler.close_connection = True
        never = threading.Event()
        try:
            for piece in pieces:
                handler.wfile.write(piece)
            while endless:
                never.wait(pause)
                handler.wfile.write(pieces[-1])
        except OSError:
            pass  # the client has had enough

    return answer


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"x" * MOST,
        raw(HEAD + b"\r\n", b"x" * MOST),
        raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"64\r\n" + b"x" * 100 + b"\r\n"] * 10, b"0\r\n\r\n"),
    ],
    ids=["by length", "to the end", "in chunks"],
)
def test_a_file_comes_whole_and_for_the_key(server: ScriptedModelServer, answer: Any) -> None:
    server.answers[PATH] = answer
    assert read(server) == b"x" * MOST
    ((_, headers, _),) = server.requests
    assert headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"x" * (MOST + 1), "would send 1001 bytes, more than the 1000"),
        (raw(HEAD + b"\r\n", b"x" * 999, endless=True), "sends more than 1000 bytes"),
        (
            raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"3e7\r\n" + b"x" * 999 + b"\r\n", endless=True),
            "sends more than 1000 bytes",
        ),
        (raw(HEAD, b"X-Header: y\r\n", endless=True), "more than 100 headers"),
        (raw(HEAD + b"X-Header: ", b"y" * 999, endless=True), "header line"),
        (raw(b"HTTP/1.1 100 Continue\r\n", b"Y: z\r\n", endless=True), "more than 100 headers"),
        (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "does not speak HTTP"),
        (raw(b""), "Remote end closed connection"),
        (lambda handler, _: send(handler, b"", 401), "does not know this key"),
        (lambda handler, _: send(handler, b"", 403), "may not attach agents"),
        (lambda handler, _: send(handler, b"", 404), "no such file"),
        (lambda handler, _: send(handler, b"x" * 5000, 500), "answers HTTP 500"),
        (lambda handler, _: send(handler, b"", 204), "answers HTTP 204"),
    ],
)
def test_what_is_no_file_says_why(server: ScriptedModelServer, answer: Any, reason: str) -> None:
    server.answers[PATH] = answer
    with pytest.raises(DownloadFailed, match=reason):
        read(server)


def test_a_redirect_is_not_followed(server: ScriptedModelServer) -> None:
    with scripted_model_server() as other:
        for status in (301, 302, 303, 307, 308):
            server.answers[PATH] = lambda handler, _, status=status: send(
                handler, b"", status, Location=f"{other.url}/stolen"
            )
            with pytest.raises(DownloadFailed, match="redirects"):
                read(server)
    assert other.requests == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (raw(b"", endless=True, pause=60.0), "does not answer"),
        (raw(HEAD + b"X: ", b"y", endless=True, pause=0.02), "does not answer"),
        (raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1", b"0", endless=True, pause=0.02), "does not answer"),
        (raw(HEAD + b"\r\nx", b"", endless=True, pause=60.0), "too slow: 1 bytes"),
        (raw(HEAD + b"\r\n", b"x", endless=True, pause=0.02), "too slow"),
    ],
    ids=["silence", "a head without end", "a chunk without end", "silence in the middle", "a byte now and then"],
)
def test_a_slow_gateway_is_given_up(
    server: ScriptedModelServer, answer: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "STALL_SECONDS", 0.5)
    server.answers[PATH] = answer
    with pytest.raises(DownloadFailed, match=reason):
        read(server)


def test_a_gateway_that_is_not_there() -> None:
    with scripted_model_server() as server:
        url = server.url
    with pytest.raises(DownloadFailed, match="refused"):
        GatewayFiles(url, "secret").read(PATH, MOST)
