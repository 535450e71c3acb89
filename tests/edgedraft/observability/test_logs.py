"""Log lines: what an event looks like in either format, and that peers cannot forge or flood them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from edgedraft.observability.logs import PACKAGES, configure_logging, event, request_fields

log = logging.getLogger("edgedraft.tests")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    for ours in PACKAGES:
        logging.getLogger(ours).setLevel(logging.NOTSET)


def test_a_json_line_has_the_event_its_fields_and_the_request(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    token = request_fields.set({"request": "req_1", "trace": "a" * 32})
    event(log, "agent attached", owner="ann", sessions=3, nothing=None, ratio=0.5)
    request_fields.reset(token)
    log.debug("not at this level")
    (line,) = capsys.readouterr().err.splitlines()
    recorded = json.loads(line)
    assert recorded.pop("time").endswith("+00:00")
    assert recorded == {
        "level": "info",
        "logger": "edgedraft.tests",
        "event": "agent attached",
        "owner": "ann",
        "sessions": 3,
        "ratio": 0.5,
        "request": "req_1",
        "trace": "a" * 32,
    }


def test_a_traceback_stays_on_its_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("it failed for %s", "ann")
    (line,) = capsys.readouterr().err.splitlines()
    recorded = json.loads(line)
    assert recorded["event"] == "it failed for ann"
    assert recorded["traceback"].endswith("ValueError: broken")


def test_a_text_line_cannot_be_forged_by_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    event(
        log, "request", path="/v1/x\nFAKE line", name='two words "quoted"', level=logging.WARNING, plain="/ok", s=0.12
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r'request path="/v1/x\nFAKE line" name="two words \"quoted\"" plain=/ok s=0.12')
    assert "WARNING edgedraft.tests:" in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_values_are_bounded(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json" if form == "json" else "text")
    event(log, "request", path="x" * 100_000)
    assert len(capsys.readouterr().err) < 1400
