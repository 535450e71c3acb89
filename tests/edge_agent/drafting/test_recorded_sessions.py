"""What an agent drafts changes on purpose only: the agent in JavaScript replays the same file."""

from __future__ import annotations

import json

import pytest

from tests.vectors.record import FILE, record


def test_recorded_sessions_are_what_this_agent_drafts() -> None:
    recorded, now = json.loads(FILE.read_text()), record()
    samplings, expected = recorded.pop("samplings"), now.pop("samplings")
    assert now == recorded
    for sampling, again in zip(samplings, expected, strict=True):
        tokens, probabilities = again["expected"]
        assert sampling["expected"] == [tokens, pytest.approx(probabilities, abs=1e-6)]
