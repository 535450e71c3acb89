"""Tickets open one WebSocket each, for a while."""

from __future__ import annotations

import pytest

from gateway.agents import tickets as module
from gateway.agents.tickets import TICKET_SECONDS, MemoryTickets, Ticket

ANN = Ticket("a" * 64, "https://gateway.example.com")


async def test_a_ticket_is_taken_once() -> None:
    tickets = MemoryTickets()
    name = await tickets.issue(ANN)
    assert len(name) == 43
    assert await tickets.take(name + "x") is None
    assert await tickets.take(name) == ANN
    assert await tickets.take(name) is None


async def test_a_ticket_expires() -> None:
    now = 0.0
    tickets = MemoryTickets(lambda: now)
    names = [await tickets.issue(ANN) for _ in range(2)]
    now = TICKET_SECONDS - 0.1
    assert await tickets.take(names[0]) == ANN
    now = TICKET_SECONDS
    assert await tickets.take(names[1]) is None
    assert not tickets._tickets


async def test_one_key_cannot_displace_the_tickets_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TICKETS", 40)
    tickets = MemoryTickets()
    bob = Ticket("b" * 64, "")
    of_bob = await tickets.issue(bob)
    of_ann = [await tickets.issue(ANN) for _ in range(100)]
    assert len(tickets._tickets) == module.MAX_PER_KEY + 1
    assert await tickets.take(of_bob) == bob
    assert await tickets.take(of_ann[0]) is None, "the oldest of the same key went"
    assert await tickets.take(of_ann[-1]) == ANN


async def test_many_keys_displace_their_own_tickets_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TICKETS", 8)
    tickets = MemoryTickets()
    of_bob = await tickets.issue(Ticket("b" * 64, ""))
    for _ in range(20):
        await tickets.issue(ANN)
    assert len(tickets._tickets) == 8
    assert await tickets.take(of_bob)
