"""Lines for a service manager: one on stdout for the first attachment, the rest in the log."""

from __future__ import annotations

import pytest

from edge_agent.attach.observer import LineObserver
from edgedraft.wire import PROTOCOL, AgentWelcome


def test_the_first_attachment_is_printed_and_the_rest_logged(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    observer = LineObserver("https://gateway.example.com")
    for agent in ("agent-1", "agent-2"):
        observer.attached(AgentWelcome(PROTOCOL, agent, "toy", 97, 8))
    observer.round_trip(0.0123)
    observer.lost("the connection broke", 1.5)
    observer.moving("another one answers")
    observer.paused("on battery")
    observer.paused("")
    assert capsys.readouterr().out == "edgedraft agent attached agent-1 to https://gateway.example.com\n"
    said = [record.getMessage() for record in caplog.records if record.name.startswith("edge_agent.")]
    assert said == [
        "attached again as agent-2",
        "round trip 12.3 ms",
        "no gateway: the connection broke; next try in 1.5 s",
        "moving: another one answers",
        "drafting pauses: on battery",
        "drafting goes on",
    ]
