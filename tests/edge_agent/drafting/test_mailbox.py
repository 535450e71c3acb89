"""The mailbox between event loop and drafting thread: messages in order, bounded queues, closed from either side."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from edge_agent.attach import connection
from edge_agent.drafting.mailbox import INBOX_MESSAGES, OUTBOX_DRAFTS, Mailbox, MailboxClosed
from edgedraft import wire
from edgedraft.wire import MAX_AGENT_FRAME, MAX_DRAFT_NODES, Close, Draft
from tests.support.waiting import until


def draft(session: int = 1) -> Draft:
    return Draft(session, 1, 0, 1, [5], [0], b"\0")


async def test_messages_pass_in_order_both_ways() -> None:
    mailbox = Mailbox()
    await mailbox.deliver([Close(1), Close(2)])
    await mailbox.deliver([Close(3)])
    assert [message.session for message in mailbox.receive(wait=True)] == [1, 2, 3]
    assert mailbox.receive(wait=False) == []
    mailbox.post([draft(1)])
    mailbox.post([draft(2), draft(3)])
    assert [message.session for message in await mailbox.collect()] == [1, 2, 3]


async def test_all_that_waits_goes_as_one_frame_up_to_a_bound() -> None:
    mailbox = Mailbox()
    mailbox.post([draft(1 + i) for i in range(OUTBOX_DRAFTS + 5)])
    first, rest = await mailbox.collect(), await mailbox.collect()
    assert (len(first), len(rest)) == (OUTBOX_DRAFTS, 5)
    largest = Draft(2**53, 2**53, 2**31 - 1, 2**52, [2**31 - 1] * MAX_DRAFT_NODES, [2**52] * 64, b"\xff" * 64)
    assert len(wire.encode_frame([largest] * OUTBOX_DRAFTS)) <= MAX_AGENT_FRAME


async def test_drafts_that_follow_soon_after_a_frame_share_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses, resume = list[float](), asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await resume.wait()

    monkeypatch.setattr(connection, "asyncio", SimpleNamespace(sleep=pause))
    mailbox = Mailbox()
    batches = connection.CoalescedDrafts(mailbox)
    mailbox.post([draft(1)])
    assert [message.session for message in await batches.next_batch()] == [1]
    assert not pauses, "the first draft is sent at once"
    second = asyncio.create_task(batches.next_batch())
    await until(lambda: pauses)
    for number in (2, 3):
        mailbox.post([draft(number)])
    assert not second.done()
    resume.set()
    assert [message.session for message in await second] == [2, 3]
    assert pauses == [connection.COALESCE_SECONDS]


async def test_while_the_outbox_is_full_the_thread_waits() -> None:
    mailbox, went_on = Mailbox(), threading.Event()
    mailbox.post([draft()] * OUTBOX_DRAFTS)

    def drafting() -> None:
        mailbox.receive(wait=False)
        went_on.set()

    thread = threading.Thread(target=drafting, daemon=True)
    thread.start()
    await asyncio.sleep(0.05)
    assert not went_on.is_set()
    await mailbox.collect()
    await asyncio.to_thread(thread.join, 30)
    assert went_on.is_set()


async def test_while_the_inbox_is_full_the_link_waits() -> None:
    mailbox = Mailbox()
    await mailbox.deliver([Close(1)] * INBOX_MESSAGES)
    late = asyncio.ensure_future(mailbox.deliver([Close(2)]))
    await asyncio.sleep(0.05)
    assert not late.done()
    assert len(mailbox.receive(wait=False)) == INBOX_MESSAGES
    await asyncio.wait_for(late, 30)
    assert mailbox.receive(wait=True) == [Close(2)]


async def test_closing_wakes_both_sides() -> None:
    mailbox, woken = Mailbox(), threading.Event()

    def drafting() -> None:
        with pytest.raises(MailboxClosed):
            mailbox.receive(wait=True)
        woken.set()

    thread = threading.Thread(target=drafting, daemon=True)
    thread.start()
    collecting = asyncio.ensure_future(mailbox.collect())
    await asyncio.sleep(0.02)
    mailbox.close()
    mailbox.close()
    with pytest.raises(MailboxClosed):
        await asyncio.wait_for(collecting, 30)
    await asyncio.to_thread(thread.join, 30)
    assert woken.is_set()
    mailbox.post([draft()])
    with pytest.raises(MailboxClosed):
        await mailbox.deliver([Close(1)])
