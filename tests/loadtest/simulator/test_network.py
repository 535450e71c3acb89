"""Links in virtual time, and the agent's batching of drafts into frames."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest

from edge_agent.attach.connection import COALESCE_SECONDS
from edgedraft.wire import Draft
from loadtest.simulator.clock import Clock
from loadtest.simulator.network import HEADER_BYTES, RETRANSMISSION_TIMEOUT, DraftBatcher, LinkDirection
from loadtest.simulator.profiles import LinkProfile


def arrivals(link: LinkProfile, sizes: Sequence[int], seed: int = 1) -> list[tuple[int, float]]:
    clock = Clock()
    direction = LinkDirection(clock, link, link.uplink_bps, random.Random(seed))
    got: list[tuple[int, float]] = []
    for i, size in enumerate(sizes):
        direction.send(size, lambda i=i: got.append((i, clock.now)))
    clock.run(lambda: False)
    return got


def test_a_message_takes_half_the_rtt_and_its_serialization() -> None:
    [(_, alone)] = arrivals(LinkProfile("slow", 0.1, uplink_bps=8000), [1000 - HEADER_BYTES])
    assert alone == pytest.approx(0.05 + 1.0)
    first, second = arrivals(LinkProfile("slow", 0.1, uplink_bps=8000), [1000 - HEADER_BYTES] * 2)
    assert (first[1], second[1]) == (pytest.approx(1.05), pytest.approx(2.05))


def test_messages_stay_in_order_and_a_lost_one_delays_the_rest() -> None:
    got = arrivals(LinkProfile("bad", 0.02, jitter=0.02, loss=0.3), [20] * 200)
    assert [i for i, _ in got] == list(range(200))
    assert all(a <= b for (_, a), (_, b) in pairwise(got))
    assert got[-1][1] > RETRANSMISSION_TIMEOUT


def test_drafts_soon_after_a_frame_share_the_next() -> None:
    clock, sent = Clock(), list[tuple[float, list[int]]]()
    batcher = DraftBatcher(clock, lambda drafts: sent.append((clock.now, [draft.first for draft in drafts])))
    pause = COALESCE_SECONDS
    for number, at in enumerate((0.0, 0.1 * pause, 0.9 * pause, 1.5 * pause, 5 * pause)):
        draft = Draft(1, 1, 0, number, [7], [0], b"")
        clock.call_at(at, lambda draft=draft: batcher.put(draft))
    clock.run(lambda: False)
    assert [first for _, first in sent] == [[0], [1, 2], [3], [4]]
    assert [at for at, _ in sent] == pytest.approx([0.0, pause, 2 * pause, 5 * pause])
