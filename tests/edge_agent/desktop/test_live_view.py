"""The live view: what it shows, and that it gives the log handlers back."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from edge_agent.desktop.live_view import BAR_SECONDS, LiveView, StatsHistory, render_bars
from edge_agent.drafting.stats import DraftStats, StatsCollector
from edgedraft.wire import PROTOCOL, AgentWelcome, Hello


def shown(view: LiveView) -> str:
    out = io.StringIO()
    Console(file=out, width=100).print(view.render())
    return out.getvalue()


def test_the_view_shows_the_link_the_sessions_and_what_was_saved() -> None:
    stats = StatsCollector()
    view = LiveView("https://gateway.example.com", Hello(PROTOCOL, "laptop", "f", "tiny on cpu", 8), stats)
    assert "connecting" in shown(view)
    view.attached(AgentWelcome(PROTOCOL, "agent-7", "large-model", 100, 8))
    view.round_trip(0.0421)
    stats.begin(1)
    stats.add(1, DraftStats(drafted=4000, accepted=1500, committed=3000))
    picture = shown(view)
    for words in (
        "agent-7",
        "42 ms",
        "large-model",
        "1 of 8",
        "4,000 tokens",
        "38% of those drafted",
        "1,500 of 3,000",
    ):
        assert words in picture
    view.paused("on battery")
    assert "on battery" in shown(view)
    view.paused("")
    view.lost("the connection broke", 3)
    picture = shown(view)
    assert "next try in 3 s" in picture
    assert "on battery" not in picture
    assert "42 ms" not in picture


def test_the_view_takes_the_log_and_gives_it_back() -> None:
    before = list(logging.getLogger().handlers)
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with LiveView("http://g", Hello(PROTOCOL), StatsCollector(), console) as view:
        logging.getLogger("x").warning("the %s is warm", "room")
        assert "the room is warm" in shown(view)
    assert logging.getLogger().handlers == before


def test_rates_and_bars_are_of_the_time_they_say() -> None:
    history = StatsHistory()
    for second in range(1, 60):
        history.add(
            second,
            DraftStats(drafted=20 * second, accepted=(10 * second if second < 30 else 300), committed=20 * second),
        )
    assert history.between(50, 55).drafted == 100
    shares = history.acceptance_per_bar(59)
    assert len(shares) == int(59 / BAR_SECONDS)
    assert shares[0] == pytest.approx(0.5, abs=0.1)
    assert shares[-1] == pytest.approx(0, abs=0.01)
    assert render_bars([None, 0, 0.5, 1]) == "·▁▅█"
    for second in range(60, 3000):
        history.add(second, DraftStats())
    assert len(history._seen) < 400
