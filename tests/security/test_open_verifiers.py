"""Attack: somebody on the network uses a verifier that listens beyond its machine and asks for no token."""

from __future__ import annotations

import logging

import pytest

from edgedraft.serving.server import is_loopback
from verifier import main as program
from verifier.settings import VerifierSettings


class _Loaded(Exception):
    """The verifier went on to load its model."""


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(settings: VerifierSettings) -> None:
        raise _Loaded

    monkeypatch.setattr(program, "_load_transformers", load)
    monkeypatch.setattr(program, "configure_logging", lambda *_: None)


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.split(".")[0] in ("verifier", "edgedraft")
    ]


def start(**values: object) -> None:
    program.main(VerifierSettings.model_validate({"verifier_token": "", "port": 0, **values}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "verifier.internal", ""])
def test_without_a_token_it_does_not_start(host: str) -> None:
    with pytest.raises(SystemExit, match="EDGEDRAFT_VERIFIER_TOKEN"):
        start(host=host)


@pytest.mark.parametrize(
    "values",
    [{"host": "0.0.0.0", "verifier_token": "t"}, {"host": "127.0.0.1"}, {"host": "::1"}, {"host": "localhost"}],
)
def test_with_one_or_for_this_machine_alone_it_does(values: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(_Loaded):
        start(**values)
    assert not _warnings(caplog)


def test_what_is_allowed_is_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(_Loaded):
        start(host="0.0.0.0", allow_unauthenticated=True)
    [line] = _warnings(caplog)
    assert "without a token" in line


def test_which_addresses_only_this_machine_reaches() -> None:
    assert is_loopback("127.8.9.1")
    assert not is_loopback("localhost.example.com")
