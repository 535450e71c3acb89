"""What goes out on a link: batches, bounds, and who is told when it ends."""

from __future__ import annotations

import asyncio

import pytest

from edgedraft.links.outbox import Outbox, SessionTable, TooSlow
from edgedraft.links.race import race
from edgedraft.wire import MAX_MESSAGES, Close, Open, Sampling, decode_to_agent


async def test_what_collects_while_a_frame_is_sent_goes_out_as_one() -> None:
    frames: list[int] = []
    gate = asyncio.Event()

    async def send(frame: bytes) -> None:
        frames.append(len(decode_to_agent(frame)))
        await gate.wait()

    outbox = Outbox()
    writer = asyncio.create_task(outbox.write(send))
    outbox.put(Close(1))
    await asyncio.sleep(0.01)
    for number in range(2, MAX_MESSAGES + 12):
        outbox.put(Close(number))
    gate.set()
    await asyncio.sleep(0.05)
    assert frames == [1, MAX_MESSAGES, 10]
    writer.cancel()


async def test_long_prompts_are_spread_over_frames() -> None:
    frames: list[list[int]] = []

    async def send(frame: bytes) -> None:
        frames.append([message.session for message in decode_to_agent(frame) if isinstance(message, Open)])

    outbox = Outbox(max_frame=10_000)
    for number in (1, 2, 3):
        outbox.put(Open(number, [7] * 700, Sampling(), 5))
    writer = asyncio.create_task(outbox.write(send))
    await asyncio.sleep(0.05)
    assert frames == [[1], [2], [3]]
    writer.cancel()


async def test_a_peer_that_does_not_read_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: bytes) -> None:
        await asyncio.Event().wait()

    outbox = Outbox(limit=10)
    for number in range(1, 11):
        assert outbox.crowded == (number > 6)
        outbox.put(Close(number))
    writing = asyncio.create_task(race(outbox.write(never), outbox.overflow()))
    await asyncio.sleep(0.01)
    for number in range(11, 22):
        outbox.put(Close(number))
    with pytest.raises(TooSlow, match="10 messages"):
        await writing
    monkeypatch.setattr("edgedraft.links.outbox.SEND_SECONDS", 0.05)
    with pytest.raises(TooSlow, match="not read"):
        await outbox.write(never)


def test_numbers_are_never_used_twice() -> None:
    table: SessionTable[str] = SessionTable()
    assert [table.add("a"), table.add("b")] == [1, 2]
    assert table.remove(2)
    assert not table.remove(2)
    assert table.add("c") == 3
    assert (table.find(1), table.find(2), table.find(3)) == ("a", None, "c")
    with pytest.raises(KeyError):
        table.find(4)
    assert table.clear() == ["a", "c"]
    assert len(table) == 0


async def test_the_first_to_end_ends_all() -> None:
    ended: list[str] = []

    async def work(name: str, seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
            return name
        finally:
            ended.append(name)

    assert await race(work("slow", 9), work("quick", 0.01)) == "quick"
    assert sorted(ended) == ["quick", "slow"]
    task = asyncio.create_task(race(work("one", 9), work("two", 9)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == ["one", "quick", "slow", "two"]
