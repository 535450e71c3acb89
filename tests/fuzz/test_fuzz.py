"""The fuzz runs, finds nothing in a few frames, and finds what is put there to be found."""

from __future__ import annotations

from random import Random

import pytest

from edgedraft.wire import WireError
from tests.fuzz import __main__ as fuzz
from tests.fuzz.frames import WAYS, Frames


@pytest.mark.parametrize("way", WAYS)
def test_frames_are_of_their_way_and_of_their_seed(way: str) -> None:
    one, same, other = (Frames(way, Random(seed), kept=50) for seed in (1, 1, 2))
    assert WAYS[way](one.valid()) == WAYS[way](same.valid())
    drawn = [supply.next() for supply in [one] * 300]
    assert drawn == [supply.next() for supply in [same] * 300]
    assert drawn != [supply.next() for supply in [other] * 300]
    assert 20 < sum(taken(way, frame) for frame in drawn) < 200


def taken(way: str, frame: bytes) -> bool:
    try:
        WAYS[way](frame)
    except WireError:
        return False
    return True


@pytest.mark.parametrize(("part", "frames"), [("decoders", 3000), ("drafting loop", 600), ("verifier's door", 300)])
def test_nothing_escapes(part: str, frames: int) -> None:
    [tally] = fuzz.run(frames, 3, part)
    assert tally.frames >= frames
    assert tally.taken
    assert tally.refused
    assert tally.escapes == []


def test_an_escape_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(frame: bytes) -> list[object]:
        raise KeyError(len(frame))

    monkeypatch.setitem(WAYS, "agent to gateway", broken)  # type: ignore[arg-type]
    [tally] = fuzz.run(60, 3, "decoders")
    assert tally.escaped >= 9
    assert "KeyError" in tally.escapes[0]


def test_a_frame_that_breaks_a_drafting_loop_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.drafting.loop.MAX_AGENT_TEXT", "no number")
    [tally] = fuzz.run(100, 3, "drafting loop")
    assert tally.escaped
