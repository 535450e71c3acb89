"""What becomes of a gateway's address."""

from __future__ import annotations

import pytest

from edge_agent.attach.address import agent_url, http_url, is_unencrypted
from edge_agent.attach.errors import AttachRejected


@pytest.mark.parametrize(
    ("url", "dialled", "files"),
    [
        ("https://gateway.example.com", "wss://gateway.example.com/v1/agent", "https://gateway.example.com"),
        ("http://127.0.0.1:8000/v1/", "ws://127.0.0.1:8000/v1/agent", "http://127.0.0.1:8000"),
        ("wss://a.example/ws/v1/agent", "wss://a.example/ws/v1/agent", "https://a.example/ws"),
        ("https://me:secret@a.example:1", "wss://me:secret@a.example:1/v1/agent", "https://a.example:1"),
        ("http://[::1]:8000", "ws://[::1]:8000/v1/agent", "http://[::1]:8000"),
    ],
)
def test_where_the_agent_dials_and_where_files_are(url: str, dialled: str, files: str) -> None:
    assert (agent_url(url), http_url(url)) == (dialled, files)


@pytest.mark.parametrize("url", ["gateway.example.com", "ftp://a.example", "http://", "http://a:0", "http://[::1"])
def test_what_is_no_address(url: str) -> None:
    for parse in (agent_url, http_url):
        with pytest.raises(AttachRejected, match="it looks like https"):
            parse(url)


@pytest.mark.parametrize(
    ("url", "heard"),
    [
        ("https://a.example", False),
        ("wss://a.example/v1/agent", False),
        ("http://127.0.0.1:8000", False),
        ("ws://[::1]/v1/agent", False),
        ("http://localhost", False),
        ("http://a.example", True),
        ("ws://192.0.2.1/v1/agent", True),
    ],
)
def test_whether_others_can_listen(url: str, heard: bool) -> None:
    assert is_unencrypted(url) == heard
