"""The fuzzer: few frames find nothing, and a planted fault is found."""

from __future__ import annotations

from random import Random

import pytest

from edgedraft.wire import WireError
from tests.fuzz import __main__ as fuzz
from tests.fuzz.frames import DECODERS, Frames


@pytest.mark.parametrize("direction", DECODERS)
def test_frames_are_reproducible_from_their_seed(direction: str) -> None:
    one, same, other = (Frames(direction, Random(seed), kept=50) for seed in (1, 1, 2))
    assert DECODERS[direction](one.valid()) == DECODERS[direction](same.valid())
    drawn = [supply.next() for supply in [one] * 300]
    assert drawn == [supply.next() for supply in [same] * 300]
    assert drawn != [supply.next() for supply in [other] * 300]
    assert 20 < sum(accepted(direction, frame) for frame in drawn) < 200


def accepted(direction: str, frame: bytes) -> bool:
    try:
        DECODERS[direction](frame)
    except WireError:
        return False
    return True


@pytest.mark.parametrize(
    ("part", "frames"),
    [
        ("decoders", 3000),
        ("drafting loop", 600),
        ("verifier endpoint", 600),
        ("websocket", 3000),
        ("http", 800),
        ("json", 160),
    ],
)
def test_nothing_escapes(part: str, frames: int) -> None:
    [stats] = fuzz.run(frames, 3, part)
    assert stats.frames >= frames
    assert stats.accepted
    assert stats.rejected
    assert stats.escapes == []


def test_an_escape_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(frame: bytes) -> list[object]:
        raise KeyError(len(frame))

    monkeypatch.setitem(DECODERS, "agent to gateway", broken)  # type: ignore[arg-type]
    [stats] = fuzz.run(60, 3, "decoders")
    assert stats.escaped >= 9
    assert "KeyError" in stats.escapes[0]


def test_a_frame_that_breaks_a_drafting_loop_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.drafting.loop.MAX_AGENT_TEXT", "no number")
    [stats] = fuzz.run(100, 3, "drafting loop")
    assert stats.escaped


def test_a_body_that_is_answered_by_a_500_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*request: object) -> int:
        return 500

    monkeypatch.setattr("tests.fuzz.json_bodies.send", fail)
    [stats] = fuzz.run(20, 3, "json")
    assert stats.escaped >= 20
    assert "/v1/" in stats.escapes[0] or "tokenize" in stats.escapes[0]
